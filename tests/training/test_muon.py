"""Muon's updates are orthogonal for matrices and Adam's for vectors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mochi.training.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 16)])
def test_singular_values_become_about_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrix))
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.3
    # The same singular directions: the product with the original is nearly symmetric positive.
    product = orthogonalize(matrix) @ matrix.T if shape[0] < shape[1] else None
    if product is not None:
        assert float((product - product.T).norm() / product.norm()) < 0.15
        assert float(torch.linalg.eigvalsh((product + product.T) / 2).min()) > 0


def test_vectors_take_adams_steps() -> None:
    ours, theirs = (nn.Parameter(torch.ones(5)) for _ in range(2))
    muon = Muon([ours], adam_lr=0.1, betas=(0.9, 0.99))
    adam = torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99))
    for step in range(4):
        for parameter in (ours, theirs):
            parameter.grad = torch.arange(5.0) - 2 + step
        muon.step()
        adam.step()
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_group_of_matrices_may_ask_for_adam() -> None:
    weight = nn.Parameter(torch.zeros(2, 3))
    optimizer = Muon([{"params": [weight], "adam": True}], lr=5.0, adam_lr=0.1)
    weight.grad = torch.tensor([[1.0, -2.0, 0.5], [3.0, -1.0, 1.0]])
    optimizer.step()
    assert torch.allclose(weight, -0.1 * weight.grad.sign(), atol=1e-5)


def test_it_solves_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    target, x = torch.randn(4, 6, generator=generator), torch.randn(64, 6, generator=generator)
    weight = nn.Parameter(torch.zeros(4, 6))
    optimizer = Muon([weight], lr=0.1)
    losses = []
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 150)
        loss = (x @ weight.T - x @ target.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 1e-3 * losses[0]
