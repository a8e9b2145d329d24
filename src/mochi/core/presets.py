"""Named settings of the sampler (SPEC 3)."""

from __future__ import annotations

from dataclasses import dataclass

from mochi.core.errors import RequestError


@dataclass(frozen=True)
class Preset:
    """Steps, the linear-quadratic schedule's threshold and linear steps, guidance and solver."""

    steps: int
    threshold: float
    linear_steps: int | None
    guidance: float
    solver: str = "euler"


PRESETS: dict[str, Preset] = {
    "standard": Preset(steps=64, threshold=0.025, linear_steps=None, guidance=6.0),
    "fast": Preset(steps=8, threshold=0.1, linear_steps=6, guidance=1.5),
    "draft": Preset(steps=20, threshold=0.025, linear_steps=None, guidance=6.0, solver="ab2"),
}
"""`standard` is the published recipe; `fast` goes with the distilled 8-step weights; `draft` is a
third of the standard's time on the standard weights, for trying prompts."""


def get_preset(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        RequestError: there is none; lists those there are.
    """
    try:
        return PRESETS[name]
    except (KeyError, TypeError):
        raise RequestError("preset", name, "is unknown", ", ".join(PRESETS)) from None
