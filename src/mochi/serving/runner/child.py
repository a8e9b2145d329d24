"""The child process: loads models, makes videos, answers questions, until its stdin ends.

Said on stdout, a JSON object a line: `ready` or `broken` once; then `event`s and `done` or `failed`
for each run, and an `answer` for each question. What libraries print goes to stderr.
"""

from __future__ import annotations

import base64
import io
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mochi.core.errors import (
    Cancelled,
    DoesNotFitError,
    MochiError,
    OutputError,
    RequestError,
    SamplingError,
    WeightsError,
)
from mochi.core.events import (
    CancelToken,
    Event,
    FramesDone,
    Notice,
    PhaseStarted,
    StepDone,
)
from mochi.serving.made import leave_note
from mochi.serving.runner.judges import Judges, RefusedError

if TYPE_CHECKING:
    from mochi.memory.plan import Room
    from mochi.pipeline.clip import Rendered
    from mochi.pipeline.pipeline import Pipeline
    from mochi.pipeline.together import Order

    Runs = queue.Queue["Asked"]

SECONDS_BETWEEN_PREVIEWS = 0.5
SHOWN_FRAMES = 8
TOKEN_LIMIT = 256
_MOMENT_SECONDS = 5.0
_CODES: tuple[tuple[type[MochiError], str], ...] = (
    (Cancelled, "cancelled"),
    (RefusedError, "refused"),
    (RequestError, "invalid"),
    (DoesNotFitError, "does_not_fit"),
    (WeightsError, "bad_weights"),
    (SamplingError, "sampling"),
    (OutputError, "disk_full"),
)


def main() -> None:
    """Serve the parent process; returns when it closes our stdin."""
    voice = Voice(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)  # nothing that a library prints may end up between our lines
    hello = json.loads(sys.stdin.readline() or "{}").get("hello")
    if hello is None:
        return
    try:
        models = Models(hello)
        voice.say(ready=models.describe())
    except Exception as error:
        voice.say(broken=_words(error))
        return
    runs: Runs = queue.Queue()
    threading.Thread(target=_listen, args=(models, voice, runs), daemon=True).start()
    late: list[Asked] = []
    while True:
        batch = _batch(runs, late.pop() if late else runs.get(), late)
        _run(models, voice, batch)


class Voice:
    """Lines to the parent, whole ones, from any thread."""

    def __init__(self, stream: io.BufferedWriter | Any):
        self._stream = stream
        self._lock = threading.Lock()

    def say(self, **message: Any) -> None:
        """One line; the parent's end is ours."""
        line = json.dumps(message).encode() + b"\n"
        try:
            with self._lock:
                self._stream.write(line)
                self._stream.flush()
        except OSError:
            os._exit(0)


