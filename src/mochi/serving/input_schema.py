"""A model's input as a JSON schema: the playground's form is made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mochi.core.economy import CACHE_KINDS, OFF
from mochi.core.presets import PRESETS
from mochi.core.request import MAX_PROMPT_CHARS, MAX_SEED, SOLVER_NAMES
from mochi.serving.inputs import MAX_FPS, MAX_GUIDANCE, MAX_LORAS, OURS
from mochi.serving.runner.protocol import LoraEntry
from mochi.serving.settings import MAX_LORA_SCALE, ServeSettings

_NUMBER = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)"


def input_schema(
    defaults: Mapping[str, Any], settings: ServeSettings, loras: Sequence[LoraEntry] = ()
) -> dict[str, Any]:
    """The JSON schema of a model's input; `x-order` is the order of a form.

    Args:
        defaults: of the model, as in `Description`.
        settings: with the server's limits.
        loras: its adapters.
    """
    entries = _video(settings) | _sampler(settings)
    if loras:
        entries["loras"] = _loras(loras)
    for place, (name, entry) in enumerate(entries.items()):
        default = defaults.get(OURS.get(name, name))
        entry |= {"x-order": place, "title": name.replace("_", " ").capitalize()}
        if default is not None:
            entry["default"] = list(default) if isinstance(default, tuple) else default
    return {
        "type": "object",
        "title": "Input",
        "required": ["prompt"],
        "properties": entries,
        "additionalProperties": False,
    }


def _video(settings: ServeSettings) -> dict[str, dict[str, Any]]:
    """Fields that say what is seen."""
    sixteen = {"multipleOf": 16}
    return {
        "prompt": {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_PROMPT_CHARS,
            "description": "What the video shows. The model reads the first 256 tokens.",
        },
        "negative_prompt": _entry("string", "What the video should not show.")
        | {"maxLength": MAX_PROMPT_CHARS},
        "num_frames": _entry("integer", "6k+1; other counts are snapped.", 1, settings.max_frames),
        "num_inference_steps": _entry("integer", "Sampling steps.", 1, settings.max_steps),
        "guidance_scale": _guidance(settings.max_steps),
        "fps": _entry("integer", "Frames a second.", 1, MAX_FPS),
        "seed": _entry("integer", "Same seed, same video; drawn when not given.", 0, MAX_SEED),
        "width": _entry("integer", "Pixels, a multiple of 16.", 16, settings.max_width) | sixteen,
        "height": _entry("integer", "Pixels, a multiple of 16.", 16, settings.max_height) | sixteen,
    }


def _sampler(settings: ServeSettings) -> dict[str, dict[str, Any]]:
    """Fields that say how it is made."""
    most = settings.max_steps
    threshold = _entry("number", "How far sigma falls in the schedule's linear part.")
    every = "Of the schedule's linear steps every n-th is computed: lossy above 1."
    return {
        "preset": {
            "type": "string",
            "enum": list(PRESETS),
            "description": "Sampler settings by name; explicit fields win.",
        },
        "solver": _entry("string", "Of the sampler.") | {"enum": list(SOLVER_NAMES)},
        "threshold": threshold | {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "linear_steps": _entry("integer", "Steps in the schedule's linear part.", 1, most),
        "step_cache": {
            "anyOf": [
                {"type": "string", "enum": [OFF, *CACHE_KINDS]},
                {"type": "string", "pattern": rf"^({'|'.join(CACHE_KINDS)}):0?\.[0-9]*[1-9]$"},
            ],
            "default": OFF,
            "description": "Cuts passes short that change little: faster, lossy.",
            "x-advanced": True,
        },
        "linear_every": _entry("integer", every, 1, most) | {"default": 1, "x-advanced": True},
    }


def _guidance(most: int) -> dict[str, Any]:
    one = {"type": "number", "minimum": 0, "maximum": MAX_GUIDANCE}
    each = {"type": "array", "items": one, "minItems": 1, "maxItems": most}
    words = "How closely the prompt is followed; a list has a scale for each step."
    return {"anyOf": [one, each], "description": words}


def _loras(loras: Sequence[LoraEntry]) -> dict[str, Any]:
    names = [lora.name for lora in loras]
    some = "|".join(name.replace(".", r"\.") for name in names)
    return {
        "type": "array",
        "items": {
            "anyOf": [
                {"type": "string", "enum": names},
                {"type": "string", "pattern": f"^({some}):{_NUMBER}$"},
            ]
        },
        "maxItems": min(MAX_LORAS, len(names)),
        "description": f"Adapters: a name, or name:scale, up to {MAX_LORA_SCALE:g}.",
        "x-scales": {lora.name: lora.scale for lora in loras},
        "x-descriptions": {lora.name: lora.description for lora in loras if lora.description},
        "x-advanced": True,
    }


def _entry(
    kind: str,
    description: str,
    least: float | None = None,
    most: float | None = None,
) -> dict[str, Any]:
    bounds = {} if least is None else {"minimum": least, "maximum": most}
    return {"type": kind, "description": description, **bounds}
