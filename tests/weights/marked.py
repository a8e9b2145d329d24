"""Weights as other programs keep them, and the same values decoded by numpy and `gguf`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


@dataclass
class Marked:
    """What is written, and what it means."""

    tensors: State
    meaning: State
    metadata: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> Path:
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        save_file(tensors, path, self.metadata or None)
        return path


def is_linear(name: str, tensor: Tensor) -> bool:
    return name.endswith(".weight") and tensor.ndim == 2


def fp8_scaled(
    state: Mapping[str, Tensor],
    marking: str,
    prefix: str = "",
    dtype: torch.dtype = E4M3,
    input_scales: bool = False,
) -> Marked:
    """`marking`: old, new or metadata. All but linear weights become bfloat16."""
    tensors, meaning, layers = {}, {}, {}
    scale_name = "scale_weight" if marking == "old" else "weight_scale"
    for name, tensor in state.items():
        if not is_linear(name, tensor):
            tensors[prefix + name] = tensor.to(torch.bfloat16)
            meaning[name] = tensors[prefix + name].float()
            continue
        layer = prefix + name.removesuffix(".weight")
        scale = tensor.abs().max() / torch.finfo(dtype).max
        small = (tensor / scale).to(dtype)
        tensors |= {prefix + name: small, f"{layer}.{scale_name}": scale}
        meaning[name] = small.float() * scale
        if input_scales:
            key = "scale_input" if marking == "old" else "input_scale"
            tensors[f"{layer}.{key}"] = torch.tensor(0.5)
        config = {"format": str(dtype).removeprefix("torch.")}
        layers[layer] = config
        if marking == "new":
            raw = json.dumps(config).encode()
            tensors[f"{layer}.comfy_quant"] = torch.tensor(list(raw), dtype=torch.uint8)
    if marking == "old":
        marker = torch.float32 if dtype == E4M3 else dtype
        tensors[f"{prefix}scaled_fp8"] = torch.zeros(0).to(marker)
    if marking == "metadata":
        text = json.dumps({"format_version": "1.0", "layers": layers})
        return Marked(tensors, meaning, {"_quantization_metadata": text})
    return Marked(tensors, meaning)


def fp8_plain(state: Mapping[str, Tensor], dtype: torch.dtype = E4M3) -> Marked:
    """A cast without scales; embedders, norms and biases wider."""
    wide = ("embed", "norm", "t5_y", "final_layer", "pos_freq")
    tensors = {
        name: tensor if any(word in name for word in wide) or tensor.ndim < 2 else tensor.to(dtype)
        for name, tensor in state.items()
    }
    return Marked(tensors, {name: tensor.float() for name, tensor in tensors.items()})


def blocks(tensor: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """The blocks of a matrix, and what they stand for. K-quants, which only C code makes, are
    random bytes with sensible scales."""
    ggml = gguf.GGMLQuantizationType[kind.upper()]
    size, block_bytes = gguf.GGML_QUANT_SIZES[ggml]
    assert tensor.shape[-1] % size == 0
    if kind.endswith("_k"):
        raw = random_blocks(tensor.numel() // size, kind, seed=tensor.numel())
        raw = raw.reshape(*tensor.shape[:-1], -1)
        assert raw.shape[-1] == tensor.shape[-1] // size * block_bytes
    else:
        raw = quantize(tensor.numpy(), ggml)
    return torch.from_numpy(raw), torch.from_numpy(dequantize(raw, ggml).astype(np.float32))


SCALES_AT = {"q2_k": (80, 82), "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,)}


def random_blocks(count: int, kind: str, seed: int) -> np.ndarray:
    """Blocks of random bytes with scales that give weights of about 0.1."""
    rng = np.random.default_rng(seed)
    _, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]]
    raw = rng.integers(0, 256, (count, block_bytes), dtype=np.uint8)
    for at in SCALES_AT[kind]:
        scales = (rng.standard_normal(count) * 1e-4).astype(np.float16)
        raw[:, at : at + 2] = scales.view(np.uint8).reshape(count, 2)
    return raw


def in_safetensors(state: Mapping[str, Tensor], kind: str) -> Marked:
    """`{linear}.Q4_0_qweight` and float16 for all else."""
    tensors, meaning = {}, {}
    for name, tensor in state.items():
        if is_linear(name, tensor) and tensor.shape[1] % 32 == 0:
            raw, meaning[name] = blocks(tensor, kind)
            tensors[f"{name.removesuffix('.weight')}.{kind.upper()}_qweight"] = raw
        else:
            tensors[name] = tensor.half()
            meaning[name] = tensor.half().float()
    return Marked(tensors, meaning)


def write_gguf(
    path: Path,
    state: Mapping[str, Tensor],
    kind_of: Callable[[str, Tensor], str],
    prefix: str = "",
    architecture: str = "mochi",
) -> State:
    """Write with the `gguf` package; returns what was written, decoded."""
    writer = gguf.GGUFWriter(path, architecture)
    meaning = {}
    for name, tensor in state.items():
        kind = kind_of(name, tensor)
        ggml = gguf.GGMLQuantizationType[kind.upper()]
        if kind in ("f32", "f16"):
            data = tensor.numpy().astype(np.float32 if kind == "f32" else np.float16)
            meaning[name] = torch.from_numpy(data.astype(np.float32))
        elif kind == "bf16":
            data = tensor.to(torch.bfloat16).view(torch.uint8).numpy()
            meaning[name] = tensor.to(torch.bfloat16).float()
        else:
            raw, meaning[name] = blocks(tensor, kind)
            data = raw.numpy()
        writer.add_tensor(prefix + name, data, raw_dtype=ggml)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meaning
