"""A picture of what nano makes: one clip a column, five moments from top to bottom.

python bench/contact_sheet.py docs/images/nano.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import mochi

PROMPTS = (
    "a red circle moves left on a black background",
    "a yellow triangle moves up on a teal background",
    "a blue square grows on a white background",
    "a purple circle shrinks on a gray background",
    "a green square moves down on a black background",
    "an orange ball flies to the right over white",
    "please draw a tiny golden pyramid rising on gray",
    "blue block, getting smaller, teal backdrop",
)
MOMENTS = (0, 6, 12, 18, 24)
GAP, SCALE = 4, 2


def main() -> None:
    """Draw the sheet."""
    pipe = mochi.load("nano")
    columns = []
    for seed, prompt in enumerate(PROMPTS):
        frames = pipe.generate(prompt, seed=seed).frames
        padded = [
            np.pad(frames[m], ((0, GAP), (0, GAP), (0, 0)), constant_values=200) for m in MOMENTS
        ]
        columns.append(np.concatenate(padded))
    sheet = Image.fromarray(np.concatenate(columns, axis=1)[:-GAP, :-GAP])
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((sheet.width * SCALE, sheet.height * SCALE), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    main()
