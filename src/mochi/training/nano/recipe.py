"""Nano's sizes and the settings of its two training stages, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field

from mochi.core.config import DecoderConfig, DiTConfig, EncoderConfig, ModelConfig
from mochi.core.sizes import VideoSize
from mochi.training.schedule import warmup_cosine

NANO = ModelConfig(
    dit=DiTConfig(
        depth=7,
        heads=3,
        head_dim=64,
        visual_width=192,
        text_width=96,
        text_features=96,
    ),
    decoder=DecoderConfig(channels=(128, 96, 64, 32), blocks=(1, 1, 2, 1, 0)),
    encoder=EncoderConfig(channels=(32, 64, 96, 128), blocks=(0, 0, 2, 1, 0)),
)
NANO_SIZE = VideoSize(frames=25, height=64, width=64)
CARD_DEFAULTS = {
    "frames": 25,
    "height": 64,
    "width": 64,
    "fps": 12,
    "steps": 16,
    "threshold": 0.1,
    "guidance": 2.0,
    "solver": "euler",
}
"""What `mochi.json` says when nobody says anything else; chosen by `mochi eval nano`."""


@dataclass(frozen=True)
class VaePhase:
    """Some steps on clips of one size.

    Small clips first, since they cost an eighth. `encoder=False` leaves the encoder as it is, so
    that the transformer's training, which needs only the encoder, may begin before.
    """

    steps: int
    batch: int
    size: VideoSize
    encoder: bool = True


@dataclass(frozen=True)
class VaeRecipe:
    """The autoencoder: absolute and squared error, a light KL term, noise on the latents."""

    seed: int = 0
    phases: tuple[VaePhase, ...] = (
        VaePhase(steps=1800, batch=8, size=VideoSize(13, 32, 32)),
        VaePhase(steps=350, batch=3, size=NANO_SIZE, encoder=False),
    )
    learning_rate: float = 0.015
    adam_rate: float = 1e-3
    warmup_steps: int = 20
    kl_weight: float = 2e-5
    statistics_weight: float = 0.02
    latent_noise: float = 0.1
    ema_decay: float = 0.998
    bf16: bool = True
    save_every: int = 100

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)


@dataclass(frozen=True)
class TextRecipe:
    """Sizes of nano's T5 encoder; its width is the transformer's `text_features`."""

    depth: int = 2
    heads: int = 3
    head_dim: int = 32
    ffn_width: int = 256


@dataclass(frozen=True)
class DitRecipe:
    """The transformer: rectified flow on normalised latents, uniform sigma (SPEC 6).

    The last `everyday_steps` see only everyday wording, at `everyday_rate` of the learning rate:
    the pictures are learned by then, rare words are not.
    """

    seed: int = 0
    steps: int = 2200
    everyday_steps: int = 300
    everyday_rate: float = 0.3
    batch: int = 40
    scenes_per_combination: int = 10
    paraphrased: float = 0.5
    caption_dropout: float = 0.1
    learning_rate: float = 0.015
    adam_rate: float = 2e-3
    warmup_steps: int = 50
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    bf16: bool = True
    save_every: int = 100

    @property
    def all_steps(self) -> int:
        """Steps of both parts."""
        return self.steps + self.everyday_steps

    def rate(self, step: int) -> float:
        """Factor of the learning rates at a step."""
        if step < self.steps:
            return warmup_cosine(step, self.steps, self.warmup_steps, floor=0.02)
        return self.everyday_rate * warmup_cosine(
            step - self.steps, self.everyday_steps, warmup=10, floor=0.02
        )

    def paraphrase_share(self, step: int) -> float:
        """Share of captions in everyday wording at a step."""
        return self.paraphrased if step < self.steps else 1.0


@dataclass(frozen=True)
class NanoRecipe:
    """Everything that makes nano nano."""

    model: ModelConfig = NANO
    text: TextRecipe = field(default_factory=TextRecipe)
    vae: VaeRecipe = field(default_factory=VaeRecipe)
    dit: DitRecipe = field(default_factory=DitRecipe)
