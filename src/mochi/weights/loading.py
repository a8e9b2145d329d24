"""Networks from checkpoints: sizes off the shapes, weights out of the map, nothing copied twice.

A network is built without memory (on the meta device) and its parameters are then replaced by
tensors of the mapped file. Copies are made only where a value changes: another dtype, another
device, or tensors that a layout keeps in pieces.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from mochi.core.errors import WeightsError
from mochi.model.decoder import Decoder
from mochi.model.dit import AsymmDiT
from mochi.model.encoder import Encoder
from mochi.weights.folder import ModelFiles, component_files, is_component, shards
from mochi.weights.layouts import TABLES
from mochi.weights.names import Names, Part, Table
from mochi.weights.report import LoadReport, Shapes
from mochi.weights.sizes import decoder_config, dit_config, encoder_config
from mochi.weights.tensors import StrPath, TensorFiles

Source = StrPath | Sequence[StrPath]
"""A file, the shards of one, their index, or a model folder."""

Network = TypeVar("Network", bound=nn.Module)

ALWAYS_FLOAT32 = frozenset({"pos_frequencies"})  # SPEC 2: bf16 could not tell positions apart
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_COUNTED_AT_ONCE = 1 << 22  # elements, so that the temporaries stay small


@dataclass(frozen=True)
class _Kind(Generic[Network]):
    part: Part
    article: str
    build: Callable[[Shapes], Network]


_DIT = _Kind("dit", "an AsymmDiT", lambda shapes: AsymmDiT(dit_config(shapes)))
_DECODER = _Kind("decoder", "a Mochi decoder", lambda shapes: Decoder(decoder_config(shapes)))
_ENCODER = _Kind("encoder", "a Mochi encoder", lambda shapes: Encoder(encoder_config(shapes)))
_KINDS: Mapping[Part, _Kind[nn.Module]] = {
    "dit": _Kind("dit", _DIT.article, _DIT.build),
    "decoder": _Kind("decoder", _DECODER.article, _DECODER.build),
    "encoder": _Kind("encoder", _ENCODER.article, _ENCODER.build),
}


def load_dit(
    source: Source,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    check_finite: bool = True,
) -> AsymmDiT:
    """The AsymmDiT in a checkpoint (SPEC 2), of whatever size.

    Args:
        source: a `.safetensors` file, all shards of one, their index, or a model folder.
        device: where the weights go; on the CPU they stay in the mapped file, and for `meta` they
            are not read.
        dtype: cast to this; None keeps what is stored. `pos_frequencies` is always float32.
        check_finite: read all weights once and refuse NaN and infinity.

    Raises:
        WeightsError: unreadable, no DiT, missing or foreign tensors, wrong shapes, NaN.
    """
    return _load(_DIT, source, device, dtype, check_finite)


def load_decoder(
    source: Source,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    check_finite: bool = True,
) -> Decoder:
    """The VAE decoder in a checkpoint (SPEC 4); arguments and errors as in `load_dit`."""
    return _load(_DECODER, source, device, dtype, check_finite)


def load_encoder(
    source: Source,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    check_finite: bool = True,
) -> Encoder:
    """The VAE encoder in a checkpoint (SPEC 4); arguments and errors as in `load_dit`."""
    return _load(_ENCODER, source, device, dtype, check_finite)


def check(part: Part, source: Source) -> LoadReport:
    """Names and shapes of a checkpoint against its network, without reading the weights.

    Raises:
        WeightsError: a file cannot be used at all, or nothing in it looks like this part.
    """
    return _fit(_KINDS[part], TensorFiles(_paths(part, source))).report


def recognise(names: Iterable[str], part: Part) -> Table | None:
    """The layout in which these names hold `part`, or None."""
    names = set(names)
    best = max((t for t in TABLES if t.part == part), key=lambda table: table.score(names))
    return best if best.score(names) else None


# ------------------------------------------------------------------------------------------- steps


@dataclass(frozen=True)
class _Fitted(Generic[Network]):
    """An empty network, the names of its tensors in the files, and how well they agree."""

    network: Network
    names: Names
    report: LoadReport


def _load(
    kind: _Kind[Network],
    source: Source,
    device: torch.device | str,
    dtype: torch.dtype | None,
    check_finite: bool,
) -> Network:
    files = TensorFiles(_paths(kind.part, source))
    fitted = _fit(kind, files)
    fitted.report.raise_if_bad(kind.article, files.label)

    def read(name: str) -> Tensor:
        if torch.device(device).type == "meta":
            return torch.empty(files.shape(name), dtype=files.dtype(name), device="meta")
        return _read_floats(files, name, check_finite)

    state = {
        name: _placed(name, fitted.names.to_ours(name, read), device, dtype)
        for name in fitted.network.state_dict()
    }
    fitted.network.load_state_dict(state, strict=True, assign=True)
    return fitted.network


def _paths(part: Part, source: Source) -> list[Path]:
    if not isinstance(source, (str, os.PathLike)):
        if not source:
            raise WeightsError(f"no files were given for the {part}")
        return [Path(path) for path in source]
    path = Path(source)
    if path.suffix == ".json" and path.is_file():
        return list(shards(path))
    if not path.is_dir():
        return [path]
    if (
        path / f"{part}.safetensors"
    ).is_file():  # the original files, not all of which need be here
        return [path / f"{part}.safetensors"]
    if is_component(path):
        return list(component_files(path))
    return list(ModelFiles.find(path).part(part))


def _fit(kind: _Kind[Network], files: TensorFiles) -> _Fitted[Network]:
    theirs = files.shapes
    table = recognise(theirs, kind.part)
    if table is None:
        raise WeightsError(f"holds nothing of {kind.article}{_instead(theirs)}", files.label)
    names = table.from_theirs(theirs)
    try:
        with torch.device("meta"):
            network = kind.build(names.our_shapes(theirs))
    except WeightsError as error:
        raise WeightsError(
            f"fits no {kind.article.split(' ', 1)[1]}: {error}", files.label
        ) from None
    ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    expected = names.their_shapes(ours)
    found = {name: shape for name, shape in theirs.items() if not names.is_neighbour(name)}
    return _Fitted(network, names, LoadReport.compare(expected, found))


def _instead(names: Iterable[str]) -> str:
    """What the file may be instead, for the message."""
    names = list(names)
    for kind in _KINDS.values():
        table = recognise(names, kind.part)
        if table is not None:
            return f"; it looks like {kind.article} ({table.layout} names)"
    shown = ", ".join(names[:4]) or "no tensors at all"
    return f"; it has {len(names)} tensors of something else: {shown}"


def _read_floats(files: TensorFiles, name: str, check_finite: bool) -> Tensor:
    tensor = files.tensor(name)
    if tensor.dtype not in _FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise WeightsError(f"stores {name} as {kind}; only plain floats load", files.label)
    if check_finite:
        bad = _count_non_finite(tensor)
        if bad:
            raise WeightsError(
                f"holds NaN or infinity: {bad} of {tensor.numel()} values of {name}", files.label
            )
    return tensor


def _count_non_finite(tensor: Tensor) -> int:
    """How many values are NaN or infinite; as a rule one pass without a temporary."""
    if not tensor.numel():
        return 0
    low, high = torch.aminmax(tensor)  # both become NaN where there is one
    if low.isfinite() and high.isfinite():
        return 0
    chunks = tensor.flatten().split(_COUNTED_AT_ONCE)
    return sum(int((~chunk.isfinite()).sum()) for chunk in chunks)


def _placed(
    name: str, tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None
) -> Tensor:
    if name in ALWAYS_FLOAT32:
        dtype = torch.float32
    return tensor.to(device=device, dtype=dtype or tensor.dtype)
