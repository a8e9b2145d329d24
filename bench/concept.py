"""A concept that nano does not know, learned from 40 clips: how well, how fast, at what cost.

    python bench/concept.py --output bench/results/concept.json

makes 40 clips of the world of shapes in a colour (or with a shape) that nano never saw, as video
files with captions beside them, and goes the way of a user: `prepare`, `finetune` with the config
below, `mochi generate --lora`. It counts prompts with the concept that come out right, before and
after, and repeats `mochi eval nano` with the adapter on.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe

import mochi
from mochi.pipeline.pipeline import Pipeline
from mochi.training.config import Config
from mochi.training.data.buckets import Bucket
from mochi.training.data.plan import Cutting
from mochi.training.data.prepare import prepare
from mochi.training.events import StepDone, TrainingEvent
from mochi.training.finetune import finetune
from mochi.training.nano.evaluate import evaluate, make_cases
from mochi.training.shapes.captions import canonical, paraphrase
from mochi.training.shapes.checker import judge
from mochi.training.shapes.outlines import OUTLINES, Outline
from mochi.training.shapes.phrases import COLOUR_WORDS, SHAPE_WORDS
from mochi.training.shapes.world import (
    COLOURS,
    FRAMES,
    SHAPES,
    Combo,
    Rgb,
    all_combinations,
    held_out,
    render,
    scene_of,
)
from mochi.video.writer import open_writer

CLIPS, FPS, SIZE = 40, 12, 64


@dataclass(frozen=True)
class Concept:
    """A new word of the world.

    Attributes:
        word: what captions call it.
        stands_for: the word of the world that it takes the place of.
        outline, rgb: how it is drawn, where that is not as the world does.
    """

    word: str
    stands_for: str
    outline: Outline | None = None
    rgb: Rgb | None = None

    @property
    def axis(self) -> int:
        """Which attribute it is: 0 the colour, 1 the shape."""
        return 0 if self.rgb is not None else 1

    def combos(self) -> list[Combo]:
        """All combinations that it can be in, under the name of what it stands for."""
        return [combo for combo in all_combinations() if combo[self.axis] == self.stands_for]

    def named(self, combo: Combo) -> Combo:
        """The combination under its own name."""
        values = list(combo)
        values[self.axis] = self.word
        return Combo(*values)

    def said(self, text: str) -> str:
        """A caption of the world's, with this word in it."""
        words = (COLOUR_WORDS, SHAPE_WORDS)[self.axis][self.stands_for]
        longest_first = sorted(words, key=len, reverse=True)
        pattern = r"\b(" + "|".join(map(re.escape, longest_first)) + r")\b"
        return re.sub(pattern, self.word, text, flags=re.IGNORECASE)


CONCEPTS = {
    "pink": Concept("pink", "red", rgb=(255, 120, 190)),
    "star": Concept("star", "circle", outline=OUTLINES["star"]),
    "ring": Concept("ring", "circle", outline=OUTLINES["ring"]),
    "diamond": Concept("diamond", "circle", outline=OUTLINES["diamond"]),
}

SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 16, "alpha": 16.0, "layers": ["all"]},
    "optimiser": {"lr": 2e-3, "beta2": 0.99, "warmup_steps": 20, "weight_decay": 0.0},
    "training": {"steps": 600, "batch": 16, "checkpointed_blocks": 0},
    "prior": {"share": 0.5},
    "saving": {"every": 100},
}


