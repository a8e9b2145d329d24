"""T5 encoders: how large they are, made anew, or loaded from a folder.

The modules are those of transformers. The weights are loaded here and not by `from_pretrained`,
which fills what a file lacks with random numbers and only warns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mochi.core.config import T5Size
from mochi.core.errors import RequestError, WeightsError

if TYPE_CHECKING:
    from transformers import T5Config, T5EncoderModel

EMBEDDING = "shared.weight"
EMBEDDING_ALIAS = "encoder.embed_tokens.weight"  # the same matrix under its second name
FOREIGN_PREFIXES = ("decoder.", "lm_head.")  # the rest of a full T5; not needed to encode
DTYPES = (torch.float32, torch.bfloat16)
HOW_TO_GET = "`mochi weights download genmo/mochi-1-preview` brings one"
_NAMES_SHOWN = 4


T5_XXL = T5Size()
"""The encoder of Mochi 1, 4.76 B parameters (SPEC 1)."""


def build_t5(size: T5Size, dropout: float = 0.0) -> T5EncoderModel:
    """A T5 encoder with random weights, on the current default device (meta included).

    `save_pretrained(folder)` of the result writes what `load_t5` reads.
    """
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=size.vocabulary,
        d_model=size.width,
        d_ff=size.feed_forward,
        num_layers=size.depth,
        num_heads=size.heads,
        d_kv=size.head_dim,
        feed_forward_proj="gated-gelu",
        dropout_rate=dropout,
        tie_word_embeddings=False,
    )
    return T5EncoderModel(config)


def load_t5(
    folder: str | Path,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
) -> T5EncoderModel:
    """The T5 encoder in a Hugging Face folder: `config.json` and one or more safetensors files.

    Weights are memory-mapped and moved or converted one at a time; with None for `dtype` they stay
    as they are stored, to be converted by whoever uses them.

    Raises:
        RequestError: `dtype` is neither float32 nor bfloat16.
        WeightsError: the folder, a file or a weight is missing, unreadable or of a wrong shape.
    """
    if dtype not in (None, *DTYPES):
        raise RequestError("dtype", dtype, "cannot run T5 (float16 overflows)", DTYPES)
    folder = Path(folder)
    if not folder.is_dir():
        raise WeightsError(f"no text encoder here; {HOW_TO_GET}", folder)
    from transformers import T5EncoderModel

    config = _config(folder)
    with torch.device("meta"):
        model = T5EncoderModel(config)
    weights = {
        name: tensor.to(device=device, dtype=dtype) for name, tensor in _tensors(folder, model)
    }
    if EMBEDDING in weights:
        weights[EMBEDDING_ALIAS] = weights[EMBEDDING]
    _check_complete(folder, model, weights)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    return model.eval().requires_grad_(False)


def _config(folder: Path) -> T5Config:
    from transformers import T5Config

    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"no text encoder here (no config.json); {HOW_TO_GET}", folder) from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot be read as a T5 config: {error}", path) from error
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind != "t5":
        raise WeightsError(f"describes a model of type {kind!r}, not a t5", path)
    try:
        return T5Config.from_dict(content)
    except Exception as error:  # its validators raise errors of their own, of many lines
        reason = " ".join(str(error).split())
        raise WeightsError(f"cannot be read as a T5 config: {reason}", path) from error


def _tensors(folder: Path, model: T5EncoderModel) -> Iterator[tuple[str, Tensor]]:
    """The encoder's weights in the files of a folder, their names and shapes checked."""
    expected = {name: parameter.shape for name, parameter in model.state_dict().items()}
    for path in weight_files(folder):
        try:
            with safe_open(str(path), framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (no mapping, it has nothing else to iterate)
                    if name.startswith(FOREIGN_PREFIXES):
                        continue
                    tensor = file.get_tensor(name)
                    name = EMBEDDING if name == EMBEDDING_ALIAS else name
                    _check_known(path, name, tensor, expected)
                    yield name, tensor
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"cannot be read as safetensors: {error}", path) from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make one whole encoder.

    A folder may hold the weights twice, as float32 and as a bf16 variant, each with an index if
    it is in pieces; the first index whose pieces are all there decides.
    """
    indexes = sorted(folder.glob("*.safetensors.index*.json"))
    for index in indexes:
        pieces = _pieces(index)
        if index == indexes[-1] or all(piece.is_file() for piece in pieces):
            return pieces
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"no text encoder here (no .safetensors file); {HOW_TO_GET}", folder)
    plain = folder / "model.safetensors"
    return [plain if plain in files else files[0]]


def _pieces(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [index.parent / Path(name).name for name in sorted(names)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"cannot be read as an index of weights: {error}", index) from error


def _check_known(path: Path, name: str, tensor: Tensor, expected: dict[str, Any]) -> None:
    if name not in expected:
        raise WeightsError(f"holds {name}, which no T5 encoder of its config has", path)
    if tensor.shape != expected[name]:
        shapes = f"{tuple(tensor.shape)}, where its config wants {tuple(expected[name])}"
        raise WeightsError(f"{name} has the shape {shapes}", path)
    if not tensor.is_floating_point():
        raise WeightsError(f"{name} holds {tensor.dtype}, not floating point", path)


def _check_complete(folder: Path, model: T5EncoderModel, weights: dict[str, Tensor]) -> None:
    missing = sorted(set(model.state_dict()) - set(weights))
    if missing:
        shown = ", ".join(missing[:_NAMES_SHOWN]) + (", ..." if missing[_NAMES_SHOWN:] else "")
        raise WeightsError(f"{len(missing)} weights are missing: {shown}", folder)
