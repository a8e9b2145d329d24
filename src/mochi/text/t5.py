"""T5 encoders: how large they are, made anew, or loaded from a folder.

The modules are those of transformers. The weights are loaded here and not by `from_pretrained`,
which fills what a file lacks with random numbers and only warns.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mochi.core.config import T5Size
from mochi.core.errors import RequestError, WeightsError
from mochi.model.stored import StoredEmbedding, StoredLinear, StoredWeight
from mochi.text.importing import import_transformers

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
    import_transformers()
    from transformers import T5EncoderModel

    return T5EncoderModel(_sized(size, dropout))


def _sized(size: T5Size, dropout: float = 0.0) -> T5Config:
    import_transformers()
    from transformers import T5Config

    return T5Config(
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


class T5Weights(Protocol):
    """Where the weights of an encoder come from; names as in Hugging Face's."""

    @property
    def label(self) -> str:
        """The file or folder, for messages."""
        ...

    @property
    def config(self) -> Path | None:
        """A `config.json`; None for an encoder of `size`, as all T5 v1.1 are otherwise."""
        ...

    @property
    def size(self) -> T5Size | None:
        """Sizes, where there is no config."""
        ...

    @property
    def names(self) -> Collection[str]:
        """Of all tensors that belong to the encoder."""
        ...

    def read(self, name: str) -> StoredWeight:
        """One tensor."""
        ...


def load_t5(
    source: str | Path | T5Weights,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    *,
    dequantize: bool = False,
    compute_dtype: torch.dtype = torch.float32,
) -> T5EncoderModel:
    """The T5 encoder in a Hugging Face folder, or out of weights that somebody reads.

    Weights are memory-mapped and moved or converted one at a time; with None for `dtype` they stay
    as they are stored, to be converted by whoever uses them.

    Args:
        source: a folder with `config.json` and safetensors files; or weights in whatever form.
        dtype: what it computes in.
        device: where.
        dequantize: decode quantised weights now; otherwise they stay small, and are decoded
            whenever a layer computes. Both give the same numbers.
        compute_dtype: what layers with small weights compute in, where `dtype` is None.

    Raises:
        RequestError: `dtype` is neither float32 nor bfloat16.
        WeightsError: the folder, a file or a weight is missing, unreadable or of a wrong shape.
    """
    if dtype not in (None, *DTYPES):
        raise RequestError("dtype", dtype, "cannot run T5 (float16 overflows)", DTYPES)
    weights: T5Weights
    weights = FolderWeights(Path(source)) if isinstance(source, (str, Path)) else source
    import_transformers()
    from transformers import T5EncoderModel

    with torch.device("meta"):
        model = T5EncoderModel(_config_of(weights))
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    expected.pop(EMBEDDING_ALIAS, None)
    _check_complete(weights, expected)
    state = {}
    for name, shape in expected.items():
        weight = weights.read(name)
        _check_fits(weights.label, name, weight, shape)
        small = weight.is_small and not dequantize
        if not (small and keep_small(model, name, weight, device, dtype or compute_dtype)):
            state[name] = weight.dense().to(device=device, dtype=dtype)
    if EMBEDDING in state:
        state[EMBEDDING_ALIAS] = state[EMBEDDING]
    model.load_state_dict(state, strict=False, assign=True)
    if EMBEDDING in state:
        model.tie_weights()
    return model.eval().requires_grad_(False)


def keep_small(
    model: T5EncoderModel,
    name: str,
    weight: StoredWeight,
    device: torch.device | str,
    dtype: torch.dtype,
) -> bool:
    """Put a layer that computes from the stored weight in the place of a dense one, if one may."""
    moved = weight.moved(lambda tensor: tensor.to(device))
    if name == EMBEDDING:
        model.shared = model.encoder.embed_tokens = StoredEmbedding(moved, dtype)
        return True
    path = name.rpartition(".")[0]
    if not isinstance(model.get_submodule(path), nn.Linear):
        return False
    model.set_submodule(path, StoredLinear(moved, None, dtype))
    return True


def _config_of(weights: T5Weights) -> T5Config:
    if weights.config is not None:
        return _config(weights.config)
    assert weights.size is not None
    return _sized(weights.size)


def _config(path: Path) -> T5Config:
    import_transformers()
    from transformers import T5Config

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        where = path.parent
        raise WeightsError(f"no text encoder here (no config.json); {HOW_TO_GET}", where) from None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"cannot be read as a T5 config: {error}", path) from error
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind != "t5":
        raise WeightsError(f"describes a model of type {kind!r}, not a t5", path)
    try:
        return T5Config.from_dict(content)
    except Exception as error:  # its validators raise errors of their own, of many lines
        reason = " ".join(str(error).split())
        raise WeightsError(f"cannot be read as a T5 config: {reason}", path) from error


def _check_complete(weights: T5Weights, expected: Mapping[str, Any]) -> None:
    missing = sorted(set(expected) - set(weights.names))
    if missing:
        shown = ", ".join(missing[:_NAMES_SHOWN]) + (", ..." if missing[_NAMES_SHOWN:] else "")
        raise WeightsError(f"{len(missing)} weights are missing: {shown}", weights.label)
    foreign = sorted(set(weights.names) - set(expected))
    if foreign:
        raise WeightsError(
            f"holds {foreign[0]}, which no T5 encoder of its config has", weights.label
        )


def _check_fits(label: str, name: str, weight: StoredWeight, shape: Any) -> None:
    if weight.shape != tuple(shape):
        shapes = f"{weight.shape}, where its config wants {tuple(shape)}"
        raise WeightsError(f"{name} has the shape {shapes}", label)
    if not (weight.is_small or weight.data.is_floating_point()):
        raise WeightsError(f"{name} holds {weight.kind}, not floating point", label)


class FolderWeights:
    """The safetensors files of a Hugging Face folder."""

    size: T5Size | None = None

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise WeightsError(f"no text encoder here; {HOW_TO_GET}", folder)
        self.label = str(folder)
        self.config = folder / "config.json"
        if not self.config.is_file():
            raise WeightsError(f"no text encoder here (no config.json); {HOW_TO_GET}", folder)
        self._files = {name: path for path in weight_files(folder) for name in _names_in(path)}
        self.names = {EMBEDDING if name == EMBEDDING_ALIAS else name for name in self._files}

    def read(self, name: str) -> StoredWeight:
        """One tensor, mapped."""
        stored = name if name in self._files else EMBEDDING_ALIAS
        with _opened(self._files[stored]) as file:
            tensor: Tensor = file.get_tensor(stored)
        kind = str(tensor.dtype).removeprefix("torch.")
        return StoredWeight(kind, tuple(tensor.shape), tensor)


def _names_in(path: Path) -> list[str]:
    with _opened(path) as file:
        return [name for name in file.keys() if not name.startswith(FOREIGN_PREFIXES)]  # noqa: SIM118 (no mapping)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
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
