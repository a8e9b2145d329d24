"""Adapters to files, in the flavours that other programs read.

| flavour | a layer | who reads it |
|---|---|---|
| original | one pair, `kwargs` with two ranks and alphas for the whole file | Genmo's code |
| comfy | one pair, `.alpha` beside it where alpha is not the rank | ComfyUI |
| diffusers | a pair for each projection, ranks and alphas in the metadata | diffusers, peft |

Matrices are cut, stacked and padded with zeros; their numbers stay, bit for bit. Only where one
setting has to serve several layers whose alpha / r differ, the difference is multiplied into B.

Many readers of diffusers' flavour take alpha = r whatever the metadata say. So an alpha / r that is
a power of two goes into B, exactly, and the metadata remember it for the way back.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mochi.core.errors import RequestError, WeightsError
from mochi.weights.lora import Lora, Pair
from mochi.weights.lora_files import StrPath
from mochi.weights.lora_maths import folded, padded, rescaled, whole
from mochi.weights.lora_names import LayerNames
from mochi.weights.lora_scales import FAMILIES, FOLDED, KWARGS, PEFT_METADATA
from mochi.weights.stored import dtype_name
from mochi.weights.write import Piece, PlannedFile, write_files
from mochi.weights.write_safetensors import FORMAT, safetensors_file

Target = Literal["original", "comfy", "diffusers"]
TARGETS: tuple[Target, ...] = get_args(Target)

Tensors = dict[str, Tensor]
Metadata = dict[str, str]

_COMFY_PREFIX = "diffusion_model."
_DIFFUSERS_PREFIX = "transformer."


def save_lora(
    lora: Lora,
    path: StrPath,
    to: Target,
    *,
    dtype: torch.dtype | None = None,
    depth: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write an adapter as one .safetensors file.

    Args:
        lora: the adapter.
        path: the file.
        to: the flavour.
        dtype: of the matrices; None keeps each as it is.
        depth: how many blocks the network has; needed for diffusers where the adapter changes the
            text modulation (`mod_y`) and does not itself tell which block is the last.
        overwrite: replace what exists.

    Raises:
        RequestError: no such flavour.
        WeightsError: numbers too large for `dtype`, or the depth is needed.
        OutputError: it exists, or cannot be written.
    """
    target = Path(path)
    planned = lora_file(lora, target.name, to, dtype=dtype, depth=depth)
    write_files(target.parent, [planned], overwrite)


def lora_file(
    lora: Lora,
    name: str,
    to: Target,
    *,
    dtype: torch.dtype | None = None,
    depth: int | None = None,
) -> PlannedFile:
    """An adapter as a file that is still to be written; arguments and errors as `save_lora`."""
    if to not in TARGETS:
        raise RequestError("to", to, "is no flavour", ", ".join(TARGETS))
    tensors, metadata = lora_tensors(lora, to, depth)
    pieces = [_piece(key, _cast(key, tensor, dtype)) for key, tensor in tensors.items()]
    return safetensors_file(name, pieces, metadata)


def lora_tensors(lora: Lora, to: Target, depth: int | None = None) -> tuple[Tensors, Metadata]:
    """The tensors and the metadata of a file in a flavour; arguments and errors as `save_lora`."""
    assert lora.layers
    own = (KWARGS, PEFT_METADATA, FOLDED)
    kept = {key: value for key, value in lora.metadata.items() if key not in own}
    if to == "original":
        tensors, metadata = _original(lora)
    elif to == "comfy":
        tensors, metadata = _comfy(lora)
    else:
        tensors, metadata = _diffusers(lora, LayerNames(last_block(lora, depth)))
    return tensors, {**kept, **FORMAT, **metadata}


def last_block(lora: Lora, depth: int | None = None) -> int | None:
    """Index of the network's last block, as far as it matters for names; None where it does not.

    In the last block the text modulation has fewer outputs than in others.

    Raises:
        WeightsError: it matters, and cannot be told.
    """
    if depth is not None:
        return depth - 1
    outputs = {
        int(layer.split(".")[1]): len(pairs[0].b) * pairs[0].parts
        for layer, pairs in lora.layers.items()
        if layer.endswith(".mod_y")
    }
    if len(outputs) == 1:
        (index,) = outputs
        raise WeightsError(
            f"changes blocks.{index}.mod_y, which diffusers calls otherwise in the last block; "
            "say how many blocks the model has (depth)",
            lora.path,
        )
    least = min(outputs, key=outputs.__getitem__, default=None)
    return least if len(set(outputs.values())) > 1 else None


# ---------------------------------------------------------------------------------------- flavours


