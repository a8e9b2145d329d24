"""HDR video (PQ, HLG) brought to the range of an ordinary screen.

Signal to light by the curves of ITU-R BT.2100; 203 nits, its reference white for graphics, become
white; primaries from BT.2020 to BT.709; light above the knee is compressed with its hue kept; light
to signal by the inverse of BT.1886 (gamma 2.4).
"""

# Array names: H = height, W = width, C = 3 colours (RGB).

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Light = np.ndarray[Any, np.dtype[np.float32]]

PQ, HLG = 16, 18
"""Transfer characteristics, code points of ITU-T H.273."""

NAMES = {PQ: "PQ", HLG: "HLG"}

WHITE_NITS = 203.0
_HLG_NITS, _HLG_GAMMA = 1000.0, 1.2  # of the nominal display
_KNEE = 0.8  # of white; below it light stays as it is
_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020
# BT.2087, table 2.
_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)
_LEVELS = 1 << 16


def tone_mapped(signal_HWC: np.ndarray[Any, np.dtype[np.uint16]], transfer: int) -> Pixels:
    """16-bit R'G'B' of BT.2020 to ordinary 8-bit RGB.

    Args:
        signal_HWC: full range, `(H, W, 3)`.
        transfer: `PQ` or `HLG`.
    """
    light_HWC = _table(transfer)[signal_HWC]
    if transfer == HLG:  # from the scene's light to the display's
        luma_HW1 = (light_HWC @ _LUMA)[..., None]
        light_HWC = light_HWC * luma_HW1 ** np.float32(_HLG_GAMMA - 1)
        light_HWC *= np.float32(_HLG_NITS / WHITE_NITS)
    light_HWC = np.maximum(light_HWC @ _TO_709.T, 0)
    signal = compressed(light_HWC) ** np.float32(1 / 2.4)
    return np.rint(np.minimum(signal, 1) * 255).astype(np.uint8)


def compressed(light_HWC: Light) -> Light:
    """Light with white at 1 to at most 1: the brightest colour of a pixel follows the curve, the
    others keep their proportion to it."""
    peak_HW1 = light_HWC.max(-1, keepdims=True)
    room = np.float32(1 - _KNEE)
    above = np.maximum(peak_HW1 - np.float32(_KNEE), 0)
    wanted = np.minimum(peak_HW1, np.float32(_KNEE)) + room * (1 - np.exp(-above / room))
    return light_HWC * (wanted / np.maximum(peak_HW1, np.float32(1e-6)))


@cache
def _table(transfer: int) -> Light:
    signal = np.arange(_LEVELS, dtype=np.float64) / (_LEVELS - 1)
    curves: dict[int, Callable[[Any], Any]] = {PQ: pq_light, HLG: hlg_light}
    return curves[transfer](signal).astype(np.float32)


def pq_light(signal: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Display light of a PQ signal in 0..1, white at 1 (BT.2100, table 4)."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    root = signal ** (1 / m2)
    return 10000 / WHITE_NITS * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def hlg_light(signal: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Scene light, 0..1, of an HLG signal in 0..1 (BT.2100, table 5)."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
