"""Nodes of a Ray cluster on this machine, each a tree of processes that can be killed at once."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "4",
}
REPOSITORY = Path(__file__).resolve().parents[2]


class Node:
    """A machine, as Ray sees it. Started and ended by its process id."""

    def __init__(self, folder: Path, head: "Node | None", cpus: int):
        self.port = free_port() if head is None else head.port
        if head is None:
            words = ["--head", f"--port={self.port}", "--include-dashboard=false"]
        else:
            words = [f"--address=127.0.0.1:{self.port}"]
        more = ["--block", "--disable-usage-stats", "--object-store-memory=80000000"]
        program = str(Path(sys.executable).with_name("ray"))
        self.log = folder / f"node-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [program, "start", *words, f"--num-cpus={cpus}", *more],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(REPOSITORY / "src")},
                start_new_session=True,
            )

    @property
    def processes(self) -> list[psutil.Process]:
        """Its own and all that it started."""
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        return []

    def replicas(self) -> list[psutil.Process]:
        """The actors of ours on it."""
        found = []
        for process in self.processes:
            with suppress(psutil.Error):
                if "ray::Replica" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def kill(self) -> None:
        """As when a machine loses its power: everything at once."""
        for process in self.processes:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Stop it, politely first."""
        started = self.processes
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        for process in started:
            with suppress(psutil.Error):
                process.kill()
        self.process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
