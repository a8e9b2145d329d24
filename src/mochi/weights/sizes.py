"""Sizes of the networks, read off the shapes of their tensors. No config file is asked.

Every size is voted on by all tensors that know it, so that a checkpoint with one damaged or
missing tensor still gets the right sizes, and the report can name the tensor. What SPEC 1 calls a
constant of the design (12 channels, patches of 2 x 2, 8 x 8 x 6) is not read but required.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from math import prod
from typing import TypeVar

from mochi.core.config import (
    SPACE_STEP,
    DecoderConfig,
    DiTConfig,
    EncoderConfig,
    ffn_width,
)
from mochi.core.errors import WeightsError
from mochi.core.sizes import SPACE_FACTOR, TIME_FACTOR
from mochi.weights.names import DIT_BLOCK, DIT_INNER, depth, indices

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Voters = Mapping[tuple[str, Shape], int]
"""Names and shapes of tensors, and how many there are of each."""
Witness = tuple[str, int, Fraction]
"""A pattern of names, a dimension of their shapes, and what the size is as a part of it."""

Config = TypeVar("Config")
TIME_FEATURES = DiTConfig().time_features
_BLOCK = re.compile(r"^blocks\.\d+\.")
_RES = r"stack\.[0235]\.(weight|bias)"  # all of them begin with the width of their stage


def dit_config(shapes: Shapes) -> DiTConfig:
    """Sizes of the AsymmDiT whose tensors have these shapes, by their published names.

    Raises:
        WeightsError: the names that would tell a size are missing, or sizes contradict.
    """
    alike = _alike_in_blocks(shapes)
    width = _vote(alike, "visual_width", _VISUAL_WIDTH)
    text_width = _vote(alike, "text_width", _TEXT_WIDTH)
    head_dim = _vote(alike, "head_dim", _HEAD_DIM)
    return _checked(
        lambda: DiTConfig(
            depth=_depth(shapes, text_width),
            heads=width // head_dim,
            head_dim=head_dim,
            visual_width=width,
            text_width=text_width,
            text_features=_vote(alike, "text_features", _TEXT_FEATURES),
            time_features=_even(_vote(alike, "time_features", _TIME_FEATURES, TIME_FEATURES)),
            visual_ffn=_vote(alike, "visual_ffn", _ffn("x"), ffn_width(width)),
            text_ffn=_vote(alike, "text_ffn", _ffn("y"), ffn_width(text_width)),
        )
    )


def _alike_in_blocks(shapes: Shapes) -> Voters:
    """Each kind of tensor once, and how many blocks have it: hundreds of names would else be
    matched with every pattern."""
    found: Counter[tuple[str, Shape]] = Counter()
    for name, shape in shapes.items():
        found[_BLOCK.sub("blocks.0.", name, count=1), tuple(shape)] += 1
    return found


def _witness(pattern: str, dimension: int, part: Fraction | int = 1) -> Witness:
    return pattern, dimension, Fraction(part)


_VISUAL_WIDTH = (
    _witness(r"x_embedder\.proj\.(weight|bias)", 0),
    _witness(r"t_embedder\.mlp\.[02]\.(weight|bias)", 0),
    _witness(r"final_layer\.linear\.weight", 1),
    _witness(r"blocks\.\d+\.attn\.proj_x\.(weight|bias)", 0),
)
_TEXT_WIDTH = (
    _witness(r"t5_yproj\.(weight|bias)", 0),
    _witness(r"blocks\.\d+\.attn\.qkv_y\.weight", 1),
)
_TEXT_FEATURES = (
    _witness(r"t5_yproj\.weight", 1),
    _witness(r"t5_y_embedder\.to_(q|kv|out)\.weight", 1),
    _witness(r"t5_y_embedder\.to_q\.bias", 0),
)
_TIME_FEATURES = (_witness(r"t_embedder\.mlp\.0\.weight", 1),)
_HEAD_DIM = (
    _witness(r"pos_frequencies", 2, 2),
    _witness(r"blocks\.\d+\.attn\.[qk]_norm_[xy]\.weight", 0),
)


def _ffn(stream: str) -> tuple[Witness, ...]:
    return (
        _witness(rf"blocks\.\d+\.mlp_{stream}\.w2\.weight", 1),
        _witness(rf"blocks\.\d+\.mlp_{stream}\.w1\.weight", 0, Fraction(1, 2)),
    )


def _depth(shapes: Shapes, text_width: int) -> int:
    highest = max(indices(shapes, DIT_BLOCK), default=-1)
    scales_only = shapes.get(f"blocks.{highest}.mod_y.weight", (0,))[:1] == (text_width,)
    blocks = highest + 1 if scales_only else depth(shapes, DIT_BLOCK, DIT_INNER)
    if not 0 < blocks <= len(shapes):  # a name such as blocks.99999 is no block
        raise WeightsError(f"has {len(shapes)} tensors and blocks up to number {blocks - 1}")
    return blocks


def decoder_config(shapes: Shapes) -> DecoderConfig:
    """Sizes of the VAE decoder whose tensors have these shapes, by their published names.

    Raises:
        WeightsError: the names that would tell a size are missing, or sizes contradict.
    """
    voters = _each(shapes)
    stages = len(_run(shapes, "blocks.{n}.proj.", first=1))
    last = stages + 1
    channels = [_vote(voters, "channels[0]", _decoder_first())]
    channels += [
        _vote(voters, f"channels[{i}]", _decoder_stage(i, last)) for i in range(1, stages + 1)
    ]
    middle = [_blocks(shapes, f"blocks.{i}.blocks.{{n}}.stack.") for i in range(1, last)]
    return _checked(
        lambda: DecoderConfig(
            channels=tuple(channels),
            blocks=(
                _blocks(shapes, "blocks.0.{n}.stack.", first=1),
                *middle,
                _blocks(shapes, f"blocks.{last}.{{n}}.stack."),
            ),
            time_expansions=_times_six(
                {
                    f"blocks.{i}.proj": _expansion(voters, i, channels[i], usual)
                    for i, usual in zip(
                        range(1, last), DecoderConfig().time_expansions, strict=True
                    )
                }
            ),
        )
    )


def _decoder_first() -> tuple[Witness, ...]:
    return (
        _witness(r"blocks\.0\.0\.(weight|bias)", 0),
        _witness(r"blocks\.1\.proj\.weight", 1),
        _witness(rf"blocks\.(0|1\.blocks)\.\d+\.{_RES}", 0),
    )


def _decoder_stage(i: int, last: int) -> tuple[Witness, ...]:
    """Who knows the width after expansion i."""
    if i + 1 == last:
        return (
            _witness(r"output_proj\.weight", 1),
            _witness(rf"blocks\.{last}\.\d+\.{_RES}", 0),
        )
    return (
        _witness(rf"blocks\.{i + 1}\.proj\.weight", 1),
        _witness(rf"blocks\.{i + 1}\.blocks\.\d+\.{_RES}", 0),
    )


def _expansion(voters: Voters, stage: int, channels: int, usual: int) -> int:
    """Expansion in time after a stage; `proj` packs (C, st, sh, sw)."""
    per_frame = channels * SPACE_STEP * SPACE_STEP
    pattern = rf"blocks\.{stage}\.proj\.(weight|bias)"
    witness = _witness(pattern, 0, Fraction(1, per_frame))
    return _vote(voters, "time_expansions", (witness,), usual)


def encoder_config(shapes: Shapes) -> EncoderConfig:
    """Sizes of the VAE encoder whose tensors have these shapes, by their published names.

    Raises:
        WeightsError: the names that would tell a size are missing, or sizes contradict.
    """
    voters = _each(shapes)
    down = _run(shapes, "layers.{n}.layers.")
    out = down[-1] + 1
    channels = [_vote(voters, "channels[0]", _encoder_first(down[0]))]
    channels += [
        _vote(voters, f"channels[{i + 1}]", _encoder_stage(layer, out))
        for i, layer in enumerate(down)
    ]
    middle = [_blocks(shapes, f"layers.{i}.layers.{{n}}.stack.", first=1) for i in down]
    return _checked(
        lambda: EncoderConfig(
            channels=tuple(channels),
            blocks=(down[0] - 1, *middle, _blocks(shapes, "layers.{n}.stack.", first=out)),
            time_reductions=_times_six(
                {
                    f"layers.{i}.layers.0.weight": _reduction(voters, i, usual)
                    for i, usual in zip(down, EncoderConfig().time_reductions, strict=True)
                }
            ),
        )
    )


def _reduction(voters: Voters, layer: int, usual: int) -> int:
    """Reduction in time by a down block: the length of its kernel."""
    return _vote(
        voters, "time_reductions", (_witness(rf"layers\.{layer}\.layers\.0\.weight", 2),), usual
    )


def _encoder_first(first_down: int) -> tuple[Witness, ...]:
    before = "|".join(str(i) for i in range(1, first_down)) or "none"
    return (
        _witness(r"layers\.0\.(weight|bias)", 0),
        _witness(rf"layers\.{first_down}\.layers\.0\.weight", 1),
        _witness(rf"layers\.({before})\.{_RES}", 0),
    )


def _encoder_stage(layer: int, out: int) -> tuple[Witness, ...]:
    """Who knows the width of a down block."""
    own = (
        _witness(rf"layers\.{layer}\.layers\.0\.(weight|bias)", 0),
        _witness(rf"layers\.{layer}\.layers\.\d+\.{_RES}", 0),
    )
    if layer + 1 < out:
        return (*own, _witness(rf"layers\.{layer + 1}\.layers\.0\.weight", 1))
    return (
        *own,
        _witness(r"output_norm\.(weight|bias)", 0),
        _witness(r"output_proj\.weight", 1),
    )


# ----------------------------------------------------------------------------------------- helpers


def _each(shapes: Shapes) -> Voters:
    return {(name, tuple(shape)): 1 for name, shape in shapes.items()}


def _vote(
    voters: Voters, field: str, witnesses: Iterable[Witness], usual: int | None = None
) -> int:
    """The value that most tensors give; of equally many, the usual one, else the first listed."""
    votes: Counter[Fraction] = Counter()
    for pattern, dimension, part in witnesses:
        known = re.compile(pattern)
        for (name, shape), count in voters.items():
            if len(shape) > dimension and known.fullmatch(name):
                votes[shape[dimension] * part] += count
    whole = [value for value in votes if value.denominator == 1 and value]
    if whole:
        return int(max(whole, key=lambda value: (votes[value], value == usual)))
    if usual is not None:
        return usual
    names = ", ".join(pattern.replace("\\", "") for pattern, _, _ in witnesses)
    raise WeightsError(f"tells no {field}: looked at {names}{_seen(votes)}")


def _seen(votes: Counter[Fraction]) -> str:
    return f" and found {', '.join(str(v) for v in votes)}" if votes else ", and none is there"


def _run(shapes: Shapes, prefix: str, first: int | None = None) -> list[int]:
    """The unbroken run of indices under a prefix (from `first`, where given)."""
    found = sorted(indices(shapes, prefix))
    start = found[0] if found and first is None else first
    if not found or found != list(range(start or 0, (start or 0) + len(found))):
        raise WeightsError(f"has {prefix.replace('{n}', 'N')} for N in {found or 'nothing'}")
    if SPACE_STEP ** len(found) != SPACE_FACTOR:
        raise WeightsError(f"has {len(found)} changes of size, not by {SPACE_FACTOR} in all")
    return found


def _blocks(shapes: Shapes, prefix: str, first: int = 0) -> int:
    """How many res blocks stand under a prefix, counted from index `first`."""
    last = max((n for n in indices(shapes, prefix) if n >= first), default=first - 1)
    if last > len(shapes):
        raise WeightsError(f"has a block number {last} under {prefix}, but {len(shapes)} tensors")
    return last - first + 1


def _even(time_features: int) -> int:
    if time_features % 2:
        raise WeightsError(f"t_embedder.mlp.0.weight takes {time_features} features, an odd number")
    return time_features


def _times_six(steps: Mapping[str, int]) -> tuple[int, ...]:
    """The steps in time, given by the tensors that tell them; their product is a constant."""
    if prod(steps.values()) != TIME_FACTOR:
        told = ", ".join(f"{name} by {step}" for name, step in steps.items())
        raise WeightsError(f"changes time ({told}) by other than {TIME_FACTOR} in all")
    return tuple(steps.values())


def _checked(build: Callable[[], Config]) -> Config:
    try:
        return build()
    except ValueError as error:
        raise WeightsError(f"has sizes that fit no Mochi network: {error}") from None
