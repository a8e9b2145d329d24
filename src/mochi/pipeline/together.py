"""Several requests that fit together, denoised as one batch.

A small clip leaves most of a device idle; rows of other clips fill it. Each request runs as it
would alone, in a thread of its own, and only one thread is awake at a time. Where runs ask the
transformer for their next velocity they wait until all have asked, and it is asked for all of them
at once. So a run that is cancelled simply no longer asks, and the others go on without it.
"""

# Shapes: B rows of all runs, C channels, T H W latent frames and pixels, L tokens, G text features.

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mochi.core.errors import Cancelled
from mochi.core.events import CancelToken, OnEvent, ignore
from mochi.core.request import GenerateRequest
from mochi.model.dit import TOGETHER_TOKENS, AsymmDiT
from mochi.pipeline.clip import Rendered
from mochi.pipeline.fitting import fit_together
from mochi.pipeline.pipeline import Pipeline
from mochi.pipeline.share import Alone
from mochi.sampling.caching import Agree, alone

Check = Callable[[], object]


@dataclass(frozen=True)
class Order:
    """A video to make, who hears of it, and who may stop it."""

    path: Path
    request: GenerateRequest
    on_event: OnEvent = ignore
    cancel: CancelToken | None = None
    preview: bool = False


def together_tokens(device: str) -> int:
    """How many visual tokens, of both passes of all clips, still leave a device idle."""
    return TOGETHER_TOKENS.get(device, TOGETHER_TOKENS["cpu"])


def generate_together(pipe: Pipeline, orders: Sequence[Order]) -> list[Rendered | Exception]:
    """Make the videos of requests that fit together; each is what it would be alone, but for the
    last bits of its sums.

    Returns:
        For each order what `Pipeline.generate_to` returns or raises.
    """
    if len(orders) == 1:
        return [_generate(pipe, orders[0])]
    assert all(fit_together(orders[0].request, order.request) for order in orders)
    meeting = _Meeting(len(orders))
    results: dict[int, Rendered | Exception] = {}
    before = pipe.share

    def work(place: int, order: Order) -> None:
        with meeting.turn:
            try:
                pipe.share = _Seat(meeting, place)  # the run keeps it
                results[place] = _generate(pipe, order)
            finally:
                meeting.leave(place)

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(orders)]
    for thread in threads:
        thread.start()
    meeting.preside()
    for thread in threads:
        thread.join()
    pipe.share = before
    return [results[place] for place in range(len(orders))]


def _generate(pipe: Pipeline, order: Order) -> Rendered | Exception:
    try:
        return pipe.generate_to(
            order.path,
            order.request,
            overwrite=True,
            preview=order.preview,
            on_event=order.on_event,
            cancel=order.cancel,
        )
    except Exception as error:
        return error


class _Seat(Alone):
    """The `Share` of one of the runs."""

    second_chance = False  # the others would go on without this one

    def __init__(self, meeting: _Meeting, place: int):
        self._meeting, self._place = meeting, place

    def network(self, dit: AsymmDiT) -> tuple[Any, Agree]:
        return _Voice(self._meeting, self._place, dit), alone


@dataclass(frozen=True)
class _Words:
    """A prompt of one run: its place among that run's prompts, and its text."""

    place: int
    text_BLG: Tensor
    mask_BL: Tensor


@dataclass(frozen=True)
class _Question:
    """What one run asks for."""

    z_BCTHW: Tensor
    sigma: float
    wanted: tuple[int, ...]
    check: Check


