"""Stage two: the transformer and its text encoder, trained together from scratch (SPEC 6)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mochi.core.config import DiTConfig, T5Size
from mochi.model.dit import AsymmDiT
from mochi.model.exchange import attend_by_matmul
from mochi.text.t5 import build_t5
from mochi.training.ema import WeightAverage
from mochi.training.muon import Muon
from mochi.training.nano.latents import LatentSet
from mochi.training.nano.recipe import DitRecipe, TextRecipe
from mochi.training.nano.stage import Report, train_task
from mochi.training.shapes.captions import canonical, paraphrase
from mochi.training.task import Loop, Outcome, Piece


class TextToLatent(nn.Module):
    """T5 encoder and transformer under one roof, as one training step sees them."""

    def __init__(self, config: DiTConfig, text: TextRecipe, vocabulary: int):
        super().__init__()
        self.text = build_t5(
            T5Size(
                vocabulary=vocabulary,
                width=config.text_features,
                feed_forward=text.ffn_width,
                depth=text.depth,
                heads=text.heads,
                head_dim=text.head_dim,
            )
        )
        self.dit = AsymmDiT(config)
        self.dit.attention = attend_by_matmul
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Unit-gain matrices; blocks, modulation and output start at zero, so that the network
        begins by predicting nothing; rotary frequencies from a sixth of a turn per clip to half
        a turn per token, axis by axis."""
        for name, parameter in self.dit.named_parameters():
            if name.endswith("weight") and parameter.ndim > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            if name.endswith("bias") or "mod" in name or name.startswith("final_layer"):
                parameter.zero_()
        self.dit.pos_frequencies.copy_(rotary_frequencies(self.dit.config))

    def forward(
        self, z: Tensor, sigma: Tensor, ids: Tensor, attention: Tensor, keep: Tensor
    ) -> Tensor:
        """Velocity; rows whose `keep` is False see an empty prompt."""
        features = self.text(input_ids=ids, attention_mask=attention).last_hidden_state
        mask = attention.bool() & keep.unsqueeze(1)
        return self.dit(z, sigma, features * mask.unsqueeze(-1), mask)


