"""What a preparation did: used, skipped and why, as JSON and as a picture."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mochi.training.data.clips import Skipped
from mochi.training.data.dataset import Sample
from mochi.training.data.folder import SHEET, DataFolder, replace_by
from mochi.video.colour import Pixels

_STRIP_HEIGHT, _MOMENTS = 96, 5
_TEXT_WIDTH, _MARGIN, _LINE = 420, 8, 15
_TEXT_CHARS, _TEXT_LINES = 64, 5
_MAX_ROWS = 100
_BACK, _INK, _FAINT = (250, 250, 250), (20, 20, 20), (110, 110, 110)


@dataclass(frozen=True)
class Report:
    """The result of a preparation.

    Attributes:
        folder: what was made.
        samples: all that it holds now, in order of names.
        skipped: what was left out, in order of names.
        notes: what a user should know about those that were used, by name.
        made: samples that this run encoded; the others were there.
        seconds: that this run took.
    """

    folder: Path
    samples: tuple[Sample, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[tuple[str, str], ...]
    made: int
    seconds: float

    @property
    def video_seconds(self) -> float:
        """How long all samples play together."""
        return sum(sample.seconds for sample in self.samples)

    @property
    def buckets(self) -> dict[str, int]:
        """Samples in each bucket, by its name."""
        return dict(sorted(Counter(sample.bucket for sample in self.samples).items()))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "samples": len(self.samples),
            "made_now": self.made,
            "video_seconds": round(self.video_seconds, 3),
            "buckets": self.buckets,
            "captions": len({sample.caption for sample in self.samples}),
            "skipped": [{"name": it.name, "reason": it.reason} for it in self.skipped],
            "notes": [{"name": name, "note": note} for name, note in self.notes],
            "used": [
                {"name": it.name, "bucket": it.bucket, "caption": it.caption} for it in self.samples
            ],
            "seconds": round(self.seconds, 3),
        }


def save_strip(folder: DataFolder, key: str, frames_THWC: Pixels) -> None:
    """Five moments of a clip side by side, small, as PNG.

    Raises:
        OutputError: the disk refuses.
    """
    moments = np.linspace(0, len(frames_THWC) - 1, _MOMENTS).round().astype(int)
    height, width = frames_THWC.shape[1:3]
    small = max(1, round(_STRIP_HEIGHT * width / height)), _STRIP_HEIGHT
    strip = Image.new("RGB", (small[0] * _MOMENTS, small[1]))
    for place, moment in enumerate(moments):
        picture = Image.fromarray(frames_THWC[moment]).resize(small, Image.Resampling.LANCZOS)
        strip.paste(picture, (place * small[0], 0))
    replace_by(folder.picture(key), lambda part: strip.save(part, "PNG"))


def save_contact_sheet(folder: DataFolder, samples: Sequence[Sample]) -> None:
    """One picture of all samples (of evenly spread ones where they are more than a hundred).

    Raises:
        OutputError: the disk refuses.
    """
    rows = min(len(samples), _MAX_ROWS)
    shown = [samples[index * len(samples) // rows] for index in range(rows)]
    strips = [_strip(folder.picture(sample.sha256)) for sample in shown]
    left = max(strip.width for strip in strips) + 2 * _MARGIN
    step = _STRIP_HEIGHT + _MARGIN
    sheet = Image.new("RGB", (left + _TEXT_WIDTH, rows * step + _MARGIN), _BACK)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, (sample, strip) in enumerate(zip(shown, strips, strict=True)):
        top = _MARGIN + row * step
        sheet.paste(strip, (_MARGIN, top))
        head = f"{_shortened(sample.name)}   {sample.bucket}"
        draw.text((left, top), head, _FAINT, font)
        for line, text in enumerate(_wrapped(sample.caption), 1):
            draw.text((left, top + line * _LINE), text, _INK, font)
    replace_by(folder.root / SHEET, lambda part: sheet.save(part, "PNG"))


def _strip(path: Path) -> Image.Image:
    """A strip from its file; a gray one where that is lost: the sample itself is whole."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError:
        return Image.new("RGB", (_STRIP_HEIGHT * _MOMENTS, _STRIP_HEIGHT), _FAINT)


def _shortened(name: str) -> str:
    return name if len(name) <= 40 else f"...{name[-37:]}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _TEXT_CHARS, max_lines=_TEXT_LINES, placeholder=" ...")
