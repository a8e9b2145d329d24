"""What an adapter's metadata say about ranks and alphas. The change of a layer is `alpha / r * BA`.

Who says it differs: the original's `kwargs`, diffusers' `lora_adapter_metadata`, peft's
`adapter_config.json`, or a tensor `.alpha` beside the matrices. Where nobody does, alpha is r.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

from mochi.core.errors import WeightsError

KWARGS = "kwargs"
PEFT_METADATA = "lora_adapter_metadata"
FOLDED = "mochi_folded_scales"
"""Written by `lora_write`: what was multiplied into B so that alpha = r, by layer."""

# The original has two settings: one for the joint projections, one for those of the output.
FAMILIES = {"qkv_x": "qkv_proj", "qkv_y": "qkv_proj", "proj_x": "out_proj", "proj_y": "out_proj"}
_MAX_RANK = 1 << 20
_MAX_PATTERNS = 64
_MAX_PATTERN_CHARS = 200
_PLAIN = re.compile(r"\^?[\w.-]+")


@dataclass(frozen=True)
class Said:
    """What is said of one layer.

    Attributes:
        rank: None where nothing is.
        alpha: None where nothing is: then it is the rank.
        root: divide alpha by the root of the rank, not by the rank (rank-stabilised LoRA).
    """

    rank: int | None = None
    alpha: Fraction | None = None
    root: bool = False

    def scale(self, rank: int) -> Fraction:
        """What multiplies `B @ A`; exact, but for the root."""
        alpha = Fraction(rank) if self.alpha is None else self.alpha
        return alpha / Fraction(math.sqrt(rank)) if self.root else alpha / rank


class Scaling(Protocol):
    """Who says it."""

    def of(self, module: str, layer: str) -> Said:
        """About a layer, by the file's name (without what programs put before it) and by ours."""
        ...


def folded_factors(metadata: Mapping[str, str]) -> dict[str, Fraction]:
    """What B was multiplied with, by the file's names of layers.

    Raises:
        WeightsError: the note is broken.
    """
    noted = _json_object(metadata.get(FOLDED, "{}"), FOLDED)
    factors = {module: _alpha(value, FOLDED) for module, value in noted.items()}
    for module, factor in factors.items():
        if not is_power_of_two(factor):
            raise WeightsError(f"has a broken {FOLDED}: {float(factor)} of {module[:80]}")
    return factors


class Unsaid:
    """No metadata."""

    def of(self, module: str, layer: str) -> Said:
        """Nothing."""
        return Said()


@dataclass(frozen=True)
class OriginalScaling:
    """`kwargs`: settings by family of layers, or for all."""

    settings: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> OriginalScaling:
        """Read the JSON.

        Raises:
            WeightsError: it is broken, or a rank or alpha is no number.
        """
        settings = _json_object(text, KWARGS)
        for name, value in settings.items():
            if name.endswith("rank"):
                _rank(value, f"{KWARGS}: {name}")
            elif name.endswith("alpha"):
                _alpha(value, f"{KWARGS}: {name}")
        return cls(settings)

    def of(self, module: str, layer: str) -> Said:
        """By the layer's family, else by what is said of all."""
        family = FAMILIES.get(layer.rpartition(".")[2])
        prefixes = ([f"{family}_lora_"] if family else []) + ["lora_", ""]
        rank = _first(self.settings, [f"{prefix}rank" for prefix in prefixes])
        alpha = _first(self.settings, [f"{prefix}alpha" for prefix in prefixes])
        return Said(
            rank=None if rank is None else _rank(rank, KWARGS),
            alpha=None if alpha is None else _alpha(alpha, KWARGS),
        )


@dataclass(frozen=True)
class PeftScaling:
    """A peft `LoraConfig`: one rank and alpha, and patterns of layers that have others."""

    rank: int | None
    alpha: Fraction | None
    root: bool
    ranks: Patterns
    alphas: Patterns

    @classmethod
    def parse(cls, text: str, where: str) -> PeftScaling:
        """Read the JSON, from metadata or from `adapter_config.json`.

        Raises:
            WeightsError: it is broken, of another kind than LoRA, or asks for what is not LoRA.
        """
        config = _json_object(text, where)
        inner = {
            name.removeprefix("transformer."): value
            for name, value in config.items()
            if name.startswith("transformer.")
        }
        config = inner or config
        _refuse_other_kinds(config, where)
        rank, alpha = config.get("r"), config.get("lora_alpha")
        return cls(
            rank=None if rank is None else _rank(rank, f"{where}: r"),
            alpha=None if alpha is None else _alpha(alpha, f"{where}: lora_alpha"),
            root=config.get("use_rslora") is True,
            ranks=Patterns.parse(config.get("rank_pattern"), _rank, f"{where}: rank_pattern"),
            alphas=Patterns.parse(config.get("alpha_pattern"), _alpha, f"{where}: alpha_pattern"),
        )

    def of(self, module: str, layer: str) -> Said:
        """By the first pattern that fits the layer's name, else what is said of all."""
        rank, alpha = self.ranks.first(module), self.alphas.first(module)
        return Said(
            rank=self.rank if rank is None else rank,
            alpha=self.alpha if alpha is None else alpha,
            root=self.root,
        )


