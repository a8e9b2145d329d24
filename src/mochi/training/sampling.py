"""Videos in the middle of a training, and the base model's own videos to be learned along."""

# Shapes: B rows, C latent channels, T H W of the latent, N text tokens, F features of a token.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mochi.core.latents import DitLatent
from mochi.core.request import GenerateRequest
from mochi.core.sizes import VideoSize
from mochi.model.dit import AsymmDiT
from mochi.pipeline.job import Job
from mochi.pipeline.latents import StoredLatents
from mochi.pipeline.pipeline import Pipeline
from mochi.pipeline.run import Schedule
from mochi.sampling.loop import sample
from mochi.sampling.noise import draw_noise
from mochi.text.features import TextFeatures
from mochi.training.config import Samples
from mochi.training.data.dataset import LoadedSample
from mochi.training.events import Sampled
from mochi.training.team import Team

_SETTINGS = ("frames", "height", "width", "steps", "guidance")


def make_latents(
    dit: AsymmDiT, requests: Sequence[GenerateRequest], text: Sequence[TextFeatures]
) -> Tensor:
    """Finished latents in the transformer's space, `(B, C, T, H, W)`, float32 on the CPU.

    Args:
        dit: with whatever it wears.
        requests: alike in all but prompt and seed.
        text: features of each prompt.
    """
    first, device = requests[0], dit.pos_frequencies.device
    schedule = Schedule.of(first)
    shape = first.size.latent.shape(1, dit.config.latent_channels)
    noise = torch.cat([draw_noise(shape, request.seed) for request in requests])
    joined = TextFeatures.join(text).to(device)
    z = sample(
        dit,
        noise.to(device),
        joined.features,
        joined.mask,
        None,
        None,
        schedule.sigmas,
        schedule.guidance,
        solver=first.solver,
    )
    return z.float().cpu()


@dataclass(frozen=True, eq=False)
class Prompts:
    """What samples show: requests, and the features of their prompts, made once.

    Attributes:
        requests: one for each video.
        text: features of each prompt.
    """

    requests: tuple[GenerateRequest, ...]
    text: tuple[TextFeatures, ...]

    @classmethod
    def of(cls, pipe: Pipeline, settings: Samples, path: Path, team: Team) -> Prompts:
        """The prompts of a config, encoded by the first process and read by the others.

        Args:
            pipe: has the text encoder, whose memory is given back.
            settings: prompts, seeds, sizes.
            path: where their features go.
            team: the processes.

        Raises:
            RequestError: a setting breaks its rule.
        """
        given: dict[str, Any] = {
            name: getattr(settings, name) for name in _SETTINGS if getattr(settings, name)
        }
        requests = tuple(
            pipe.request(prompt, **given, seed=settings.seed + place)
            for place, prompt in enumerate(settings.prompts)
        )
        if team.is_first:
            with team.alone():
                encoded(pipe, settings.prompts).save(path, overwrite=True)
        team.anywhere([True])  # all wait for the first
        found = TextFeatures.load(path)
        return cls(requests, tuple(found[row] for row in range(len(found))))


def encoded(pipe: Pipeline, prompts: Sequence[str]) -> TextFeatures:
    """Features of some prompts on the CPU, with one load of the text encoder."""
    size = VideoSize(7, 16, 16)  # the text encoder does not ask for it
    pipe.budget.arrange(pipe.budget.sketch(Job(size, steps=0, prompts=(256,))))
    found = pipe.parts.text().encode(list(prompts)).to("cpu")
    pipe.parts.release("text")
    return found


class Sampling:
    """A watcher that makes the videos of a config with the weights as they are.

    Args:
        dit: what is trained.
        pipe: decodes and writes.
        prompts: what the videos show.
        every: steps between looks; also before the first step and after the last.
        folder: where they go, in a folder for each look.
        team: all processes denoise; the first decodes and writes.
    """

    def __init__(
        self,
        dit: AsymmDiT,
        pipe: Pipeline,
        prompts: Prompts,
        every: int,
        folder: Path,
        team: Team,
    ):
        self._dit, self._pipe, self._prompts = dit, pipe, prompts
        self._every, self._folder, self._team = every, folder, team

    def due(self, step: int, steps: int) -> bool:
        return step % self._every == 0 or step == steps

    def look(self, step: int) -> Sampled:
        for place in range(len(self._prompts.requests)):
            self._video(step, place)
        self._pipe.parts.release("decoder")
        return self._sampled(step)

    def made(self, step: int) -> Sampled | None:
        """The videos of a look that an earlier run took; None where they are not there."""
        sampled = self._sampled(step)
        return sampled if all(path.is_file() for path in sampled.paths) else None

    def _sampled(self, step: int) -> Sampled:
        requests = self._prompts.requests
        return Sampled(
            step,
            tuple(self._path(step, place) for place in range(len(requests))),
            tuple(request.prompt for request in requests),
            tuple(request.seed for request in requests),
        )

    def _path(self, step: int, place: int) -> Path:
        return self._folder / f"step-{step:08d}" / f"{place:02d}.mp4"

    def _video(self, step: int, place: int) -> None:
        request, text = self._prompts.requests[place], self._prompts.text[place]
        path = self._path(step, place)
        latents = make_latents(self._dit, [request], [text])
        if self._team.is_first:
            path.parent.mkdir(parents=True, exist_ok=True)
            finished = StoredLatents(DitLatent(latents))
            with self._team.alone():
                self._pipe.generate_to(
                    path, request, latents=finished, embeddings=text, overwrite=True
                )


class PriorClips:
    """Videos of the base model, never decoded: what it makes of some prompts, as training clips.

    Attributes:
        names: of the clips; their prompts.
    """

    def __init__(self, latents: Mapping[str, Tensor], text: Mapping[str, Tensor]):
        self.names = tuple(latents)
        self._latents, self._text = latents, text

    def load(self, index: int) -> LoadedSample:
        name = self.names[index]
        mean, text = self._latents[name], self._text[name]
        return LoadedSample(mean, torch.full_like(mean, -torch.inf), text, text[:0], name)
