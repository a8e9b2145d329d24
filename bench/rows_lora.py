"""Rows of adapters: what a live and a merged one cost in a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pairs import Effort, Here, Row, alternate

RANK = 16


def rows() -> Sequence[Row]:
    """The rows."""
    return [
        Row(
            name=f"lora-{device}",
            what="a step with a rank-16 adapter of all attention layers: without, live, merged",
            against="the same network without it",
            reach="live within 10 %, merged within 3 % of none",
            measure=_measure,
            device=device,
        )
        for device in ("cpu", "cuda")
    ]


def _measure(effort: Effort) -> Mapping[str, Any]:
    import torch

    from mochi.model.adapters import Adapters, Factors, linear_layers

    dit, inputs = _network(effort)
    copies = {"none": dit, "live": _copy(dit), "merged": _copy(dit)}
    rng = torch.Generator().manual_seed(1)
    factors = {}
    for name, layer in linear_layers(dit):
        if ".attn." in name:
            a = torch.randn(RANK, layer.in_features, generator=rng) / layer.in_features**0.5
            b = torch.randn(layer.out_features, RANK, generator=rng) / RANK
            factors[name] = [Factors(a, b)]
    for mode in ("live", "merged"):
        Adapters(copies[mode]).add("it", factors, merged=mode == "merged")

    def side(network: Any) -> Callable[[], object]:
        def step() -> None:
            with torch.no_grad():
                network(*inputs)

        return step

    sides = {name: Here(side(copy), effort.device) for name, copy in copies.items()}
    found = alternate(sides, effort.repeats)
    with torch.no_grad():
        bare, live, merged = (copies[name](*inputs) for name in ("none", "live", "merged"))
    difference = float((live - merged).norm() / live.norm())
    change = float((live - bare).norm() / bare.norm())
    slower = {name: found["ratio"][name]["median"] for name in ("live", "merged")}
    reached = slower["live"] <= 1.10 and slower["merged"] <= 1.03
    more = {"live_from_merged": difference, "change": change, "config": str(dit.config)}
    return {**found, **more, "reached": reached}


def _network(effort: Effort) -> tuple[Any, tuple[Any, ...]]:
    """Two blocks: of a quarter of the published width on a CPU, of all of it on a GPU."""
    import torch

    from mochi.core.config import DiTConfig
    from mochi.model.dit import AsymmDiT

    on_gpu = effort.device.startswith("cuda")
    heads = 24 if on_gpu else 6
    dtype = torch.bfloat16 if on_gpu else torch.float32
    size = (1, 12, 28, 60, 106) if on_gpu else (1, 12, 1, 30, 52)
    size = (1, 12, 1, 4, 4) if effort.tiny else size
    widths = {"visual_width": 128 * heads, "text_width": 64 * heads, "text_features": 4096}
    with torch.device("meta"):
        dit = AsymmDiT(DiTConfig(depth=2, heads=heads, head_dim=128, **widths))
    dit = dit.to_empty(device=effort.device).eval().requires_grad_(False)
    rng = torch.Generator(effort.device).manual_seed(0)
    for name, parameter in dit.named_parameters():
        parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=rng)
        if name != "pos_frequencies":
            parameter.data = parameter.data.to(dtype)
    z = torch.randn(size, device=effort.device, generator=rng)
    text = torch.randn(1, 64, 4096, device=effort.device, generator=rng)
    mask = torch.ones(1, 64, dtype=torch.bool, device=effort.device)
    return dit, (z, torch.tensor([0.5], device=effort.device), text, mask)


def _copy(dit: Any) -> Any:
    """A network of its own on the same weights."""
    import torch

    from mochi.model.dit import AsymmDiT

    with torch.device("meta"):
        other = AsymmDiT(dit.config)
    other.load_state_dict(dit.state_dict(), assign=True)
    return other.eval().requires_grad_(False)
