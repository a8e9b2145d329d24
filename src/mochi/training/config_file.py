"""The file that `mochi finetune --init` writes: every setting, what it does, its default."""

from __future__ import annotations

import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any

from mochi.training.config import Config
from mochi.training.setting import toml_value
from mochi.video.output import claim

_WIDTH = 96
_HEAD = """\
# A training of Mochi. Run it with: mochi finetune THIS_FILE
# Paths begin at this file's folder. What is left out has the value that stands here.
"""


def config_text() -> str:
    """A config file in which everything is said, and commented out but for the sections."""
    parts = [_HEAD]
    for section in fields(Config):
        factory: Any = section.default_factory
        parts.append(_section(section.name, factory))
    return "\n".join(parts)


def _section(name: str, kind: Any) -> str:
    lines = [f"# {line}" for line in textwrap.wrap(str(kind.__doc__), _WIDTH)]
    lines.append(f"[{name}]")
    for one in fields(kind):
        about = one.metadata["about"] + _rule(one.metadata)
        lines += [f"# {line}" for line in textwrap.wrap(about, _WIDTH)]
        lines.append(f"# {one.name} = {toml_value(one.default)}")
    return "\n".join(lines) + "\n"


def _rule(notes: Any) -> str:
    """The range, where there is one."""
    rules = notes["rules"]
    said = []
    if rules["least"] is not None:
        said.append(f"at least {rules['least']:g}")
    if rules["above"] is not None:
        said.append(f"above {rules['above']:g}")
    if rules["most"] is not None:
        said.append(f"at most {rules['most']:g}")
    if rules["below"] is not None:
        said.append(f"below {rules['below']:g}")
    return f" ({', '.join(said)})" if said else ""


def write_config(path: Path, overwrite: bool = False) -> None:
    """Write the file.

    Raises:
        OutputError: it exists, or cannot be written.
    """
    with claim(path, overwrite=overwrite) as partial:
        partial.write_text(config_text(), encoding="utf-8")
