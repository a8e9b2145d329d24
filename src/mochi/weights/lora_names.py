"""Names of tensors in adapters (LoRA), read and written through the checkpoints' own table.

A name is a layer and a role: `transformer.transformer_blocks.3.attn1.to_q` and `.lora_A.weight`.
The layer's name with `.weight` at its end is a name of a checkpoint, and `layouts.DIFFUSERS_DIT`
knows all of those on both of its sides; what happens to the rows of a weight between two layouts
happens to the rows of B.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from mochi.weights.layouts import DIFFUSERS_DIT
from mochi.weights.names import Names
from mochi.weights.ops import STACK, Op
from mochi.weights.templates import Template

Flavour = Literal["original", "comfy", "diffusers", "kohya"]
Role = Literal["a", "b", "alpha"]

_ROLES: dict[str, Role] = {
    "lora_A": "a",
    "lora_B": "b",
    "lora_down": "a",
    "lora_up": "b",
    "lora.down": "a",
    "lora.up": "b",
}
# The name of the adapter may stand in between, as in `.lora_A.default.weight`.
_MATRIX = re.compile(
    rf"\.(?P<role>{'|'.join(map(re.escape, _ROLES))})(?P<end>(?:\.\w{{1,64}})?\.weight)?$"
)
# What programs put before a name; no name of a layer begins with one of these words.
_WRAPPERS = {"base_model", "model", "diffusion_model", "transformer", "module", "dit", "unet"}
_FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lora_dit_", "lycoris_")
_UNKNOWN = -1  # matches no block


@dataclass(frozen=True)
class TensorName:
    """A tensor's name, taken apart.

    Attributes:
        module: the layer as the file calls it, without what programs put before it.
        role: which of the layer's tensors it is.
        is_plain: written as the original does: nothing before the name, nothing after the role.
    """

    module: str
    role: Role
    is_plain: bool

    @classmethod
    def parse(cls, name: str) -> TensorName | None:
        """Take a name apart; None where it is no adapter's."""
        found = _MATRIX.search(name)
        if found is None:
            is_alpha = name.endswith(".alpha")
            return cls(_unwrapped(name[: -len(".alpha")]), "alpha", False) if is_alpha else None
        module, word = name[: found.start()], found["role"]
        is_plain = (
            not found["end"] and word in ("lora_A", "lora_B") and _unwrapped(module) == module
        )
        return cls(_unwrapped(module), _ROLES[word], is_plain)


@dataclass(frozen=True)
class Place:
    """Where a pair of matrices of a file belongs.

    Attributes:
        layer: our name of the layer.
        part, parts: which of how many equal shares of its outputs.
        op: what happens to the rows of B on the way to ours.
        names: whose names the file uses: ours (the published ones), diffusers', or flat ones.
    """

    layer: str
    part: int
    parts: int
    op: Op
    names: Literal["ours", "theirs", "flat"]


class LayerNames:
    """The table of a network whose last block is known, or is not.

    Args:
        last: index of the last block; None where it is unknown. Only the text modulation is called
            differently there.
    """

    def __init__(self, last: int | None = None):
        self._names = Names(DIFFUSERS_DIT, {"last": _UNKNOWN if last is None else last})

    @classmethod
    def of_modules(cls, modules: Iterable[str]) -> LayerNames:
        """For a file that calls its layers so; what only the last block has tells which it is."""
        marks = [
            Template.bind(theirs.replace("{last}", "{i}"), {})
            for rule in DIFFUSERS_DIT.rules
            for theirs in rule.theirs
            if "{last}" in theirs
        ]
        found = [mark.match(f"{module}.weight") for module in modules for mark in marks]
        return cls(max((int(values["i"]) for values in found if values), default=None))

    def place(self, module: str) -> Place | None:
        """Where a layer of a file belongs; None where it is no layer of Mochi's."""
        place = self._dotted(module)
        if place is not None or "." in module:
            return place
        unflattened = self._unflattened(module)
        place = self._dotted(unflattened) if unflattened else None
        return place and replace(place, names="flat")

    def theirs(self, layer: str) -> tuple[tuple[str, ...], Op]:
        """What diffusers calls a layer of ours: one name, or one for each equal share."""
        sources = self._names.sources(f"{layer}.weight")
        return tuple(name.removesuffix(".weight") for name in sources.names), sources.op

    def shares(self, layer: str) -> int:
        """How many layers of diffusers' one of ours is."""
        return len(self.theirs(layer)[0])

    def _dotted(self, module: str) -> Place | None:
        weight = f"{module}.weight"
        ours = self._names.ours(weight)
        if ours is not None:
            sources = self._names.sources(ours)
            part = sources.names.index(weight)
            layer = ours.removesuffix(".weight")
            return Place(layer, part, len(sources.names), sources.op, "theirs")
        try:
            self._names.sources(weight)
        except KeyError:
            return None
        return Place(module, 0, 1, STACK, "ours")

    def _unflattened(self, module: str) -> str | None:
        prefix = next((p for p in _FLAT_PREFIXES if module.startswith(p)), None)
        if prefix is None:
            return None
        flat = f"{module.removeprefix(prefix)}_weight"
        for rule in DIFFUSERS_DIT.rules:
            for text in (rule.ours, *rule.theirs):
                if "{last}" in text:
                    continue  # the same layers have a rule for any block
                values = Template.bind(text.replace(".", "_"), {}).match(flat)
                if values is not None:
                    return Template.bind(text, {}).format(values).removesuffix(".weight")
        return None


def _unwrapped(module: str) -> str:
    words = module.split(".")
    while len(words) > 1 and words[0] in _WRAPPERS:
        del words[0]
    return ".".join(words)
