"""Mochi 1 text-to-video: the model, its sampler, its command line and a small trained model.

```python
import mochi

pipe = mochi.load("nano")
clip = pipe.generate("a red circle moves left on a black background", seed=0)
clip.save("out.mp4")
```

Names arrive when they are first used, so `import mochi` costs nothing and imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mochi.core.errors import (
    Cancelled,
    DoesNotFitError,
    DownloadError,
    MochiError,
    OutputError,
    RankError,
    RequestError,
    SamplingError,
    VideoError,
    WeightsError,
)

if TYPE_CHECKING:
    from mochi.core.config import MOCHI_1, DecoderConfig, DiTConfig, EncoderConfig, ModelConfig
    from mochi.core.events import CancelToken
    from mochi.core.latents import DitLatent, VaeLatent, to_vae_latents
    from mochi.core.presets import PRESETS
    from mochi.core.request import GenerateRequest
    from mochi.core.sizes import LatentSize, VideoSize
    from mochi.core.speed import Speed
    from mochi.pipeline.clip import Clip
    from mochi.pipeline.opening import load
    from mochi.pipeline.pipeline import Pipeline
    from mochi.sampling.loop import sample
    from mochi.sampling.schedule import linear_quadratic
    from mochi.serving.client import Client
    from mochi.text.features import TextFeatures
    from mochi.weights.loading import load_decoder, load_dit, load_encoder

    __version__: str

_HOMES = {
    "MOCHI_1": "mochi.core.config",
    "DecoderConfig": "mochi.core.config",
    "DiTConfig": "mochi.core.config",
    "EncoderConfig": "mochi.core.config",
    "ModelConfig": "mochi.core.config",
    "CancelToken": "mochi.core.events",
    "DitLatent": "mochi.core.latents",
    "VaeLatent": "mochi.core.latents",
    "to_vae_latents": "mochi.core.latents",
    "PRESETS": "mochi.core.presets",
    "GenerateRequest": "mochi.core.request",
    "LatentSize": "mochi.core.sizes",
    "VideoSize": "mochi.core.sizes",
    "Speed": "mochi.core.speed",
    "Client": "mochi.serving.client",
    "Clip": "mochi.pipeline.clip",
    "Pipeline": "mochi.pipeline.pipeline",
    "load": "mochi.pipeline.opening",
    "sample": "mochi.sampling.loop",
    "linear_quadratic": "mochi.sampling.schedule",
    "TextFeatures": "mochi.text.features",
    "load_decoder": "mochi.weights.loading",
    "load_dit": "mochi.weights.loading",
    "load_encoder": "mochi.weights.loading",
}

__all__ = [
    "MOCHI_1",
    "PRESETS",
    "CancelToken",
    "Cancelled",
    "Client",
    "Clip",
    "DecoderConfig",
    "DiTConfig",
    "DitLatent",
    "DoesNotFitError",
    "DownloadError",
    "EncoderConfig",
    "GenerateRequest",
    "LatentSize",
    "MochiError",
    "ModelConfig",
    "OutputError",
    "Pipeline",
    "RankError",
    "RequestError",
    "SamplingError",
    "Speed",
    "TextFeatures",
    "VaeLatent",
    "VideoError",
    "VideoSize",
    "WeightsError",
    "__version__",
    "linear_quadratic",
    "load",
    "load_decoder",
    "load_dit",
    "load_encoder",
    "sample",
    "to_vae_latents",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use (PEP 562)."""
    if name == "__version__":
        value: Any = _version()
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'mochi' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


def _version() -> str:
    """The version of the installed distribution; a bare checkout says so."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("mochi-video")
    except PackageNotFoundError:
        return "0+unknown"
