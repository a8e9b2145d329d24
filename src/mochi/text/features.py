"""Text features: what the T5 encoder makes of prompts and the transformer reads.

They can be saved and given in place of a prompt, so a machine without the text encoder can
generate.
"""

# Shapes: B prompts, L text tokens, D features per token.

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mochi.core.errors import OutputError, RequestError, WeightsError

FORMAT = "mochi-text-features-1"


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """A batch of encoded prompts.

    Attributes:
        features: `(B, L, D)`; zero where the mask is False.
        mask: bool `(B, L)`, True where a token is valid; a row of an empty prompt has none.
        token_counts: tokens of each prompt, `</s>` included, before anything was cut.
        truncated: the text that was cut off each prompt, "" where nothing was.

    Raises:
        RequestError: shapes or types do not go together.
    """

    features: Tensor
    mask: Tensor
    token_counts: tuple[int, ...]
    truncated: tuple[str, ...]

    def __post_init__(self) -> None:
        features, mask = self.features, self.mask
        if features.ndim != 3 or not features.is_floating_point():
            given = f"{features.dtype} {tuple(features.shape)}"
            raise RequestError("features", given, "is not floating point (prompts, tokens, width)")
        if mask.shape != features.shape[:2] or mask.dtype != torch.bool:
            given = f"{mask.dtype} {tuple(mask.shape)}"
            raise RequestError("mask", given, "does not fit", f"bool {tuple(features.shape[:2])}")
        if {len(self.token_counts), len(self.truncated)} != {len(self)}:
            counts = (len(self.token_counts), len(self.truncated))
            raise RequestError("token_counts, truncated", counts, "are not one per prompt")

    @classmethod
    def empty(
        cls,
        prompts: int,
        tokens: int,
        width: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> TextFeatures:
        """Empty prompts: no valid token, so their features play no part and are zero (SPEC 3)."""
        features = torch.zeros(prompts, tokens, width, dtype=dtype, device=device)
        mask = torch.zeros(prompts, tokens, dtype=torch.bool, device=device)
        return cls(features, mask, (0,) * prompts, ("",) * prompts)

    @classmethod
    def join(cls, parts: Sequence[TextFeatures]) -> TextFeatures:
        """One batch out of several, in order.

        Raises:
            RequestError: nothing to join, or different numbers of tokens or widths.
        """
        shapes = sorted({tuple(part.features.shape[1:]) for part in parts})
        if len(shapes) != 1:
            raise RequestError("parts", shapes, "are not features of one shape")
        return cls(
            torch.cat([part.features for part in parts]),
            torch.cat([part.mask for part in parts]),
            tuple(count for part in parts for count in part.token_counts),
            tuple(text for part in parts for text in part.truncated),
        )

    def __len__(self) -> int:
        """How many prompts."""
        return self.features.shape[0]

    def __getitem__(self, rows: int | slice) -> TextFeatures:
        """Some of the prompts, still a batch: `features[0]` has one row."""
        if isinstance(rows, int):
            row = range(len(self))[rows]  # raises IndexError, which also ends iteration
            rows = slice(row, row + 1)
        return TextFeatures(
            self.features[rows], self.mask[rows], self.token_counts[rows], self.truncated[rows]
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> TextFeatures:
        """The same features elsewhere or in another precision."""
        features = self.features.to(device=device, dtype=dtype)
        return TextFeatures(features, self.mask.to(device), self.token_counts, self.truncated)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write a safetensors file that `load` reads; a failure leaves no file behind.

        Raises:
            OutputError: the file exists and `overwrite` is False, or it cannot be written.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists; pass overwrite=True to replace it")
        notes = {"token_counts": self.token_counts, "truncated": self.truncated}
        tensors = {"features": self.features.detach().cpu().contiguous(), "mask": self.mask.cpu()}
        content = save(tensors, {"format": FORMAT, "notes": json.dumps(notes)})
        try:
            _write(path, content)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: str | Path) -> TextFeatures:
        """Read what `save` wrote, onto the CPU.

        Raises:
            WeightsError: there is no such file, or it is truncated, foreign or not finite.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise WeightsError(
                        "holds no text features; `TextFeatures.save` makes them", path
                    )
                notes = json.loads(metadata["notes"])
                # Copies: the file may be replaced while they are in use.
                features = file.get_tensor("features").clone()
                mask = file.get_tensor("mask").clone()
            counts = tuple(int(count) for count in notes["token_counts"])
            loaded = cls(features, mask, counts, tuple(notes["truncated"]))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise WeightsError(f"cannot be read as text features: {error}", path) from error
        if not bool(torch.isfinite(loaded.features).all()):
            raise WeightsError("holds text features that are NaN or infinite", path)
        return loaded


def _write(path: Path, content: bytes) -> None:
    """All of the file or none of it: a temporary name beside it, then a rename."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
