"""The kinds of file that tensors come in, told apart by their first bytes, never by their name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from mochi.core.errors import WeightsError
from mochi.weights.gguf import MAGIC, GgufFile
from mochi.weights.header import MAX_HEADER_BYTES
from mochi.weights.stored import Stored, plain
from mochi.weights.tensors import StrPath, TensorFile, open_regular
from mochi.weights.torch_file import ZIP, read_torch_file

Container = Literal["safetensors", "GGUF", "PyTorch"]


@dataclass(frozen=True)
class Contents:
    """The tensors of one or several files (the shards of one checkpoint) as one.

    Attributes:
        paths: the files.
        containers: what kinds of file they are.
        tensors: by name, as the files name and keep them.
        metadata: strings that whoever wrote the files put beside the tensors.
    """

    paths: tuple[Path, ...]
    containers: frozenset[Container]
    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str]

    @property
    def label(self) -> str:
        """The path for messages: the file, or the first shard and how many follow."""
        first, more = self.paths[0], len(self.paths) - 1
        return f"{first} (and {more} more)" if more else str(first)

    @classmethod
    def open(cls, paths: Iterable[StrPath]) -> Contents:
        """Look into files; their headers are read and checked, their data are not.

        Raises:
            WeightsError: a file cannot be used, or two hold a tensor of the same name.
        """
        files = tuple(_open_one(Path(path)) for path in paths)
        tensors: dict[str, Stored] = {}
        owner: dict[str, Path] = {}
        for file in files:
            for name, stored in file.tensors.items():
                if name in tensors:
                    raise WeightsError(f"holds {name!r}, as does {owner[name]}", file.paths[0])
                tensors[name], owner[name] = stored, file.paths[0]
        return cls(
            paths=tuple(path for file in files for path in file.paths),
            containers=frozenset(kind for file in files for kind in file.containers),
            tensors=tensors,
            metadata={key: value for file in files for key, value in file.metadata.items()},
        )


def container_of(path: Path) -> Container:
    """What a file claims to be by its first bytes; what claims nothing is taken for safetensors.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            first = file.read(8)
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror or error}", path) from error
    except WeightsError as error:
        raise WeightsError(str(error), path) from None
    if first.startswith(MAGIC):
        return "GGUF"
    if int.from_bytes(first, "little") <= MAX_HEADER_BYTES:
        return "safetensors"  # begins with the size of its header
    is_pickle = first[:1] == b"\x80" and first[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return "PyTorch" if first.startswith(ZIP) or is_pickle else "safetensors"


def claims_tensors(path: Path) -> bool:
    """Whether a file looks like one of tensors that is quickly opened, by its first bytes.

    Old PyTorch files, which have to be read as a whole, are left out; so is what cannot be read.
    """
    try:
        if not path.is_file():
            return False
        with open_regular(path) as file:
            first = file.read(9)
    except (OSError, WeightsError):
        return False
    if first.startswith((MAGIC, ZIP)):
        return True
    header_bytes = int.from_bytes(first[:8], "little")
    return first[8:] == b"{" and 2 <= header_bytes <= MAX_HEADER_BYTES


def _open_one(path: Path) -> Contents:
    container = container_of(path)
    if container == "GGUF":
        gguf = GgufFile(path)
        return Contents((path,), frozenset({container}), gguf.tensors, gguf.metadata)
    if container == "PyTorch":
        return Contents((path,), frozenset({container}), read_torch_file(path), {})
    file = TensorFile(path)
    tensors = {
        name: plain(
            info.dtype,
            info.shape,
            info.end - info.start,
            partial(file.tensor, name),
            partial(file.forget, name),
        )
        for name, info in file.header.tensors.items()
    }
    return Contents((path,), frozenset({container}), tensors, file.metadata)
