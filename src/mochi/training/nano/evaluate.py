"""The judgement of nano, and of everything that is done to it: does a clip show its prompt?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, Unpack

import numpy as np

from mochi.pipeline.pipeline import Pipeline, RequestSettings
from mochi.training.shapes.captions import canonical, paraphrase
from mochi.training.shapes.checker import Verdict, judge
from mochi.training.shapes.world import Combo, all_combinations, held_out, render, scene_of

ATTRIBUTES = Combo._fields
TARGETS = {"colour": 0.99, "background": 0.99, "shape": 0.97, "motion": 0.97, "all four": 0.93}
UNSEEN_TARGET = 0.85
PSNR_TARGET_DB = 32.0


@dataclass(frozen=True)
class Case:
    """A prompt, what it must show, and the group it is counted in."""

    group: str
    prompt: str
    wanted: Combo


@dataclass
class Score:
    """Right answers of one group of prompts."""

    prompts: int = 0
    right: Counter[str] = field(default_factory=Counter)

    def add(self, verdict: Verdict, wanted: Combo) -> bool:
        """Count one clip; returns whether all four attributes are right."""
        correct = verdict.correct(wanted)
        self.prompts += 1
        self.right.update(name for name, good in correct.items() if good)
        whole = all(correct.values())
        self.right["all four"] += whole
        return whole

    def share(self, name: str) -> float:
        """Share of prompts whose `name` (an attribute, or "all four") is right."""
        return self.right[name] / max(1, self.prompts)


@dataclass
class Evaluation:
    """Scores by group, the prompts that failed, and the VAE's round trip in dB."""

    scores: dict[str, Score]
    failures: list[dict[str, str]]
    psnr_db: list[float]
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        names = (*ATTRIBUTES, "all four")
        groups = {
            group: {"prompts": score.prompts} | {name: score.share(name) for name in names}
            for group, score in self.scores.items()
        }
        psnr = {"clips": len(self.psnr_db), "mean_db": mean(self.psnr_db)} if self.psnr_db else {}
        if self.psnr_db:
            psnr["lowest_db"] = min(self.psnr_db)
        return {
            "groups": groups,
            "vae_psnr": psnr,
            "settings": self.settings,
            "failures": self.failures,
        }


def make_cases(seen: int, unseen: int, everyday: int, seed: int = 0) -> list[Case]:
    """Prompts of three groups: combinations seen in training, never seen, and everyday wording
    of seen ones. Combinations are drawn without repeats while they last."""
    rng = np.random.default_rng([seed, 7])
    trained = [combo for combo in all_combinations() if not held_out(combo)]
    hidden = [combo for combo in all_combinations() if held_out(combo)]
    cases = [Case("seen", canonical(combo), combo) for combo in _drawn(trained, seen, rng)]
    cases += [Case("unseen", canonical(combo), combo) for combo in _drawn(hidden, unseen, rng)]
    return cases + [
        Case("everyday", paraphrase(combo, rng, complete=True), combo)
        for combo in _drawn(trained, everyday, rng)
    ]


def evaluate(
    pipeline: Pipeline,
    cases: Sequence[Case],
    vae_clips: int = 20,
    first_seed: int = 0,
    on_case: Callable[[int, int], None] | None = None,
    **settings: Unpack[RequestSettings],
) -> Evaluation:
    """Generate every case with its own seed and judge it.

    Args:
        pipeline: the model, as users run it.
        vae_clips: clips of unseen combinations sent through the VAE and back.
        first_seed: the first case's seed; the others count up.
        on_case: told how many are done, of how many.
        settings: of the requests, where they are not the model's defaults.

    Raises:
        MochiError: as `Pipeline.generate`.
    """
    scores: dict[str, Score] = {}
    failures: list[dict[str, str]] = []
    pipeline.prepare_prompts([case.prompt for case in cases])
    for index, case in enumerate(cases):
        clip = pipeline.generate(case.prompt, **settings | {"seed": first_seed + index})
        verdict = judge(clip.frames)
        if not scores.setdefault(case.group, Score()).add(verdict, case.wanted):
            failures.append(
                {
                    "group": case.group,
                    "prompt": case.prompt,
                    "seed": str(first_seed + index),
                    "shows": " ".join(verdict.combo),
                }
            )
        if on_case is not None:
            on_case(index + 1, len(cases))
    return Evaluation(scores, failures, vae_psnr(pipeline, vae_clips, first_seed), dict(settings))


def vae_psnr(pipeline: Pipeline, clips: int, seed: int = 0) -> list[float]:
    """Round-trip PSNR, dB, of rendered clips whose combinations were never seen."""
    rng = np.random.default_rng([seed, 8])
    hidden = [combo for combo in all_combinations() if held_out(combo)]
    scenes = [scene_of(combo, rng) for combo in _drawn(hidden, clips, rng)]
    return [pipeline.reconstruct(render(scene), _nowhere) for scene in scenes]


def _nowhere(frames: np.ndarray) -> None:
    """The copy is only measured."""


def _drawn(combos: Sequence[Combo], count: int, rng: np.random.Generator) -> Iterable[Combo]:
    while count > 0:
        for index in rng.permutation(len(combos))[:count]:
            yield combos[index]
        count -= len(combos)
