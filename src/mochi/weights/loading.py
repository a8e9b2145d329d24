"""Networks from checkpoints: sizes off the shapes, weights out of the map, nothing copied twice.

A network is built without memory (on the meta device) and its parameters are then replaced by
tensors of the mapped file. Copies are made only where a value changes: another dtype, another
device, or tensors that a layout keeps in pieces. Quantised weights of linear layers stay as they
are stored, in layers that decode them while they compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from mochi.core.errors import WeightsError
from mochi.model.decoder import Decoder
from mochi.model.dit import AsymmDiT
from mochi.model.encoder import Encoder
from mochi.model.layers import Linear
from mochi.model.stored import FLOAT8, StoredLinear, StoredWeight
from mochi.weights.checkpoint import PartView, Source
from mochi.weights.finite import count_non_finite, fills_float8, refuse_lost_scales
from mochi.weights.folder import open_part
from mochi.weights.names import Part
from mochi.weights.networks import DECODER, DIT, ENCODER, Kind, shapes_of
from mochi.weights.report import LoadReport
from mochi.weights.stored import FLOATS

Network = TypeVar("Network", bound=nn.Module)

ALWAYS_FLOAT32 = frozenset({"pos_frequencies"})  # SPEC 2: bf16 could not tell positions apart
_WEIGHTS = frozenset((*FLOATS, *FLOAT8))
STAYS_SMALL: frozenset[Part] = frozenset({"dit", "t5"})
"""Parts whose quantised weights are kept as they are; those of a VAE would save little."""


def load_dit(
    source: Source,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    check_finite: bool = True,
    dequantize: bool = False,
) -> AsymmDiT:
    """The AsymmDiT in a checkpoint (SPEC 2), of whatever size and layout.

    Args:
        source: a file (safetensors, GGUF, PyTorch), all shards of one, their index, or a model
            folder.
        device: where the weights go; on the CPU they stay in the mapped file, and for `meta` they
            are not read.
        dtype: cast to this; None keeps what is stored, and lets a network with quantised weights
            compute in float32. `pos_frequencies` is always float32.
        check_finite: read all weights once and refuse NaN and infinity.
        dequantize: decode quantised weights now, for more speed and the memory of dense ones;
            otherwise they stay small and are decoded whenever a layer computes. Both give the
            same numbers.

    Raises:
        WeightsError: unreadable, no DiT, missing or foreign tensors, wrong shapes, NaN.
    """
    return _load(DIT, source, device, dtype, check_finite, dequantize)


def load_decoder(
    source: Source,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    check_finite: bool = True,
) -> Decoder:
    """The VAE decoder in a checkpoint (SPEC 4), always dense; else as `load_dit`."""
    return _load(DECODER, source, device, dtype, check_finite)


def load_encoder(
    source: Source,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    check_finite: bool = True,
) -> Encoder:
    """The VAE encoder in a checkpoint (SPEC 4), always dense; else as `load_dit`."""
    return _load(ENCODER, source, device, dtype, check_finite)


def check(part: Part, source: Source) -> LoadReport:
    """Names and shapes of a checkpoint against its network, without reading the weights.

    Raises:
        WeightsError: a file cannot be used at all, or nothing in it looks like this part.
    """
    return open_part(part, source).report


# ------------------------------------------------------------------------------------------- steps


def _load(
    kind: Kind[Network],
    source: Source,
    device: torch.device | str,
    dtype: torch.dtype | None,
    check_finite: bool,
    dequantize: bool = False,
) -> Network:
    view = open_part(kind.part, source)
    network = kind.empty(view.config)
    expected = shapes_of(network)
    view.check(expected)
    reader = WeightReader(view, device, check_finite)
    chosen = dtype or (torch.float32 if view.is_quantised else None)
    state = {}
    for name in expected:  # one after the other: pieces of one are put together here
        weight = reader.read(name)
        small = weight.is_small and not dequantize and kind.part in STAYS_SMALL
        if small and keep_small(network, name, weight, device, chosen or torch.float32):
            continue
        state[name] = tensor = placed(name, weight.dense(), device, chosen)
        if not (tensor is weight.data or tensor.is_meta or _share(tensor, weight.data)):
            view.read(name).forget()
    reader.finish()
    assign(network, state)
    return network


def _share(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def assign(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Make tensors a network's parameters, names and shapes having been compared before.

    `load_state_dict` would ask every layer for each of them once more, a sixth of the time that
    loading takes; and it would have to be told that layers with stored weights lack theirs.
    """
    layers = dict(network.named_modules())
    for name, tensor in state.items():
        path, _, last = name.rpartition(".")
        layer = layers[path]
        trains = getattr(layer, last).requires_grad
        layer.register_parameter(last, nn.Parameter(tensor, requires_grad=trains))


class WeightReader:
    """Reads the weights of a part, and refuses those that no network can compute with."""

    def __init__(self, view: PartView, device: torch.device | str, check_finite: bool):
        self._view = view
        self._meta = torch.device(device).type == "meta"
        self._check = check_finite and not self._meta
        self._matrices = self._filled = 0

    def read(self, name: str) -> StoredWeight:
        """One weight by our name.

        Raises:
            WeightsError: it is of a type that is no weight, or not finite.
        """
        stored = self._view.read(name)
        weight = stored.load(self._meta)
        if weight.data.dtype not in _WEIGHTS and weight.codec is None:
            raise WeightsError(
                f"stores {name} as {weight.kind}; only floats and known quantisations load",
                self._view.label,
            )
        if self._check:
            self._look_at(name, weight)
        return weight

    def finish(self) -> None:
        """To be called after the last weight.

        Raises:
            WeightsError: taken together they are noise: scales were lost.
        """
        refuse_lost_scales(self._filled, self._matrices, self._view.label)

    def _look_at(self, name: str, weight: StoredWeight) -> None:
        bad = count_non_finite(weight)
        if bad:
            count = weight.data.numel()
            raise WeightsError(
                f"holds NaN or infinity: {bad} of {count} values of {name}", self._view.label
            )
        if weight.data.dtype in FLOAT8 and weight.scale is None and len(weight.shape) > 1:
            self._matrices += 1
            self._filled += fills_float8(weight)


def keep_small(
    network: nn.Module,
    name: str,
    weight: StoredWeight,
    device: torch.device | str,
    compute_dtype: torch.dtype,
) -> bool:
    """Put a layer that computes from the stored weight in the place of a linear one, if it is."""
    path, _, last = name.rpartition(".")
    layer = network.get_submodule(path)
    if last != "weight" or not isinstance(layer, Linear):
        return False
    small = StoredLinear(weight.moved(lambda t: t.to(device)), layer.bias, compute_dtype)
    network.set_submodule(path, small)
    return True


def placed(
    name: str, tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None
) -> Tensor:
    """A dense weight where it is wanted, and in the dtype; the rotary frequencies in float32."""
    if name in ALWAYS_FLOAT32:
        dtype = torch.float32
    return tensor.to(device=device, dtype=dtype or tensor.dtype)
