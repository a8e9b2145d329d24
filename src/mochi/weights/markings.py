"""Quantised weights by their markings: several tensors of a file become one logical tensor.

ComfyUI, old: a tensor `{prefix}scaled_fp8`, and for each such layer `.scale_weight` and at times
`.scale_input`. ComfyUI, new: `.weight_scale`, `.input_scale`, and either `.comfy_quant` (JSON as
uint8) or the metadata `_quantization_metadata`. "GGUF" in .safetensors: `{layer}.Q4_0_qweight` or
`.Q8_0_qweight`, ggml blocks as uint8.

A scale of an input is for arithmetic in float8; weights that are decoded have no use for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from mochi.core.errors import WeightsError
from mochi.model.blocks import CODECS
from mochi.model.stored import FLOAT8
from mochi.weights.stored import FLOATS, Stored, blocks, dtype_name, plain, scaled

OLD, NEW, BLOCKS = "old marking", "new marking", "blocks in .safetensors"

_MARKER = "scaled_fp8"
_SCALES = (".scale_weight", ".weight_scale")
_INPUT_SCALES = (".scale_input", ".input_scale")
_CONFIG = ".comfy_quant"
_METADATA = "_quantization_metadata"
_BLOCKS = re.compile(r"(?P<layer>.+)\.(?P<kind>\w+)_qweight")
_MAX_CONFIG_BYTES = 1 << 16
_FLOAT8_NAMES = tuple(dtype_name(dtype) for dtype in FLOAT8)
_FLOAT_NAMES = tuple(dtype_name(dtype) for dtype in FLOATS)
_NOISE = "without its scale a weight gives noise"


@dataclass
class Folded:
    """The logical tensors of a checkpoint, and which markings it has."""

    tensors: dict[str, Stored]
    markings: set[str] = field(default_factory=set)


def fold(found: Mapping[str, Stored], metadata: Mapping[str, str]) -> Folded:
    """Put the parts of quantised weights together.

    Raises:
        WeightsError: a scale is missing or of a strange shape, or a quantisation is unknown.
    """
    folded = Folded(dict(found))
    _refuse_others(found)
    marked = _markers(folded)
    formats = dict(_formats(folded, metadata))
    for name in [name for name in folded.tensors if name.endswith("_qweight")]:
        _fold_blocks(folded, name)
    for name in [name for name in folded.tensors if name.endswith(_SCALES)]:
        _fold_scale(folded, name, formats)
    for name in [name for name in folded.tensors if name.endswith(_INPUT_SCALES)]:
        if f"{name.rpartition('.')[0]}.weight" in folded.tensors:
            del folded.tensors[name]
    _check_complete(folded, marked, formats)
    return folded


def unscaled(tensors: Mapping[str, Stored]) -> list[str]:
    """Names of float8 matrices that have no scale."""
    return [n for n, t in tensors.items() if t.kind in _FLOAT8_NAMES and len(t.shape) > 1]


def refuse_unscaled(names: list[str], path: str | None = None) -> None:
    """Raise the error for float8 weights whose scales are missing, if there are any.

    Raises:
        WeightsError: there are.
    """
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise WeightsError(
            f"is fp8_scaled, but the scale of {names[0]}{more} is missing; {_NOISE}", path
        )


# ------------------------------------------------------------------------------------------- steps


def _refuse_others(found: Mapping[str, Stored]) -> None:
    for name in found:
        if ".quant_state.bitsandbytes" in name:
            raise WeightsError(
                f"is quantised by bitsandbytes ({name[:80]}), which is not read; fp8 and GGUF are"
            )


def _markers(folded: Folded) -> list[str]:
    """Prefixes below which float8 has scales; the markers are taken out."""
    names = [n for n in folded.tensors if n == _MARKER or n.endswith(f".{_MARKER}")]
    for name in names:
        del folded.tensors[name]
        folded.markings.add(OLD)
    return [name.removesuffix(_MARKER) for name in names]


def _formats(folded: Folded, metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Layer to format of the new marking."""
    if _METADATA in metadata:
        folded.markings.add(NEW)
        layers = _json_object(metadata[_METADATA], _METADATA).get("layers", {})
        if not isinstance(layers, dict):
            raise WeightsError(f"has a broken {_METADATA}: layers is no object")
        for layer, config in layers.items():
            if f"{layer}.weight" in folded.tensors:
                yield layer, _format(config, layer)
    for name in [name for name in folded.tensors if name.endswith(_CONFIG)]:
        folded.markings.add(NEW)
        config = folded.tensors.pop(name)
        if config.kind != "uint8" or config.nbytes > _MAX_CONFIG_BYTES:
            raise WeightsError(f"has a broken {name[:200]}: no JSON in up to 64 KiB of uint8")
        text = bytes(config.dense().flatten().tolist())
        layer = name.removesuffix(_CONFIG)
        yield layer, _format(_json_object(text, name), layer)


