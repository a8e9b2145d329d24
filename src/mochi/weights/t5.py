"""Sizes of a T5 encoder off its shapes, and the shapes it must have; names as in Hugging Face's."""

from __future__ import annotations

from mochi.core.config import T5Size
from mochi.core.errors import WeightsError
from mochi.weights.names import count
from mochi.weights.report import Shape, Shapes

BUCKETS = 32
"""Relative distances that all T5 tell apart."""

_BLOCK = "encoder.block.{n}.layer."
_ATTENTION = "0.SelfAttention."
_FEED_FORWARD = "1.DenseReluDense."
POSITIONS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def t5_size(shapes: Shapes) -> T5Size:
    """Sizes of the T5 v1.1 encoder whose tensors have these shapes.

    Raises:
        WeightsError: the tensors that would tell a size are missing, or it is another T5.
    """
    first = _BLOCK.format(n=0)
    if f"{first}{_FEED_FORWARD}wi.weight" in shapes:
        raise WeightsError("is a T5 v1.0 (one matrix wi where v1.1 has wi_0 and wi_1)")
    heads = _size(shapes, POSITIONS, 1)
    inner = _size(shapes, f"{first}{_ATTENTION}q.weight", 0)
    depth = count(shapes, _BLOCK)
    if not heads or inner % heads or depth > len(shapes):
        raise WeightsError(f"has {heads} heads for queries of width {inner} in {depth} blocks")
    return T5Size(
        vocabulary=_size(shapes, "shared.weight", 0),
        width=_size(shapes, "shared.weight", 1),
        feed_forward=_size(shapes, f"{first}{_FEED_FORWARD}wi_0.weight", 0),
        depth=depth,
        heads=heads,
        head_dim=inner // heads,
    )


def t5_shapes(size: T5Size) -> dict[str, Shape]:
    """Names and shapes of all tensors of a T5 v1.1 encoder."""
    inner, width, wide = size.heads * size.head_dim, size.width, size.feed_forward
    block = {
        **{f"{_ATTENTION}{name}.weight": (inner, width) for name in "qkv"},
        f"{_ATTENTION}o.weight": (width, inner),
        "0.layer_norm.weight": (width,),
        f"{_FEED_FORWARD}wi_0.weight": (wide, width),
        f"{_FEED_FORWARD}wi_1.weight": (wide, width),
        f"{_FEED_FORWARD}wo.weight": (width, wide),
        "1.layer_norm.weight": (width,),
    }
    blocks = {
        f"{_BLOCK.format(n=index)}{name}": shape
        for index in range(size.depth)
        for name, shape in block.items()
    }
    ends = {"shared.weight": (size.vocabulary, width), "encoder.final_layer_norm.weight": (width,)}
    return ends | {POSITIONS: (BUCKETS, size.heads)} | blocks


def _size(shapes: Shapes, name: str, dimension: int) -> int:
    shape = shapes.get(name, ())
    if len(shape) != 2:
        raise WeightsError(f"has no matrix {name}, which tells its sizes")
    return shape[dimension]
