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
from mochi.memory.modes import Mode
from mochi.memory.plan import Plan
from mochi.pipeline.adapted import Adapted
from mochi.pipeline.budget import Budget
from mochi.pipeline.clip import Clip, Rendered
from mochi.pipeline.defaults import ModelCard
from mochi.pipeline.job import Job
from mochi.pipeline.latents import StoredLatents
from mochi.pipeline.parts import Parts, Precision
from mochi.pipeline.prompts import Prompts
from mochi.pipeline.record import make_record
from mochi.pipeline.roundtrip import round_trip
from mochi.pipeline.run import Inputs, Run, TakeFrames
from mochi.pipeline.settings import make_request
from mochi.pipeline.share import Alone, Share
from mochi.pipeline.watch import Watch
from mochi.sampling.guidance import Wrap
from mochi.text.features import TextFeatures
from mochi.video.writer import open_writer
from mochi.weights.folder import ModelFiles

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


class Pipeline(Adapted):
    """One model on one device. Not thread safe: one run at a time.

    Attributes:
        name: what it was loaded as.
        files: where its weights are.
        card: its name, licence and default settings.
        budget: what runs take, and what there is.
        parts: its networks, loaded or not.
        share: what this process does of a run.
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
        self.share: Share = Alone()
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
        facts = self.finish_run(self.prepare_run(request, inputs, watch), chunks.append)
        nothing = np.zeros((0, request.height, request.width, 3), np.uint8)
        return Clip(frames=np.concatenate([nothing, *chunks]), **facts)

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
        run = self.prepare_run(request, Inputs(embeddings, latents, preview, wrap), watch)
        size, record = (request.height, request.width), self._record(run)
        with ExitStack() as output:
            writer = output.enter_context(
                open_writer(path, request.fps, size, record, overwrite=overwrite)
            )
            facts = self.finish_run(run, writer.write)
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
        self.read_ahead(prompts)

    def read_ahead(self, prompts: Sequence[str]) -> None:
        """Encode prompts, with the networks held as they are."""
        self._prompts.encode(prompts)

    def token_count(self, prompt: str) -> int:
        """Tokens of a prompt, `</s>` included; those beyond 256 are cut off."""
        return self._prompts.token_count(prompt)

    def _job(self, prompt: str | GenerateRequest, settings: RequestSettings) -> Job:
        request = self.request(prompt, **settings)
        return Run(self.parts, self._prompts, self.budget, request, Inputs(), Watch()).job

    def prepare_run(self, request: GenerateRequest, inputs: Inputs, watch: Watch) -> Run:
        """A run that can work; raises as `generate` where it cannot."""
        run = Run(self.parts, self._prompts, self.budget, request, inputs, watch, self.share)
        run.prepare()
        return run

    def finish_run(self, run: Run, take: TakeFrames) -> dict[str, Any]:
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
        dtype, precision = self.parts.blueprint("dit").dtype, self.parts.precision
        return make_record(
            run.request,
            model_hash=self.model_hash,
            device=self.device.type,
            dtype=str(dtype).removeprefix("torch.")
            + ("" if precision.exact else f"+{precision.products}"),
            loras=self.parts.loras.record(),
            **run.inputs.hashes(),
        )
