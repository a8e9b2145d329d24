"""How a base is held while something learns: small, or as float32 masters of bfloat16 layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mochi.model.dit import AsymmDiT
from mochi.model.layers import Linear
from mochi.model.stored import StoredLinear, StoredWeight
from mochi.weights.quantize import BLOCK_FORMS, fp8_scale, is_quantised, to_fp8


class MasterLinear(Linear):
    """A linear layer that keeps float32 and computes in bfloat16: small steps are not lost."""

    @property
    def compute_dtype(self) -> torch.dtype:
        return torch.bfloat16

    def forward(self, x: Tensor) -> Tensor:
        own: Tensor | None = self.bias
        bias = None if own is None else own.bfloat16()
        return F.linear(x.bfloat16(), self.weight.bfloat16(), bias)


def keep_masters(dit: AsymmDiT) -> None:
    """The blocks' layers compute in bfloat16 from now on, on the float32 weights they have."""
    for name, layer in list(dit.named_modules()):
        if name.startswith("blocks.") and type(layer) is Linear:
            master = MasterLinear(1, 1, bias=False, device="meta")
            master.weight, master.bias = layer.weight, layer.bias
            master.in_features, master.out_features = layer.in_features, layer.out_features
            dit.set_submodule(name, master)


@torch.no_grad()
def quantise(dit: AsymmDiT, kind: str, compute: torch.dtype) -> int:
    """Keep the blocks' weights in a smaller form, as published files do; returns how many layers.

    Args:
        dit: the transformer, on its device.
        kind: `fp8` (e4m3 with a scale for each tensor), `q8_0` or `q4_0`.
        compute: what the layers compute in.
    """
    changed = 0
    for name, layer in list(dit.named_modules()):
        if type(layer) is not Linear or not is_quantised("dit", f"{name}.weight"):
            continue
        stored = stored_weight(layer.weight.detach(), kind)
        if stored is not None:
            dit.set_submodule(name, StoredLinear(stored, layer.bias, compute))
            changed += 1
    return changed


def stored_weight(weight: Tensor, kind: str) -> StoredWeight | None:
    """A weight in a smaller form; None where its rows are no whole blocks."""
    shape = tuple(weight.shape)
    if kind == "fp8":
        scale = fp8_scale(weight.abs().amax().cpu()).to(weight.device)
        return StoredWeight("fp8_scaled", shape, to_fp8(weight, scale), scale)
    form = BLOCK_FORMS[kind]
    if not form.fits(shape):
        return None
    return StoredWeight(form.name, shape, form.pack(weight.float()))


def as_trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """All weights of a network, in float32 and in memory of their own, ready to learn."""
    found = {}
    for name, parameter in network.named_parameters():
        parameter.data = parameter.detach().to(torch.float32, copy=True)
        parameter.requires_grad_(True)
        found[name] = parameter
    return found
