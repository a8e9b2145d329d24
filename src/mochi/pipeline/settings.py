"""Where each setting of a request comes from. Imports no torch: a bad request is refused at once.

Four sources, the first that speaks wins: an explicit value, a preset, the request inside another
video (`--like`), the model's defaults. Steps, threshold and linear steps make one schedule: linear
steps that were meant for another number of steps are dropped, not carried along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mochi.core.errors import RequestError
from mochi.core.presets import PRESETS, get_preset
from mochi.core.request import GenerateRequest

FIELDS = tuple(field.name for field in fields(GenerateRequest))

_STANDARD = PRESETS["standard"]
_NEED_THE_MODEL = ("guidance", "threshold", "linear_steps")


@dataclass(frozen=True)
class Settings:
    """The fields of a request that a model has an opinion on, units as there.

    The values here are the published model's.
    """

    frames: int = 163
    height: int = 480
    width: int = 848
    fps: int = 30
    steps: int = _STANDARD.steps
    threshold: float = _STANDARD.threshold
    linear_steps: int | None = _STANDARD.linear_steps
    guidance: float | tuple[float, ...] = _STANDARD.guidance
    solver: str = _STANDARD.solver
    negative_prompt: str = ""


def make_request(
    explicit: Mapping[str, Any],
    *,
    defaults: Settings,
    preset: str | None = None,
    like: Mapping[str, Any] | None = None,
) -> GenerateRequest:
    """The checked request that `explicit`, `preset`, `like` and `defaults` make together.

    Args:
        explicit: fields of a request; None means "not said".
        defaults: what the model does when nobody says anything.
        preset: name of a preset.
        like: a request's `to_dict()`, usually read out of a video.

    Raises:
        RequestError: a field is unknown, missing (prompt, seed) or breaks its rule.
    """
    values: dict[str, Any] = asdict(defaults)
    _overlay(values, like or {})
    if preset is not None:
        _overlay(values, asdict(get_preset(preset)) | {"preset": preset})
    _overlay(values, _said(explicit))
    return GenerateRequest.from_dict(values)


def check_early(explicit: Mapping[str, Any], preset: str | None = None) -> None:
    """Refuse what no model's defaults could make right, before any model is looked at.

    Raises:
        RequestError: as `make_request`.
    """
    try:
        stand_ins = {"prompt": "any", "seed": 0}
        make_request(stand_ins | _said(explicit), defaults=Settings(), preset=preset)
    except RequestError as error:
        # Their rules look at the number of steps, which may be the model's to say.
        if error.field not in _NEED_THE_MODEL:
            raise


def _said(explicit: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in explicit.items() if value is not None}


def _overlay(values: dict[str, Any], source: Mapping[str, Any]) -> None:
    for name in source:
        if name not in FIELDS:
            raise RequestError(name, source[name], "is no field of a request", ", ".join(FIELDS))
    if source.get("steps", values["steps"]) != values["steps"] and "linear_steps" not in source:
        values["linear_steps"] = None
    values.update(source)
