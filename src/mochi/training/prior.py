"""The base model's own videos, made before a training and learned along with its clips."""

# Shapes: C latent channels, T H W of the latent, N text tokens, F features of a token.

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from mochi.core.errors import RequestError, WeightsError
from mochi.core.request import check_prompt
from mochi.model.dit import AsymmDiT
from mochi.pipeline.pipeline import Pipeline
from mochi.text.features import TextFeatures
from mochi.training.sampling import PriorClips, encoded, make_latents
from mochi.training.team import Team
from mochi.video.output import disk_errors
from mochi.weights.tensors import TensorFile

_TOGETHER = 8
"""Videos that are made at once, where they are small."""

_SMALL_TOKENS = 2_000


def read_prompts(path: Path) -> list[str]:
    """The prompts in a text file, one a line, each once.

    Raises:
        RequestError: the file cannot be read, holds none, or one breaks a rule; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError("prior.prompts", str(path), f"cannot be read: {error}") from None
    prompts: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            check_prompt(f"prior.prompts line {number}", line.strip())
            prompts[line.strip()] = None
    if not prompts:
        raise RequestError("prior.prompts", str(path), "holds no prompt")
    return list(prompts)


class PriorVideos:
    """One video of each prompt, as latents, in a file of the run's folder.

    Args:
        path: the file; read where an earlier run has made it.
        prompts: what they show.
        pipe: encodes the prompts now, if need be, before a transformer is loaded.
        seed: of the first video; the others count up.
        team: the first process makes them, the others read them.
        tell: told what takes so long.
    """

    def __init__(
        self,
        path: Path,
        prompts: Sequence[str],
        pipe: Pipeline,
        seed: int,
        team: Team,
        tell: Callable[[str], None],
    ):
        self._path, self._prompts, self._team, self._tell = path, tuple(prompts), team, tell
        facts = [pipe.model_hash, str(seed), *prompts]
        self._key = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        self._requests = [pipe.request(p, seed=seed + place) for place, p in enumerate(prompts)]
        makes = team.is_first and not self._is_here()
        self._text = encoded(pipe, prompts) if makes else None

    def clips(self, dit: AsymmDiT) -> PriorClips:
        """The videos of this transformer, which wears nothing yet.

        Raises:
            OutputError: the file cannot be written.
        """
        if self._text is not None:
            self._tell(f"making {len(self._prompts)} videos of the base, to be learned along")
            with self._team.alone():
                self._make(dit, self._text)
        self._team.anywhere([True])  # all wait for the first
        file = TensorFile(self._path)
        names = list(enumerate(self._prompts))
        latents = {prompt: file.tensor(f"latent.{place}").clone() for place, prompt in names}
        text = {prompt: file.tensor(f"text.{place}").clone() for place, prompt in names}
        return PriorClips(latents, text)

    def _is_here(self) -> bool:
        try:
            return self._path.is_file() and TensorFile(self._path).metadata.get("key") == self._key
        except WeightsError:
            return False

    def _make(self, dit: AsymmDiT, encoded_prompts: TextFeatures) -> None:
        text = [encoded_prompts[row] for row in range(len(encoded_prompts))]
        size = _TOGETHER if self._requests[0].size.latent.tokens <= _SMALL_TOKENS else 1
        tensors: dict[str, torch.Tensor] = {}
        for start in range(0, len(text), size):
            these = slice(start, start + size)
            made = make_latents(dit, self._requests[these], text[these])
            for place, latent in enumerate(made, start):
                tensors[f"latent.{place}"] = latent.clone()
                tensors[f"text.{place}"] = text[place].features[0][text[place].mask[0]].clone()
        with disk_errors(self._path):
            partial = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
            try:
                save_file(tensors, partial, {"key": self._key})
                os.replace(partial, self._path)
            finally:
                partial.unlink(missing_ok=True)
