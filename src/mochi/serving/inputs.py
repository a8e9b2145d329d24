"""A client's input, checked field by field before anything is queued, and what it means."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from mochi.core.economy import OFF, StepCache
from mochi.core.errors import RequestError
from mochi.core.presets import get_preset
from mochi.core.request import MAX_SEED, SOLVER_NAMES, check_prompt, check_text
from mochi.core.sizes import nearest_frames, nearest_pixels, whole
from mochi.pipeline.lora_spec import LoraSpec
from mochi.pipeline.settings import Settings, make_request
from mochi.serving.problems import field_problem, invalid
from mochi.serving.settings import MAX_LORA_SCALE, ServeSettings

MAX_GUIDANCE = 10.0
MAX_FPS = 60
MAX_LORAS = 8
LORAS = "loras"
OURS = {
    "num_frames": "frames",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
}
"""The dialect's words for fields of a request; all others are the same in both."""
THEIRS = {ours: theirs for theirs, ours in OURS.items()}
FIELDS = (
    "prompt",
    "negative_prompt",
    "num_frames",
    "num_inference_steps",
    "guidance_scale",
    "fps",
    "seed",
    "width",
    "height",
    "preset",
    "solver",
    "threshold",
    "linear_steps",
    "step_cache",
    "linear_every",
)
NO_LORAS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Checked:
    """An input that is legal.

    Attributes:
        input: as given, with the seed that was drawn.
        request: what will be made: `GenerateRequest.to_dict()`, and, where adapters are asked for,
            `loras`: pairs of a name and a scale.
        notes: what its sender should know, such as what was snapped.
    """

    input: dict[str, Any]
    request: dict[str, Any]
    notes: list[str]


def check_input(
    given: object,
    defaults: Mapping[str, Any],
    settings: ServeSettings,
    prefix: str = "input.",
    loras: Mapping[str, float] = NO_LORAS,
) -> Checked:
    """Check all fields, and tell all that are wrong.

    Args:
        given: what a client sent.
        defaults: of the model, as in `Description`.
        settings: with the server's limits.
        prefix: of field names in problems.
        loras: the model's adapters, with the usual scale of each.

    Raises:
        Problem: 422, with an entry for each broken rule.
    """
    if not isinstance(given, dict):
        entry = {"type": "type", "field": prefix.rstrip("."), "description": "is not an object"}
        raise invalid([entry])
    said = {name: value for name, value in given.items() if value is not None}
    problems: list[dict[str, Any]] = []
    checked: dict[str, Any] = {}
    rules = _rules(settings, loras)
    for name in [*said, *(["prompt"] if "prompt" not in said else [])]:
        try:
            if name not in rules:
                raise RequestError(name, said[name], "is unknown", ", ".join(rules))
            checked[name] = rules[name](said.get(name, ""))
        except RequestError as error:
            problems.append(field_problem(error, prefix, str(name)[:64]))
    if problems:
        raise invalid(problems)
    return _made(said, checked, defaults, settings, prefix)


def _made(
    said: dict[str, Any],
    checked: dict[str, Any],
    defaults: Mapping[str, Any],
    settings: ServeSettings,
    prefix: str,
) -> Checked:
    notes: list[str] = []
    seed = checked.setdefault("seed", secrets.randbelow(2**32))
    notes.append(f"seed {seed}")
    if "num_frames" in checked:
        checked["num_frames"] = _snapped(checked["num_frames"], settings.max_frames, notes)
    loras = checked.pop(LORAS, None)
    explicit = {OURS.get(name, name): value for name, value in checked.items()}
    preset = explicit.pop("preset", None)
    if preset is not None:
        notes.append(f"preset {preset}")
    try:
        request = make_request(explicit, defaults=Settings(**_settings(defaults)), preset=preset)
    except RequestError as error:
        name = THEIRS.get(error.field, error.field)
        raise invalid([field_problem(error, prefix, name)]) from None
    made = request.to_dict() | ({LORAS: loras} if loras else {})
    return Checked({**said, "seed": seed}, made, notes)


