"""What every test may use: the folder of reference tensors, and honest skips."""

import os
import shutil
from pathlib import Path

import hypothesis
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# Other work on the machine must not turn a slow example into a failure.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-system",
        action="store_true",
        help="a program that a test needs and that is not installed is a failure, not a skip",
    )


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with `SPEC.md`, `goldens/` and `t5_tokenizer/`: MOCHI_SHARED, else ../shared."""
    folder = Path(os.environ.get("MOCHI_SHARED") or REPOSITORY.parent / "shared")
    if not (folder / "goldens").is_dir():
        pytest.skip("the reference tensors are not here (MOCHI_SHARED, or ../shared)")
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not _cuda():
        pytest.skip("needs a CUDA device")
    for marker in item.iter_markers("needs_system"):
        _need(marker, required=bool(item.config.getoption("--require-system")))


def _cuda() -> bool:
    import torch  # only where a test asks for it

    return torch.cuda.is_available()


def _need(marker: pytest.Mark, *, required: bool) -> None:
    (program,) = marker.args
    if shutil.which(program):
        return
    reason = f"needs {program} ({marker.kwargs['install']})"
    if required:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
