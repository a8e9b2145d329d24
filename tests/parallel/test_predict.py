"""Predictions follow from rates and bytes, and rates from measurements."""

import json

import pytest
import typer
from typer.testing import CliRunner

from mochi.cli.commands import app
from mochi.core.config import MOCHI_1, DiTConfig
from mochi.core.errors import RequestError
from mochi.parallel.formulae import Walk, tokens_of
from mochi.parallel.predict import (
    Cluster,
    Link,
    Rates,
    decode_seconds,
    fit_rates,
    guided_walks,
    step_seconds,
    work_of,
)
from mochi.parallel.scheme import Scheme, schemes

CONFIG = MOCHI_1.dit
LATENT = (1, 12, 28, 60, 106)
FREE = Link(1e30)


def test_operations_of_a_forward_pass_are_those_that_are_known() -> None:
    """The first table of PERFORMANCE, in TFLOP; attention with 256 tokens and with none."""
    tokens = tokens_of(CONFIG, Scheme(), LATENT)
    for text, products, attention in ((256, 485, 1182), (0, 484, 1169)):
        work = work_of(CONFIG, Scheme(), 0, tokens, Walk(1, int(text > 0), text))
        assert work.products * CONFIG.depth / 1e12 == pytest.approx(products, rel=0.005)
        assert work.attention * CONFIG.depth / 1e12 == pytest.approx(attention, rel=0.005)


def test_rates_are_found_from_what_they_explain() -> None:
    rates = Rates(8e11, 6e11, 0.001, 2e-9)
    samples = []
    for frames in (1, 2, 5, 9, 14):
        work = work_of(
            CONFIG,
            Scheme(),
            0,
            tokens_of(CONFIG, Scheme(), (1, 12, frames, 60, 106)),
            Walk(1, 1, 40 * frames % 97),
        )
        seconds = work.products / rates.products + work.attention / rates.attention
        seconds += rates.block_seconds + rates.token_seconds * work.tokens
        samples.append(([work], 4, 4 * seconds))
    found = fit_rates(samples)
    for (work,), blocks, seconds in samples:
        again = work.products / found.products + work.attention / found.attention
        again += found.block_seconds + found.token_seconds * work.tokens
        assert blocks * again == pytest.approx(seconds, rel=1e-3)


@pytest.mark.parametrize("devices", [2, 4, 8, 16])
def test_no_scheme_is_faster_than_its_share(devices: int) -> None:
    rates = Rates(790e12, 640e12)
    one = _seconds(Scheme(), Cluster(rates, FREE, FREE, 8))
    for scheme in schemes(devices, CONFIG.heads):
        free = _seconds(scheme, Cluster(rates, FREE, FREE, 8))
        slow = _seconds(scheme, Cluster(rates, Link(40e9), Link(40e9), 8))
        exposed = _seconds(scheme, Cluster(rates, Link(40e9), Link(40e9), 8, hides=False))
        assert one / devices <= free * 1.0001
        assert free < slow <= exposed


def _seconds(scheme: Scheme, cluster: Cluster) -> float:
    walks = guided_walks(scheme, (256, 0), together=False)
    return step_seconds(CONFIG, scheme, LATENT, walks, 2, cluster)


def test_a_decode_on_many_devices_is_bounded_by_its_slowest_rank() -> None:
    latents = (1, 12, 28, 60, 106)
    times = [decode_seconds(MOCHI_1.decoder, latents, n, 2, 1.3, 2, FREE) for n in (1, 2, 4, 8)]
    assert times[0] == pytest.approx(1.3)
    assert times == sorted(times, reverse=True)
    assert times[3] >= 1.3 / 8
    slow = decode_seconds(MOCHI_1.decoder, latents, 8, 2, 1.3, 2, Link(50e9, 1e-5))
    assert slow > times[3]


def test_all_schemes_are_found_once() -> None:
    found = schemes(4, 3)
    assert {str(scheme) for scheme in found} == {
        "guidance=1,ulysses=1,ring=4",
        "guidance=1,ulysses=2,ring=2",
        "guidance=2,ulysses=1,ring=2",
        "guidance=2,ulysses=2,ring=1",
    }
    assert len(found) == 4


def test_the_bench_prints_bytes_equal_to_the_formulae() -> None:
    words = ["bench", "parallel", "--devices", "2", "--device", "cpu", "--repeats", "1", "--json"]
    words += ["--frames", "7", "--parallel", "ulysses=2", "--parallel", "guidance=2"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    alone, *rows = json.loads(result.stdout)["rows"]
    assert alone["seconds"] > 0
    assert [row["scheme"] for row in rows] == [str(Scheme(1, 2, 1)), str(Scheme(2, 1, 1))]
    for row in rows:
        assert row["sent"] == row["expected"] != {}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--devices", "1"], "devices"),
        (["--dtype", "auto"], "dtype"),
        (["--device", "cpu", "--parallel", "ulysses=3"], "parallel"),
        (["--device", "cpu", "--tokens", "9999"], "tokens"),
    ],
)
def test_the_bench_refuses_what_makes_no_sense(words: list[str], named: str) -> None:
    with pytest.raises(RequestError, match=named):
        typer.main.get_command(app).main(["bench", "parallel", *words], standalone_mode=False)


def test_small_networks_have_small_walks() -> None:
    config = DiTConfig(depth=1, heads=2, head_dim=8, visual_width=16, text_width=8)
    work = work_of(config, Scheme(), 0, (4,), Walk(2, 1, 3))
    assert work.tokens == 11
    assert work.qkv == 2 * 8 * 3 * 16 * 16
