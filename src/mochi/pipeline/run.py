"""One run: a checked request becomes latents and then frames, stage by stage."""

# Shapes: B batch, C channels, T frames, H W pixels.

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mochi.core.economy import StepCache
from mochi.core.errors import RequestError
from mochi.core.events import FramesDone
from mochi.core.latents import MOCHI_STATS, DitLatent
from mochi.core.request import GenerateRequest
from mochi.pipeline.budget import Budget
from mochi.pipeline.job import Job
from mochi.pipeline.latents import StoredLatents
from mochi.pipeline.parts import Parts
from mochi.pipeline.preview import checked_uint8
from mochi.pipeline.prompts import Conditioning, Prompts
from mochi.pipeline.recovery import Recovery
from mochi.pipeline.share import Alone, Share
from mochi.pipeline.speed import tune
from mochi.pipeline.watch import Watch
from mochi.sampling.economy import every_nth_linear, step_cache
from mochi.sampling.guidance import Wrap
from mochi.sampling.loop import sample
from mochi.sampling.noise import draw_noise
from mochi.sampling.schedule import linear_quadratic, starting_at
from mochi.text.features import TextFeatures

TakeFrames = Callable[[np.ndarray], None]
"""Receives frames as they are decoded, uint8 `(n, H, W, 3)`."""


@dataclass(frozen=True)
class Inputs:
    """What may stand in for a stage, or wrap it.

    Attributes:
        embeddings: text features in place of the prompts: row 0 the prompt, row 1, if there is
            one, the negative prompt.
        latents: in place of noise. Finished ones (sigma 0) are only decoded.
        preview: whether steps bring a picture.
        wrap: takes the guided velocity and gives the one to use.
    """

    embeddings: TextFeatures | None = None
    latents: StoredLatents | None = None
    preview: bool = False
    wrap: Wrap | None = None

    def hashes(self) -> dict[str, str]:
        """SHA-256 of what stood in for a stage, by name: without it a request is not repeated."""
        found = {}
        if self.embeddings is not None:
            found["embeddings"] = _hash(self.embeddings.features, self.embeddings.mask)
        if self.latents is not None:
            found["latents"] = _hash(self.latents.latent.tensor)
        return found


@dataclass(frozen=True)
class Schedule:
    """Noise levels of the steps to take, and the guidance of each step."""

    sigmas: Sequence[float]
    guidance: float | Sequence[float]

    @classmethod
    def of(cls, request: GenerateRequest, start: float = 1.0) -> Schedule:
        """The part of a request's schedule that is left at noise level `start`.

        Raises:
            RequestError: steps, threshold and linear steps make no schedule.
        """
        sigmas = linear_quadratic(request.steps, request.threshold, request.linear_steps)
        if start <= 0.0:
            return cls([], [])
        sigmas = starting_at(sigmas, start)
        guidance = request.guidance
        if isinstance(guidance, tuple):
            guidance = guidance[len(guidance) - (len(sigmas) - 1) :]
        return cls(sigmas, guidance)

    def linear_left(self, request: GenerateRequest) -> int:
        """How many of these steps belong to the request's linear part."""
        linear = request.steps // 2 if request.linear_steps is None else request.linear_steps
        return max(0, linear - (request.steps - (len(self.sigmas) - 1)))