def _original(lora: Lora) -> tuple[Tensors, Metadata]:
    families: dict[str | None, dict[str, Pair]] = defaultdict(dict)
    for layer, pairs in lora.layers.items():
        families[FAMILIES.get(layer.rpartition(".")[2])][layer] = whole(pairs)
    settings = _dropouts(lora)
    tensors: Tensors = {}
    for family in (*dict.fromkeys(FAMILIES.values()), None):
        found = families.get(family, {})
        prefix = f"{family}_lora_" if family else ""
        rank = max((pair.rank for pair in found.values()), default=0)
        scale = _most_common([p.scale for p in found.values() if p.scale] or [Fraction(0)])
        if found or family:  # the original knows no other layers: only for ourselves
            settings |= {f"{prefix}rank": rank, f"{prefix}alpha": _number(scale * rank)}
        for layer, pair in found.items():
            even = padded(rescaled(pair, scale), rank)
            tensors |= {f"{layer}.lora_A": even.a, f"{layer}.lora_B": even.b}
    order = [f"{layer}.lora_{matrix}" for layer in lora.layers for matrix in "AB"]
    return {name: tensors[name] for name in order}, {KWARGS: json.dumps(settings)}


def _comfy(lora: Lora) -> tuple[Tensors, Metadata]:
    tensors: Tensors = {}
    for layer, pairs in lora.layers.items():
        pair, name = whole(pairs), f"{_COMFY_PREFIX}{layer}"
        tensors |= {f"{name}.lora_A": pair.a, f"{name}.lora_B": pair.b}
        if pair.scale != 1:
            tensors[f"{name}.alpha"] = _scalar(float(pair.alpha))
    return tensors, {}


def _diffusers(lora: Lora, names: LayerNames) -> tuple[Tensors, Metadata]:
    pairs: dict[str, Pair] = {}
    factors: dict[str, float] = {}
    shares = (pair for layer, found in lora.layers.items() for pair in _shares(layer, found, names))
    for pair in shares:
        pairs[pair.module], factor = folded(pair)
        if factor != 1:
            factors[pair.module] = float(factor)
    tensors: Tensors = {}
    for module, pair in pairs.items():
        name = f"{_DIFFUSERS_PREFIX}{module}"
        tensors |= {f"{name}.lora_A.weight": pair.a, f"{name}.lora_B.weight": pair.b}
    config = {f"{_DIFFUSERS_PREFIX}{key}": value for key, value in peft_config(pairs).items()}
    metadata = {PEFT_METADATA: json.dumps(config, indent=2, sort_keys=True)}
    return tensors, metadata | ({FOLDED: json.dumps(factors)} if factors else {})


def _shares(layer: str, pairs: Sequence[Pair], names: LayerNames) -> Iterator[Pair]:
    """A layer's pairs, one for each of the layers that it is in diffusers."""
    theirs, op = names.theirs(layer)
    for pair in pairs:
        if pair.parts > 1:
            yield replace(pair, module=theirs[pair.part])
        else:
            parts = op.split(pair.b, len(theirs))
            for module, b in zip(theirs, parts, strict=True):
                yield replace(pair, module=module, b=b)


def peft_config(pairs: Mapping[str, Pair]) -> dict[str, Any]:
    """The settings of a peft `LoraConfig` for these layers, by diffusers' names."""
    rank = _most_common([pair.rank for pair in pairs.values()])
    alpha = _most_common([pair.alpha for pair in pairs.values()])
    return {
        "r": rank,
        "lora_alpha": _number(alpha),
        "rank_pattern": {name: pair.rank for name, pair in pairs.items() if pair.rank != rank},
        "alpha_pattern": {
            name: _number(pair.alpha) for name, pair in pairs.items() if pair.alpha != alpha
        },
        "target_modules": sorted(pairs),
        "bias": "none",
        "lora_dropout": 0.0,
    }


# ----------------------------------------------------------------------------------------- helpers


def _dropouts(lora: Lora) -> dict[str, Any]:
    """The original's third setting, which nobody but a trainer reads."""
    settings: dict[str, Any] = {
        f"{family}_lora_dropout": 0.0 for family in dict.fromkeys(FAMILIES.values())
    }
    if lora.flavour == "original" and KWARGS in lora.metadata:
        known = json.loads(lora.metadata[KWARGS])
        settings |= {key: known[key] for key in settings if key in known}
    return settings


def _most_common(values: Sequence[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _number(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)


def _scalar(value: float) -> Tensor:
    """float32, as others write it; float64 where that would round."""
    single = torch.tensor(value, dtype=torch.float32)
    return single if single.item() == value else torch.tensor(value, dtype=torch.float64)


def _cast(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or tensor.ndim == 0:
        return tensor
    cast = tensor.to(dtype)
    if not cast.isfinite().all():
        raise WeightsError(f"{name} holds numbers that are too large for {dtype_name(dtype)}")
    return cast


def _piece(name: str, tensor: Tensor) -> Piece:
    return Piece(
        name, dtype_name(tensor.dtype), tuple(tensor.shape), tensor.nbytes, lambda: [tensor]
    )
