"""The trainer: one loop for adapters, whole networks, the VAE and nano, on one device or many."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mochi.core.errors import TrainingError
from mochi.training.checkpoints import Checkpoints
from mochi.training.draws import seeded
from mochi.training.ema import WeightAverage, averaged
from mochi.training.events import (
    Notice,
    Reporter,
    Saved,
    Started,
    StepDone,
    TrainingEvent,
)
from mochi.training.task import Loop, Outcome, Task
from mochi.training.team import Team

_SHOWN_NAMES = 5


class Watcher(Protocol):
    """Looks at the weights now and then: validation, samples."""

    def due(self, step: int, steps: int) -> bool:
        """Whether it wants to look after so many steps; 0 is before the first."""
        ...

    def look(self, step: int) -> TrainingEvent | None:
        """Look; the parameters hold what would be shipped. Every process calls it; the first
        one's event is told."""
        ...


class Trainer:
    """Trains a task, goes on where it stopped, and says what happens.

    Each step: `begin`, the pieces forward and backward, the sum over processes, clipping, an
    update, the average, watchers, a checkpoint. Watchers come before the checkpoint: what is done
    at a step is done again if the process dies before it is saved.

    Args:
        task: what learns.
        loop: how long and how fast.
        optimizer: over the task's parameters; each of its groups may say `base_lr` and
            `base_adam_lr`, which the schedule multiplies.
        checkpoints: where they go.
        team: the other processes.
        reporters: are told everything, in this order.
        watchers: look at the weights, in this order.
    """

    def __init__(
        self,
        task: Task,
        loop: Loop,
        optimizer: torch.optim.Optimizer,
        checkpoints: Checkpoints,
        team: Team | None = None,
        reporters: Sequence[Reporter] = (),
        watchers: Sequence[Watcher] = (),
    ):
        self.task, self.loop, self.optimizer = task, loop, optimizer
        self.checkpoints, self.team = checkpoints, team or Team()
        self.watchers = watchers
        self._reporters = reporters if self.team.is_first else ()
        self._device = next(iter(task.parameters.values())).device
        self.average = WeightAverage(task.parameters, loop.ema) if loop.ema else None
        self._rates = [
            {name: group[f"base_{name}"] for name in ("lr", "adam_lr") if f"base_{name}" in group}
            for group in optimizer.param_groups
        ]

    def run(
        self,
        settings: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> int:
        """All steps that are not done yet; returns the number of all.

        Args:
            settings, facts, folder: for `Started`; without a folder it is that of the checkpoints.

        Raises:
            TrainingError: a loss or gradient is NaN or infinite; names the clips. The last
                checkpoint is from before.
            WeightsError: the checkpoint is damaged, or of another config or base.
            OutputError: a checkpoint cannot be written.
        """
        done = self._resume()
        place = folder or self.checkpoints.folder
        self.tell(Started(done, self.loop.steps, place, settings or {}, facts or {}))
        if not done:
            self._watch(0)
        began = time.monotonic()
        for step in range(done, self.loop.steps):
            event = self._step(step, done, began)
            self.tell(event)
            self._watch(step + 1)
            if (step + 1) % self.loop.save_every == 0 or step + 1 == self.loop.steps:
                self._save(step + 1)
        return self.loop.steps

    def tell(self, event: TrainingEvent) -> None:
        """Tell all reporters, if this is the process that speaks."""
        for reporter in self._reporters:
            reporter(event)

    def _step(self, step: int, done: int, began: float) -> StepDone:
        started = time.monotonic()
        self.task.begin(step, self.average)
        rate = self._set_rates(step)
        self.optimizer.zero_grad(set_to_none=True)
        names = self.task.names(step)
        losses, terms = self._backward(step, len(names))
        learning = self._summed()
        norm = torch.nn.utils.get_total_norm([p.grad for p in learning if p.grad is not None])
        self._check(step, names, losses, float(norm))
        if self.loop.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(learning, self.loop.clip_norm, norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.task.parameters)
        now = time.monotonic()
        each = (now - began) / (step + 1 - done)
        return StepDone(
            step=step + 1,
            steps=self.loop.steps,
            loss=float(losses.mean()),
            lr=rate,
            grad_norm=float(norm),
            seconds=now - started,
            elapsed_seconds=now - began,
            eta_seconds=each * (self.loop.steps - step - 1),
            names=names,
            terms=terms,
        )

    def _backward(self, step: int, rows: int) -> tuple[Tensor, dict[str, float]]:
        """All pieces forward and backward; losses of all rows on all processes, and terms."""
        losses = torch.zeros(rows, dtype=torch.float64)
        terms: dict[str, Tensor] = {}
        for number, piece in enumerate(self.task.pieces(step)):
            place = number * self.team.size + self.team.rank
            drops = seeded(self.loop.seed, step, place, self._device)
            with drops if self.task.drops else nullcontext():
                outcome: Outcome = piece()
                if outcome.loss.requires_grad:  # not where all that learns reads dropped captions
                    outcome.loss.backward()
            losses[list(outcome.rows)] += outcome.losses.detach().double().cpu()
            for name, term in outcome.terms.items():
                terms[name] = terms.get(name, torch.zeros((), dtype=torch.float64)) + (
                    term.detach().double().cpu()
                )
        whole = self.team.sum_figures(torch.cat([losses, *(t.view(1) for t in terms.values())]))
        return whole[:rows], dict(zip(terms, whole[rows:].tolist(), strict=True))

    def _summed(self) -> list[nn.Parameter]:
        """The parameters that have a gradient on any process, each with the whole of it."""
        every = list(self.task.parameters.values())
        has = self.team.anywhere([parameter.grad is not None for parameter in every])
        learning = [parameter for parameter, some in zip(every, has, strict=True) if some]
        for parameter in learning:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.team.sum_gradients([p.grad for p in learning if p.grad is not None])
        return learning

    def _check(self, step: int, names: tuple[str, ...], losses: Tensor, norm: float) -> None:
        """Stop before the weights are spoiled."""
        bad = [
            name for name, fine in zip(names, losses.isfinite().tolist(), strict=True) if not fine
        ]
        if not bad and norm == norm and abs(norm) != float("inf"):
            return
        what = "the loss is" if bad else "the gradients are"
        shown = ", ".join(bad or names[:_SHOWN_NAMES])
        last = (step // self.loop.save_every) * self.loop.save_every
        kept = f"the checkpoint of step {last} is whole" if last else "there is no checkpoint yet"
        raise TrainingError(
            f"step {step + 1}: {what} NaN or infinite at {shown}; {kept}. Look at that clip, or "
            "try a lower optimiser.lr"
        )

    def _set_rates(self, step: int) -> float:
        """The learning rates of a step; returns the first group's."""
        factor = self.loop.rate(step)
        for group, rates in zip(self.optimizer.param_groups, self._rates, strict=True):
            group.update({name: base * factor for name, base in rates.items()})
        first: float = self.optimizer.param_groups[0]["lr"]
        return first

    def _watch(self, step: int) -> None:
        due = [watcher for watcher in self.watchers if watcher.due(step, self.loop.steps)]
        if not due:
            return
        self.task.learn(False)
        with averaged(self.task.parameters, self.average), torch.no_grad():
            for watcher in due:
                event = watcher.look(step)
                if event is not None:
                    self.tell(event)
        self.task.learn(True)

    def _save(self, step: int) -> None:
        if not self.team.is_first:
            return
        state: dict[str, Any] = {
            "weights": {name: p.detach() for name, p in self.task.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        with self.team.alone():
            path: Path = self.checkpoints.save(step, state)
        self.tell(Saved(step, path))

    @torch.no_grad()
    def _resume(self) -> int:
        """Put everything back as it was after the last checkpoint; returns its steps."""
        if self.team.is_first:
            self.checkpoints.clean()
        state = self.checkpoints.last(lambda message: self.tell(Notice(message)))
        if state is None:
            return 0
        for name, parameter in self.task.parameters.items():
            parameter.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        step: int = state["step"]
        return step
