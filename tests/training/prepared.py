"""A prepared folder of random latents, as `mochi prepare` would write it."""

from __future__ import annotations

from pathlib import Path

import torch

from mochi.core.sizes import VideoSize
from mochi.training.data.folder import DATASET, SPACE, VERSION, DataFolder, key_of

CAPTIONS = ("a red circle moves left on a black background", "a star", "a tiny blue box")


def prepared_folder(root: Path, clips: int = 3, features: int = 96, frames: int = 7) -> Path:
    """Clips of 32 x 32 pixels, named 0.mp4 and so on."""
    folder, size = DataFolder(root), VideoSize(frames, 32, 32)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(clips):
        caption, key = CAPTIONS[number % len(CAPTIONS)], key_of(number)
        shape = size.latent.shape(1)[1:]
        mean = torch.randn(shape, generator=generator)
        latents = {"mean": mean, "logvar": torch.full(shape, -4.0)}
        folder.write_tensors(folder.sample(key), latents, {"space": SPACE})
        for text, tokens in ((caption, 5), ("", 0)):
            made = torch.randn(tokens, features, generator=generator)
            folder.write_tensors(folder.caption(text), {"features": made}, {})
        rows.append(
            {
                "name": f"{number}.mp4",
                "sha256": key,
                "caption": caption,
                "bucket": f"{frames}x32x32",
                "frames": frames,
                "height": 32,
                "width": 32,
                "seconds": frames / 30,
            }
        )
    folder.write_index(rows)
    folder.write_json(DATASET, {"version": VERSION, "space": SPACE})
    return root
