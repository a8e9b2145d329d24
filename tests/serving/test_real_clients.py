"""Clients that others wrote, unchanged, against our server; each script asserts what it sees."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serving.harness import Running, running

SCRIPTS = Path(__file__).with_name("clients")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("data")) as server:
        yield server


def run(server: Running, *command: str, packages: Path | None = None) -> None:
    token = server.services.tokens.create(["run"], "alice")
    more = {} if packages is None else {"PYTHONPATH": str(packages)}
    environment = {**os.environ, **more, "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(
        [*command, server.url, token], capture_output=True, text=True, timeout=600, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("ok\n")


@pytest.mark.parametrize("script", ["replicate_1.py", "openai_3.py"])
def test_python_clients(server: Running, script: str) -> None:
    run(server, sys.executable, str(SCRIPTS / script))


@pytest.mark.long
def test_replicates_second_version(server: Running, tmp_path: Path) -> None:
    """It has the same name as the first, so it is installed into a folder of its own."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tmp_path)]
    subprocess.run([*pip, "replicate==2.0.0b4"], check=True, timeout=300)
    run(server, sys.executable, str(SCRIPTS / "replicate_2.py"), packages=tmp_path)


@pytest.mark.long
@pytest.mark.needs_system("npm", install="apt-get install npm")
def test_replicates_client_for_node(server: Running, tmp_path: Path) -> None:
    npm = shutil.which("npm") or "npm"
    subprocess.run(
        [npm, "install", "--silent", "--no-audit", "--no-fund", "replicate@1.4.0"],
        cwd=tmp_path,
        check=True,
        timeout=300,
    )
    run(server, "node", str(SCRIPTS / "replicate_npm.mjs"), str(tmp_path))
