"""The loss on clips that are not trained on, at fixed noise levels and with the same noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mochi.model.dit import AsymmDiT
from mochi.training.draws import row_generator
from mochi.training.events import Validated
from mochi.training.flow import Clips, make_row, row_losses
from mochi.training.team import Team


class Validation:
    """A watcher: each clip at each noise level, one after the other, without dropping captions.

    Args:
        dit: what is trained.
        clips: those set aside.
        sigmas: noise levels.
        every: steps between looks; also before the first step and after the last.
        seed: of the noise.
        team: the other processes; they share the clips.
    """

    def __init__(
        self,
        dit: AsymmDiT,
        clips: Clips,
        sigmas: Sequence[float],
        every: int,
        seed: int,
        team: Team,
    ):
        self._dit, self._clips, self._sigmas = dit, clips, tuple(dict.fromkeys(sigmas))
        self._every, self._seed, self._team = every, seed, team

    def due(self, step: int, steps: int) -> bool:
        return step % self._every == 0 or step == steps

    def look(self, step: int) -> Validated:
        device = self._dit.pos_frequencies.device
        total = torch.zeros(len(self._sigmas), dtype=torch.float64)
        mine = self._team.share(len(self._clips.names))
        for index in range(len(self._clips.names)) if self._team.is_sharded else mine:
            sample = self._clips.load(index)
            for place, sigma in enumerate(self._sigmas):
                generator = row_generator(self._seed, place, index)
                row = make_row(sample, 0, sigma, generator, dropout=0.0)
                loss = row_losses(self._dit, [row], device)[0].double().cpu()
                total[place] += loss if index in mine else 0.0
        means = (self._team.sum_figures(total) / len(self._clips.names)).tolist()
        losses = dict(zip(self._sigmas, means, strict=True))
        return Validated(step, losses, sum(means) / len(means))


def set_aside(names: Sequence[str], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Which clips are trained on, and which are set aside: one at least, where there are two.

    A clip's place among the others does not depend on how many there are, so that clips which are
    added later do not move those that were set aside, as long as their names stay.
    """
    import hashlib

    def place(index: int) -> bytes:
        return hashlib.sha256(f"{seed}:{names[index]}".encode()).digest()

    ranked = sorted(range(len(names)), key=place)
    count = min(max(1, round(share * len(names))), len(names) - 1)
    return sorted(ranked[count:]), sorted(ranked[:count])
