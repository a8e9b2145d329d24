"""The Python API: a model from a name, a video from a prompt.

```python
pipe = mochi.load("nano")
clip = pipe.generate("a red circle moves left on a black background", seed=0)
```
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import torch

from mochi.core.errors import DoesNotFitError, RequestError
from mochi.core.events import CancelToken, OnEvent, ignore
from mochi.core.request import GenerateRequest
from mochi.core.sizes import VideoSize
from mochi.core.speed import Speed
from mochi.memory.modes import AUTO, Mode, check_mode
from mochi.memory.plan import Plan
from mochi.pipeline.adapted import Adapted
from mochi.pipeline.budget import Budget
from mochi.pipeline.clip import Clip, Rendered
from mochi.pipeline.defaults import ModelCard, read_card
from mochi.pipeline.devices import pick_device, pick_dtype
from mochi.pipeline.given import PartNames
from mochi.pipeline.job import Job
from mochi.pipeline.latents import StoredLatents
from mochi.pipeline.lora_spec import LoraGiven, checked_mode, lora_spec
from mochi.pipeline.models import Hub, find_model
from mochi.pipeline.parts import Parts, Precision
from mochi.pipeline.places import NANO
from mochi.pipeline.prompts import Prompts
from mochi.pipeline.record import make_record
from mochi.pipeline.roundtrip import round_trip
from mochi.pipeline.run import Inputs, Run, TakeFrames
from mochi.pipeline.settings import make_request
from mochi.pipeline.watch import Watch
from mochi.sampling.guidance import Wrap
from mochi.text.features import TextFeatures
from mochi.video.writer import open_writer
from mochi.weights.folder import ModelFiles, open_part

_RANDOM_SEEDS = 2**32


class RequestSettings(TypedDict, total=False):
    """What may be said about a video besides its prompt; None, or nothing, means "not said".

    Fields, units and rules are those of `GenerateRequest`. `like` is the request of another
    video, as `to_dict` gives it; explicit fields go before `preset`, that before `like`, and that
    before the model's defaults.
    """

    negative_prompt: str | None
    frames: int | None
    height: int | None
    width: int | None
    fps: int | None
    steps: int | None
    guidance: float | Sequence[float] | None
    seed: int | None
    solver: str | None
    threshold: float | None
    linear_steps: int | None
    step_cache: str | None
    linear_every: int | None
    preset: str | None
    like: Mapping[str, Any] | None


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
    int8: bool = False,
    text_dtype: str = "float32",
    memory: str = AUTO,
    speed: Speed | None = None,
    loras: Sequence[LoraGiven] = (),
    lora_mode: str = "live",
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
        int8: multiply in 8-bit integers in the blocks of the transformer: lossy, see
            `docs/speed.md`.
        text_dtype: of the text encoder: `float32` (the published recipe), `bfloat16`.
        memory: how much of the model is in memory at once: `high`, `balanced`, `low`, `minimal`, or
            `auto`, which is as fast as the memory that is free allows.
        speed: which fast paths are taken; None takes all that this machine gains from. Every choice
            gives the same video within rounding.
        loras: adapters to put on: files, folders or names on the hub, each alone or with a scale,
            as `("style.safetensors", 0.8)` or `"style.safetensors:0.8"`.
        lora_mode: `live` or `merged`, see `Pipeline.add_lora`.
        hub: where to fetch from, when not from the public hub.
        on_event: told about a download, and what was found where.

    Raises:
        RequestError: no such model, device, dtype or adapter; lists those there are.
        WeightsError: the folder holds no whole model, or an adapter does not fit it.
        DownloadError: the hub does not deliver.
    """
    place = pick_device(device)
    text = pick_dtype("text_dtype", text_dtype, place) or torch.float32
    pick_dtype("dtype", dtype, place)  # an unknown one is refused before a model is fetched
    mode = check_mode(memory)
    specs, worn = [lora_spec(given) for given in loras], checked_mode(lora_mode)
    parts = PartNames.of(dit=dit, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer)
    files = find_model(None if model is None else str(model), hub, on_event, parts)
    name = str(model or dit or NANO)
    pipe = open_model(files, name, place, dtype, text, mode, dequantize=dequantize, int8=int8)
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
    int8: bool = False,
) -> Pipeline:
    """A pipeline on files that were found; `auto` is the dtype of the model's card, if it has one.

    Raises:
        WeightsError: the card is wrong.
        RequestError: there is no such dtype.
    """
    card = read_card(files.card)
    chosen = card.dtype if dtype == "auto" else dtype
    dit = open_part("dit", files.dit)
    networks = pick_dtype("dtype", chosen, device, dit.nbytes, dit.main_kind)
    return Pipeline(
        files,
        card,
        name=name,
        device=device,
        precision=Precision(networks, text_dtype, dequantize, int8),
        memory=memory,
    )


