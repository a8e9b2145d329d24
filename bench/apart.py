"""The process of a side that runs apart: `python bench/apart.py MODULE:FUNCTION SETTINGS`.

Each line on standard input is one run, answered with one line of JSON. See `pairs.Apart`.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys

from pairs import Here


def main() -> None:
    """Make the work, then do it each time a line comes in."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    module, function = sys.argv[1].split(":")
    settings = json.loads(sys.argv[2])
    work = getattr(importlib.import_module(module), function)(**settings)
    side = Here(work, settings.get("device", "cpu"))
    for _ in sys.stdin:
        answers.write(json.dumps(dataclasses.asdict(side.once())) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
