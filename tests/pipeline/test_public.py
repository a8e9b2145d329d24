"""The public names: all there, none by accident, and editors see what Python finds."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

import mochi


def test_every_public_name_is_found() -> None:
    for name in mochi.__all__:
        assert getattr(mochi, name) is not None
        assert name in dir(mochi)
    assert len(set(mochi.__all__)) == len(mochi.__all__)


def test_editors_see_the_homes_that_python_uses() -> None:
    tree = ast.parse(Path(mochi.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == mochi._HOMES
    assert set(seen) < set(mochi.__all__)


def test_a_name_is_what_its_home_says() -> None:
    for name, home in mochi._HOMES.items():
        assert getattr(mochi, name) is getattr(import_module(home), name)


def test_other_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="generate"):
        _ = mochi.generate
