"""Whether a run fits the device, known before anything is loaded."""

from __future__ import annotations

from mochi.core.sizes import VideoSize
from mochi.memory.available import available_bytes
from mochi.memory.bounds import decode_bound, denoise_bound
from mochi.memory.estimate import Need, decode_need, denoise_need, encode_need, text_need
from mochi.memory.fit import check_fits, largest_fitting, worst
from mochi.pipeline.parts import PartName, Parts


class Budget:
    """Estimates the stages of runs on one device. Weights that are loaded already cost nothing.

    Methods that look at a network raise `WeightsError` where its files are unusable.
    """

    def __init__(self, parts: Parts):
        self._parts = parts

    @property
    def available(self) -> int:
        """Bytes that the device can still give."""
        return available_bytes(self._parts.device)

    def check(self, size: VideoSize, with_text: bool = True) -> None:
        """Refuse a video that does not fit.

        Raises:
            DoesNotFitError: says which stage, how much, and what would fit.
        """
        bounds = [*self._text(with_text), self._denoise_bound(size), self._decode_bound(size)]
        available = self.available
        if worst(bounds).total > available:
            check_fits(lambda it: self.needs(it, with_text), size, available, self._device)

    def check_round_trip(self, size: VideoSize) -> None:
        """Refuse a video that does not fit through the VAE; raises as `check`."""
        check_fits(
            lambda it: [self.encode(it), self.decode(it)], size, self.available, self._device
        )

    def needs(self, size: VideoSize, with_text: bool = True) -> list[Need]:
        """What text, denoising and decoding of a video of this size take."""
        return [*self._text(with_text), self.denoise(size), self.decode(size)]

    def largest(self, size: VideoSize) -> VideoSize | None:
        """The largest video up to `size` that fits, or None."""
        return largest_fitting(self.needs, size, self.available)

    def denoise(self, size: VideoSize) -> Need:
        """What sampling takes."""
        plan = self._parts.blueprint("dit")
        return denoise_need(plan.config, self._unloaded("dit"), plan.dtype, size)

    def decode(self, size: VideoSize) -> Need:
        """What decoding takes."""
        plan = self._parts.blueprint("decoder")
        return decode_need(plan.config, self._unloaded("decoder"), plan.dtype, size)

    def encode(self, size: VideoSize) -> Need:
        """What encoding a video takes."""
        plan = self._parts.blueprint("encoder")
        return encode_need(plan.config, self._unloaded("encoder"), plan.dtype, size)

    def decodes_beside(self, size: VideoSize) -> bool:
        """Whether decoding fits into what is free now, with everything that is loaded."""
        available = self.available
        if self._decode_bound(size).total <= available:
            return True
        return self.decode(size).total <= available

    @property
    def _device(self) -> str:
        return str(self._parts.device)

    def _text(self, wanted: bool) -> list[Need]:
        if not wanted or self._parts.is_loaded("text"):
            return []
        return [text_need(self._parts.text_weights())]

    def _denoise_bound(self, size: VideoSize) -> Need:
        plan = self._parts.blueprint("dit")
        return denoise_bound(plan.config, self._unloaded("dit"), size)

    def _decode_bound(self, size: VideoSize) -> Need:
        plan = self._parts.blueprint("decoder")
        return decode_bound(plan.config, self._unloaded("decoder"), size)

    def _unloaded(self, part: PartName) -> int:
        if part == "text" or self._parts.is_loaded(part):
            return 0
        return self._parts.blueprint(part).weights