class Models:
    """The models of the configuration: one of them loaded for runs, all of them for questions."""

    def __init__(self, hello: Mapping[str, Any]):
        self._entries = {entry["name"]: entry for entry in hello["models"]}
        self._device = hello["device"]
        self._warm: tuple[str, Pipeline] | None = None
        self._room: Room | None = None  # before anything is loaded
        self._asked: dict[str, Pipeline] = {}
        self.judges = Judges(hello["models"][0].get("checks"))

    def describe(self) -> list[dict[str, Any]]:
        """What is known of each model without reading its weights."""
        found = [self._describe(name) for name in self._entries]
        for name in self._entries:
            self._try_loras(name)
        self.judges.load()
        self._room = self._for_questions(found[0]["name"]).budget.room
        return found

    def _describe(self, name: str) -> dict[str, Any]:
        from mochi.pipeline.together import together_tokens

        card = self._for_questions(name).card
        return {
            "name": name,
            "version": self._for_questions(name).model_hash,
            "card_name": card.name,
            "licence": card.licence,
            "defaults": asdict(card.settings),
            "together_tokens": together_tokens(self._for_questions(name).device.type),
        }

    def _try_loras(self, name: str) -> None:
        """Put each adapter on once: one that does not fit is told when the server starts."""
        pipe = self._for_questions(name)
        for lora in self._entries[name]["loras"]:
            pipe.add_lora(lora["source"], name=lora["name"])
            pipe.clear_loras()

    def for_runs(self, name: str, loras: Sequence[tuple[str, float]] = ()) -> Pipeline:
        """The loaded model, wearing these adapters; another one that was loaded goes first."""
        if self._warm is None or self._warm[0] != name:
            self._warm = None
            self._warm = (name, self._open(name))
        pipe = self._warm[1]
        if [worn.name for worn in pipe.loras] != [lora for lora, _ in loras]:
            pipe.clear_loras()  # their order counts too, in the last bits of their sum
            sources = {lora["name"]: lora for lora in self._entries[name]["loras"]}
            for lora, scale in loras:
                known = sources[lora]
                pipe.add_lora(known["source"], scale, name=lora, mode=known["mode"])
        for lora, scale in loras:
            pipe.set_lora_scale(lora, scale)
        return pipe

    def offer(self, model: str, lora: Mapping[str, Any]) -> None:
        """One more adapter."""
        self._entries[model]["loras"] = [*self._entries[model]["loras"], lora]

    def tokens(self, model: str, prompt: str) -> dict[str, Any]:
        """How much of a prompt the model reads."""
        count = self._for_questions(model).token_count(prompt)
        return {"tokens": count, "limit": TOKEN_LIMIT, "cut": count > TOKEN_LIMIT}

    def memory(self, model: str, frames: int, height: int, width: int) -> dict[str, Any]:
        """What a video takes at its worst moment, weights included, and what there is."""
        from mochi.core.sizes import VideoSize
        from mochi.pipeline.job import Job

        assert self._room is not None
        job = Job(VideoSize(frames, height, width))
        needs = self._for_questions(model).budget.chosen(job, self._room)
        most = max(need.total for need in needs)
        return {"memory_bytes": most, "memory_available_bytes": self._room.device}

    def _for_questions(self, name: str) -> Pipeline:
        if name not in self._asked:
            self._asked[name] = self._open(name)
        return self._asked[name]

    def _open(self, name: str) -> Pipeline:
        import mochi

        entry = self._entries[name]
        return mochi.load(entry["source"], device=self._device, **entry["options"])


def _batch(runs: Runs, first: Asked, late: list[Asked]) -> list[Asked]:
    """The runs that were asked for beside the first one; they come within a moment, each from a
    thread of the parent's. Another one that comes instead is left for later."""
    batch = [first]
    missing = set(first.order.get("beside", ())) - {first.order["id"]}
    while missing:
        try:
            found = runs.get(timeout=_MOMENT_SECONDS)
        except queue.Empty:
            break
        (batch if found.order["id"] in missing else late).append(found)
        missing.discard(found.order["id"])
    return batch


def _listen(models: Models, voice: Voice, runs: Runs) -> None:
    """Read the parent's lines until they end; then this process ends, whatever it is doing."""
    tokens: dict[str, CancelToken] = {}
    for line in sys.stdin:
        message = json.loads(line)
        if "run" in message:
            order = message["run"]
            beside = {*order.get("beside", ()), order["id"]}
            tokens = {name: token for name, token in tokens.items() if name in beside}
            tokens[order["id"]] = CancelToken()
            runs.put(Asked(order, tokens[order["id"]]))
        elif "cancel" in message:
            if message["cancel"] in tokens:
                tokens[message["cancel"]].cancel()
        elif "offer" in message:
            models.offer(**message["offer"])
        elif "ask" in message:
            voice.say(answer=_answer(models, message["ask"]))
    os._exit(0)


def _answer(models: Models, question: dict[str, Any]) -> dict[str, Any]:
    number, kind = question.pop("number"), question.pop("kind")
    try:
        kinds: dict[str, Callable[..., dict[str, Any]]]
        kinds = {"tokens": models.tokens, "memory": models.memory}
        reply = kinds[kind](**question)
    except Exception as error:
        reply = {"code": _code(error), "message": _words(error)}
    return {"number": number, **reply}


def _run(models: Models, voice: Voice, batch: Sequence[Asked]) -> None:
    """Make the videos of a batch, and say of each how it went."""
    wanted: list[Wanted] = []
    for asked in batch:
        try:
            wanted.append(Wanted.of(models, voice, asked))
        except Exception as error:
            _fail(voice, asked, error)
    if not wanted:
        return
    for one, made in zip(wanted, _made(models, wanted), strict=True):
        try:
            if isinstance(made, Exception):
                raise made
            facts = one.facts(models, made, len(wanted))
            leave_note(one.order.path, one.asked.order["id"], facts)
        except Exception as error:
            _fail(voice, one.asked, error)
        else:
            voice.say(done={"id": one.asked.order["id"], **facts})


