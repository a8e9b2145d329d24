"""PyTorch's own files (.pt, .ckpt, .bin), opened only as data.

They are pickles, and a pickle is a program. `torch.load(weights_only=True)` runs none; what it
refuses is refused here, by name.
"""

from __future__ import annotations

import pickletools
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mochi.core.errors import WeightsError
from mochi.weights.stored import Stored, plain

ZIP = b"PK\x03\x04"
_PICKLES_AT_MOST = 5
_LISTED_AT_MOST = 100_000  # instructions
_HARMLESS = ("collections.OrderedDict", "torch._utils.", "torch.FloatStorage", "torch.storage.")
_NAMES_SHOWN = 4
_SAFER = "ask for a .safetensors file of these weights"


def read_torch_file(path: Path) -> dict[str, Stored]:
    """The tensors of the one set of weights in a file, mapped where the file allows it.

    Raises:
        WeightsError: opening it would run code (which is named), it cannot be read, or it is not
            clear which tensors are meant.
    """
    is_zip = False
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(ZIP)) == ZIP
        if is_zip:
            _check_archive(path)
            _refuse(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about protocols, before it refuses them
            content = torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
        tensors = _state(content)
        return {name: _stored(name, t, path.stat().st_size) for name, t in tensors.items()}
    except WeightsError as error:
        raise WeightsError(str(error), path) from None
    except Exception as error:  # a damaged pickle can make torch raise anything
        raise WeightsError(_reason(path, error, is_zip), path) from None


def _check_archive(path: Path) -> None:
    """What torch writes is stored as it is; a compressed archive could unpack to anything."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    names = [member.filename for member in members]
    if any(name.endswith("constants.pkl") for name in names):
        raise WeightsError(f"is a TorchScript program; {_SAFER}")
    if not any(name.endswith("data.pkl") for name in names):
        raise WeightsError("is a zip archive without weights (no data.pkl)")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise WeightsError("is a compressed zip archive, which PyTorch does not write")


def _refuse(names: Iterable[str]) -> None:
    found = sorted(set(names))
    if found:
        more = f" and {len(found) - _NAMES_SHOWN} more" if len(found) > _NAMES_SHOWN else ""
        shown = ", ".join(name[:80] for name in found[:_NAMES_SHOWN])
        raise WeightsError(f"would run code when opened: it calls {shown}{more}; {_SAFER}")


def _reason(path: Path, error: Exception, is_zip: bool) -> str:
    text = " ".join(str(error).split())
    if not is_zip and "weights_only" in text:
        try:
            _refuse(_called(path))
        except WeightsError as refused:
            return str(refused)
    return f"cannot be read as a PyTorch file: {text[:160] or type(error).__name__}"


def _called(path: Path) -> set[str]:
    """What a bare pickle calls, as far as it can be read: its instructions listed, none followed.

    What any file of weights calls is left out.
    """
    found, texts = set[str](), [""]
    with suppress(Exception), path.open("rb") as file:
        # PyTorch's old files are several pickles, one after the other.
        pickles = chain.from_iterable(pickletools.genops(file) for _ in range(_PICKLES_AT_MOST))
        for operation, argument, _ in islice(pickles, _LISTED_AT_MOST):
            if operation.name == "GLOBAL":
                found.add(str(argument).replace(" ", "."))
            elif operation.name == "STACK_GLOBAL":
                found.add(".".join(texts[-2:]))
            elif isinstance(argument, str):
                texts = [*texts[-1:], argument]
    return {name for name in found if not name.startswith(_HARMLESS)}


def _state(content: Any) -> Mapping[str, Tensor]:
    """The dictionary of tensors, which trainers like to put into another one."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"holds a {type(content).__name__}, not tensors by name")
    found = _tensors(content)
    if found:
        return found
    inner = {
        str(key)[:40]: tensors
        for key, value in content.items()
        if isinstance(value, Mapping) and (tensors := _tensors(value))
    }
    if len(inner) == 1:
        return next(iter(inner.values()))
    if inner:
        raise WeightsError(f"holds several sets of weights ({', '.join(inner)}); keep one")
    raise WeightsError("holds no tensors")


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _stored(name: str, tensor: Tensor, file_bytes: int) -> Stored:
    count = tensor.numel() * tensor.element_size()
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise WeightsError(f"holds {name[:80]!r} as a {tensor.layout} tensor on {tensor.device}")
    if count > file_bytes:
        raise WeightsError(f"has {name[:80]!r} of {count} bytes in a file of {file_bytes}")
    return plain(tensor.dtype, tuple(tensor.shape), count, lambda: tensor.detach().contiguous())
