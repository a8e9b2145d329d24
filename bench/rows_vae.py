"""Rows of the video autoencoder on a CPU: decoding at full width, by us and by diffusers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pairs import Apart, Effort, Row, alternate, peak_bytes, reset_peak

DTYPES = ("float32", "bfloat16")
CLIP, LARGER, FULL = (6, 16, 16), (6, 32, 32), (4, 60, 106)
"""Latent frames, height, width: 31 frames of 128x128, of 256x256; 19 frames of 848x480."""

TINY = ((2, 4, 4), (2, 6, 8))
LIMIT_GB, GB = 6, 1e9


def rows() -> Sequence[Row]:
    """The rows."""
    clips = [
        Row(
            name=f"vae-decode-{dtype}",
            what=f"decode 31 frames of 128x128, full width, {dtype}, as streamed by default",
            against="diffusers' AutoencoderKLMochi, and our own decoder on the whole video at once",
            reach="1.5x faster than diffusers; peak memory above the weights a third of at once",
            measure=_clip(dtype),
        )
        for dtype in DTYPES
    ]
    larger = [
        Row(
            name=f"vae-memory-{dtype}",
            what=f"decode 31 frames of 256x256, full width, {dtype}, as streamed by default",
            against="our own decoder on the whole video at once",
            reach="peak memory above the weights a third",
            measure=_larger(dtype),
        )
        for dtype in DTYPES
    ]
    full = Row(
        name="vae-decode-full",
        what="decode 19 frames of 848x480, full width, bfloat16: the first part of any length",
        against="a limit of 6 GB",
        reach="peak under 6 GB above the weights; no more after 19 frames than after 13",
        measure=_full,
    )
    return [*clips, *larger, full]


def _clip(dtype: str) -> Callable[[Effort], Mapping[str, Any]]:
    def measure(effort: Effort) -> Mapping[str, Any]:
        import torch

        shape = TINY[0] if effort.tiny else CLIP
        settings = {"dtype": dtype, "shape": shape, "threads": torch.get_num_threads()}
        sides = {
            name: Apart(f"rows_vae:{maker}", settings)
            for name, maker in (
                ("ours", "streamed"),
                ("diffusers", "diffusers_decode"),
                ("ours, at once", "at_once"),
                ("ours, plain convolutions", "streamed_plainly"),
            )
        }
        found = alternate(sides, effort.repeats)
        above = {name: side["value"]["above_mib"] for name, side in found["sides"].items()}
        share = above["ours"] / above["ours, at once"]
        ratio = found["ratio"]["diffusers"]["median"]
        return found | {
            "above_weights_mib": above,
            "errors": errors(dtype, shape),
            "notes": [f"peak above the weights {share:.2f} of at once"],
            "reached": ratio >= 1.5 and share <= 1 / 3,
        }

    return measure


def _larger(dtype: str) -> Callable[[Effort], Mapping[str, Any]]:
    def measure(effort: Effort) -> Mapping[str, Any]:
        import torch

        shape = TINY[1] if effort.tiny else LARGER
        settings = {"dtype": dtype, "shape": shape, "threads": torch.get_num_threads()}
        runs = {}
        for name, maker in (("ours", "streamed"), ("ours, at once", "at_once")):
            side = Apart(f"rows_vae:{maker}", settings)
            try:
                runs[name] = side.once()
            finally:
                side.close()
        above = {name: run.value["above_mib"] for name, run in runs.items()}
        share = above["ours"] / max(1, above["ours, at once"])
        return {
            "seconds": {name: round(run.seconds, 1) for name, run in runs.items()},
            "above_weights_mib": above,
            "notes": [f"peak above the weights {share:.2f} of at once"],
            "reached": share <= 1 / 3,
        }

    return measure


def _full(effort: Effort) -> Mapping[str, Any]:
    import torch

    shape = TINY[1] if effort.tiny else FULL
    settings = {"dtype": "bfloat16", "shape": shape, "threads": torch.get_num_threads()}
    side = Apart("rows_vae:streamed", settings)
    try:
        seen = side.once()
    finally:
        side.close()
    peaks = seen.value["peaks_mib"]
    return {
        "seconds": round(seen.seconds, 1),
        "above_weights_mib_after_each_latent_frame": peaks,
        "notes": [f"{max(peaks) * 2**20 / GB:.2f} GB above the weights, {seen.seconds:.0f} s"],
        "reached": max(peaks) * 2**20 < LIMIT_GB * GB and peaks[-1] <= 1.02 * peaks[-2],
    }


# ------------------------------------------------------------------------------ sides, each apart


def streamed(**settings: Any) -> Callable[[], dict[str, Any]]:
    """The default decode, frames let go as they come."""
    decoder, latents = _ours(**settings)
    return _watched(lambda: (None for _ in decoder.stream(latents)))


def streamed_plainly(**settings: Any) -> Callable[[], dict[str, Any]]:
    """The same with the convolutions of PyTorch alone."""
    from mochi.model.causal import use_convolutions

    decoder, latents = _ours(**settings)
    use_convolutions(decoder, "plain")
    return _watched(lambda: (None for _ in decoder.stream(latents)))


def at_once(**settings: Any) -> Callable[[], dict[str, Any]]:
    """The whole video through each layer."""
    decoder, latents = _ours(**settings)
    return _watched(lambda: iter([decoder(latents)]))


def diffusers_decode(**settings: Any) -> Callable[[], dict[str, Any]]:
    """The decoder of diffusers on the same weights."""
    decoder, latents = _ours(**settings)
    theirs = _theirs(decoder)
    latents = latents.to(decoder.output_proj.weight.dtype)
    del decoder
    return _watched(lambda: iter([theirs.decode(latents).sample]))


def _watched(pieces: Callable[[], Iterator[Any]]) -> Callable[[], dict[str, Any]]:
    """Work that goes through the pieces, and says how far memory rose above what it began with."""
    import torch

    held = _resident_bytes()

    @torch.inference_mode()
    def work() -> dict[str, Any]:
        reset_peak("cpu")
        peaks = [(peak_bytes("cpu") - held) >> 20 for _ in pieces()]
        return {"above_mib": peaks[-1], "peaks_mib": peaks}

    return work


def _resident_bytes() -> int:
    import ctypes
    import gc
    import resource

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


# --------------------------------------------------------------------------------------- networks


def _ours(dtype: str, shape: Sequence[int], threads: int) -> tuple[Any, Any]:
    """A decoder of the published sizes, its weights random and exact in bfloat16, and latents."""
    import torch

    from mochi.core.config import DecoderConfig
    from mochi.model.causal import lay_out
    from mochi.model.decoder import Decoder

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(5)
    with torch.device("meta"):
        decoder = Decoder(DecoderConfig())
    decoder = decoder.to_empty(device="cpu").to(getattr(torch, dtype))
    with torch.no_grad():
        for parameter in decoder.parameters():
            spread = 0.2 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            numbers = torch.randn(parameter.shape, generator=generator)
            parameter.copy_((spread * numbers).bfloat16())
    decoder.eval().requires_grad_(False)
    lay_out(decoder)
    latents = torch.randn(1, 12, *shape, generator=generator).bfloat16().float()
    return decoder, latents


def _theirs(ours: Any) -> Any:
    import diffusers
    import torch
    from peers import lent

    from mochi.weights.layouts import DIFFUSERS_DECODER

    with torch.device("meta"):
        theirs = diffusers.AutoencoderKLMochi()
    lent(DIFFUSERS_DECODER, ours, theirs)
    theirs.encoder = None
    return theirs


def errors(dtype: str, shape: Sequence[int]) -> dict[str, float]:
    """Relative distances: of the streamed video from that at once and from plain convolutions at
    once in float32; of diffusers' from its own in float32, for its first frames are others."""
    import torch
    from peers import relative

    from mochi.model.causal import use_convolutions

    threads = torch.get_num_threads()
    with torch.inference_mode():
        decoder, latents = _ours(dtype, shape, threads)
        whole = decoder(latents)
        stream = torch.cat(list(decoder.stream(latents)), 2)
        theirs = _theirs(decoder).decode(latents.to(decoder.output_proj.weight.dtype)).sample
        exact, _ = _ours("float32", shape, threads)
        use_convolutions(exact, "plain")
        theirs_exact = _theirs(exact).decode(latents).sample
        return {
            "ours, streamed against at once": relative(stream, whole),
            "ours, against plain in float32": relative(stream, exact(latents)),
            "diffusers, against itself in float32": relative(theirs, theirs_exact),
        }
