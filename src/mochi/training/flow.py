"""Rectified flow on normalised latents (SPEC 6): what a transformer or its adapter learns from.

`z_s = (1 - s) z0 + s eps`, z0 a draw from the clip's posterior, both in the transformer's own
normalised space; the network is to say `z0 - eps`, and the loss is the mean squared error.
"""

# Shapes: B rows, C latent channels, T H W of the latent, L text tokens, F features of a token.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from mochi.model.adapters import LowRank
from mochi.model.dit import AsymmDiT
from mochi.sampling.noise import mix
from mochi.training.data.dataset import Dataset, LoadedSample
from mochi.training.draws import order, row_generator, spread
from mochi.training.ema import WeightAverage
from mochi.training.sigma import SigmaSettings, sigma_at
from mochi.training.task import Outcome, Piece
from mochi.training.team import Team

_REMEMBERED_BYTES = 2**31


class Clips(Protocol):
    """Clips to learn from; a prepared folder, or some of it."""

    @property
    def names(self) -> Sequence[str]:
        """What each is called."""
        ...

    def load(self, index: int) -> LoadedSample:
        """One of them."""
        ...


class PreparedClips:
    """All clips of a prepared folder."""

    def __init__(self, data: Dataset):
        self.names = tuple(sample.name for sample in data.samples)
        self._data = data

    def load(self, index: int) -> LoadedSample:
        return self._data.load(index)


class Remembered:
    """Clips that are read once, as far as they take no more than 2 GiB together.

    Args:
        source: where they come from.
        indices: which of them, and in which order; None for all.
    """

    def __init__(self, source: Clips, indices: Sequence[int] | None = None):
        self._source = source
        self._indices = range(len(source.names)) if indices is None else indices
        self.names = tuple(source.names[index] for index in self._indices)
        self._kept: dict[int, LoadedSample] = {}
        self._bytes = 0

    def load(self, index: int) -> LoadedSample:
        if index in self._kept:
            return self._kept[index]
        found = self._source.load(self._indices[index])
        tensors = (found.mean_CTHW, found.logvar_CTHW, found.text_NF)
        size = sum(tensor.nbytes for tensor in tensors)
        if self._bytes + size <= _REMEMBERED_BYTES:
            self._kept[index], self._bytes = found, self._bytes + size
        return found


@dataclass(frozen=True, eq=False)
class Row:
    """One clip as a step sees it.

    Attributes:
        place: in the whole batch.
        noisy_CTHW, target_CTHW: what the network is given and what it is to say.
        sigma: the noise level.
        text_LF: features of the caption, none where it was dropped.
    """

    place: int
    noisy_CTHW: Tensor
    target_CTHW: Tensor
    sigma: float
    text_LF: Tensor


def make_row(
    sample: LoadedSample, place: int, sigma: float, generator: torch.Generator, dropout: float
) -> Row:
    """Draw what is random about a row: of the posterior, of the noise, and whether the caption is
    there."""
    mean, logvar = sample.mean_CTHW, sample.logvar_CTHW
    clean = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator)
    noise = torch.randn(mean.shape, generator=generator)
    dropped = bool(torch.rand((), generator=generator) < dropout)
    noisy = mix(clean, noise, sigma)
    text = sample.text_NF[:0] if dropped else sample.text_NF
    return Row(place, noisy, clean - noise, sigma, text)


def row_losses(dit: AsymmDiT, rows: Sequence[Row], device: torch.device) -> Tensor:
    """Mean squared error of the velocity of each row, `(B,)`; rows are of one size."""
    noisy = torch.stack([row.noisy_CTHW for row in rows]).to(device)
    target = torch.stack([row.target_CTHW for row in rows]).to(device)
    sigma = torch.tensor([row.sigma for row in rows], device=device)
    text, mask = padded([row.text_LF for row in rows])
    velocity = dit(noisy, sigma, text.to(device), mask.to(device))
    return (velocity - target).square().flatten(1).mean(1)


