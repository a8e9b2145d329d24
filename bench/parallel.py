"""How long a video takes on many devices: predicted, and checked on this machine.

    python bench/parallel.py          # predicts, measures on loopback; results/parallel.json
    python bench/parallel.py --tiny   # small sizes, to see that it works; nothing is kept

On H100s nothing here is measured: the rates of one device are the targets of `FIGURES` below, and
the links' are four fifths of what their makers state. On this machine everything is: the rates of
one process while its neighbours compute the same, and of messages between processes. From these the
step of each scheme is predicted, and then measured.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from machine import describe

from mochi.core.config import MOCHI_1, DiTConfig
from mochi.core.sizes import VideoSize
from mochi.parallel.formulae import tokens_of
from mochi.parallel.predict import (
    Cluster,
    Link,
    Rates,
    Work,
    decode_seconds,
    fit_rates,
    guided_walks,
    step_seconds,
    work_of,
)
from mochi.parallel.scheme import Scheme, schemes
from mochi.parallel.trial import Found, Trial, Trials

RESULT = Path(__file__).parent / "results" / "parallel.json"

FIGURES = {163: 336.0, 85: 122.0, 31: 33.0}
"""Seconds of 64 guided steps on one H100 at 848x480, by frames: the target of exact kernels, of
which 790 TFLOP/s in products and 640 in attention were measured (PERFORMANCE 1)."""

PRODUCTS, ATTENTION = 790e12, 640e12
DECODE_SECONDS, DECODE_FRAMES = 1.3, 163
"""Floor of a decode on one H100 (PERFORMANCE 1)."""

STEPS, PROMPTS, BF16 = 64, (256, 0), 2

NVLINK = Link(0.8 * 450e9, 10e-6)
PCIE = Link(0.8 * 64e9, 15e-6)
NETWORK = Link(0.8 * 50e9, 20e-6)
"""A network port of 400 Gbit/s for each device."""

WITHIN = 0.2

SIZES, HEAD_DIM = (2, 8, (3, 6, 9, 12), (32, 48)), 64
"""On this machine: blocks, heads, latent frames of one process, latent height and width. The
schemes run with the last number of frames."""


def main() -> None:
    """Predict, measure, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2, help="processes on this machine")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each kind")
    parser.add_argument("--output", type=Path, default=RESULT, help="where the result goes")
    parser.add_argument("--tiny", action="store_true", help="small sizes, nothing is kept")
    options = parser.parse_args()
    found = {"h100": predicted(), "loopback": loopback(options)}
    for line in shown(found):
        sys.stdout.write(line + "\n")
    if not options.tiny:
        report = found | {"command": shlex.join(["python", *sys.argv]), "machine": describe()}
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------ H100s


def h100() -> Rates:
    """Rates that give the target at 163 frames; what is not products or attention goes with the
    tokens."""
    bare = Rates(PRODUCTS, ATTENTION)
    seconds = _step(163, Scheme(), Cluster(bare, NVLINK, NETWORK, 8))
    tokens = sum(work.tokens for work in _works(163))
    rest = FIGURES[163] / STEPS - seconds
    return replace(bare, token_seconds=rest / (tokens * MOCHI_1.dit.depth))


def clusters() -> dict[str, Cluster]:
    """Ways to put H100s together."""
    return {
        "NVLink, 8 a machine": Cluster(h100(), NVLINK, NETWORK, 8),
        "PCIe, 8 a machine": Cluster(h100(), PCIE, NETWORK, 8),
        "one a machine": Cluster(h100(), NETWORK, NETWORK, 1),
    }


def predicted() -> dict[str, Any]:
    """The best scheme for each number of devices, and its seconds for a whole video."""
    one = Cluster(h100(), NVLINK, NETWORK, 8)
    check = {frames: round(STEPS * _step(frames, Scheme(), one), 1) for frames in FIGURES}
    rows = [
        _best(name, cluster, devices, frames)
        for frames in FIGURES
        for name, cluster in clusters().items()
        for devices in (2, 4, 8, 16)
    ]
    return {
        "what": "64 guided steps and the decode at 848x480, bfloat16, prompts of 256 and 0 tokens",
        "measured": False,
        "from": "target times of one H100, links at 0.8 of their stated rates",
        "one_device_seconds": FIGURES,
        "one_device_by_these_rates": check,
        "links": {"nvlink": asdict(NVLINK), "pcie": asdict(PCIE), "network": asdict(NETWORK)},
        "rows": rows,
    }


def _best(name: str, cluster: Cluster, devices: int, frames: int) -> dict[str, Any]:
    config = MOCHI_1.dit
    times = {s: STEPS * _step(frames, s, cluster) for s in schemes(devices, config.heads)}
    best = min(times, key=lambda scheme: times[scheme])
    latent = _latent(frames)
    decode = decode_seconds(
        MOCHI_1.decoder,
        latent,
        devices,
        2,
        DECODE_SECONDS * frames / DECODE_FRAMES,
        BF16,
        cluster.link(devices),
    )
    return {
        "frames": frames,
        "devices": devices,
        "links": name,
        "scheme": str(best),
        "denoise_seconds": round(times[best], 2),
        "decode_seconds": round(decode, 2),
        "faster": round(FIGURES[frames] / times[best], 2),
        "others": {str(s): round(t, 2) for s, t in times.items() if s is not best},
    }


