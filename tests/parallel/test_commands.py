"""`mochi generate` on many devices: started here, by torchrun, on several hosts, on Ray."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from tests.parallel.same import frames_in, same_frames

import mochi
from mochi.core.errors import RankError
from mochi.parallel.places import place_in
from mochi.pipeline.team import Layout
from mochi.text.features import TextFeatures

PROMPT = "a red circle moves left on a black background"
SOURCE = Path(mochi.__file__).resolve().parents[1]
SECONDS = 1800
# Long enough to be ended on the way on any machine: minutes.
LONG = {"frames": 85, "height": 128, "width": 128, "steps": 1000}
COMMON = ["--device", "cpu", "--steps", "3", "--seed", "7", "--frames", "7"]


def command(*words: object, **environment: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    return subprocess.Popen(
        [sys.executable, "-m", "mochi", *map(str, words)],
        env=clean | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def features(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text features in a file: without them every first rank imports a text encoder."""
    width = mochi.load(str(tiny_model)).parts.blueprint("dit").config.text_features
    draw = torch.Generator().manual_seed(3)
    mask = torch.arange(256).unsqueeze(0) < 5
    made = torch.randn(1, 256, width, generator=draw) * mask.unsqueeze(-1)
    path = tmp_path_factory.mktemp("features") / "features.safetensors"
    TextFeatures(made, mask, (5,), ("",)).save(path)
    return path


@pytest.fixture(scope="module")
def words(tiny_model: Path, features: Path) -> list[object]:
    return ["generate", PROMPT, "--model", tiny_model, "--embeddings", features, *COMMON]


@pytest.fixture(scope="module")
def alone(tiny_model: Path, features: Path) -> np.ndarray:
    """The frames that one process makes."""
    given = TextFeatures.load(features)
    pipe = mochi.load(str(tiny_model), device="cpu")
    return pipe.generate(PROMPT, embeddings=given, steps=3, seed=7, frames=7).frames


