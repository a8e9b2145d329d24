"""Which files make an adapter: a file, or a folder as peft and diffusers leave it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from mochi.core.errors import WeightsError

StrPath = str | os.PathLike[str]

ADAPTER_CONFIG = "adapter_config.json"
# What peft and diffusers call the weights, the likelier first.
NAMES = (
    "adapter_model.safetensors",
    "pytorch_lora_weights.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.bin",
)
_MAX_CONFIG_BYTES = 1 << 20
_READ_BYTES = 1 << 22


@dataclass(frozen=True)
class LoraFiles:
    """The files of one adapter.

    Attributes:
        weights: the matrices.
        config: `adapter_config.json` beside them, if there is one.
    """

    weights: Path
    config: Path | None

    @classmethod
    def find(cls, path: StrPath) -> LoraFiles:
        """Look at a file or a folder.

        Raises:
            WeightsError: it does not exist, or the folder holds no adapter, or several.
        """
        root = Path(path)
        try:
            if not root.exists():
                raise WeightsError("does not exist", root)
            weights = _in_folder(root) if root.is_dir() else root
            config = weights.parent / ADAPTER_CONFIG
            return cls(weights, config if config.is_file() else None)
        except OSError as error:  # a loop of links, a name too long, a folder nobody may read
            raise WeightsError(f"cannot be read: {error.strerror or error}", root) from error
        except ValueError as error:
            raise WeightsError(f"is no path: {error}", str(path)[:200]) from None

    def config_text(self) -> str:
        """The config.

        Raises:
            WeightsError: it cannot be read, or is no text.
        """
        assert self.config is not None
        try:
            if self.config.stat().st_size > _MAX_CONFIG_BYTES:
                raise WeightsError("is too large for a config", self.config)
            return self.config.read_text("utf-8")
        except OSError as error:
            raise WeightsError(f"cannot be read: {error.strerror or error}", self.config) from error
        except UnicodeDecodeError:
            raise WeightsError("is no text", self.config) from None


def sha256(path: Path) -> str:
    """Of a whole file, 64 hexadecimal digits: what `sha256sum` prints.

    Raises:
        WeightsError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror or error}", path) from error
    return digest.hexdigest()


def _in_folder(folder: Path) -> Path:
    known = [folder / name for name in NAMES if (folder / name).is_file()]
    if known:
        return known[0]
    others = sorted(folder.glob("*.safetensors"))
    if len(others) == 1:
        return others[0]
    found = ", ".join(path.name for path in others[:8]) or "no .safetensors at all"
    raise WeightsError(
        f"holds no {NAMES[0]} or {NAMES[1]}, nor a single file; found {found}", folder
    )
