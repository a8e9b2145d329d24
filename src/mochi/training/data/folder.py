"""A prepared folder: which files it holds, and how each is written so that it is whole or absent.

```
DATA/
    dataset.json            version, fingerprints of VAE and text encoder, settings
    index.jsonl             one line a sample, in order of names; written last
    samples/KEY.safetensors     mean and log-variance, float32, normalised (SPEC 3)
    captions/SHA256.safetensors features of one caption, without padding
    pictures/KEY.png            five moments of a sample, for the contact sheet
    sources/KEY.json            what a source was cut into, or why it was left out
    report.json, contact_sheet.png
```
"""

# Shapes: C latent channels, T H W of the latent, N text tokens, F features of a token.

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mochi.core.errors import OutputError, WeightsError
from mochi.video.output import disk_errors
from mochi.weights.tensors import TensorFile

VERSION = 1
SPACE = "normalised"
"""What the stored mean and log-variance are in: the space that the transformer is trained on."""

_ABOUT = "about"
DATASET, INDEX, REPORT, SHEET = "dataset.json", "index.jsonl", "report.json", "contact_sheet.png"


def text_key(caption: str) -> str:
    """The name of a caption's features."""
    return hashlib.sha256(caption.encode()).hexdigest()


def key_of(*facts: object) -> str:
    """A name that depends on all of these facts, plain values, and on nothing else."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class DataFolder:
    """The places in a prepared folder.

    Attributes:
        root: the folder.
    """

    root: Path

    def sample(self, key: str) -> Path:
        """Latents of one sample."""
        return self.root / "samples" / f"{key}.safetensors"

    def caption(self, caption: str) -> Path:
        """Features of one caption."""
        return self.root / "captions" / f"{text_key(caption)}.safetensors"

    def picture(self, key: str) -> Path:
        """Five moments of a sample."""
        return self.root / "pictures" / f"{key}.png"

    def source(self, key: str) -> Path:
        """What is known about a source."""
        return self.root / "sources" / f"{key}.json"

    def tidy(self) -> None:
        """Remove what a killed run left half written; only with nobody else at work here."""
        with disk_errors(self.root):
            for part in [*self.root.glob(".*.part"), *self.root.glob("*/.*.part")]:
                part.unlink(missing_ok=True)

    def write_tensors(
        self, path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, object]
    ) -> None:
        """A safetensors file; the same content is the same bytes, so what it says about itself is
        one entry (safetensors writes several in any order).

        Raises:
            OutputError: the disk refuses.
        """
        from safetensors.torch import save

        ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_whole(path, save(ready, {_ABOUT: json.dumps(dict(about))}))

    def write_json(self, name: str, content: object) -> None:
        """A readable JSON file at the root; raises as `write_tensors`."""
        text = json.dumps(content, indent=2, ensure_ascii=False)
        write_whole(self.root / name, (text + "\n").encode())

    def write_index(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The list of samples; raises as `write_tensors`."""
        lines = [json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows]
        write_whole(self.root / INDEX, "".join(lines).encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object at the root.

        Raises:
            WeightsError: it is missing or broken.
        """
        return read_object(self.root / name)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        WeightsError: it is missing or broken.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror or error}", path) from error
    except ValueError as error:
        raise WeightsError(f"is damaged: {error}", path) from error
    if not isinstance(content, dict):
        raise WeightsError("is no JSON object", path)
    return content


def write_whole(path: Path, content: bytes) -> None:
    """All of a file or none of it, on the disk before it has its name.

    Raises:
        OutputError: the disk refuses.
    """

    def write(part: Path) -> None:
        part.write_bytes(content)

    replace_by(path, write)


def replace_by(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then give it the name.

    Raises:
        OutputError: the disk refuses; nothing has changed.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            write(part)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def read_about(path: Path) -> dict[str, Any]:
    """What a file of tensors says about itself.

    Raises:
        WeightsError: it is missing or damaged.
    """
    try:
        about = json.loads(TensorFile(path).metadata.get(_ABOUT, "{}"))
    except ValueError as error:
        raise WeightsError(f"is damaged: {error}", path) from error
    return about if isinstance(about, dict) else {}


def read_tensors(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Some tensors of a file, copied, so that the file may go.

    Raises:
        WeightsError: it is missing, damaged, or lacks one of them.
    """
    file = TensorFile(path)
    return {name: file.tensor(name).clone() for name in names}


def refuse_foreign(root: Path) -> None:
    """Refuse an output folder that holds something else.

    Raises:
        OutputError: it is a file, or a folder with other things and no `dataset.json`.
    """
    if root.exists() and not root.is_dir():
        raise OutputError(f"{root}: is no folder")
    with disk_errors(root):
        strange = root.is_dir() and not (root / DATASET).exists()
        entries = [entry.name for entry in root.iterdir()] if strange else []
    others = sorted(name for name in entries if not name.startswith("."))
    if others:
        raise OutputError(f"{root}: holds other files ({others[0]}); choose a new folder")
