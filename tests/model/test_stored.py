"""Weights in stored form compute what the dense ones do, and never leave a dense one behind."""

import weakref
from collections.abc import Iterator

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gguf.quants import dequantize
from torch import Tensor, nn

from mochi.model.blocks import CODECS
from mochi.model.stored import (
    StoredEmbedding,
    StoredLinear,
    StoredWeight,
    is_stored,
    weight_bytes,
)

KINDS = [*CODECS, "float8_e4m3fn", "float8_e5m2", "fp8_scaled", "fp8 by row"]


def make(kind: str, rows: int = 12, columns: int = 512, seed: int = 0) -> StoredWeight:
    """Random numbers in a stored form."""
    generator = torch.Generator().manual_seed(seed)
    if kind in CODECS:
        codec = CODECS[kind]
        count = rows * columns // codec.weights
        data = torch.randint(0, 256, (count, codec.bytes), generator=generator, dtype=torch.uint8)
        for at in codec.scales:
            scales = (torch.randn(count, 1, generator=generator) * 0.01).half()
            data[:, at : at + 2] = scales.view(torch.uint8)
        return StoredWeight(kind, (rows, columns), data.view(rows, -1))
    numbers = torch.randn(rows, columns, generator=generator)
    if kind.startswith("float8"):
        return StoredWeight(kind, (rows, columns), numbers.to(getattr(torch, kind)))
    shape = () if kind == "fp8_scaled" else (rows, 1)
    scale = torch.rand(shape, generator=generator) + 0.1
    return StoredWeight("fp8_scaled", (rows, columns), numbers.to(torch.float8_e4m3fn), scale)