def _settings(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Of JSON, perhaps of another version's: fields that are known here, and a guidance for each
    step as a tuple again."""
    known = {it.name: defaults[it.name] for it in fields(Settings) if it.name in defaults}
    guidance = known["guidance"]
    return {**known, "guidance": tuple(guidance) if isinstance(guidance, list) else guidance}


def snap_frames(frames: int, limit: int) -> int:
    """The `6k + 1` nearest to `frames`, no more than `limit`; the smaller of two as near."""
    below, above = nearest_frames(frames)
    nearest = below if frames - below <= above - frames else above
    return nearest if nearest <= limit else below


def _snapped(frames: int, limit: int, notes: list[str]) -> int:
    made = snap_frames(frames, limit)
    if made != frames:
        notes.append(f"num_frames={frames} is not 6k+1: {made} frames are made")
    return made


def _rules(settings: ServeSettings, loras: Mapping[str, float]) -> dict[str, Callable[[Any], Any]]:
    rules: dict[str, Callable[[Any], Any]] = {
        "prompt": lambda value: _text("prompt", value, needed=True),
        "negative_prompt": lambda value: _text("negative_prompt", value, needed=False),
        "num_frames": lambda value: _whole("num_frames", value, 1, settings.max_frames),
        "num_inference_steps": lambda value: _whole(
            "num_inference_steps", value, 1, settings.max_steps
        ),
        "guidance_scale": lambda value: _guidance(value, settings.max_steps),
        "fps": lambda value: _whole("fps", value, 1, MAX_FPS),
        "seed": lambda value: _whole("seed", value, 0, MAX_SEED),
        "width": lambda value: _side("width", value, settings.max_width),
        "height": lambda value: _side("height", value, settings.max_height),
        "preset": _preset,
        "solver": _solver,
        "threshold": _threshold,
        "linear_steps": lambda value: _whole("linear_steps", value, 1, settings.max_steps),
        "step_cache": lambda value: str(StepCache.parse(value) or OFF),
        "linear_every": lambda value: _whole("linear_every", value, 1, settings.max_steps),
    }
    return rules | ({LORAS: lambda value: _loras(value, loras)} if loras else {})


def _text(field: str, value: object, *, needed: bool) -> str:
    check_text(field, value)
    text = str(value)
    if "\0" in text:
        raise RequestError(field, text, "holds a NUL character", text.replace("\0", ""))
    if needed or text.strip():
        check_prompt(field, text)
    return text


def _whole(field: str, value: object, least: int, most: int) -> int:
    number = whole(field, value, least)
    if number > most:
        raise RequestError(field, value, f"must be at most {most}", most)
    return number


def _number(field: str, value: object, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RequestError(field, value, "is not a number")
    if not math.isfinite(value):
        raise RequestError(field, value, "is not a finite number")
    if not least <= value <= most:
        nearest = min(max(value, least), most)
        raise RequestError(field, value, f"must be {least:g} to {most:g}", nearest)
    return float(value)


def _guidance(value: object, most: int) -> float | list[float]:
    """One scale, or a list of them; whether it is one for each step is known later."""
    if not isinstance(value, list):
        return _number("guidance_scale", value, 0.0, MAX_GUIDANCE)
    if not 1 <= len(value) <= most:
        raise RequestError("guidance_scale", value, f"is not a list of 1 to {most} scales")
    return [_number("guidance_scale", scale, 0.0, MAX_GUIDANCE) for scale in value]


def _loras(value: object, known: Mapping[str, float]) -> list[list[str | float]]:
    """Names, perhaps with scales, as pairs."""
    if not isinstance(value, list) or not all(isinstance(it, str) for it in value):
        raise RequestError(LORAS, value, "is not a list of names, each alone or as name:scale")
    if len(value) > MAX_LORAS:
        raise RequestError(LORAS, value, f"must be at most {MAX_LORAS}", MAX_LORAS)
    made: dict[str, float] = {}
    for text in value:
        name, scale = _lora(text, known)
        if name in made:
            raise RequestError(LORAS, text, f"names {name} twice")
        made[name] = scale
    return [[name, scale] for name, scale in made.items()]


def _lora(text: str, known: Mapping[str, float]) -> tuple[str, float]:
    name, colon, number = text.partition(":")
    if name not in known:
        rule = f"hold {name[:64]!r}, which this server does not offer for this model"
        raise RequestError(LORAS, text, rule, ", ".join(known))
    if not colon:
        return name, known[name]
    spec = LoraSpec.parse(f"{name}:{number}")
    if spec.source != name or not abs(spec.scale) <= MAX_LORA_SCALE:
        most = f"{MAX_LORA_SCALE:g}"
        raise RequestError(LORAS, text, f"has a scale that is not a number from -{most} to {most}")
    return name, spec.scale


def _threshold(value: object) -> float:
    number = _number("threshold", value, 0.0, 1.0)
    if number in (0.0, 1.0):
        raise RequestError("threshold", value, "must lie between 0 and 1", 0.025)
    return number


def _side(field: str, value: object, most: int) -> int:
    pixels = _whole(field, value, 16, most)
    if pixels % 16:
        below, above = nearest_pixels(pixels)
        raise RequestError(field, pixels, "is not a multiple of 16", f"{below} and {above}")
    return pixels


def _preset(value: object) -> str:
    get_preset(value if isinstance(value, str) else "")
    return str(value)


def _solver(value: object) -> str:
    if value not in SOLVER_NAMES:
        raise RequestError("solver", value, "is unknown", ", ".join(SOLVER_NAMES))
    return str(value)