def padded(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Features `(B, L, F)` and their mask `(B, L)`, as long as the longest, one token at least."""
    longest = max(1, *(len(text) for text in texts))
    features = texts[0].new_zeros(len(texts), longest, texts[0].shape[1])
    mask = torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, text in enumerate(texts):
        features[row, : len(text)] = text
        mask[row, : len(text)] = True
    return features, mask


@dataclass(frozen=True)
class FlowSettings:
    """How batches are made.

    Attributes:
        batch: rows of a step, on all devices together.
        accumulate: pieces that a device cuts its share into.
        seed: of everything.
        caption_dropout: share of rows whose caption is dropped.
        prior_share: share of rows that are videos of the base model.
        sigma: distribution of the noise level.
    """

    batch: int
    accumulate: int
    seed: int
    caption_dropout: float
    prior_share: float
    sigma: SigmaSettings


class FlowTask:
    """A transformer that learns from clips.

    Args:
        dit: on its device.
        parameters: what of it learns.
        clips: to learn from.
        settings: how batches are made.
        team: the other processes.
        prior: videos of the base model, where some are learned along.
        drops: whether it uses dropout.
    """

    def __init__(
        self,
        dit: AsymmDiT,
        parameters: Mapping[str, nn.Parameter],
        clips: Clips,
        settings: FlowSettings,
        team: Team | None = None,
        prior: Clips | None = None,
        drops: bool = False,
    ):
        self.dit, self.parameters, self.drops = dit, parameters, drops
        self._clips, self._prior = clips, prior
        self._settings, self._team = settings, team or Team()
        self._device = dit.pos_frequencies.device

    def names(self, step: int) -> tuple[str, ...]:
        return tuple(clips.names[index] for clips, index in self._chosen(step))

    def begin(self, step: int, average: WeightAverage | None) -> None:
        """Nothing changes on the way."""

    def learn(self, on: bool) -> None:
        for module in self.dit.modules():
            if isinstance(module, LowRank):
                module.train(on)

    def pieces(self, step: int) -> Iterator[Piece]:
        mine = self._team.share(self._settings.batch)
        pieces = list(self._cut(self.rows(step, mine))) if mine else []
        missing = self._team.most(len(pieces)) - len(pieces)  # all ask before any begins
        for rows in pieces:
            yield partial(self._outcome, rows)
        for _ in range(missing):
            yield partial(self._nothing, pieces[0] if pieces else self.rows(step, [0]))

    def _cut(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """Rows of one size that go together."""
        most = -(-len(rows) // self._settings.accumulate)
        by_size: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            by_size.setdefault(tuple(row.noisy_CTHW.shape), []).append(row)
        for same in by_size.values():
            for start in range(0, len(same), most):
                yield same[start : start + most]

    def _nothing(self, rows: Sequence[Row]) -> Outcome:
        """A piece that counts for nothing: others need this device's part of the base."""
        losses = row_losses(self.dit, rows[:1], self._device)
        return Outcome(losses.sum() * 0.0, (), losses.detach()[:0])

    def rows(self, step: int, places: Sequence[int]) -> list[Row]:
        """Some rows of a step's batch: the same ones whoever asks."""
        settings, chosen = self._settings, self._chosen(step)
        shares = spread(settings.batch, settings.seed, step)
        made = []
        for place in places:
            clips, index = chosen[place]
            generator = row_generator(settings.seed, step, place)
            sigma = sigma_at(shares[place], settings.sigma)
            sample = clips.load(index)
            made.append(make_row(sample, place, sigma, generator, settings.caption_dropout))
        return made

    def _outcome(self, rows: Sequence[Row]) -> Outcome:
        losses = row_losses(self.dit, rows, self._device)
        places = tuple(row.place for row in rows)
        return Outcome(losses.sum() / self._settings.batch, places, losses.detach())

    def _chosen(self, step: int) -> list[tuple[Clips, int]]:
        """The clips of a step's whole batch; those of the base model come last."""
        batch, seed = self._settings.batch, self._settings.seed
        before, after = self._of_prior(step), self._of_prior(step + 1)
        own = order(len(self._clips.names), step * batch - before, batch - (after - before), seed)
        chosen: list[tuple[Clips, int]] = [(self._clips, index) for index in own]
        if self._prior is not None:
            again = order(len(self._prior.names), before, after - before, seed + 1)
            chosen += [(self._prior, index) for index in again]
        return chosen

    def _of_prior(self, steps: int) -> int:
        """Rows of the base model's own videos in so many steps."""
        share = 0.0 if self._prior is None else self._settings.prior_share
        return int(steps * self._settings.batch * share + 1e-9)
