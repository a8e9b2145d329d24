"""Adapters (LoRA) from files of every flavour, recognised by their content.

`read_lora` gives an adapter that fits a network, or one error with everything that does not;
`scan_lora` gives what there is and the report beside it, for those who only look.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from typing import Any

from torch import Tensor, nn

from mochi.core.errors import WeightsError
from mochi.model.adapters import linear_layers
from mochi.weights.containers import Contents
from mochi.weights.lora import Lora, Pair
from mochi.weights.lora_files import LoraFiles, StrPath
from mochi.weights.lora_maths import unfolded
from mochi.weights.lora_names import Flavour, LayerNames, Place, Role, TensorName
from mochi.weights.lora_report import LoraReport, Problem, ProblemKind
from mochi.weights.lora_scales import (
    KWARGS,
    PEFT_METADATA,
    OriginalScaling,
    PeftScaling,
    Scaling,
    Unsaid,
    folded_factors,
)
from mochi.weights.ops import SWAP_HALVES, Op
from mochi.weights.stored import FLOATS, Stored, dtype_name

LayerSizes = Mapping[str, tuple[int, int]]
"""Inputs and outputs of the layers that can be adapted, by name."""

_FLOATS = frozenset(map(dtype_name, FLOATS))
_WHOLE = frozenset({"int64", "int32", "int16", "int8", "uint8"})
_WORDS: Mapping[Role, str] = {"a": "lora_A", "b": "lora_B"}
# Other kinds of adapter, by what stands in their names.
_OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_w": "LoHa",
    "lokr_w": "LoKr",
    "oft_": "OFT",
    "lora_mid": "LoCon",
    "lora_embedding": "a LoRA of embeddings",
    "lora_te": "a LoRA of a text encoder",
    ".diff": "a full difference of weights",
}


def read_lora(path: StrPath, sizes: LayerSizes | None = None) -> Lora:
    """An adapter that is whole, finite and, where `sizes` are given, fits all its layers.

    Args:
        path: a file (.safetensors, or .pt through `weights_only`), or a folder as peft writes it.
        sizes: of the network's layers, from `layer_sizes`.

    Raises:
        WeightsError: unreadable, no adapter, or something in it does not fit; lists all of that.
    """
    lora, report = scan_lora(path, sizes)
    report.raise_if_bad(lora.path or path)
    return lora


def scan_lora(path: StrPath, sizes: LayerSizes | None = None) -> tuple[Lora, LoraReport]:
    """What there is of an adapter, and what is wrong with it.

    Raises:
        WeightsError: unreadable, or nothing in it is an adapter of Mochi's.
    """
    files = LoraFiles.find(path)
    contents = Contents.open([files.weights])
    try:
        return _scan(files, contents, sizes)
    except WeightsError as error:
        raise error if error.path else WeightsError(str(error), files.weights) from None


def layer_sizes(network: nn.Module) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of a network's linear layers; a network without memory will do."""
    layers: Iterator[tuple[str, Any]] = linear_layers(network)
    return {name: (layer.in_features, layer.out_features) for name, layer in layers}


# ------------------------------------------------------------------------------------------- steps


@dataclass
class _Module:
    """The tensors of one layer of a file by their roles, and whether all are named plainly."""

    tensors: dict[Role, str] = field(default_factory=dict)
    is_plain: bool = True


def _scan(
    files: LoraFiles, contents: Contents, sizes: LayerSizes | None
) -> tuple[Lora, LoraReport]:
    problems: list[Problem] = []
    modules = _modules(contents.tensors, problems)
    names = LayerNames.of_modules(modules)
    places = {module: names.place(module) for module in modules}
    if not any(places.values()):
        raise WeightsError(_no_adapter(contents.tensors))
    flavour = _flavour(modules, places)
    scaling = _scaling(files, contents.metadata, flavour)
    reader = _Reader(contents.tensors, scaling, folded_factors(contents.metadata), problems)
    layers: dict[str, list[Pair]] = defaultdict(list)
    for module, place in places.items():
        if place is None:
            problems.append(Problem("foreign", module, "is no layer of an AsymmDiT"))
        elif any(_overlap(place, pair) for pair in layers[place.layer]):
            problems.append(Problem("foreign", module, f"changes {place.layer} a second time"))
        elif (pair := reader.pair(module, modules[module].tensors, place)) is not None:
            layers[place.layer].append(pair)
    found = {layer: sorted(pairs, key=lambda p: p.part) for layer, pairs in layers.items() if pairs}
    problems += _misfits(found, sizes, names) if sizes is not None else []
    bad = {problem.name for problem in problems}
    fitting = sum(pair.module not in bad for pairs in found.values() for pair in pairs)
    lora = Lora(files.weights, flavour, found, contents.metadata)
    return lora, LoraReport(tuple(problems), fitting, len(modules))


def _modules(names: Iterable[str], problems: list[Problem]) -> dict[str, _Module]:
    modules: dict[str, _Module] = defaultdict(_Module)
    for name in names:
        parsed = TensorName.parse(name)
        if parsed is None:
            problems.append(Problem("foreign", name, "is no matrix of a LoRA"))
            continue
        module = modules[parsed.module]
        other = module.tensors.setdefault(parsed.role, name)
        if other != name:
            problems.append(Problem("foreign", name, f"is the same as {other}"))
        module.is_plain = module.is_plain and parsed.is_plain
    return dict(modules)


