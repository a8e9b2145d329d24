"""Our transformer and diffusers' on the same weights, and what both are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mochi.core.config import DiTConfig
from mochi.core.sizes import VideoSize
from mochi.model.dit import AsymmDiT
from mochi.weights.layouts import DIFFUSERS_DIT
from mochi.weights.names import Table

PROMPT_TOKENS, ALL_TOKENS = 60, 256


@dataclass(frozen=True)
class Inputs:
    """One prompt, an empty negative one, noise and a few levels.

    Attributes:
        noise: `(1, 12, t, h, w)`, float32.
        text, mask: 256 tokens, of which 60 are valid.
        sigmas: one more than steps.
        guidance: one scale.
    """

    noise: Tensor
    text: Tensor
    mask: Tensor
    sigmas: Sequence[float]
    guidance: float = 6.0

    @classmethod
    def draw(cls, config: DiTConfig, size: VideoSize, sigmas: Sequence[float]) -> Inputs:
        """Random ones; the text is exact in bfloat16, so that nobody rounds it."""
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(size.latent.shape(1, 12), generator=generator)
        text = torch.randn(1, ALL_TOKENS, config.text_features, generator=generator)
        mask = torch.arange(ALL_TOKENS).unsqueeze(0) < PROMPT_TOKENS
        return cls(noise, text.bfloat16().float(), mask, sigmas)

    def to(self, device: str) -> Inputs:
        """The same on a device."""
        moved = (tensor.to(device) for tensor in (self.noise, self.text, self.mask))
        return Inputs(*moved, self.sigmas, self.guidance)


def our_dit(config: DiTConfig, dtype: torch.dtype, device: str = "cpu") -> AsymmDiT:
    """Random weights that keep the variance of what passes; exact in bfloat16."""
    with torch.device("meta"):
        dit = AsymmDiT(config)
    dit = dit.to_empty(device=device).to(dtype)
    with torch.no_grad():
        frequencies = torch.empty(dit.pos_frequencies.shape, device=device)
        dit.pos_frequencies.data = frequencies  # float32, always
        _fill(dit.named_parameters(), device)
    return dit.eval().requires_grad_(False)


def _fill(parameters: Iterable[tuple[str, Tensor]], device: str) -> None:
    generator = torch.Generator(device).manual_seed(5)
    for name, parameter in parameters:
        # Drawn as float32 and then rounded: every dtype begins with the same numbers.
        numbers = torch.randn(parameter.shape, generator=generator, device=device)
        if name == "pos_frequencies":
            parameter.copy_(0.02 * numbers)
        elif "norm" in name:
            parameter.copy_((1 + 0.2 * numbers).bfloat16())
        else:
            spread = 0.2 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_((spread * numbers).bfloat16())


def plain_dit(ours: AsymmDiT) -> AsymmDiT:
    """A second network on the same weights, all fast paths off."""
    from mochi.model.attention import ChosenAttention
    from mochi.model.kernels import PlainKernels

    with torch.device("meta"):
        plain = AsymmDiT(ours.config)
    plain.load_state_dict(ours.state_dict(), assign=True)
    plain.attention, plain.kernels = ChosenAttention("sdpa"), PlainKernels()
    plain.passes, plain.tabulates = "apart", False
    return plain.eval().requires_grad_(False)


def diffusers_dit(ours: AsymmDiT) -> Any:
    """The transformer of diffusers with the same weights; memory is shared where layouts allow."""
    import diffusers

    config = ours.config
    with torch.device("meta"):
        theirs = diffusers.MochiTransformer3DModel(
            num_layers=config.depth,
            num_attention_heads=config.heads,
            attention_head_dim=config.head_dim,
            pooled_projection_dim=config.text_width,
            text_embed_dim=config.text_features,
        )
    return lent(DIFFUSERS_DIT, ours, theirs)


def lent(table: Table, ours: nn.Module, theirs: Any) -> Any:
    """Another program's network, on the weights of ours as far as it has such; memory is shared
    where layouts allow."""
    names = table.from_ours(ours.state_dict())
    state = {
        key: tensor
        for name, weight in ours.state_dict().items()
        for key, tensor in names.to_theirs(name, weight).items()
    }
    report = theirs.load_state_dict(state, strict=False, assign=True)
    assert not report.unexpected_keys, report.unexpected_keys
    return theirs.eval().requires_grad_(False)


def our_run(dit: AsymmDiT, inputs: Inputs) -> Callable[[], Tensor]:
    """A sampling run of ours."""
    import mochi

    def run() -> Tensor:
        prompt = inputs.text, inputs.mask
        return mochi.sample(dit, inputs.noise, *prompt, None, None, inputs.sigmas, inputs.guidance)

    return run


def diffusers_run(theirs: Any, inputs: Inputs) -> Callable[[], Tensor]:
    """The loop of diffusers' pipeline: both prompts as one batch, padded to 256 tokens; latents in
    float32 between steps, which is kinder than the pipeline's bfloat16."""
    dtype = theirs.proj_out.weight.dtype
    text = torch.cat([torch.zeros_like(inputs.text), inputs.text]).to(dtype)
    mask = torch.cat([torch.zeros_like(inputs.mask), inputs.mask])

    @torch.no_grad()
    def run() -> Tensor:
        z = inputs.noise
        for sigma, following in zip(inputs.sigmas[:-1], inputs.sigmas[1:], strict=True):
            v = theirs(
                hidden_states=torch.cat([z, z]).to(dtype),
                encoder_hidden_states=text,
                timestep=torch.full((2,), 1000 * (1 - sigma), device=z.device),
                encoder_attention_mask=mask,
                return_dict=False,
            )[0].float()
            negative, positive = v.chunk(2)
            z = z + (sigma - following) * (negative + inputs.guidance * (positive - negative))
        return z

    return run


def relative(found: Tensor, reference: Tensor) -> float:
    """`|a - b| / |b|` in float64."""
    difference = (found.double() - reference.double()).norm() / reference.double().norm()
    return float(difference)
