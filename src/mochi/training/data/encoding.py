"""Frames to latents and captions to features, each into a file of its own."""

# Shapes: B batch, C channels, T frames, H W pixels, N text tokens, F features of a token.

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mochi.core.errors import DoesNotFitError, VideoError
from mochi.core.latents import MOCHI_STATS, LatentStats, VaeLatent
from mochi.core.sizes import VideoSize
from mochi.pipeline.job import Job
from mochi.pipeline.pipeline import Pipeline
from mochi.text.encoder import TruncatedPrompt
from mochi.training.data.folder import SPACE, DataFolder, read_about
from mochi.video.colour import Pixels
from mochi.weights.folder import ModelFiles
from mochi.weights.names import Part

_SHOWN_CHARS = 60


@dataclass(frozen=True)
class Posteriors:
    """Mean and log-variance of latents, normalised per channel, float32 `(12, T, H, W)`."""

    mean_CTHW: Tensor
    logvar_CTHW: Tensor


def normalised(mean: Tensor, logvar: Tensor, stats: LatentStats = MOCHI_STATS) -> Posteriors:
    """A posterior in VAE space, one row, in the space of the transformer: a variance is divided
    by the square of what its mean is divided by."""
    std_C111 = torch.tensor(stats.std, dtype=logvar.dtype).view(-1, 1, 1, 1)
    return Posteriors(
        stats.normalize(VaeLatent(mean)).tensor[0], logvar[0] - 2 * torch.log(std_C111)
    )


class ClipEncoder:
    """Encodes frames with a model's VAE.

    Args:
        pipe: the model.
        largest: of the sizes to come; refused at once where it does not fit.

    Raises:
        DoesNotFitError: not enough memory.
        WeightsError: the model has no encoder.
    """

    def __init__(self, pipe: Pipeline, largest: VideoSize):
        self._pipe = pipe
        pipe.budget.arrange(pipe.budget.plan(Job(largest, encodes=True)))

    def encode(self, frames_THWC: Pixels, on_piece: Callable[[], object]) -> Posteriors:
        """The posterior of a clip.

        Args:
            frames_THWC: uint8.
            on_piece: called between pieces of work; may raise, to stop.

        Raises:
            DoesNotFitError: out of memory.
            VideoError: the latents are NaN or infinite.
        """
        encoder = self._pipe.parts.encoder()
        pixels_BCTHW = torch.from_numpy(np.ascontiguousarray(frames_THWC)).permute(3, 0, 1, 2)[None]
        try:
            found = encoder.layered(pixels_BCTHW, on_piece=on_piece)
        except torch.OutOfMemoryError as error:
            size = VideoSize(*frames_THWC.shape[:3])
            raise DoesNotFitError(
                f"out of memory encoding {size}; a smaller bucket fits"
            ) from error
        latents = normalised(found.mean.float().cpu(), found.logvar.float().cpu())
        for tensor in (latents.mean_CTHW, latents.logvar_CTHW):
            if not bool(torch.isfinite(tensor).all()):
                raise VideoError("its latents are NaN or infinite")
        return latents

    def close(self) -> None:
        """Give the encoder's memory back."""
        self._pipe.parts.release("encoder")


def save_sample(
    folder: DataFolder, key: str, name: str, frames_THWC: Pixels, latents: Posteriors
) -> None:
    """Write a sample; its file is there when all of it is.

    Raises:
        OutputError: the disk refuses.
    """
    shown = hashlib.sha256(frames_THWC.tobytes()).hexdigest()
    tensors = {"mean": latents.mean_CTHW, "logvar": latents.logvar_CTHW}
    about = {"space": SPACE, "name": name, "frames_sha256": shown}
    folder.write_tensors(folder.sample(key), tensors, about)


def frames_hash(folder: DataFolder, key: str) -> str:
    """The hash of the pixels that a sample was made of."""
    return str(read_about(folder.sample(key)).get("frames_sha256", key))


def encode_captions(
    pipe: Pipeline,
    folder: DataFolder,
    captions: Sequence[str],
    on_done: Callable[[int, int], None],
) -> dict[str, str]:
    """Features of captions that have no file yet; the text encoder's memory is given back.

    Args:
        pipe: the model.
        folder: where they go.
        captions: each once; the empty one is added.
        on_done: hears how many of how many are done; may raise, to stop.

    Returns:
        What was cut off captions that the encoder does not read to their end, in words.

    Raises:
        WeightsError: the text encoder is missing or broken.
        OutputError: the disk refuses.
    """
    new = [text for text in ("", *captions) if not folder.caption(text).is_file()]
    if new:
        any_size = VideoSize(1, 16, 16)
        pipe.budget.arrange(pipe.budget.sketch(Job(any_size, steps=0)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncatedPrompt)  # told in the report
            for done, text in enumerate(new, 1):
                _encode_caption(pipe, folder, text)
                on_done(done, len(new))
        pipe.parts.release("text")
    cut = {text: _cut(folder, text) for text in captions}
    return {text: note for text, note in cut.items() if note}


def _encode_caption(pipe: Pipeline, folder: DataFolder, text: str) -> None:
    found = pipe.parts.text().encode(text)
    features_NF = found.features[0, found.mask[0]]
    about = {
        "caption": text,
        "tokens": found.token_counts[0],
        "truncated": found.truncated[0],
    }
    folder.write_tensors(folder.caption(text), {"features": features_NF}, about)


def _cut(folder: DataFolder, text: str) -> str:
    about = read_about(folder.caption(text))
    cut = str(about.get("truncated", ""))
    if not cut:
        return ""
    shown = cut if len(cut) <= _SHOWN_CHARS else cut[:_SHOWN_CHARS] + " ..."
    return f"its caption has {about.get('tokens')} tokens, more than are read; cut off: {shown}"


def part_fingerprint(files: ModelFiles, part: Part) -> str:
    """Tells one network's weights (for the text encoder: and its tokenizer) from others'."""
    tokenizer = files.tokenizer_folder() if part == "t5" else None
    return replace(files, parts={part: files.part(part)}, tokenizer=tokenizer).fingerprint()
