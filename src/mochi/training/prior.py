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


def prior_clips(
    path: Path,
    prompts: Sequence[str],
    pipe: Pipeline,
    dit: AsymmDiT,
    seed: int,
    team: Team,
    tell: Callable[[str], None],
) -> PriorClips:
    """One video of each prompt: read from `path`, where an earlier run has made them.

    Args:
        path: a file in the run's folder.
        prompts: what they show.
        pipe: encodes the prompts; knows the model's settings.
        dit: the base model's transformer, wearing nothing.
        seed: of the first video; the others count up.
        team: the first process makes them, the others read them.
        tell: told what takes so long.

    Raises:
        OutputError: the file cannot be written.
    """
    key = hashlib.sha256("\n".join([pipe.model_hash, str(seed), *prompts]).encode()).hexdigest()
    if team.is_first and not _is_here(path, key):
        tell(f"making {len(prompts)} videos of the base model, to be learned along")
        with team.alone():
            _make(path, key, prompts, pipe, dit, seed)
    team.anywhere([True])  # all wait for the first
    file = TensorFile(path)
    places = range(len(prompts))
    latents = {prompts[place]: file.tensor(f"latent.{place}").clone() for place in places}
    text = {prompts[place]: file.tensor(f"text.{place}").clone() for place in places}
    return PriorClips(latents, text)


def _is_here(path: Path, key: str) -> bool:
    try:
        return path.is_file() and TensorFile(path).metadata.get("key") == key
    except WeightsError:
        return False


def _make(
    path: Path, key: str, prompts: Sequence[str], pipe: Pipeline, dit: AsymmDiT, seed: int
) -> None:
    text = encoded(pipe, prompts)
    requests = [pipe.request(prompt, seed=seed + place) for place, prompt in enumerate(prompts)]
    size = _TOGETHER if requests[0].size.latent.tokens <= _SMALL_TOKENS else 1
    tensors: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for start in range(0, len(prompts), size):
            these = slice(start, start + size)
            made = make_latents(dit, requests[these], text[these])
            for place, latent in enumerate(made, start):
                tensors[f"latent.{place}"] = latent.clone()
                tensors[f"text.{place}"] = text[place].features[0][text[place].mask[0]].clone()
    with disk_errors(path):
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            save_file(tensors, partial, {"key": key})
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