def rotary_frequencies(config: DiTConfig, rows: int = 4) -> Tensor:
    """Frequencies `(3, heads, head_dim / 2)`: each turns with one axis only, at first.

    Args:
        rows: patch rows of the training size; they lie `192 / rows` apart (SPEC 2, RoPE).
    """
    pairs = config.head_dim // 2
    per_axis = -(-pairs // 3)
    turns = torch.logspace(math.log10(0.2), math.log10(math.pi), per_axis)
    frequencies = torch.zeros(3, config.heads, pairs)
    for index in range(pairs):
        axis = index % 3
        step = 1.0 if axis == 0 else 192 / rows
        frequencies[axis, :, index] = turns[index // 3] / step
    return frequencies


def make_optimizer(model: TextToLatent, recipe: DitRecipe) -> Muon:
    """Orthogonal updates for matrices inside; Adam for embeddings, positions and the output."""
    inside, outside, slow = [], [], []
    for name, parameter in model.named_parameters():
        if name == "dit.pos_frequencies":
            slow.append(parameter)
        elif name.startswith(("text.shared", "dit.final_layer.linear", "dit.x_embedder")) or (
            "relative_attention_bias" in name or parameter.ndim < 2
        ):
            outside.append(parameter)
        else:
            inside.append(parameter)
    kinds = ((inside, False, 1.0), (outside, True, 1.0), (slow, True, 0.02))
    groups = [
        {
            "params": parameters,
            "adam": adam,
            "base_lr": recipe.learning_rate * scale,
            "base_adam_lr": recipe.adam_rate * scale,
        }
        for parameters, adam, scale in kinds
    ]
    return Muon(groups, lr=recipe.learning_rate, adam_lr=recipe.adam_rate)


class NanoDit:
    """The transformer and its text encoder as a task: rectified flow with captions of the world.

    Every step draws its rows, captions and noise from (seed, step).

    Args:
        model: on its device.
        recipe: batches, captions, precision.
        latents: the encoded scenes.
        tokenizer: of the world's words.
    """

    drops = False

    def __init__(self, model: TextToLatent, recipe: DitRecipe, latents: LatentSet, tokenizer: Any):
        self.parameters = dict(model.named_parameters())
        self._model, self._recipe = model, recipe
        self._latents, self._tokenizer = latents, tokenizer

    def names(self, step: int) -> tuple[str, ...]:
        return (f"the scenes of step {step + 1}",)

    def begin(self, step: int, average: WeightAverage | None) -> None:
        """Nothing changes on the way."""

    def learn(self, on: bool) -> None:
        """Nothing drops."""

    def pieces(self, step: int) -> Iterator[Piece]:
        yield lambda: self._outcome(step)

    def _outcome(self, step: int) -> Outcome:
        recipe, latents = self._recipe, self._latents
        rng = np.random.default_rng([recipe.seed, step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        rows = rng.integers(len(latents.scenes), size=recipe.batch).tolist()
        tokens = self._tokens(rows, rng, step)
        clean = latents.draw(rows, generator)
        noise = torch.randn(clean.shape, generator=generator)
        # One sigma from each of `batch` equal parts of [0, 1]: uniform, with less chance in it.
        sigma = (torch.arange(recipe.batch) + torch.rand(recipe.batch, generator=generator)) / (
            recipe.batch
        )
        sigma_BCTHW = sigma.view(-1, 1, 1, 1, 1)
        noisy = (1 - sigma_BCTHW) * clean + sigma_BCTHW * noise
        keep = torch.rand(recipe.batch, generator=generator) >= recipe.caption_dropout
        inputs = (noisy, sigma, tokens["input_ids"], tokens["attention_mask"], keep)
        device = self._model.dit.pos_frequencies.device
        velocity = _forward(self._model, recipe.bf16, *(tensor.to(device) for tensor in inputs))
        loss = (velocity - (clean - noise).to(device)).square().mean()
        return Outcome(loss, (0,), loss.detach().view(1))

    def _tokens(self, rows: list[int], rng: np.random.Generator, step: int) -> Any:
        share = self._recipe.paraphrase_share(step)
        scenes = [self._latents.scenes[row] for row in rows]
        captions = [
            paraphrase(scene, rng) if rng.random() < share else canonical(scene) for scene in scenes
        ]
        return self._tokenizer(captions, padding=True, return_tensors="pt")


def train_dit(
    config: DiTConfig,
    text: TextRecipe,
    recipe: DitRecipe,
    latents: LatentSet,
    tokenizer: Any,
    folder: Path,
    report: Report | None = None,
    device: str = "cpu",
) -> TextToLatent:
    """Train, or go on from `folder/dit`, and return the averaged networks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)  # noqa: TID251 -- initialisers know no generator; forked
        model = TextToLatent(config, text, len(tokenizer)).to(device)
    task = NanoDit(model, recipe, latents, tokenizer)
    loop = Loop(
        steps=recipe.all_steps,
        rate=recipe.rate,
        clip_norm=recipe.clip_norm,
        ema=recipe.ema_decay,
        save_every=recipe.save_every,
    )
    average = train_task(task, loop, make_optimizer(model, recipe), folder / "dit", recipe, report)
    model.load_state_dict(average.weights, strict=False)
    return model.eval()


def _forward(model: TextToLatent, bf16: bool, *inputs: Tensor) -> Tensor:
    if not bf16:
        return model(*inputs)
    # The optimiser's own copy stays float32, and so do the parts of SPEC 2.
    weights = {
        name: parameter.bfloat16() if name.startswith("dit.blocks") else parameter
        for name, parameter in model.named_parameters()
    }
    return functional_call(model, weights, inputs)