def _made(models: Models, wanted: Sequence[Wanted]) -> list[Rendered | Exception]:
    """What became of each; together where there are several."""
    from mochi.pipeline.together import generate_together

    try:
        first = wanted[0].asked.order
        pipe = models.for_runs(first["model"], first["request"].get("loras", []))
        made = generate_together(pipe, [one.order for one in wanted])
        if len(wanted) > 1 and any(isinstance(it, DoesNotFitError) for it in made):
            made = [generate_together(pipe, [one.order])[0] for one in wanted]
        return made
    except Exception as error:
        return [error] * len(wanted)


def _fail(voice: Voice, asked: Asked, error: Exception) -> None:
    about = {"id": asked.order["id"], "code": _code(error), "message": _words(error)}
    voice.say(failed=about)


@dataclass(frozen=True)
class Asked:
    """A run as the parent asks for it, and what stops it."""

    order: Mapping[str, Any]
    token: CancelToken


@dataclass(frozen=True)
class Wanted:
    """A run that may begin: its request was read, and its prompt looked at."""

    asked: Asked
    order: Order
    judged: list[dict[str, Any]]

    @classmethod
    def of(cls, models: Models, voice: Voice, asked: Asked) -> Wanted:
        """Raises RequestError, or RefusedError of a prompt."""
        from mochi.core.request import GenerateRequest
        from mochi.pipeline.together import Order

        fields = {name: it for name, it in asked.order["request"].items() if name != "loras"}
        request = GenerateRequest.from_dict(fields)
        judged = models.judges.prompt(request.prompt)
        shows, relay = not models.judges.blocks_frames, Relay(voice, asked.order["id"])
        order = Order(Path(asked.order["path"]), request, relay, asked.token, shows)
        return cls(asked, order, judged)

    def facts(self, models: Models, made: Rendered, together: int) -> dict[str, Any]:
        """What is to be known of a video that is done; raises RefusedError of its frames."""
        return {
            "seconds": dict(made.seconds),
            "prompt_tokens": made.prompt_tokens,
            "truncated": made.truncated,
            "judged": self.judged + models.judges.frames(self.order.path),
            "together": together,
        }


class Relay:
    """Events of a run, as the parent's clients hear them."""

    def __init__(self, voice: Voice, job_id: str):
        self._voice, self._id = voice, job_id
        self._last_preview = 0.0

    def __call__(self, event: Event) -> None:
        """Say it, and a preview if one is due."""
        if isinstance(event, PhaseStarted):
            self._say("phase", phase=event.phase, total=event.total)
        elif isinstance(event, StepDone):
            self._say(
                "step",
                step=event.step,
                steps=event.steps,
                seconds_per_step=round(event.seconds, 4),
                eta_seconds=round(event.eta_seconds, 3),
            )
            self._preview(event)
        elif isinstance(event, FramesDone):
            self._say("frames", frames=event.frames, total=event.total)
        elif isinstance(event, Notice):
            self._say("log", line=event.message)

    def _preview(self, event: StepDone) -> None:
        now = time.monotonic()
        if event.preview is not None and now - self._last_preview >= SECONDS_BETWEEN_PREVIEWS:
            self._last_preview = now
            self._say("preview", step=event.step, data=_png(event.preview()))

    def _say(self, kind: str, **data: Any) -> None:
        self._voice.say(event={"id": self._id, "kind": kind, "data": data})


def _png(frames_THWC: Any) -> str:
    """Some frames of the clip side by side, as base64 of a PNG."""
    import numpy as np
    from PIL import Image

    shown = min(SHOWN_FRAMES, len(frames_THWC))
    chosen = np.linspace(0, len(frames_THWC) - 1, shown).round().astype(int)
    strip = np.concatenate([frames_THWC[index] for index in chosen], axis=1)
    stream = io.BytesIO()
    Image.fromarray(strip).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode()


def _code(error: Exception) -> str:
    return next((code for kind, code in _CODES if isinstance(error, kind)), "internal")


def _words(error: Exception) -> str:
    """One line for people; of a bug of ours no more than its name, the rest goes to stderr."""
    if isinstance(error, MochiError):
        return " ".join(str(error).split())
    traceback.print_exception(error)
    return f"an error of the server's ({type(error).__name__}); its log says more"


if __name__ == "__main__":
    main()