@pytest.mark.parametrize("kind", CODECS)
def test_blocks_decode_to_the_same_bits_as_the_gguf_package(kind: str) -> None:
    codec, ggml = CODECS[kind], gguf.GGMLQuantizationType[kind.upper()]
    assert (codec.weights, codec.bytes) == gguf.GGML_QUANT_SIZES[ggml]
    weight = make(kind, rows=96, columns=1024)
    expected = dequantize(weight.data.numpy(), ggml).reshape(weight.shape)
    assert np.array_equal(weight.dense().numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_float8_number_is_decoded_exactly(dtype: torch.dtype) -> None:
    data = torch.arange(256, dtype=torch.uint8).view(dtype).view(4, 64)
    weight = StoredWeight(str(dtype).removeprefix("torch."), (4, 64), data)
    assert torch.equal(weight.dense().nan_to_num(nan=7.5), data.float().nan_to_num(nan=7.5))
    assert torch.equal(weight.rows(torch.tensor([2])), data[2:3].float())


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_do_not_show(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make(kind).dense()
    for at_once in (1, 700, 4096):
        monkeypatch.setattr("mochi.model.stored._DECODED_AT_ONCE", at_once)
        assert torch.equal(make(kind).dense(), whole)
    assert torch.equal(make(kind).rows(torch.tensor([3, 0, 3])), whole[[3, 0, 3]])


def test_rows_without_whole_blocks_are_decoded_in_one_run() -> None:
    flat = make("q4_0", rows=3, columns=64)
    data = flat.data.view(-1, 18)
    odd = StoredWeight("q4_0", (12, 16), data)
    assert torch.equal(odd.dense(), flat.dense().view(12, 16))
    assert torch.equal(odd.rows(torch.tensor([5])), odd.dense()[5:6])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_computes_the_bits_of_the_decoded_one(kind: str, dtype: torch.dtype) -> None:
    weight, bias = make(kind), torch.randn(12, generator=torch.Generator().manual_seed(1))
    x = torch.randn(2, 5, 512, generator=torch.Generator().manual_seed(2))
    layer = StoredLinear(weight, bias, dtype)
    expected = F.linear(x.to(dtype), weight.dense().to(dtype), bias.to(dtype))
    assert layer(x).dtype == dtype
    assert torch.equal(layer(x), expected)
    assert torch.equal(layer.dense(), weight.dense().to(dtype))
    assert (layer.in_features, layer.out_features) == (512, 12)


@pytest.fixture
def dense_made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[weakref.ref[Tensor]]]:
    made: list[weakref.ref[Tensor]] = []
    original = StoredWeight.dense

    def dense(self: StoredWeight, dtype: torch.dtype | None = None) -> Tensor:
        out = original(self, dtype)
        made.append(weakref.ref(out))
        return out

    monkeypatch.setattr(StoredWeight, "dense", dense)
    return made


@torch.enable_grad()
@pytest.mark.parametrize("kind", ["q4_0", "q6_k", "fp8_scaled"])
def test_gradients_reach_the_input_and_no_dense_weight_stays(
    kind: str, dense_made: list[weakref.ref[Tensor]]
) -> None:
    weight, bias = make(kind), torch.randn(12, requires_grad=True)
    x = torch.randn(3, 4, 512, requires_grad=True)
    reference = F.linear(x, weight.dense().clone(), bias)
    wanted = torch.autograd.grad(reference.square().sum(), (x, bias))

    layer = StoredLinear(weight, bias.detach())
    layer.bias.requires_grad_(True)
    out = layer(x)
    assert out.requires_grad
    assert all(made() is None for made in dense_made)  # before backward: nothing was kept for it
    got = torch.autograd.grad(out.square().sum(), (x, layer.bias))
    assert all(made() is None for made in dense_made)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not StoredLinear(weight)(x.detach()).requires_grad


@torch.enable_grad()
def test_gradients_agree_with_finite_differences() -> None:
    layer = StoredLinear(make("q8_0", rows=3, columns=32), None, torch.float64)
    x = torch.randn(2, 32, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("kind", ["q4_0", "fp8_scaled", "float8_e5m2"])
def test_a_cast_changes_what_is_computed_in_not_what_is_kept(kind: str) -> None:
    weight = make(kind)
    network = nn.Sequential(StoredLinear(weight, torch.ones(12)), nn.Linear(12, 2))
    before = {name: tensor.clone() for name, tensor in network[0].stored.raw.items()}
    network.to(torch.bfloat16)
    layer = network[0]
    assert layer.compute_dtype == layer.bias.dtype == torch.bfloat16
    after = layer.stored.raw
    assert {n: t.dtype for n, t in after.items()} == {n: t.dtype for n, t in before.items()}
    for name, tensor in after.items():
        assert torch.equal(
            tensor.flatten().view(torch.uint8), before[name].flatten().view(torch.uint8)
        )
    assert network(torch.randn(1, 512)).dtype == torch.bfloat16
    assert network.to("meta")[0].raw_data.is_meta
    assert network[0].compute_dtype == torch.bfloat16


def test_a_state_is_saved_and_loaded_without_a_copy() -> None:
    first, second = StoredLinear(make("q4_0")), StoredLinear(make("q4_0", seed=3))
    second.load_state_dict(first.state_dict(), assign=True)
    assert second.raw_data.data_ptr() == first.raw_data.data_ptr()
    assert torch.equal(second.dense(), first.dense())


def test_an_embedding_decodes_the_rows_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = make("q8_0", rows=40, columns=64)
    table = weight.dense()
    monkeypatch.setattr(StoredWeight, "dense", lambda *_: pytest.fail("the whole table"))
    layer = StoredEmbedding(weight, torch.bfloat16)
    ids = torch.tensor([[1, 39], [7, 1]])
    assert torch.equal(layer(ids), table[ids].to(torch.bfloat16))


def test_plain_floats_are_not_copied() -> None:
    data = torch.randn(3, 4)
    weight = StoredWeight("float32", (3, 4), data)
    assert weight.dense().data_ptr() == weight.dense(torch.float32).data_ptr() == data.data_ptr()
    assert not weight.is_small
    assert weight.nbytes == 48


def test_sizes_are_those_of_the_stored_form() -> None:
    layer = StoredLinear(make("q4_0"), torch.ones(12))
    assert weight_bytes(layer) == 12 * 512 // 32 * 18 + 48
    assert is_stored(layer)
    assert "q4_0" in repr(layer)


def test_nothing_is_read_on_the_meta_device() -> None:
    for kind in KINDS:
        weight = make(kind).moved(lambda tensor: tensor.to("meta"))
        assert weight.dense(torch.bfloat16).is_meta
        assert StoredLinear(weight)(torch.randn(2, 512, device="meta")).shape == (2, 12)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_decodes_the_same_bits(kind: str) -> None:
    weight = make(kind)
    layer = StoredLinear(weight).to("cuda")
    assert layer.raw_data.is_cuda
    assert torch.equal(layer.dense().cpu(), weight.dense())
