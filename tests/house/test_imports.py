"""Arrows point down, and the command line answers before anything heavy is imported."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "src" / "mochi"
HEAVY = {
    "torch",
    "transformers",
    "tokenizers",
    "diffusers",
    "av",
    "numpy",
    "PIL",
    "huggingface_hub",
}
WITHOUT_TORCH = [
    "mochi",
    "mochi.cli.app",
    "mochi.cli.commands",
    *(
        f"mochi.core.{path.stem}"
        for path in sorted((PACKAGE / "core").glob("*.py"))
        if path.stem not in ("__init__", "latents")  # latents hold tensors
    ),
]


def python(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs this Python with the package of this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **settings}
    return subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=120
    )


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache'])"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src")},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package's code and its contracts, to break."""
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    only_code = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.json")
    shutil.copytree(PACKAGE, tmp_path / "src" / "mochi", ignore=only_code)
    return tmp_path


def test_layers_hold() -> None:
    result = lint_imports(REPOSITORY)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("core/sizes.py", "import mochi.model.layers"),  # an arrow up
        ("text/features.py", "import mochi.weights.loading"),  # a sibling
        ("model/layers.py", "import transformers"),  # a stranger in the model
        ("weights/loading.py", "import av"),  # PyAV by a second door
    ],
)
def test_a_forbidden_import_is_found(copy: Path, module: str, line: str) -> None:
    path = copy / "src" / "mochi" / module
    path.write_text(path.read_text() + f"\n\ndef late() -> None:\n    {line}\n")
    result = lint_imports(copy)
    assert result.returncode != 0
    assert "BROKEN" in result.stdout


def test_a_package_without_a_place_is_found(copy: Path) -> None:
    (copy / "src" / "mochi" / "helpers").mkdir()
    (copy / "src" / "mochi" / "helpers" / "__init__.py").touch()
    result = lint_imports(copy)
    assert result.returncode != 0
    assert "mochi.helpers" in result.stdout + result.stderr


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_imports_nothing_heavy(module: str) -> None:
    result = python("-c", f"import sys, {module}; print(*sys.modules)")
    assert result.returncode == 0, result.stderr
    assert not HEAVY & set(result.stdout.split())


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from mochi.cli.app import main

sys.argv = ["mochi", "--help"]
try:
    main()
finally:
    print("MODULES", *sys.modules)
"""
    result = python("-c", code)
    assert result.returncode == 0, result.stderr
    page, modules = result.stdout.split("MODULES")
    assert "generate" in page
    assert not HEAVY & set(modules.split())


def processor_seconds(*words: str) -> float:
    """What a run of this Python costs, not by the clock: other tests run meanwhile."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = python(*words, PYTHONDONTWRITEBYTECODE="")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_answers_in_half_a_second() -> None:
    # Best of three, for cold caches. On a machine so slow that what draws the page takes an eighth
    # of a second to import, four times that. `bench/nano.py` measures the clock.
    costs, imports = [], []
    for _ in range(3):
        costs.append(processor_seconds("-m", "mochi", "--help"))
        imports.append(processor_seconds("-c", "import typer, rich.console"))
    assert min(costs) < max(0.5, 4 * min(imports))


def test_every_public_name_arrives() -> None:
    code = "import mochi; print(*(name for name in mochi.__all__ if not hasattr(mochi, name)))"
    result = python("-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