def _latent(frames: int) -> tuple[int, ...]:
    return VideoSize(frames, 480, 848).latent.shape(1)


def _step(frames: int, scheme: Scheme, cluster: Cluster) -> float:
    walks = guided_walks(scheme, PROMPTS, together=False)
    return step_seconds(MOCHI_1.dit, scheme, _latent(frames), walks, BF16, cluster)


def _works(frames: int) -> list[Work]:
    return works(MOCHI_1.dit, _latent(frames), PROMPTS, together=False)


def works(
    config: DiTConfig, latent: Sequence[int], prompts: Sequence[int], together: bool
) -> list[Work]:
    """What one device computes in a block, for each walk of a step."""
    alone = Scheme()
    tokens = tokens_of(config, alone, latent)
    (walks,) = guided_walks(alone, prompts, together)
    return [work_of(config, alone, 0, tokens, walk) for walk in walks]


# ------------------------------------------------------------------------------------ this machine


def loopback(options: argparse.Namespace) -> dict[str, Any]:
    """Predict the step of each scheme on processes of this machine, then measure it."""
    depth, heads, frames, plane = (1, 2, (2, 3, 4), (16, 24)) if options.tiny else SIZES
    wide = heads * HEAD_DIM
    config = DiTConfig(
        depth=depth,
        heads=heads,
        head_dim=HEAD_DIM,
        visual_width=wide,
        text_width=wide // 2,
        text_features=64,
    )
    base = Trial(config, Scheme(), (1, 12, frames[-1], *plane), (32, 0), repeats=1)
    alone = [_sized(base, count) for count in frames]
    shared = [replace(base, scheme=scheme) for scheme in schemes(options.ranks, config.heads)]
    with Trials(["cpu"] * options.ranks) as trials:
        times, sent = _timed(trials, [*alone, *shared], options.repeats)
        link = trials.link((2**16, 2**20 if options.tiny else 2**24))
    samples = [(_all_works(trial), depth, times[trial]) for trial in alone]
    cluster = Cluster(fit_rates(samples), link, link, options.ranks, hides=False)
    rows = [_compared(trial, cluster, times[trial], sent[trial]) for trial in shared]
    return {
        "what": f"a guided step of {options.ranks} processes of one thread each, float32",
        "sizes": {"config": asdict(config), "latent": base.latent, "prompts": base.prompts},
        "rates": asdict(cluster.rates),
        "link": asdict(link),
        "one_process_beside_others": [
            {"tokens": sum(work.tokens for work in parts), "seconds": seconds}
            for parts, _, seconds in samples
        ],
        "rows": rows,
        "within": WITHIN,
        "reached": all(abs(row["predicted"] / row["measured"] - 1) <= WITHIN for row in rows),
    }


def _sized(base: Trial, frames: int) -> Trial:
    return replace(base, latent=(*base.latent[:2], frames, *base.latent[3:]))


def _timed(
    trials: Trials, all_trials: Sequence[Trial], repeats: int
) -> tuple[dict[Trial, float], dict[Trial, int]]:
    """Median seconds, and bytes of the rank that sends most: all in turn, and again, so that what
    else the machine does falls on all alike."""
    seconds: dict[Trial, list[float]] = {trial: [] for trial in all_trials}
    sent = {}
    for _ in range(repeats):
        for trial in all_trials:
            found = trials.step(trial)
            if trial.scheme.devices > 1:
                assert all(each.sent == trial.expected(i) for i, each in enumerate(found))
            seconds[trial].append(slowest(found))
            sent[trial] = max(sum(each.sent.values()) for each in found)
    return {trial: statistics.median(times) for trial, times in seconds.items()}, sent


def _all_works(trial: Trial) -> list[Work]:
    return works(trial.config, trial.latent, trial.prompts, trial.together)


def _compared(trial: Trial, cluster: Cluster, measured: float, sent: int) -> dict[str, Any]:
    walks = guided_walks(trial.scheme, trial.prompts, trial.together)
    seconds = step_seconds(trial.config, trial.scheme, trial.latent, walks, trial.itemsize, cluster)
    return {
        "scheme": str(trial.scheme),
        "predicted": seconds,
        "measured": measured,
        "ratio": round(seconds / measured, 3),
        "bytes_sent": sent,
    }


def slowest(found: Sequence[Found]) -> float:
    """The median of the slowest rank."""
    return max(statistics.median(each.seconds) for each in found)


# ------------------------------------------------------------------------------------------- words


def shown(found: dict[str, Any]) -> Iterator[str]:
    """The result in lines."""
    yield "predicted from target times of one H100, not measured:"
    for row in found["h100"]["rows"]:
        yield (
            f"  {row['frames']:>4} frames  {row['devices']:>3} devices, {row['links']:20} "
            f"{row['denoise_seconds']:>7.1f} s + {row['decode_seconds']:.2f} s  "
            f"{row['faster']:>5.2f}x  {row['scheme']}"
        )
    yield "this machine:"
    for row in found["loopback"]["rows"]:
        yield (
            f"  {row['scheme']:32} predicted {row['predicted']:.3f} s, measured "
            f"{row['measured']:.3f} s, ratio {row['ratio']:.2f}, {row['bytes_sent']:,} bytes"
        )


if __name__ == "__main__":
    main()
