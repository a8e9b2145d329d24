"""From the name of a model to a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mochi.core.events import Notice, OnEvent, ignore
from mochi.core.speed import Speed
from mochi.memory.modes import AUTO, Mode, check_mode
from mochi.model.products import check_products
from mochi.parallel.choice import AUTO as AUTO_SCHEME
from mochi.pipeline.defaults import read_card
from mochi.pipeline.devices import pick_device, pick_devices, pick_dtype, slow_dtype_note
from mochi.pipeline.given import PartNames
from mochi.pipeline.lora_spec import LoraGiven, checked_mode, lora_spec
from mochi.pipeline.models import Hub, find_model
from mochi.pipeline.parallel import ParallelPipeline
from mochi.pipeline.parts import Precision
from mochi.pipeline.pipeline import Pipeline
from mochi.pipeline.places import NANO
from mochi.pipeline.team import Layout
from mochi.weights.folder import ModelFiles, open_part


@dataclass(frozen=True)
class Sharing:
    """That several devices share each video: where they are, how they share it, and whether each
    keeps only a part of the transformer's weights."""

    layout: Layout
    parallel: str = AUTO_SCHEME
    shard: bool = False


def load(
    model: str | Path | None = None,
    *,
    dit: str | Path | None = None,
    vae: str | Path | None = None,
    text_encoder: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    dequantize: bool = False,
    products: str = "exact",
    text_dtype: str = "float32",
    memory: str = AUTO,
    speed: Speed | None = None,
    loras: Sequence[LoraGiven] = (),
    lora_mode: str = "live",
    devices: int = 1,
    parallel: str = AUTO_SCHEME,
    shard: bool = False,
    layout: Layout | None = None,
    hub: Hub | None = None,
    on_event: OnEvent = ignore,
) -> Pipeline:
    """A model, ready to generate. Its weights are read when a stage first needs them.

    Args:
        model: `nano` (also when nothing is said); a folder with original, diffusers or ComfyUI
            files; one file: a transformer (what it lacks is looked for beside it), an all-in-one, a
            .gguf; or a name on the hub, `owner/name` or `owner/name/FILE`, which is fetched where
            it is not on this machine yet.
        dit, vae, text_encoder, tokenizer: these parts from elsewhere: files, folders or names on
            the hub. With `dit` alone, the others are looked for beside it.
        device: `auto`, or one of `mochi.pipeline.devices.present_devices()`.
        dtype: of the networks: `auto` (see `mochi.pipeline.devices.pick_dtype`), `float32` or
            `bfloat16`.
        dequantize: decode quantised weights when they are loaded: faster, and as large as plain
            ones. Otherwise they stay as small as they are stored; both give the same numbers.
        products: `exact`, or how the blocks of the transformer multiply in 8 bits: `int8`, `fp8`;
            lossy, see `docs/speed.md`.
        text_dtype: of the text encoder: `float32` (the published recipe), `bfloat16`.
        memory: how much of the model is in memory at once: `high`, `balanced`, `low`, `minimal`, or
            `auto`, which is as fast as the memory that is free allows.
        speed: which fast paths are taken; None takes all that this machine gains from. Every choice
            gives the same video within rounding.
        loras: adapters to put on: files, folders or names on the hub, each alone or with a scale,
            as `("style.safetensors", 0.8)` or `"style.safetensors:0.8"`.
        lora_mode: `live` or `merged`, see `Pipeline.add_lora`.
        devices: how many devices share each video: the first GPUs, or with `device="cpu"` that many
            processes. The frames are those of one device; see `docs/parallel.md`.
        parallel: how they share it: `auto`, or as `guidance=2,ulysses=4,ring=1`.
        shard: each device keeps only a part of the transformer's weights, as they are stored, and
            gets those of a block from the others for its turn.
        layout: where the ranks are, when not all on this machine.
        hub: where to fetch from, when not from the public hub.
        on_event: told about a download, and what was found where.

    Raises:
        RequestError: no such model, device, dtype or adapter; lists those there are.
        WeightsError: the folder holds no whole model, or an adapter does not fit it.
        DownloadError: the hub does not deliver.
    """
    if layout is None and devices != 1:
        layout = Layout.here(pick_devices(device, devices))
    if layout is None:
        place = pick_device(device)
    else:
        place = torch.device(next(iter(layout.devices.values())))
    text = pick_dtype("text_dtype", text_dtype, place) or torch.float32
    pick_dtype("dtype", dtype, place)  # an unknown one is refused before a model is fetched
    check_products(products, place)
    mode = check_mode(memory)
    specs, worn = [lora_spec(given) for given in loras], checked_mode(lora_mode)
    parts = PartNames.of(dit=dit, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer)
    files = find_model(None if model is None else str(model), hub, on_event, parts)
    name = str(model or dit or NANO)
    sharing = None if layout is None else Sharing(layout, parallel, shard)
    pipe = open_model(
        files,
        name,
        place,
        dtype,
        text,
        mode,
        dequantize=dequantize,
        products=products,
        sharing=sharing,
        on_event=on_event,
    )
    pipe.parts.speed = speed or Speed()
    for spec in specs:
        pipe.add_lora(spec.source, spec.scale, mode=spec.mode or worn, hub=hub, on_event=on_event)
    return pipe


def open_model(
    files: ModelFiles,
    name: str,
    device: torch.device,
    dtype: str = "auto",
    text_dtype: torch.dtype = torch.float32,
    memory: Mode | None = None,
    *,
    dequantize: bool = False,
    products: str = "exact",
    sharing: Sharing | None = None,
    on_event: OnEvent = ignore,
) -> Pipeline:
    """A pipeline on files that were found; `auto` is the dtype of the model's card, if it has one.

    Raises:
        WeightsError: the card is wrong.
        RequestError: there is no such dtype; devices cannot share the model in this way.
    """
    card = read_card(files.card)
    chosen = card.dtype if dtype == "auto" else dtype
    dit = open_part("dit", files.dit)
    networks = pick_dtype("dtype", chosen, device, dit.nbytes, dit.main_kind)
    if chosen != "float32" and (note := slow_dtype_note(networks, device, dit.main_kind)):
        on_event(Notice(note))
    precision = Precision(networks, text_dtype, dequantize, products)
    if sharing is None:
        return Pipeline(files, card, name=name, device=device, precision=precision, memory=memory)
    return ParallelPipeline(
        files,
        card,
        name=name,
        layout=sharing.layout,
        precision=precision,
        memory=memory,
        parallel=sharing.parallel,
        shard=sharing.shard,
    )
