"""A request for one video: checked once, at the door, and then trusted everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mochi.core.economy import StepCache
from mochi.core.errors import RequestError
from mochi.core.presets import get_preset
from mochi.core.sizes import VideoSize, whole

MAX_PROMPT_CHARS = 10_000
MAX_STEPS = 1_000
MAX_GUIDANCE = 100.0
MAX_FPS = 240
MAX_SEED = 2**63 - 1
SOLVER_NAMES = ("euler", "ab2", "dpmpp_2m")


@dataclass(frozen=True)
class GenerateRequest:
    """Everything that decides what a video shows; it travels inside the file (`mochi show`).

    Attributes:
        guidance: one scale, or one for each step.
        threshold, linear_steps: of the linear-quadratic schedule (SPEC 3).
        step_cache: `off`, `first-block:T` or `tea:T`: lossy, see `docs/speed.md`.
        linear_every: of the schedule's linear steps every n-th is computed; lossy above 1.
        preset: the preset the settings started from, for the record; it changes nothing here.
        model: what `mochi.load` was given.

    Raises:
        RequestError: names the field, its value, the rule and the nearest legal value.
    """

    prompt: str
    frames: int
    height: int
    width: int
    steps: int
    guidance: float | tuple[float, ...]
    seed: int
    negative_prompt: str = ""
    solver: str = "euler"
    threshold: float = 0.025
    linear_steps: int | None = None
    fps: int = 30
    step_cache: str = "off"
    linear_every: int = 1
    preset: str | None = None
    model: str = "nano"

    def __post_init__(self) -> None:
        check_prompt("prompt", self.prompt)
        if self.negative_prompt:
            check_prompt("negative_prompt", self.negative_prompt)
        self._set("steps", _at_most("steps", whole("steps", self.steps), MAX_STEPS))
        self._set("fps", _at_most("fps", whole("fps", self.fps), MAX_FPS))
        self._set("seed", _at_most("seed", whole("seed", self.seed, minimum=0), MAX_SEED))
        self._set("guidance", check_guidance(self.guidance, self.steps))
        for field, value in asdict(self.size).items():
            self._set(field, value)
        check_schedule(self.steps, self.threshold, self.linear_steps)
        if self.solver not in SOLVER_NAMES:
            raise RequestError("solver", self.solver, "is unknown", ", ".join(SOLVER_NAMES))
        cache = StepCache.parse(self.step_cache)
        self._set("step_cache", str(cache) if cache else "off")
        every = whole("linear_every", self.linear_every)
        self._set("linear_every", _at_most("linear_every", every, MAX_STEPS))
        if self.preset is not None:
            get_preset(self.preset)

    def _set(self, field: str, value: object) -> None:
        object.__setattr__(self, field, value)

    @property
    def size(self) -> VideoSize:
        """Frames, height and width."""
        return VideoSize(self.frames, self.height, self.width)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `from_dict` reads them back equal."""
        values = asdict(self)
        if isinstance(self.guidance, tuple):
            values["guidance"] = list(self.guidance)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GenerateRequest:
        """The request that `to_dict` wrote, checked again.

        Raises:
            RequestError: a field is unknown, missing or breaks its rule.
        """
        names = [field.name for field in fields(cls)]
        for key in values:
            if key not in names:
                raise RequestError(key, values[key], "is no field of a request", ", ".join(names))
        given = dict(values)
        if isinstance(given.get("guidance"), list):
            given["guidance"] = tuple(given["guidance"])
        try:
            return cls(**given)
        except TypeError as error:
            if isinstance(error, RequestError):
                raise
            raise RequestError("request", sorted(given), f"is incomplete: {error}") from None


def check_prompt(field: str, prompt: object) -> None:
    """Refuse a prompt that is no text, is empty, or is far beyond what T5 reads.

    Raises:
        RequestError: with the rule that is broken.
    """
    check_text(field, prompt)
    assert isinstance(prompt, str)
    if not prompt.strip():
        raise RequestError(field, prompt, "is empty; describe what the video shows")
    if len(prompt) > MAX_PROMPT_CHARS:
        raise RequestError(
            field,
            prompt,
            f"has {len(prompt)} characters, at most {MAX_PROMPT_CHARS} are taken "
            "(the text encoder reads the first 256 tokens)",
            f"the first {MAX_PROMPT_CHARS} characters",
        )


def check_text(field: str, text: object) -> None:
    """Refuse what is no text, or text that no encoding can hold.

    A lone surrogate is half a character: bytes on a command line that are not UTF-8, or a cut
    escape in JSON. Tokenizers and files refuse it later with less to say.

    Raises:
        RequestError: with the rule that is broken.
    """
    if not isinstance(text, str):
        raise RequestError(field, text, "is not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        rule = f"is not valid Unicode at character {error.start + 1} (half a character)"
        raise RequestError(field, text, rule, text.encode(errors="replace").decode()) from None


def check_guidance(guidance: object, steps: int) -> float | tuple[float, ...]:
    """Guidance as a float or a tuple of `steps` floats.

    Raises:
        RequestError: a scale is not a finite number from 0 to 100, or their count is not `steps`.
    """
    if isinstance(guidance, (tuple, list)):
        if len(guidance) != steps:
            raise RequestError(
                "guidance", guidance, f"has {len(guidance)} scales for {steps} steps", steps
            )
        return tuple(_number("guidance", scale, 0.0, MAX_GUIDANCE) for scale in guidance)
    return _number("guidance", guidance, 0.0, MAX_GUIDANCE)


def check_schedule(steps: int, threshold: object, linear_steps: object) -> None:
    """Refuse what no linear-quadratic schedule can be made of (SPEC 3).

    Raises:
        RequestError: threshold outside (0, 1), or linear_steps outside [1, steps].
    """
    value = _number("threshold", threshold, 0.0, 1.0)
    if value in (0.0, 1.0):
        raise RequestError("threshold", threshold, "must lie between 0 and 1", 0.025)
    if linear_steps is not None and whole("linear_steps", linear_steps) > steps:
        raise RequestError("linear_steps", linear_steps, f"exceeds steps={steps}", steps)


def _number(field: str, value: object, minimum: float, maximum: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RequestError(field, value, "is not a finite number")
    if not minimum <= value <= maximum:
        nearest = min(max(float(value), minimum), maximum)
        raise RequestError(field, value, f"must lie between {minimum:g} and {maximum:g}", nearest)
    return float(value)


def _at_most(field: str, value: int, maximum: int) -> int:
    if value > maximum:
        raise RequestError(field, value, f"must be at most {maximum}", maximum)
    return value
