"""Between RGB and the YUV of video files.

Array names: T = frames, H = height, W = width, C = 3 colours (RGB, uint8).

bt709 is written always: tagged and with its matrix, in limited range. Chroma is averaged over each
2 x 2 block, so it sits in the block's centre; H.264 players assume its left edge unless the stream
says otherwise, which `encode.py` does. (Left unsaid, coloured edges move by a quarter chroma
sample: 2 dB on a red disc over teal at 64 x 64, measured 2026.)
"""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from mochi.video import hdr

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

# Code points of ITU-T H.273, the same in H.264, VP9, mp4 and Matroska.
BT709 = 1
UNSPECIFIED = 2

# Without the accurate options libswscale rounds to within 3 levels, and its result depends on the
# processor's vector instructions; with them it is within 1, and the same everywhere.
_EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)
SMALL_HEIGHT, SMALL_WIDTH = 36, 64
_HD_HEIGHT = 720  # untagged video from here on is bt709, below bt601, as players hold it


def to_yuv(frame_HWC: Pixels) -> av.VideoFrame:
    """RGB to yuv420p, bt709, limited range; height and width even."""
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
    yuv = rgb.reformat(
        format="yuv420p",
        interpolation=int(_EXACT),
        src_colorspace=Colorspace.ITU709,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        threads=1,
    )
    yuv.color_primaries = BT709
    yuv.color_trc = BT709
    return yuv


def to_rgb(frame: av.VideoFrame) -> Pixels:
    """Any decoded frame to RGB `(H, W, 3)`, by the matrix and range that it says it has; HDR is
    brought to the range of an ordinary screen."""
    if frame.color_trc in hdr.NAMES:
        return hdr.tone_mapped(_rgb(frame, "rgb48le"), int(frame.color_trc))
    return np.asarray(_rgb(frame, "rgb24"), dtype=np.uint8)


def tiny(frame: av.VideoFrame) -> Pixels:
    """A small copy of a frame, to compare with others: fast rather than exact."""
    small = frame.reformat(
        width=SMALL_WIDTH, height=SMALL_HEIGHT, format="rgb24", interpolation=Interpolation.AREA
    )
    return np.asarray(small.to_ndarray(), dtype=np.uint8)


def _rgb(frame: av.VideoFrame, form: str) -> Any:
    if frame.format.is_rgb or frame.colorspace != UNSPECIFIED:
        source = None
    else:
        source = Colorspace.ITU709 if frame.height >= _HD_HEIGHT else Colorspace.ITU601
    rgb = frame.reformat(
        format=form,
        interpolation=int(_EXACT),
        src_colorspace=source,
        dst_color_range=ColorRange.JPEG,
        threads=1,
    )
    return rgb.to_ndarray()