class _Voice:
    """The transformer as one run sees it (`sampling.guidance.PreparesSteps`)."""

    def __init__(self, meeting: _Meeting, place: int, dit: AsymmDiT):
        self._meeting, self._place = meeting, place
        self._words: list[_Words] = []
        meeting.dit = dit

    def prepare_text(self, text: Tensor, mask: Tensor) -> _Words:
        words = _Words(len(self._words), text, mask)
        self._words.append(words)
        return words

    def prepare_steps(self, sigmas: Sequence[float], contexts: Sequence[_Words]) -> None:
        self._meeting.join(self._place, sigmas, contexts)

    def velocity(self, z: Tensor, sigma: Tensor, context: _Words) -> Tensor:
        return self.velocities(z, float(sigma[0]), [context], None, None)[0]

    def velocities(
        self,
        z: Tensor,
        sigma: float,
        contexts: Sequence[_Words],
        tables: None,
        before_block: Check | None,
    ) -> list[Tensor]:
        wanted = tuple(words.place for words in contexts)
        question = _Question(z, sigma, wanted, before_block or (lambda: None))
        return self._meeting.ask(self._place, question)


class _Meeting:
    """Where the runs meet.

    Attributes:
        turn: held by the one thread that is awake.
        dit: the transformer.
    """

    dit: AsymmDiT

    def __init__(self, members: int):
        self.turn = threading.Condition()
        self._there = set(range(members))
        self._words: dict[int, Sequence[_Words]] = {}
        self._sigmas: Sequence[float] = ()
        self._questions: dict[int, _Question] = {}
        self._answers: dict[int, list[Tensor] | Exception] = {}
        self._prepared: tuple[list[int], Any, Any] = ([], None, None)

    def join(self, place: int, sigmas: Sequence[float], words: Sequence[_Words]) -> None:
        """What a run will ask about."""
        self._sigmas, self._words[place] = sigmas, words

    def leave(self, place: int) -> None:
        """A run asks no more."""
        self._there.discard(place)
        self.turn.notify_all()

    def preside(self) -> None:
        """Answer until all have left; all of the transformer's work is done in this thread."""
        with self.turn, torch.no_grad():
            while self._there:
                if self._questions.keys() == self._there:
                    self._answer_all()
                    self.turn.notify_all()
                else:
                    self.turn.wait()

    def ask(self, place: int, question: _Question) -> list[Tensor]:
        """A velocity for each prompt that is wanted; waits for the other runs."""
        self._questions[place] = question
        self.turn.notify_all()
        while place not in self._answers:
            self.turn.wait()
        answer = self._answers.pop(place)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _answer_all(self) -> None:
        places = sorted(self._questions)
        asked = [self._questions.pop(place) for place in places]
        try:
            found = self._velocities(places, asked)
        except Exception as error:
            self._answers.update(dict.fromkeys(places, error))
            return
        rows = [question.z_BCTHW.shape[0] for question in asked]
        split = [velocity_BCTHW.split(rows) for velocity_BCTHW in found]
        for number, place in enumerate(places):
            self._answers[place] = [parts[number] for parts in split]

    def _velocities(self, places: list[int], asked: Sequence[_Question]) -> list[Tensor]:
        first = asked[0]
        assert all((it.sigma, it.wanted) == (first.sigma, first.wanted) for it in asked)
        contexts, tables = self._prepare(places)

        def check() -> None:
            """All of them are cancelled: whoever goes on needs the velocity."""
            if not any(map(_goes_on, asked)):
                raise Cancelled("cancelled")

        z_BCTHW = torch.cat([question.z_BCTHW for question in asked])
        wanted = [contexts[place] for place in first.wanted]
        return self.dit.velocities(z_BCTHW, first.sigma, wanted, tables, check)

    def _prepare(self, places: list[int]) -> tuple[Any, Any]:
        """Prompts and steps of these runs; made anew when one has left."""
        if self._prepared[0] != places:
            count = len(self._words[places[0]])
            contexts = [
                self.dit.prepare_text(
                    torch.cat([self._words[place][number].text_BLG for place in places]),
                    torch.cat([self._words[place][number].mask_BL for place in places]),
                )
                for number in range(count)
            ]
            tables = self.dit.prepare_steps(self._sigmas, contexts)
            self._prepared = places, contexts, tables
        return self._prepared[1:]


def _goes_on(question: _Question) -> bool:
    try:
        question.check()
    except Cancelled:
        return False
    return True
