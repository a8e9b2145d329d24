"""Rules about the files themselves: how long, and what they must not name."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
# What may be longer, and why: "path" or "path::function" -> reason.
LONGER: dict[str, str] = {
    "src/mochi/cli/generate.py::generate": "a parameter for each option",
    "src/mochi/pipeline/opening.py::load": "a documented parameter for each choice",
    "src/mochi/serving/services.py::_open": "a line for each part of a server",
}

# Folders of somebody's own machine; system paths such as /dev/null and /proc are fine.
MACHINE_PATH = re.compile(r"(?<![\w.~)}*-])/(?:home|root|Users|work|workspace|mnt|opt|media)/\w")


def tracked_files() -> list[Path]:
    """The files of the project: git's, or without git all but hidden and built ones."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        folders = ("src", "tests", "docs", "scripts", ".ci")
        inside = (path for folder in folders for path in (REPOSITORY / folder).rglob("*"))
        paths = [
            path for path in (*REPOSITORY.iterdir(), *inside) if "__pycache__" not in path.parts
        ]
    else:
        paths = [REPOSITORY / name for name in listed]
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def text_of(path: Path) -> str | None:
    """The file as text; None where it is none."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        return None


FILES = tracked_files()
PYTHON_FILES = [path for path in FILES if path.suffix == ".py"]


def too_long(name: str, source: str) -> list[str]:
    """What breaks the limits in one file, reasons in LONGER aside."""
    found = []
    if (lines := len(source.splitlines())) > MAX_FILE_LINES:
        found.append((name, lines))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                found.append((f"{name}::{node.name}", lines))
    return [f"{where}: {lines} lines" for where, lines in found if where not in LONGER]


def test_the_search_sees_the_package() -> None:
    assert REPOSITORY / "src" / "mochi" / "__init__.py" in PYTHON_FILES
    assert Path(__file__) in PYTHON_FILES


def test_files_and_functions_are_short() -> None:
    names = {path.relative_to(REPOSITORY).as_posix(): path.read_text() for path in PYTHON_FILES}
    assert [line for name, source in names.items() for line in too_long(name, source)] == []


def test_a_long_file_and_a_long_function_are_found() -> None:
    body = "    x = 1\n" * 60
    assert too_long("a.py", f"def f():\n{body}") == ["a.py::f: 61 lines"]
    assert too_long("a.py", "x = 1\n" * 401) == ["a.py: 401 lines"]


def test_no_file_names_a_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}: {match.group()}"
        for path in FILES
        if (text := text_of(path)) is not None
        for match in MACHINE_PATH.finditer(text)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("open('/{}/me/model')", True),
        ("cd /{}/main", True),
        ("https://example.org/{}/page", False),
        ("src/{}/x.py", False),
        ("/dev/{}", False),
    ],
)
def test_a_machine_path_is_told_from_others(text: str, is_one: bool) -> None:
    assert bool(MACHINE_PATH.search(text.format("home"))) is is_one


def test_nothing_is_left_to_do() -> None:
    words = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b|NotImplementedError|type: ignore(?!\[)")
    source = [path for path in PYTHON_FILES if path.is_relative_to(REPOSITORY / "src")]
    assert [str(path) for path in source if words.search(path.read_text())] == []
