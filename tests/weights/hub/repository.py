"""A repository on the local hub, and what tests ask of a download."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mochi.core.errors import DownloadError

BIG = bytes(i * 7 % 251 for i in range(300_000))
REPOSITORY = {
    "README.md": b"# A model",
    "dit.safetensors": BIG,
    "decoder.safetensors": b"decoder" * 100,
    "encoder.safetensors": b"encoder" * 100,
    "text_encoder/config.json": b"{}",
    "text_encoder/model.safetensors": b"text" * 100,
    "tokenizer/spiece.model": b"pieces",
    "transformer/diffusion_pytorch_model.safetensors": b"the same once more",
    "vae/diffusion_pytorch_model.safetensors": b"the same once more",
    "picture.mp4": b"a film",
}
WANTED = {name for name in REPOSITORY if not name.startswith(("transformer", "vae", "picture"))}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".mochi" not in path.parts
    }


def refusal(fetch: Callable[..., Path], **more: Any) -> str:
    with pytest.raises(DownloadError) as caught:
        fetch(**more)
    assert "\n" not in str(caught.value)
    return str(caught.value)
