"""What is in a checkpoint: parts, sizes, forms of the weights, and what looks wrong.

Every weight is read once, a tensor at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any

import torch

from mochi.core.errors import WeightsError
from mochi.model.stored import FLOAT8, StoredWeight
from mochi.weights.checkpoint import Checkpoint, PartView
from mochi.weights.finite import count_non_finite, fills_float8, refuse_lost_scales
from mochi.weights.names import Part
from mochi.weights.report import LoadReport
from mochi.weights.stored import dtype_name
from mochi.weights.targets import Forget
from mochi.weights.write import OnBytes, OnProgress

_SHOWN_METADATA_CHARS = 2_000
_FLOAT8_KINDS = tuple(dtype_name(dtype) for dtype in FLOAT8)


@dataclass(frozen=True)
class Held:
    """How much is kept in one form.

    Attributes:
        tensors: their number.
        parameters: weights they stand for.
        nbytes: in the file.
    """

    tensors: int = 0
    parameters: int = 0
    nbytes: int = 0


@dataclass(frozen=True)
class Oddity:
    """Something about one tensor, by its name in the file.

    Attributes:
        name: of the tensor.
        what: `NaN or infinity`, `all zero`, `constant`, `missing`, `unexpected`, `wrong shape`.
        detail: how many, or which shape.
        is_broken: whether the part cannot be used like this; otherwise it is only strange.
    """

    name: str
    what: str
    detail: str
    is_broken: bool


@dataclass(frozen=True)
class PartInspection:
    """One network in a checkpoint.

    Attributes:
        part: which.
        file: the file, or the first of several.
        layout: of its names.
        prefix: before its names.
        config: the sizes that its shapes tell; empty where they tell none.
        kinds: how the weights are kept: `bfloat16`, `q4_0`, ...
        oddities: what looks wrong, what is broken first.
    """

    part: Part
    file: str
    layout: str
    prefix: str
    config: Mapping[str, Any]
    kinds: Mapping[str, Held]
    oddities: tuple[Oddity, ...]

    @property
    def parameters(self) -> int:
        """Weights in all."""
        return sum(held.parameters for held in self.kinds.values())

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return sum(held.nbytes for held in self.kinds.values())


@dataclass
class Inspection:
    """What was found in one or several checkpoints.

    Attributes:
        descriptions: file to its layout in one line.
        parts: the networks.
        metadata: file to the strings beside its tensors.
        unclaimed: file to names that belong to no network.
        problems: why files beside these could not be used.
    """

    descriptions: dict[str, str] = field(default_factory=dict)
    parts: list[PartInspection] = field(default_factory=list)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    unclaimed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def is_broken(self) -> bool:
        """Whether something in here cannot be used."""
        broken = (oddity.is_broken for part in self.parts for oddity in part.oddities)
        foreign = any(self.unclaimed.values())
        return bool(not self.parts or self.problems or foreign or any(broken))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        parts = [
            asdict(part) | {"parameters": part.parameters, "nbytes": part.nbytes}
            for part in self.parts
        ]
        return asdict(self) | {"parts": parts, "is_broken": self.is_broken}


def inspect(
    checkpoints: Iterable[Checkpoint],
    on_progress: OnProgress | None = None,
    forget: Forget | None = None,
) -> Inspection:
    """Look at every weight of some checkpoints.

    Args:
        checkpoints: opened; a part that only the names of one of them hint at is looked at too.
        on_progress: hears of the file and of bytes.
        forget: gives back the memory of tensors that lie in mapped files.
    """
    opened = list(checkpoints)
    views = [(checkpoint, view) for checkpoint in opened for view in checkpoint.parts.values()]
    total = sum(view.nbytes for _, view in views)
    found, done = Inspection(), 0
    for checkpoint in opened:
        found.descriptions[checkpoint.label] = checkpoint.description
        found.metadata[checkpoint.label] = {
            key: value[:_SHOWN_METADATA_CHARS]
            for key, value in checkpoint.contents.metadata.items()
        }
        found.unclaimed[checkpoint.label] = checkpoint.unclaimed
    for checkpoint, view in views:

        def count(nbytes: int, label: str = checkpoint.label) -> None:
            nonlocal done
            done += nbytes
            if on_progress is not None:
                on_progress(label, done, total)

        found.parts.append(_look_at(view, count, forget))
    return found


def _look_at(view: PartView, count: OnBytes, forget: Forget | None) -> PartInspection:
    kinds: dict[str, Held] = {}
    oddities: list[Oddity] = []
    matrices = filled = 0
    for name, stored in view.tensors.items():
        if view.names.is_neighbour(name):
            continue
        held = kinds.get(stored.kind, Held())
        kinds[stored.kind] = Held(
            held.tensors + 1, held.parameters + prod(stored.shape), held.nbytes + stored.nbytes
        )
        weight = stored.load(False)
        oddities += _strange_values(f"{view.prefix}{name}", weight)
        if stored.kind in _FLOAT8_KINDS and len(stored.shape) > 1:
            matrices += 1
            filled += fills_float8(weight)
        if forget is not None:
            forget(weight.raw.values())
        count(stored.nbytes)
    sizes, wrong = _strange_names(view)
    try:
        refuse_lost_scales(filled, matrices, view.label)
    except WeightsError as error:
        wrong.append(Oddity(f"{view.prefix}*", "scales missing", str(error), True))
    return PartInspection(
        part=view.part,
        file=view.label,
        layout=view.layout,
        prefix=view.prefix,
        config=sizes,
        kinds=kinds,
        oddities=tuple(sorted((*wrong, *oddities), key=lambda oddity: not oddity.is_broken)),
    )


def _strange_names(view: PartView) -> tuple[Mapping[str, Any], list[Oddity]]:
    """The sizes, and what is missing, foreign or of a wrong shape."""
    try:
        sizes, report = asdict(view.config), view.report
    except WeightsError as error:
        return {}, [Oddity(f"{view.prefix}*", "wrong sizes", str(error), True)]
    oddities = list(_differences(report))
    if report.ok:
        try:
            view.check()
        except WeightsError as error:
            oddities.append(Oddity(f"{view.prefix}*", "scales missing", str(error), True))
    return sizes, oddities


def _differences(report: LoadReport) -> Iterable[Oddity]:
    for name, shape in report.missing.items():
        yield Oddity(name, "missing", str(tuple(shape)), True)
    for name, shape in report.unexpected.items():
        yield Oddity(name, "unexpected", str(tuple(shape)), True)
    for name, wrong in report.wrong_shape.items():
        yield Oddity(name, "wrong shape", f"{wrong.found}, not {wrong.expected}", True)


def _strange_values(name: str, weight: StoredWeight) -> Iterable[Oddity]:
    dense = weight.dense()
    if not dense.numel():
        return
    if bad := count_non_finite(weight):
        yield Oddity(name, "NaN or infinity", f"{bad} of {dense.numel()} values", True)
        return
    low, high = torch.aminmax(dense)
    if low == high and dense.numel() > 1:
        what = "all zero" if low == 0 else "constant"
        yield Oddity(name, what, f"{dense.numel()} times {float(low):g}", False)
