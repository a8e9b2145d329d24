"""The import of transformers from several threads at once."""

import ast
import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "mochi"
AT_ONCE = """
import threading, time
from mochi.text.importing import import_transformers

def take(name, delay):
    time.sleep(delay)
    import_transformers()
    transformers = __import__("transformers", fromlist=[name])
    taken.append(getattr(transformers, name))

taken = []
names = ["AutoTokenizer", "T5Config", "T5EncoderModel", "AutoTokenizer", "T5Config"]
threads = [threading.Thread(target=take, args=(name, i / 20)) for i, name in enumerate(names)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(taken) == len(names), taken
"""


def test_threads_that_need_it_at_once_all_find_its_names() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_no_name_is_taken_from_it_otherwise() -> None:
    bare = [
        f"{path.relative_to(PACKAGE)}:{later.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef)
        for earlier, later in zip([None, *function.body], function.body, strict=False)
        if isinstance(later, ast.ImportFrom) and later.module == "transformers"
        if earlier is None or ast.unparse(earlier) != "import_transformers()"
    ]
    assert bare == []