class Patterns:
    """Values by patterns of names: the whole name, or all of it from some dot on.

    Nearly all are plain names. Others are regular expressions that somebody else wrote: few are
    taken, and none that could run for ever.
    """

    def __init__(self, values: Mapping[str, Any]):
        self._plain: dict[str, tuple[int, Any]] = {}
        self._patterns: list[tuple[int, str, Any]] = []
        for order, (pattern, value) in enumerate(values.items()):
            if _PLAIN.fullmatch(pattern):
                self._plain[pattern] = (order, value)
            else:
                self._patterns.append((order, pattern, value))

    @classmethod
    def parse(cls, found: object, value: Callable[[object, str], Any], where: str) -> Patterns:
        """Read an object of the JSON; `value` reads the values.

        Raises:
            WeightsError: it is no object, or holds what is not evaluated.
        """
        if not isinstance(found or {}, dict):
            raise WeightsError(f"has a broken {where}: it is no JSON object")
        known = cls({key: value(v, where) for key, v in dict(found or {}).items()})  # type: ignore[call-overload]
        if len(known._patterns) > _MAX_PATTERNS:
            raise WeightsError(f"has more than {_MAX_PATTERNS} regular expressions in {where}")
        for _, pattern, _ in known._patterns:
            _check_pattern(pattern, where)
        return known

    def first(self, module: str) -> Any:
        """The value of the first pattern that means this layer; None where none does."""
        ends = [module, *(module[dot.end() :] for dot in re.finditer(r"\.", module))]
        fitting = [self._plain[end] for end in (f"^{module}", *ends) if end in self._plain]
        for order, pattern, value in self._patterns:
            starts = [module] if pattern.startswith("^") else ends
            if any(re.fullmatch(pattern.removeprefix("^"), start) for start in starts):
                fitting.append((order, value))
        return min(fitting, key=lambda found: found[0])[1] if fitting else None


def is_power_of_two(value: Fraction) -> bool:
    """Whether multiplying with it changes nothing but exponents."""
    return value > 0 and all(n & (n - 1) == 0 for n in (value.numerator, value.denominator))


# ----------------------------------------------------------------------------------------- helpers


def _refuse_other_kinds(config: Mapping[str, Any], where: str) -> None:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise WeightsError(f"is no LoRA: {where} says peft_type {str(kind)[:40]!r}")
    for name in ("use_dora", "use_qalora", "lora_bias"):
        if config.get(name):
            raise WeightsError(f"is not plain LoRA: {where} says {name}, which Mochi cannot apply")


def _check_pattern(pattern: str, where: str) -> None:
    """Patterns are regular expressions: refuse those that could run for ever.

    Up to three repetitions, none of a group, are at worst cubic in a short name.
    """
    repeated = len(re.findall(r"[*+?{]", pattern))
    try:
        re.compile(pattern)
        is_tame = repeated <= 3 and not re.search(r"\)[*+?{]", pattern)
    except (re.error, OverflowError, RecursionError):
        is_tame = False
    if len(pattern) > _MAX_PATTERN_CHARS or not is_tame:
        raise WeightsError(f"has a pattern in {where} that is not evaluated: {pattern[:80]!r}")


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise WeightsError(f"has a broken {where}: it is no JSON") from None
    if not isinstance(parsed, dict):
        raise WeightsError(f"has a broken {where}: it is no JSON object")
    return parsed


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _first(settings: Mapping[str, Any], names: list[str]) -> Any:
    return next((settings[name] for name in names if settings.get(name) is not None), None)


def _rank(value: object, where: str) -> int:
    # type(), as JSON's true is an int to isinstance
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value <= _MAX_RANK:
        raise WeightsError(f"has a broken {where}: {str(value)[:40]!r} is no rank")
    return value


def _alpha(value: object, where: str) -> Fraction:
    # compared before it is converted: an int may be larger than any float, a float may be NaN
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e30:
        raise WeightsError(f"has a broken {where}: {str(value)[:40]!r} is no alpha")
    return Fraction(value)
