"""A clone sets itself up: the scripts, the pins, the wheel, and skips that are honest."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
PINS = [
    line
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
SH = shutil.which("sh") or "sh"


def find_python(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SH, str(REPOSITORY / "scripts" / "find-python"), *words],
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def command(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!{SH}\n{body}\n")
    (folder / name).chmod(0o755)


def test_a_python_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    command(tmp_path, "python3.11", "exit 127")  # what a version manager leaves on the path
    command(tmp_path, "python3.12", f'exec "{sys.executable}" "$@"')
    result = find_python(tmp_path)
    assert result.returncode == 0, result.stderr
    assert os.path.samefile(result.stdout.strip(), sys.executable)


def test_a_python_of_another_version_is_passed_over(tmp_path: Path) -> None:
    command(tmp_path, "python3", "echo 3.9.2")
    result = find_python(tmp_path)
    assert result.returncode == 1
    assert "Python 3.11 or 3.12 is needed; found: python3=3.9.2" in result.stderr


def test_no_python_and_no_venv_are_said(tmp_path: Path) -> None:
    assert "found: none" in find_python(tmp_path).stderr
    command(tmp_path, "python3", 'case "$2" in *venv*) exit 1;; *) echo 3.11.2;; esac')
    assert "python3 has no venv module" in find_python(tmp_path).stderr
    assert "'nowhere' does not run" in find_python(tmp_path, "nowhere").stderr


def install(folder: Path, *, nvidia: bool, system: str = "Linux") -> tuple[list[str], str]:
    """What scripts/install asks a pip that only listens for, and the constraints it leaves."""
    (folder / "bin").mkdir()
    command(folder / "bin", "nvidia-smi", "echo 'GPU 0: H100'" if nvidia else "exit 9")
    command(folder / "bin", "uname", f"echo {system}")
    # No torch yet; pip writes down what it is asked for.
    body = f'case "$*" in *metadata*) exit 1;; *"pip "*) echo "$@" >>"{folder}/asked";; esac'
    command(folder / "bin", "python", body)
    subprocess.run(
        [SH, str(REPOSITORY / "scripts" / "install"), str(folder), "dev"],
        cwd=REPOSITORY,
        env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "TORCH_INDEX": ""},
        check=True,
        timeout=60,
    )
    asked = (folder / "asked").read_text().splitlines()
    return asked, (folder / "constraints.txt").read_text()


def test_a_machine_without_nvidia_asks_for_the_cpu_build_first(tmp_path: Path) -> None:
    asked, pins = install(tmp_path, nvidia=False)
    assert [line.split()[-1] for line in asked] == ["torch==2.13.0+cpu", ".[dev]"]
    assert "torch==2.13.0\n" in pins


def test_a_machine_with_nvidia_is_free_to_take_the_newest_build(tmp_path: Path) -> None:
    asked, pins = install(tmp_path, nvidia=True)
    assert [line.split()[-1] for line in asked] == [".[dev]"]
    assert "torch==" not in pins
    assert "numpy==" in pins


def test_a_mac_takes_the_pinned_build(tmp_path: Path) -> None:
    asked, pins = install(tmp_path, nvidia=False, system="Darwin")
    assert [line.split()[-1] for line in asked] == [".[dev]"]
    assert "torch==2.13.0\n" in pins


def test_every_direct_dependency_is_pinned_within_its_range() -> None:
    pins = {canonicalize_name(name): pin for name, pin in (line.split("==") for line in PINS)}
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in [Requirement(line) for lines in lists for line in lines]:
        if requirement.name != PROJECT["name"]:
            version = pins[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), (requirement, version)


def test_pins_are_exact() -> None:
    assert [line for line in PINS if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert "torch==2.13.0" in PINS  # scripts/install looks for this spelling


def test_the_wheel_holds_the_whole_package() -> None:
    from hatchling.builders.wheel import WheelBuilder

    inside = {
        file.distribution_path for file in WheelBuilder(str(REPOSITORY)).recurse_included_files()
    }
    package = REPOSITORY / "src" / "mochi"
    wanted = {
        "mochi/" + path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert inside == wanted
    assert {f"mochi/nano/{part}.safetensors" for part in ("dit", "decoder", "encoder")} <= inside


def test_nano_is_at_most_40_mb() -> None:
    files = [path for path in (REPOSITORY / "src" / "mochi" / "nano").rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= 40_000_000


@pytest.mark.parametrize(
    ("flags", "outcome"), [([], "1 skipped"), (["--require-system"], "1 error")]
)
def test_missing_system_software_is_a_skip_or_a_failure(
    tmp_path: Path, flags: list[str], outcome: str
) -> None:
    shutil.copy(REPOSITORY / "tests" / "conftest.py", tmp_path)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\n"
        "@pytest.mark.needs_system('no-such-program', install='apt-get install it')\n"
        "def test_it():\n    assert True\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-rsf", "-p", "no:cacheprovider", str(tmp_path), *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert outcome in result.stdout
    assert "needs no-such-program (apt-get install it)" in result.stdout


def test_the_installed_version_is_the_declared_one() -> None:
    import mochi

    assert mochi.__version__ in (
        PROJECT["version"],
        "0+unknown",
    )  # unknown: run from a bare checkout