def _no_adapter(names: Iterable[str]) -> str:
    names = list(names)
    kinds = dict.fromkeys(
        kind for mark, kind in _OTHER_KINDS.items() if any(mark in name for name in names)
    )
    what = f"it looks like {' and '.join(kinds)}; " if kinds else ""
    shown = ", ".join(name[:80] for name in names[:4]) or "no tensors at all"
    return f"holds no LoRA of Mochi's: {what}it has {len(names)} tensors: {shown}"


def _flavour(modules: Mapping[str, _Module], places: Mapping[str, Place | None]) -> Flavour:
    kinds = {place.names: module for module, place in places.items() if place is not None}
    if len(kinds) > 1:
        raise WeightsError(f"mixes the names of several flavours: {' and '.join(kinds.values())}")
    if "ours" in kinds:
        return "original" if all(module.is_plain for module in modules.values()) else "comfy"
    return "diffusers" if "theirs" in kinds else "kohya"


def _scaling(files: LoraFiles, metadata: Mapping[str, str], flavour: Flavour) -> Scaling:
    if PEFT_METADATA in metadata:
        return PeftScaling.parse(metadata[PEFT_METADATA], PEFT_METADATA)
    if KWARGS in metadata and flavour in ("original", "comfy"):
        return OriginalScaling.parse(metadata[KWARGS])
    if files.config is not None and flavour in ("diffusers", "comfy"):
        return PeftScaling.parse(files.config_text(), files.config.name)
    return Unsaid()


@dataclass(frozen=True)
class _Reader:
    """Pairs of matrices out of the tensors of a file; what is wrong goes to `problems`."""

    tensors: Mapping[str, Stored]
    scaling: Scaling
    folded: Mapping[str, Fraction]
    problems: list[Problem]

    def pair(self, module: str, names: Mapping[Role, str], place: Place) -> Pair | None:
        """Both matrices of a layer, or None where they do not go together."""
        found = {role: self.tensors[name] for role, name in names.items()}
        wrong = _wrong(found, place.op)
        if wrong is not None:
            self._refuse(wrong[0], module, wrong[1])
            return None
        rank, said = found["a"].shape[0], self.scaling.of(module, place.layer)
        if said.rank not in (None, rank):
            self._refuse("wrong rank", module, f"has rank {rank}, {said.rank} is announced")
        a, b = _values(found["a"]), _values(found["b"])
        if not (a.isfinite().all() and b.isfinite().all()):
            self._refuse("not finite", module, "holds NaN or infinity")
        alpha = _number(found["alpha"]) if "alpha" in found else None
        if alpha is None and "alpha" in found:
            self._refuse("not finite", module, "has an alpha that is no finite number")
        scale = said.scale(rank) if alpha is None else alpha / rank
        pair = Pair(module, a, place.op.join([b]), scale, place.part, place.parts)
        return unfolded(pair, self.folded[module]) if module in self.folded else pair

    def _refuse(self, kind: ProblemKind, module: str, what: str) -> None:
        self.problems.append(Problem(kind, module, what))


def _wrong(found: Mapping[Role, Stored], op: Op) -> tuple[ProblemKind, str] | None:
    """What is wrong with the tensors of a layer, whichever it is; None where nothing is."""
    lacks = [word for role, word in _WORDS.items() if role not in found]
    if lacks:
        return "incomplete", f"has no {' and no '.join(lacks)}"
    a, b = found["a"], found["b"]
    for word, matrix in (("lora_A", a), ("lora_B", b)):
        if matrix.kind not in _FLOATS:
            return "wrong shape", f"stores {word} as {matrix.kind}; only plain floats load"
        if len(matrix.shape) != 2 or 0 in matrix.shape:
            return "wrong shape", f"has a {word} {matrix.shape}, no matrix with numbers in it"
    if a.shape[0] != b.shape[1]:
        return "wrong rank", f"has two ranks: lora_A {a.shape}, lora_B {b.shape}"
    if op is SWAP_HALVES and b.shape[0] % 2:
        return "wrong shape", f"has a lora_B {b.shape} for a layer with an even number of outputs"
    return None


def _values(stored: Stored) -> Tensor:
    return stored.load(False).data


def _number(stored: Stored) -> Fraction | None:
    if stored.kind not in _FLOATS | _WHOLE or prod(stored.shape) != 1:
        return None
    number = _values(stored).item()
    return Fraction(number) if math.isfinite(number) else None


def _overlap(place: Place, pair: Pair) -> bool:
    return place.parts != pair.parts or place.part == pair.part


def _misfits(
    layers: Mapping[str, Sequence[Pair]], sizes: LayerSizes, names: LayerNames
) -> list[Problem]:
    """What does not go with layers of these sizes."""
    problems = []
    for layer, pairs in layers.items():
        for pair in pairs:
            if layer not in sizes:
                problems.append(Problem("foreign", pair.module, "is no linear layer of this model"))
                continue
            inputs, outputs = sizes[layer]
            found = (pair.a.shape[1], len(pair.b) * pair.parts)
            # A joint layer's matrices may be those of several projections, stacked.
            shares = names.shares(layer) if pair.parts == 1 else 1
            most = shares * min(inputs, outputs // pair.parts // shares)
            if found != (inputs, outputs):
                what = (
                    f"is for {found[0]} inputs and {found[1]} outputs, not {inputs} and {outputs}"
                )
                problems.append(Problem("wrong shape", pair.module, what))
            elif pair.rank > most:
                what = f"has rank {pair.rank}, more than the {most} that this layer can have"
                problems.append(Problem("wrong rank", pair.module, what))
    return problems
