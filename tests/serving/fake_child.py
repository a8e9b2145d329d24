"""A runner's child without a model: it speaks the protocol, and does what its prompt says.

Words in a prompt: `crash` (dies in the middle), `fail` (an error), `full` (the disk), `judged` (a
classifier refuses it), `flagged` (one objects), `slow` (a tenth of a second a step), `real` (a file
that is a video), a path (after its first step it waits for that file, or to be cancelled). With the
argument `broken` it does not come up; with `together` it takes jobs in batches, and makes them one
after the other. The bytes of adapters end up in its videos.
"""

import base64
import json
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mochi
from mochi.serving.made import leave_note

DEFAULTS = {
    "frames": 25,
    "height": 64,
    "width": 64,
    "fps": 12,
    "steps": 4,
    "threshold": 0.1,
    "linear_steps": None,
    "guidance": 2.0,
    "solver": "euler",
    "negative_prompt": "",
}
FAILURES = {"fail": "sampling", "full": "disk_full", "judged": "refused"}
PREVIEW = base64.b64encode(b"\x89PNG\r\n\x1a\n not really").decode()
runs: "queue.Queue[dict[str, Any]]" = queue.Queue()
cancelled: set[str] = set()
now: dict[str, str] = {}
offered: dict[str, bytes] = {}


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def event(kind: str, **data: Any) -> None:
    say(event={"id": now["id"], "kind": kind, "data": data})


def listen() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if "run" in message:
            cancelled.discard(message["run"]["id"])  # that was an earlier attempt
            runs.put(message["run"])
        elif "cancel" in message:
            cancelled.add(message["cancel"])
        elif "offer" in message:
            learn(message["offer"]["lora"])
        elif "ask" in message:
            say(answer=answer(message["ask"]))
    os._exit(0)


def learn(lora: dict[str, Any]) -> None:
    source = Path(lora["source"])
    path = source / "adapter.safetensors" if source.is_dir() else source
    offered[lora["name"]] = path.read_bytes() if path.exists() else b""


def answer(question: dict[str, Any]) -> dict[str, Any]:
    if question["kind"] == "tokens":
        count = len(question["prompt"].split()) + 1
        reply: dict[str, Any] = {"tokens": count, "limit": 256, "cut": count > 256}
    else:
        pixels = question["frames"] * question["height"] * question["width"]
        reply = {"memory_bytes": 100 * pixels, "memory_available_bytes": 10**9}
    return {"number": question["number"], **reply}


def stand_still(words: list[str]) -> None:
    paths = [Path(word) for word in words if word.startswith("/")]
    while not all(path.exists() for path in paths) and now["id"] not in cancelled:
        time.sleep(0.01)


def run(order: dict[str, Any]) -> None:
    now["id"] = order["id"]
    request, words = order["request"], order["request"]["prompt"].split()
    steps = request["steps"]
    event("phase", phase="text", total=None)
    event("phase", phase="denoise", total=steps)
    pause = 0.1 if "slow" in words else 0.001
    for step in range(1, steps + 1):
        time.sleep(pause)
        if order["id"] in cancelled:
            say(failed={"id": order["id"], "code": "cancelled", "message": "cancelled"})
            return
        left = (steps - step) * pause
        event("step", step=step, steps=steps, seconds_per_step=pause, eta_seconds=left)
        event("preview", step=step, data=PREVIEW)
        if "crash" in words and step == 2:
            os._exit(9)
        if step == 1:
            stand_still(words)
    for word, code in FAILURES.items():
        if word in words:
            say(failed={"id": order["id"], "code": code, "message": "it went wrong"})
            return
    real = Path(mochi.__file__).parent / "serving" / "page" / "examples" / "red-circle.mp4"
    content = real.read_bytes() if "real" in words else f"a video of {request['prompt']}".encode()
    content += b"".join(offered[name] for name, _ in request.get("loras", ()))
    Path(order["path"]).write_bytes(content)
    facts = {"seconds": {"denoise": steps * pause}, "prompt_tokens": 5, "truncated": ""}
    facts["together"] = max(1, len(order["beside"]))
    if "flagged" in words:
        facts["judged"] = [{"point": "frames", "label": "red", "score": 0.91}]
    leave_note(Path(order["path"]), order["id"], facts)
    if "FAKE_RUNNER_LOG" in os.environ:  # every run that was completed
        with open(os.environ["FAKE_RUNNER_LOG"], "a") as stream:
            stream.write(order["id"] + "\n")
    say(done={"id": order["id"], **facts})


def main() -> None:
    hello = json.loads(sys.stdin.readline() or "{}").get("hello")
    if hello is None:
        return
    if "broken" in sys.argv:
        say(broken="weights/dit.safetensors: is cut off")
        return
    for entry in hello["models"]:
        for lora in entry["loras"]:
            learn(lora)
    found = {"card_name": "fake", "licence": "Apache-2.0", "defaults": DEFAULTS}
    found["together_tokens"] = 2_000 if "together" in sys.argv else 0
    say(ready=[{"name": entry["name"], "version": "ab" * 32, **found} for entry in hello["models"]])
    threading.Thread(target=listen, daemon=True).start()
    while True:
        run(runs.get())


if __name__ == "__main__":
    main()
