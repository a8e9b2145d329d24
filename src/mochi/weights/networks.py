"""What each part of a model is made of: the names and shapes a checkpoint has to have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mochi.core.config import T5Size
from mochi.core.errors import WeightsError
from mochi.model.decoder import Decoder
from mochi.model.dit import AsymmDiT
from mochi.model.encoder import Encoder
from mochi.weights.names import Part
from mochi.weights.report import Shapes
from mochi.weights.sizes import decoder_config, dit_config, encoder_config
from mochi.weights.t5 import t5_shapes, t5_size

_MADE = frozenset({torch.empty, torch.ones, torch.zeros})
"""What layers make their parameters with."""

Config = TypeVar("Config")
Network = TypeVar("Network", bound=nn.Module)

ARTICLES: Mapping[Part, str] = {
    "dit": "an AsymmDiT",
    "decoder": "a Mochi decoder",
    "encoder": "a Mochi encoder",
    "t5": "a T5 encoder",
}


class Kind(Generic[Network]):
    """A network of ours: its sizes off the shapes, and built from its sizes without memory."""

    def __init__(
        self,
        part: Part,
        config: Callable[[Shapes], Config],
        build: Callable[[Config], Network],
    ):
        self.part = part
        self._config: Callable[[Shapes], Any] = config
        self._build: Callable[[Any], Network] = build

    def config(self, shapes: Shapes) -> Any:
        """The sizes.

        Raises:
            WeightsError: the shapes fit no such network.
        """
        return self._config(shapes)

    def empty(self, config: Any) -> Network:
        """The network on the meta device."""
        with _Nowhere():
            return self._build(config)


class _Nowhere(TorchFunctionMode):
    """New parameters are on the meta device, and nothing fills them. One mode in place of
    `torch.device("meta")` and another: each costs every call some microseconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return (kwargs or {}).get("tensor", args[0] if args else None)
        if func in _MADE:
            return func(*args, **{**(kwargs or {}), "device": "meta"})
        return func(*args, **(kwargs or {}))


DIT = Kind("dit", dit_config, AsymmDiT)
DECODER = Kind("decoder", decoder_config, Decoder)
ENCODER = Kind("encoder", encoder_config, Encoder)
KINDS: Mapping[Part, Kind[Any]] = {"dit": DIT, "decoder": DECODER, "encoder": ENCODER}


def config_of(part: Part, shapes: Shapes) -> Any:
    """The sizes of a part whose tensors have these shapes, by our names.

    Raises:
        WeightsError: they fit no such network.
    """
    try:
        return t5_size(shapes) if part == "t5" else KINDS[part].config(shapes)
    except WeightsError as error:
        raise WeightsError(f"fits no {ARTICLES[part].split(' ', 1)[1]}: {error}") from None


def expected_shapes(part: Part, config: Any) -> Shapes:
    """Names and shapes of all tensors of a part of these sizes."""
    if isinstance(config, T5Size):
        return t5_shapes(config)
    return shapes_of(KINDS[part].empty(config))


def shapes_of(network: nn.Module) -> Shapes:
    """Names and shapes of a network's tensors."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