class Run:
    """The stages of one request. `prepare` refuses what cannot work before anything is loaded."""

    def __init__(
        self,
        parts: Parts,
        prompts: Prompts,
        budget: Budget,
        request: GenerateRequest,
        inputs: Inputs,
        watch: Watch,
        share: Share | None = None,
    ):
        self.parts, self.prompts, self.budget = parts, prompts, budget
        self.request, self.inputs, self.watch = request, inputs, watch
        self.share: Share = share or Alone()
        self.schedule = Schedule.of(request, inputs.latents.sigma if inputs.latents else 1.0)
        self.recovery = Recovery(parts, watch, used=not self.share.second_chance)
        self._frames_taken = 0

    def prepare(self) -> None:
        """Check inputs against the model, and the request against the memory.

        Raises:
            RequestError: embeddings or latents do not go with the model or the request.
            DoesNotFitError: not enough memory.
            WeightsError: a file of the model is unusable.
        """
        config = self.parts.blueprint("dit").config
        if self.inputs.latents is not None:
            self.inputs.latents.checked(self.request, config.latent_channels)
        if self.inputs.embeddings is not None:
            _check_embeddings(self.inputs.embeddings, config.text_features)
        self.share.arrange(self.budget, self.job, self.parts, self.watch.notice)

    @property
    def job(self) -> Job:
        """What there is to plan for."""
        request, given = self.request, self.inputs.embeddings
        steps = max(0, len(self.schedule.sigmas) - 1)
        pair = [self._tokens(request.prompt, 0), self._tokens(request.negative_prompt, 1)]
        scales = self.schedule.guidance
        single = scales == 1.0 or (isinstance(scales, Sequence) and set(scales) == {1.0})
        unread = [pair[0]] if given is None else []
        if request.negative_prompt and (given is None or len(given) == 1):
            unread.append(pair[1])
        return Job(request.size, steps, tuple(pair[:1] if single else pair), tuple(unread))

    def read_prompts(self) -> Conditioning:
        """Prompts to text features; the text encoder is gone afterwards, if it is not to stay."""
        return self.recovery.attempt("text", ("denoise", "decode"), self._read_prompts)

    def denoise(self, text: Conditioning) -> StoredLatents:
        """Noise, or the given latents, to finished latents."""
        if not self.schedule.sigmas:
            with self.watch.phase("load"):
                if self.share.decodes:
                    self.parts.decoder()
            return StoredLatents(DitLatent(self._start()))
        return self.recovery.attempt("denoise", ("decode",), lambda: self._denoise(text))

    def decode(self, latents: StoredLatents, take: TakeFrames) -> None:
        """Finished latents to frames, handed on as they come."""
        self.recovery.attempt("decode", (), lambda: self._decode(latents, take))

    def _read_prompts(self) -> Conditioning:
        with self.watch.phase("text"):
            return self.share.conditioning(self._conditioning)

    def _conditioning(self) -> Conditioning:
        given = self.inputs.embeddings
        if given is None:
            return self.prompts.conditioning(self.request)
        return self.prompts.completed(given, self.request.negative_prompt)

    def _load(self) -> None:
        """Bring the transformer into memory, and look at the decoder before the long part."""
        with self.watch.phase("load"):
            if self.share.decodes:
                self.parts.decoder()
                self.parts.done_with("decoder")
            self.parts.dit()

    def _denoise(self, text: Conditioning) -> StoredLatents:
        picture = self.parts.picture() if self.inputs.preview else None
        self._load()
        start = self._start()
        device = self.parts.device
        positive, negative = text.positive.to(device), text.negative.to(device)
        dit, cache = self.parts.dit(), StepCache.parse(self.request.step_cache)
        tune(dit, self.parts.speed, self.request.size.latent.tokens, self.watch.notice)
        network, agree = self.share.network(dit)
        total = len(self.schedule.sigmas) - 1
        with self.watch.phase("denoise", total=total), step_cache(dit, cache, agree) as count:
            z = sample(
                network,
                start.to(device),
                positive.features,
                positive.mask,
                negative.features,
                negative.mask,
                self.schedule.sigmas,
                self.schedule.guidance,
                solver=self.request.solver,
                on_step=self.watch.on_event,
                cancel=self.watch.cancel,
                preview=picture,
                wrap=self._wrap,
            )
        if cache is not None:
            self.watch.notice(
                f"step cache {cache}: {count.spared} passes cut short, {count.computed} whole"
            )
        self.parts.done_with("dit")
        return StoredLatents(DitLatent(z.cpu()))

    @property
    def _wrap(self) -> Wrap | None:
        """The caller's wrap, inside which steps may be left out."""
        every, outer = self.request.linear_every, self.inputs.wrap
        if every == 1:
            return outer
        inner = every_nth_linear(every, self.schedule.linear_left(self.request))
        return inner if outer is None else lambda velocity: outer(inner(velocity))

    def _decode(self, latents: StoredLatents, take: TakeFrames) -> None:
        self._make_room_to_decode()
        total, seen = self.request.frames, 0
        with self.watch.phase("decode", total=total), torch.no_grad():
            z = MOCHI_STATS.denormalize(latents.latent).tensor.to(self.parts.device)
            for pixels in self.share.pixels(self.parts.decoder, z):
                self.watch.cancel.check()
                frames = to_frames(pixels)
                new = frames[max(0, self._frames_taken - seen) :]  # a second attempt starts over
                seen += len(frames)
                if len(new):
                    take(new)
                    self._frames_taken = seen
                    self.watch.on_event(FramesDone(seen, total))
        self.parts.done_with("decoder")

    def _tokens(self, prompt: str, row: int) -> int:
        """Tokens of a prompt; as many as there may be where nobody has counted them."""
        given = self.inputs.embeddings
        if given is not None and row < len(given):
            return int(given.mask[row].sum())
        known = self.prompts.tokens_known(prompt)
        return self.parts.blueprint("dit").config.text_tokens if known is None else known

    def _start(self) -> Tensor:
        if self.inputs.latents is not None:
            return self.inputs.latents.latent.tensor
        channels = self.parts.blueprint("dit").config.latent_channels
        return draw_noise(self.request.size.latent.shape(1, channels), self.request.seed)

    def _make_room_to_decode(self) -> None:
        """The transformer's work is done: where it stands in the decoder's way, it goes."""
        if self.parts.is_loaded("dit") and not self.budget.decodes_beside(self.request.size):
            self.parts.release("dit")


def to_frames(pixels_BCTHW: Tensor) -> np.ndarray:
    """Decoded pixels of one video, `(1, 3, n, H, W)`, uint8 or in about [-1, 1], to uint8
    `(n, H, W, 3)`.

    Raises:
        SamplingError: a pixel is NaN or infinite.
    """
    done = pixels_BCTHW.dtype is torch.uint8
    pixels = pixels_BCTHW if done else checked_uint8(pixels_BCTHW)
    frames: np.ndarray = pixels[0].permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return frames


def _hash(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_embeddings(embeddings: TextFeatures, features: int) -> None:
    shape = tuple(embeddings.features.shape)
    if len(shape) != 3 or shape[0] not in (1, 2) or shape[2] != features:
        raise RequestError(
            "embeddings", shape, "are not one or two rows of text features", f"(2, 256, {features})"
        )