class Pipeline(Adapted):
    """One model on one device. Not thread safe: one run at a time.

    Attributes:
        name: what it was loaded as.
        files: where its weights are.
        card: its name, licence and default settings.
        budget: what runs take, and what there is.
        parts: its networks, loaded or not.
    """

    def __init__(
        self,
        files: ModelFiles,
        card: ModelCard,
        *,
        name: str,
        device: torch.device,
        precision: Precision,
        memory: Mode | None = None,
    ):
        self.name = name
        self.files = files
        self.card = card
        self.parts = Parts(files, device, precision)
        self.budget = Budget(self.parts, memory)
        self._prompts = Prompts(self.parts)

    @property
    def device(self) -> torch.device:
        """Where the networks run."""
        return self.parts.device

    @cached_property
    def model_hash(self) -> str:
        """Tells this model's weights from others', 64 hexadecimal digits."""
        return self.files.fingerprint()

    def request(
        self, prompt: str | GenerateRequest, **settings: Unpack[RequestSettings]
    ) -> GenerateRequest:
        """The whole, checked request for a prompt; a seed that nobody said is drawn.

        Raises:
            RequestError: a setting is unknown or breaks its rule.
        """
        if isinstance(prompt, GenerateRequest):
            if settings:
                raise RequestError("settings", sorted(settings), "come with a finished request")
            return prompt
        explicit: dict[str, Any] = dict(settings)
        preset, like = explicit.pop("preset", None), explicit.pop("like", None)
        if explicit.get("seed") is None and "seed" not in (like or {}):
            explicit["seed"] = secrets.randbelow(_RANDOM_SEEDS)
        explicit |= {"prompt": prompt, "model": self.name}
        return make_request(explicit, defaults=self.card.settings, preset=preset, like=like)

    def generate(
        self,
        prompt: str | GenerateRequest,
        *,
        embeddings: TextFeatures | None = None,
        latents: StoredLatents | None = None,
        preview: bool = False,
        wrap: Wrap | None = None,
        on_event: OnEvent = ignore,
        cancel: CancelToken | None = None,
        **settings: Unpack[RequestSettings],
    ) -> Clip:
        """A video in memory.

        Args:
            prompt: what it shows; or a request, from `request`, with all its settings.
            embeddings: text features in place of the prompts.
            latents: in place of noise; finished ones are only decoded.
            preview: let each `StepDone` bring a picture of the video as it stands.
            wrap: takes the guided velocity and gives the one to use.
            on_event: hears about phases, steps and frames.
            cancel: stops the run within a step.
            settings: see `RequestSettings`.

        Raises:
            RequestError: the request breaks a rule; nothing was loaded.
            DoesNotFitError: not enough memory; says what would fit.
            WeightsError: a file of the model is missing or unusable.
            SamplingError: the networks left the numbers.
            Cancelled: somebody asked.
        """
        request = self.request(prompt, **settings)
        watch = Watch(on_event, cancel or CancelToken())
        inputs = Inputs(embeddings, latents, preview, wrap)
        chunks: list[np.ndarray] = []
        facts = self._run(self._prepared(request, inputs, watch), chunks.append)
        return Clip(frames=np.concatenate(chunks), **facts)

    def generate_to(
        self,
        path: str | Path,
        prompt: str | GenerateRequest,
        *,
        overwrite: bool = False,
        embeddings: TextFeatures | None = None,
        latents: StoredLatents | None = None,
        preview: bool = False,
        wrap: Wrap | None = None,
        on_event: OnEvent = ignore,
        cancel: CancelToken | None = None,
        **settings: Unpack[RequestSettings],
    ) -> Rendered:
        """A video in a file, each frame written as it is decoded; as `generate` otherwise.

        Args:
            path: .mp4, .webm, .gif, or a folder for PNG frames.
            overwrite: replace what exists.

        Raises:
            OutputError: the file exists or cannot be written, known before anything is loaded; or
                the disk is full. No partial file stays, whatever is raised.
        """
        request = self.request(prompt, **settings)
        watch = Watch(on_event, cancel or CancelToken())
        run = self._prepared(request, Inputs(embeddings, latents, preview, wrap), watch)
        size, record = (request.height, request.width), self._record(run)
        with ExitStack() as output:
            writer = output.enter_context(
                open_writer(path, request.fps, size, record, overwrite=overwrite)
            )
            facts = self._run(run, writer.write)
            with watch.phase("write"):
                output.close()
        return Rendered(**facts)

    def reconstruct(
        self,
        frames: np.ndarray,
        take: TakeFrames,
        on_event: OnEvent = ignore,
        cancel: CancelToken | None = None,
    ) -> float:
        """Send frames through the VAE and back; returns the copy's PSNR in dB.

        Args:
            frames: uint8 `(T, H, W, 3)`; T is `6k + 1`, H and W multiples of 16.
            take: receives the copy's frames as they are decoded.
            on_event: hears about phases and frames.
            cancel: stops the run within a chunk.

        Raises:
            RequestError: the frames break a rule.
            DoesNotFitError: not enough memory.
            WeightsError: the model has no encoder, or an unusable file.
        """
        watch = Watch(on_event, cancel or CancelToken())
        return round_trip(self.parts, self.budget, frames, take, watch)

    def plan(self, prompt: str | GenerateRequest, **settings: Unpack[RequestSettings]) -> Plan:
        """How a video would be made: for each stage the mode, what it takes, and how long.

        Nothing is loaded, and nothing is refused: `Plan.fits` says whether it could be made.
        Times are there where `budget.rates` are.

        Raises:
            RequestError: a setting breaks its rule.
            WeightsError: a file of the model is missing or unusable.
        """
        return self.budget.sketch(self._job(prompt, settings), exact=True)

    def plans(
        self, prompt: str | GenerateRequest, **settings: Unpack[RequestSettings]
    ) -> dict[str, Plan]:
        """As `plan`, for `auto` and for each memory mode by its name."""
        return self.budget.compare(self._job(prompt, settings))

    def prepare_prompts(self, prompts: Sequence[str]) -> None:
        """Encode many prompts with one load of the text encoder, for the runs to come."""
        defaults = self.card.settings
        size = VideoSize(defaults.frames, defaults.height, defaults.width)
        self.budget.arrange(self.budget.sketch(Job(size, defaults.steps)))
        self._prompts.encode(prompts)

    def token_count(self, prompt: str) -> int:
        """Tokens of a prompt, `</s>` included; those beyond 256 are cut off."""
        return self._prompts.token_count(prompt)

    def _job(self, prompt: str | GenerateRequest, settings: RequestSettings) -> Job:
        request = self.request(prompt, **settings)
        return Run(self.parts, self._prompts, self.budget, request, Inputs(), Watch()).job

    def _prepared(self, request: GenerateRequest, inputs: Inputs, watch: Watch) -> Run:
        run = Run(self.parts, self._prompts, self.budget, request, inputs, watch)
        run.prepare()
        return run

    def _run(self, run: Run, take: TakeFrames) -> dict[str, Any]:
        """The stages in their order; returns the fields of `Rendered`."""
        text = run.read_prompts()
        latents = run.denoise(text)
        record = self._record(run)
        finished = StoredLatents(latents.latent, latents.sigma, record)
        try:
            run.decode(latents, take)
        except DoesNotFitError as error:
            error.latents = finished  # hours of work, perhaps
            raise
        return {
            "request": run.request,
            "record": record,
            "latents": finished,
            "embeddings": text.joined(),
            "prompt_tokens": text.positive.token_counts[0],
            "truncated": text.positive.truncated[0],
            "seconds": run.watch.seconds,
        }

    def _record(self, run: Run) -> dict[str, Any]:
        dtype = self.parts.blueprint("dit").dtype
        return make_record(
            run.request,
            model_hash=self.model_hash,
            device=self.device.type,
            dtype=str(dtype).removeprefix("torch.")
            + ("+int8" if self.parts.precision.int8 else ""),
            loras=self.parts.loras.record(),
            **run.inputs.hashes(),
        )
