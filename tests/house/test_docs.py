"""The documents tell the truth about what can be typed."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

import mochi
from mochi.cli.commands import app

REPOSITORY = Path(__file__).resolve().parents[2]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
DOCUMENTS = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
named = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def shell_lines(document: Path) -> list[list[str]]:
    """The words of each line in a document's shell blocks; continued lines joined, no comments."""
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", document.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def words_of(document: Path, program: str) -> list[list[str]]:
    """The words after `program` in each shell line that calls it."""
    lines = shell_lines(document)
    return [words[words.index(program) + 1 :] for words in lines if program in words]


def test_the_readme_opens_with_the_two_commands() -> None:
    assert shell_lines(REPOSITORY / "README.md")[:2] == [["make", "video"], ["make", "test"]]
    assert "make video" in "".join((REPOSITORY / "README.md").read_text().splitlines()[:6])


@named
def test_make_targets_exist(document: Path) -> None:
    mentioned = set(re.findall(r"`make ([a-z-]+)", document.read_text()))
    mentioned |= {word for words in words_of(document, "make") for word in words if "=" not in word}
    assert {name for name in mentioned if f"\n{name}:" not in MAKEFILE} == set()


@named
def test_commands_and_their_options_exist(document: Path) -> None:
    for words in words_of(document, "mochi"):
        command = typer.main.get_command(app)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert not hasattr(command, "commands") or words[:1] in (["--help"], ["--version"]), words
        options = {
            option
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        for word in words:
            if word.startswith("-"):
                assert word.split("=")[0] in options | {"--help"}, (command.name, word)


@named
def test_python_examples_parse_and_name_what_is_public(document: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "mochi" or node.attr in mochi.__all__, node.attr


@named
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text())
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not (document.parent / link).exists()] == []


def test_contributing_names_every_layer() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    packages = [path.parent.name for path in (REPOSITORY / "src" / "mochi").glob("*/__init__.py")]
    assert [name for name in packages if f"`{name}`" not in text and f"{name}/" not in text] == []
