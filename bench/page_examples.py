"""The playground's examples: small clips of nano, with their inputs and what they took.

python bench/page_examples.py src/mochi/serving/page/examples
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import machine
from PIL import Image

import mochi

# Name, prompt, seed.
EXAMPLES = (
    ("red-circle", "a red circle moves left on a black background", 7),
    ("blue-square", "a blue square grows on a white background", 2),
    ("yellow-triangle", "a yellow triangle moves up on a teal background", 1),
    ("purple-circle", "a purple circle shrinks on a gray background", 3),
    ("orange-square", "an orange square moves right on a black background", 5),
    ("golden-pyramid", "please draw a tiny golden pyramid rising on gray", 6),
    ("blue-block", "blue block, getting smaller, teal backdrop", 7),
    ("green-circle", "a green circle moves down on a white background", 4),
)
INPUT_FIELDS = ("prompt", "frames", "height", "width", "fps", "steps", "guidance", "seed")
POSTER_MOMENT = 0.5


def main() -> None:
    """Write the clips, their posters and `examples.json`."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    pipe = mochi.load("nano")
    pipe.generate("a warm-up", seed=0)
    examples = [_example(pipe, folder, *which) for which in EXAMPLES]
    facts = machine.describe()
    on = {key: facts[key] for key in ("date", "processor", "cores", "gpus", "versions", "threads")}
    record = {
        "command": "python bench/page_examples.py src/mochi/serving/page/examples",
        "machine": on,
        "examples": examples,
    }
    (folder / "examples.json").write_text(json.dumps(record, indent=1) + "\n")


def _example(
    pipe: mochi.Pipeline, folder: Path, name: str, prompt: str, seed: int
) -> dict[str, object]:
    started = time.perf_counter()
    clip = pipe.generate(prompt, seed=seed)
    seconds = time.perf_counter() - started
    clip.save(folder / f"{name}.mp4", overwrite=True)
    middle = clip.frames[round(POSTER_MOMENT * (len(clip.frames) - 1))]
    Image.fromarray(middle).resize((256, 256), Image.Resampling.LANCZOS).save(
        folder / f"{name}.webp", quality=80
    )
    values = clip.request.to_dict()
    return {
        "id": name,
        "model": "nano",
        "input": {field: values[field] for field in INPUT_FIELDS},
        "output": f"{name}.mp4",
        "poster": f"{name}.webp",
        "metrics": {"predict_time": round(seconds, 2)},
    }


if __name__ == "__main__":
    main()