def _json_object(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise WeightsError(f"has a broken {where[:200]}: it is no JSON object")
    return parsed


def _format(config: object, layer: str) -> str:
    name = config.get("format") if isinstance(config, dict) else None
    if name not in _FLOAT8_NAMES:
        raise WeightsError(
            f"stores {layer[:200]} in the quantisation {str(name)[:40]!r}; "
            f"{' and '.join(_FLOAT8_NAMES)} are read"
        )
    return str(name)


def _fold_blocks(folded: Folded, name: str) -> None:
    split = _BLOCKS.fullmatch(name)
    if split is None:
        return
    stored, kind = folded.tensors[name], split["kind"].lower()
    codec = CODECS.get(kind)
    if codec is None:
        raise WeightsError(
            f"stores {name[:200]} in the unknown quantisation {split['kind'][:40]}; "
            f"known are {', '.join(CODECS)}"
        )
    row_bytes = stored.shape[-1] if stored.shape else 0
    if stored.kind != "uint8" or len(stored.shape) != 2 or row_bytes % codec.bytes or not row_bytes:
        raise WeightsError(
            f"has {name[:200]} as {stored.kind} {stored.shape}, which are no {kind} blocks of "
            f"{codec.bytes} bytes"
        )
    shape = (stored.shape[0], row_bytes // codec.bytes * codec.weights)
    del folded.tensors[name]
    folded.tensors[f"{split['layer']}.weight"] = blocks(kind, shape, lambda: stored.dense())
    folded.markings.add(BLOCKS)


def _fold_scale(folded: Folded, name: str, formats: Mapping[str, str]) -> None:
    layer = name.rpartition(".")[0]
    weight = folded.tensors.get(f"{layer}.weight")
    if weight is None:
        return  # the report will name it
    scale = folded.tensors.pop(name)
    if layer in formats and weight.kind == "uint8":
        weight = _seen_as(weight, getattr(torch, formats[layer]))
    if weight.kind not in _FLOAT8_NAMES + _FLOAT_NAMES or scale.kind not in _FLOAT_NAMES:
        raise WeightsError(f"scales {layer[:200]}.weight ({weight.kind}) by {scale.kind}")
    count = 1
    for size in scale.shape:
        count *= size
    if count != 1 and (not weight.shape or count != weight.shape[0]):
        raise WeightsError(
            f"has the scale {name[:200]} of shape {scale.shape} for a weight {weight.shape}; one "
            "for the weight or one for each of its rows are read"
        )
    folded.tensors[f"{layer}.weight"] = scaled(weight, scale)
    folded.markings.add(OLD if name.endswith(_SCALES[0]) else NEW)


def _seen_as(weight: Stored, dtype: torch.dtype) -> Stored:
    """Bytes that hold float8 numbers, as those."""
    return plain(dtype, weight.shape, weight.nbytes, lambda: weight.dense().view(dtype))


def _check_complete(folded: Folded, marked: list[str], formats: Mapping[str, str]) -> None:
    lacking = [
        name
        for name in unscaled(folded.tensors)
        if any(name.startswith(prefix) for prefix in marked)
        or name.removesuffix(".weight") in formats
    ]
    lacking += [
        f"{layer}.weight"
        for layer in formats
        if (weight := folded.tensors.get(f"{layer}.weight")) and weight.kind == "uint8"
    ]
    refuse_unscaled(lacking)