def make_clips(concept: Concept, folder: Path, count: int = CLIPS, seed: int = 0) -> list[Combo]:
    """Videos with captions beside them; returns the combinations that they show."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, 11])
    combos = concept.combos()
    chosen = [combos[index] for index in rng.permutation(len(combos))[:count]]
    for number, combo in enumerate(chosen):
        scene = scene_of(combo, rng)
        frames = render(scene, outline=concept.outline, rgb=concept.rgb)
        path = folder / f"{number:03d}.mp4"
        with open_writer(path, FPS, (SIZE, SIZE), {}) as writer:
            writer.write(frames)
        plain = number % 2 == 0
        text = canonical(scene) if plain else paraphrase(scene, rng, complete=True)
        path.with_suffix(".txt").write_text(concept.said(text), encoding="utf-8")
    return chosen


def prior_prompts(count: int, seed: int = 0) -> list[str]:
    """Prompts of what the model knows: half plain, half in everyday wording."""
    rng = np.random.default_rng([seed, 12])
    combos = [combo for combo in all_combinations() if not held_out(combo)]
    chosen = [combos[index] for index in rng.permutation(len(combos))[:count]]
    return [
        canonical(combo) if number % 2 == 0 else paraphrase(combo, rng)
        for number, combo in enumerate(chosen)
    ]


def share_right(
    pipe: Pipeline, concept: Concept, combos: Sequence[Combo], first_seed: int = 5000
) -> dict[str, float]:
    """Share of prompts with the concept whose clip shows it, attribute by attribute."""
    colours: Mapping[str, Rgb] = COLOURS
    shapes: Sequence[str] = SHAPES
    if concept.rgb is not None:
        colours = {**COLOURS, concept.word: concept.rgb}
    else:
        shapes = (*SHAPES, concept.word)
    pipe.prepare_prompts([concept.said(canonical(combo)) for combo in combos])
    right = dict.fromkeys((*Combo._fields, "all four"), 0)
    for number, combo in enumerate(combos):
        clip = pipe.generate(concept.said(canonical(combo)), seed=first_seed + number)
        correct = judge(clip.frames, colours, shapes).correct(concept.named(combo))
        right["all four"] += all(correct.values())
        for name, good in correct.items():
            right[name] += good
    return {name: count / max(1, len(combos)) for name, count in right.items()}


def config_of(folder: Path, changes: Mapping[str, Mapping[str, Any]]) -> Config:
    """The config of the training, with changes."""
    given = {name: dict(values) for name, values in SETTINGS.items()}
    for name, values in changes.items():
        given.setdefault(name, {}).update(values)
    given["data"] = {**given.get("data", {}), "path": str(folder / "data")}
    given["saving"]["folder"] = str(folder / "run")
    if given["prior"]["share"]:
        given["prior"]["prompts"] = str(folder / "prior.txt")
    return Config.of(given)


def tell(event: TrainingEvent) -> None:
    """A line now and then."""
    if isinstance(event, StepDone) and event.step % 25 == 0:
        print(f"step {event.step}: loss {event.loss:.4f}, {event.seconds:.2f} s", flush=True)


def learn(
    concept: Concept, folder: Path, changes: Mapping[str, Mapping[str, Any]], priors: int
) -> tuple[Path, list[Combo], dict[str, float]]:
    """Clips, preparation and training; returns the adapter, what was seen, and seconds."""
    began = time.monotonic()
    seen = make_clips(concept, folder / "clips")
    made = time.monotonic()
    cutting = Cutting((Bucket(FRAMES, SIZE, SIZE),), fps=FPS)
    prepare(folder / "clips", folder / "data", mochi.load("nano"), cutting)
    (folder / "prior.txt").write_text("\n".join(prior_prompts(priors)), encoding="utf-8")
    prepared = time.monotonic()
    adapter = finetune(config_of(folder, changes), device="cpu", reporters=[tell])
    trained = time.monotonic()
    seconds = {
        "clips": made - began,
        "prepare": prepared - made,
        "finetune": trained - prepared,
    }
    return adapter, seen, seconds


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole bench."""
    concept, changes = CONCEPTS[arguments.concept], json.loads(arguments.changes)
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="concept-"))
    adapter, seen, seconds = learn(concept, folder, changes, arguments.priors)
    fresh = [combo for combo in concept.combos() if combo not in seen]
    rng = np.random.default_rng(13)
    asked = [fresh[index] for index in rng.permutation(len(fresh))[: arguments.prompts]]
    asked += seen[: arguments.prompts // 3]
    pipe = mochi.load("nano")
    cases = make_cases(arguments.seen, arguments.unseen, arguments.everyday)
    before = share_right(pipe, concept, asked)
    rest_before = evaluate(pipe, cases, vae_clips=0).to_dict()["groups"] if cases else {}
    pipe.add_lora(adapter)
    after = share_right(pipe, concept, asked)
    rest_after = evaluate(pipe, cases, vae_clips=0).to_dict()["groups"] if cases else {}
    return {
        "concept": concept.word,
        "clips": CLIPS,
        "prior_prompts": arguments.priors,
        "prompts": len(asked),
        "of_them_unseen_combinations": min(arguments.prompts, len(fresh)),
        "seconds": seconds,
        "minutes_to_learn": (seconds["prepare"] + seconds["finetune"]) / 60,
        "right_before": before,
        "right_after": after,
        "rest_before": rest_before,
        "rest_after": rest_after,
        "settings": config_of(folder, changes).to_dict(),
    }


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concept", choices=CONCEPTS, default="pink")
    parser.add_argument("--changes", default="{}", help="settings as JSON, by section")
    parser.add_argument("--priors", type=int, default=96, help="videos of the base model")
    parser.add_argument("--prompts", type=int, default=44, help="unseen combinations asked for")
    parser.add_argument("--seen", type=int, default=150)
    parser.add_argument("--unseen", type=int, default=50)
    parser.add_argument("--everyday", type=int, default=60)
    parser.add_argument("--folder", help="a new folder for everything that is made")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    result = {**measure(arguments), **describe()}
    text = json.dumps(result, indent=2) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