def test_two_devices_give_the_file_of_one(words: Any, alone: np.ndarray, tmp_path: Path) -> None:
    code, out, err = ended(command(*words, "--devices", 2, "--output", tmp_path / "a"))
    assert code == 0, err
    assert "parallel: guidance=2,ulysses=1,ring=1 on 2 devices" in err
    assert out.startswith(f"{tmp_path / 'a'}: ")
    assert same_frames(frames_in(tmp_path / "a"), alone)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--devices", "0"], "devices=0 is not a positive number"),
        (["--devices", "3", "--parallel", "ring=2"], "takes 2 devices, and there are 3"),
        (["--parallel", "ring=2"], "takes 2 devices, and there are 1; nearest: --devices 2"),
        (["--devices", "2", "--parallel", "many"], "is not of the form guidance=A"),
        (["--devices", "2", "--launcher", "k8s"], "launcher='k8s' is unknown; nearest: local, ray"),
        (["--devices", "2", "--device", "cuda:0"], "is one device"),
    ],
)
def test_bad_input_is_one_line(
    options: list[str], error: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mochi.cli.app import run
    from mochi.cli.interrupt import Interrupt

    base = ["generate", PROMPT, "--model", str(tiny_model)]
    assert run([*base, *options], Interrupt()) == 2
    said = capsys.readouterr().err
    assert error in said
    assert said.count("\n") == 1


def of_a_run(rank: int, size: int, port: int, host: str = "127.0.0.1") -> dict[str, str]:
    numbers = {"RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    return {name: str(number) for name, number in numbers.items()} | {"MASTER_ADDR": host}


def test_a_rank_that_does_not_come_is_named(tiny_model: Path) -> None:
    place = place_in(of_a_run(0, 2, free_port()))
    assert place is not None
    layout = Layout.at(place, torch.device("cpu"), come_seconds=3)
    pipe = mochi.load(str(tiny_model), layout=layout)
    with pytest.raises(RankError, match="rank 1 of 2 did not come within 3 s"):
        pipe.generate(PROMPT, seed=0)


def test_a_busy_port_is_explained(tiny_model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = place_in(of_a_run(0, 2, taken.getsockname()[1]))
        assert place is not None
        pipe = mochi.load(str(tiny_model), layout=Layout.at(place, torch.device("cpu")))
        with pytest.raises(RankError, match="another run uses it; set MASTER_PORT"):
            pipe.generate(PROMPT, seed=0)


@pytest.mark.long
@pytest.mark.parametrize("devices", [2, 3])
def test_nano_on_several_devices_gives_the_file_of_one(devices: int, tmp_path: Path) -> None:
    for count in (1, devices):
        output = ["--devices", count, "--output", tmp_path / f"{count}"]
        code, _, err = ended(command("generate", PROMPT, *COMMON, *output))
        assert code == 0, err
    assert same_frames(frames_in(tmp_path / "1"), frames_in(tmp_path / f"{devices}"))


@pytest.mark.long
def test_ctrl_c_stops_all_and_leaves_nothing(tiny_model: Path, tmp_path: Path) -> None:
    output = ["--devices", 2, "--device", "cpu", "--output", tmp_path / "a.mp4"]
    size = [word for name, value in LONG.items() for word in (f"--{name}", value)]
    process = command("generate", PROMPT, "--model", tiny_model, "--seed", 1, *size, *output)
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip().startswith("step "):
            break
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) == 2
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 130
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_torchrun_is_joined(words: Any, alone: np.ndarray, tmp_path: Path) -> None:
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    inner = [sys.executable, "-m", "mochi", *map(str, words), "--output", tmp_path / "a"]
    environment = dict(os.environ, PYTHONPATH=str(SOURCE), OMP_NUM_THREADS="1")
    whole = [sys.executable, *run, *map(str, inner)]
    done = subprocess.run(whole, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert same_frames(frames_in(tmp_path / "a"), alone)


@pytest.mark.long
def test_ranks_that_were_told_different_things_say_so(words: Any, tmp_path: Path) -> None:
    port = free_port()
    first = command(*words, "--output", tmp_path / "a", **of_a_run(0, 2, port))
    other = command(*words, "--guidance", "5", **of_a_run(1, 2, port))
    for process in (first, other):
        code, _, err = ended(process)
        assert code == 1
        assert "rank 1 is not like rank 0: request.guidance is 5.0 there and 2.0 on rank 0" in err
    assert list(tmp_path.iterdir()) == []


@contextmanager
def two_hosts() -> Iterator[list[str]]:
    """Two network namespaces with a wire between them; gives their names."""
    names = [f"mochi{os.getpid()}{end}" for end in "ab"]
    wires = [f"m{os.getpid() % 10**6}{end}" for end in "ab"]
    steps = [f"ip netns add {name}" for name in names]
    steps += [f"ip link add {wires[0]} type veth peer name {wires[1]}"]
    for number, (name, wire) in enumerate(zip(names, wires, strict=True), 1):
        inside = f"ip -n {name}"
        steps += [f"ip link set {wire} netns {name}", f"{inside} link set lo up"]
        steps += [f"{inside} addr add 10.77.31.{number}/24 dev {wire}"]
        steps += [f"{inside} link set {wire} up"]
    try:
        for step in steps:
            try:
                subprocess.run(step.split(), check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"this machine has no network namespaces for us: {error}")
        yield names
    finally:
        for name in names:
            with suppress(OSError):
                subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("ip") is None, reason="needs ip (iproute2)")
def test_two_hosts_make_one_video(words: Any, alone: np.ndarray, tmp_path: Path) -> None:
    with two_hosts() as hosts:
        processes = []
        for rank, host in enumerate(hosts):
            settings = of_a_run(rank, 2, 29_711, "10.77.31.1") | {"LOCAL_RANK": "0"}
            settings |= {"LOCAL_WORLD_SIZE": "1", "PYTHONPATH": str(SOURCE)}
            process = subprocess.Popen(
                ["ip", "netns", "exec", host, sys.executable, "-m", "mochi", *map(str, words)]
                + ["--output", str(tmp_path / "a"), "--parallel", "ulysses=2"],
                env=os.environ | settings,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
        for process in processes:
            code, _, err = ended(process)
            assert code == 0, err
    assert same_frames(frames_in(tmp_path / "a"), alone)


ON_RAY = """
import json, os, signal, sys
import ray
import mochi
from mochi.core.events import StepDone
from mochi.pipeline.on_ray import ray_layout
from mochi.text.features import TextFeatures

model, features, count, kills = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "kill"
given = TextFeatures.load(features)
settings = {"seed": 7} | json.loads(sys.argv[6])
ray.init(address="local", num_cpus=count, include_dashboard=False, log_to_driver=False)
with mochi.load(model, layout=ray_layout(count, "cpu")) as pipe:
    pids = pipe.team.crew().ranks.pids

    def listen(event):
        if kills and isinstance(event, StepDone) and event.step == 2:
            os.kill(pids[1], signal.SIGKILL)

    error, frames = "", 0
    try:
        words = "a red circle moves left on a black background"
        clip = pipe.generate(words, embeddings=given, on_event=listen, **settings)
        clip.save(sys.argv[5])
    except mochi.MochiError as failure:
        error = str(failure)
print(json.dumps({"error": error, "pids": list(pids.values())}))
"""


def on_ray(model: Path, features: Path, count: int, what: str, output: Path) -> dict[str, Any]:
    settings = LONG if what == "kill" else {"steps": 3, "frames": 7}
    words = (model, features, count, what, output, json.dumps(settings))
    quiet = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", ON_RAY, *map(str, words)],
        env=os.environ | quiet | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith('{"error"')]
    assert len(said) == 1, done.stdout  # Ray may have something to say, too
    answer: dict[str, Any] = json.loads(said[0])
    return answer


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 3])
def test_actors_of_ray_give_the_file_of_one(
    tiny_model: Path, features: Path, alone: np.ndarray, tmp_path: Path, count: int
) -> None:
    pytest.importorskip("ray")
    path = tmp_path / "a"
    answer = on_ray(tiny_model, features, count, "make", path)
    assert answer["error"] == ""
    assert same_frames(frames_in(path), alone)


@pytest.mark.long
def test_an_actor_that_is_killed_ends_all(tiny_model: Path, features: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    begun = time.monotonic()
    answer = on_ray(tiny_model, features, 2, "kill", tmp_path / "a")
    assert answer["error"].startswith("rank 1 ended: ")
    while any(map(psutil.pid_exists, answer["pids"])):  # Ray ends them in its own time
        assert time.monotonic() - begun < SECONDS
        time.sleep(0.1)
    assert list(tmp_path.iterdir()) == []
