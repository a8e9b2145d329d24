"""What every test may use: the folder of reference tensors, and honest skips."""

import json
import os
import shutil
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# Other work on the machine must not turn a slow example into a failure, and the same commit gives
# the same answer each time. New examples are looked for with --hypothesis-profile=search.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=500)
hypothesis.settings.load_profile("house")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-system",
        action="store_true",
        help="a program that a test needs and that is not installed is a failure, not a skip",
    )


def pytest_configure() -> None:
    if not _cuda():  # Triton looks at it once, when it is imported, by whomever
        os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with `SPEC.md`, `goldens/` and `t5_tokenizer/`: MOCHI_SHARED, else ../shared."""
    folder = Path(os.environ.get("MOCHI_SHARED") or REPOSITORY.parent / "shared")
    if not (folder / "goldens").is_dir():
        pytest.skip("the reference tensors are not here (MOCHI_SHARED, or ../shared)")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder with random weights: its videos are noise, and take milliseconds."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny-mochi"
    folder.mkdir()
    _write_tiny_model(folder)
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not _cuda():
        pytest.skip("needs a CUDA device")
    for marker in item.iter_markers("needs_system"):
        _need(marker, required=bool(item.config.getoption("--require-system")))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.config.getoption("--require-system"):
        _no_excuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if collector.config.getoption("--require-system"):
        _no_excuse(report)
    return report


def _no_excuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    """A package that is missing is no reason to skip where all of them are to be there."""
    if report.skipped and "could not import" in str(report.longrepr):
        report.outcome = "failed"


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _need(marker: pytest.Mark, *, required: bool) -> None:
    (program,) = marker.args
    if shutil.which(program):
        return
    reason = f"needs {program} ({marker.kwargs['install']})"
    if required:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


TINY_DEFAULTS = {"frames": 13, "height": 32, "width": 32, "fps": 12, "steps": 4, "guidance": 2.0}
TINY_WORDS = ["a", "red", "blue", "white", "black", "circle", "square", "moves", "left", "right"]
TINY_WORDS += ["on", "background"]


def _write_tiny_model(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from mochi.core.config import DecoderConfig, DiTConfig, EncoderConfig
    from mochi.model.decoder import Decoder
    from mochi.model.dit import AsymmDiT
    from mochi.model.encoder import Encoder
    from mochi.text.t5 import T5Size, build_t5
    from mochi.text.wordlevel import build_word_tokenizer

    widths = {"visual_width": 64, "text_width": 32, "text_features": 32}
    sizes = {"channels": (32, 32, 32, 32), "blocks": (0, 0, 0, 1, 0)}
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(0).get_state())
        parts = {
            "dit": AsymmDiT(DiTConfig(depth=2, heads=2, head_dim=32, **widths)),
            "decoder": Decoder(DecoderConfig(**sizes)),
            "encoder": Encoder(EncoderConfig(**sizes)),
        }
        text = T5Size(vocabulary=32, width=32, feed_forward=64, depth=1, heads=2, head_dim=16)
        encoder = build_t5(text)
    for name, network in parts.items():
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        save_file(state, folder / f"{name}.safetensors")
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder" / "config.json").write_text(json.dumps(encoder.config.to_dict()))
    state = {"shared.weight": encoder.shared.weight} | {
        key: value for key, value in encoder.state_dict().items() if "embed_tokens" not in key
    }
    save_file(state, folder / "text_encoder" / "model.safetensors")
    build_word_tokenizer(TINY_WORDS, folder / "tokenizer")
    card = {"name": "tiny", "defaults": TINY_DEFAULTS}
    (folder / "mochi.json").write_text(json.dumps(card))
