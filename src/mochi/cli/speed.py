"""Switches of the fast paths. Each path gives the same video within rounding and is announced."""

from __future__ import annotations

from typing import Annotated

import typer

from mochi.core.speed import ATTENTION_NAMES, KERNEL_NAMES, PASS_NAMES, Speed

PANEL = "Fast paths (same video within rounding)"

Attention = Annotated[
    str,
    typer.Option(
        help=f"The attention kernel: {', '.join(ATTENTION_NAMES)}.",
        metavar="NAME",
        rich_help_panel=PANEL,
    ),
]
Kernels = Annotated[
    str,
    typer.Option(
        help=f"What runs between the matrix products: {', '.join(KERNEL_NAMES)}.",
        metavar="NAME",
        rich_help_panel=PANEL,
    ),
]
PassesWord = Annotated[
    str,
    typer.Option(
        "--passes",
        help=f"Both passes of a guided step as one batch or not: {', '.join(PASS_NAMES)}.",
        metavar="WORD",
        rich_help_panel=PANEL,
    ),
]
Tables = Annotated[
    bool,
    typer.Option(
        help="Work out the modulation of all steps before the first.", rich_help_panel=PANEL
    ),
]


def speed_of(context: typer.Context) -> Speed:
    """The fast paths that a command was asked for.

    Raises:
        RequestError: a name is unknown.
    """
    names = ("attention", "kernels", "passes", "tables")
    return Speed(**{name: context.params[name] for name in names if name in context.params})
