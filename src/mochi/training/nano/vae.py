"""Stage one: the autoencoder of nano, trained on clips of a wider world than it is judged on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mochi.core.config import ModelConfig
from mochi.core.latents import MOCHI_STATS, VaeLatent
from mochi.model.decoder import Decoder
from mochi.model.encoder import Encoder, Posterior
from mochi.training.ema import WeightAverage
from mochi.training.muon import Muon
from mochi.training.nano.recipe import VaePhase, VaeRecipe
from mochi.training.nano.stage import Report, train_task
from mochi.training.schedule import warmup_cosine
from mochi.training.shapes.vae_data import random_clips
from mochi.training.task import Loop, Outcome, Piece


class Autoencoder(nn.Module):
    """Encoder and decoder under one roof, as one training step sees them."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.encoder = Encoder(config.encoder)
        self.decoder = Decoder(config.decoder)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Start as a nearly linear network of unit gain that hardly hears the Fourier features.

        Residual blocks start as the identity, and the path beside them keeps its scale. With
        PyTorch's defaults, which shrink it by sqrt(3) a layer, 130 steps learned nothing.
        """
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        for name, parameter in self.named_parameters():
            # The norms divide a flat frame's brightness away; beside constants it survives.
            if (
                name.startswith("encoder.layers")
                and name.endswith(".0.bias")
                and "stack" not in name
            ):
                nn.init.normal_(parameter, std=0.7)
            if name.endswith(("stack.5.weight", "attn.out.weight")):
                parameter.zero_()
        self.encoder.get_parameter("layers.0.weight")[:, 3:] *= 0.05
        # SiLU of a unit Gaussian has mean 0.21: these rows start the log-variance near -6. From
        # zero, latents begin as half noise and nothing is learned for hundreds of steps.
        channels = self.encoder.config.latent_channels
        self.encoder.output_proj.weight[channels:] = -6 / (0.21 * self.encoder.config.channels[-1])
        for parameter in self.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)

    def forward(
        self, pixels_BCTHW: Tensor, noise_BCTHW: Tensor, noise_floor: float = 0.0
    ) -> tuple[Tensor, Posterior]:
        """Reconstruction from a posterior sample made with the given unit noise.

        Args:
            noise_floor: standard deviation of further noise, so that the decoder forgives the
                transformer's small errors.
        """
        posterior = self.encoder(pixels_BCTHW)
        spread = (posterior.logvar.exp() + noise_floor**2).sqrt()
        return self.decoder(posterior.mean + spread * noise_BCTHW), posterior


def losses(
    rebuilt: Tensor, pixels: Tensor, posterior: Posterior, recipe: VaeRecipe
) -> dict[str, Tensor]:
    """Squared and absolute error in [-1, 1], KL per latent value, and distance from the published
    latent statistics, so that nano's latents un-normalise as Mochi's do."""
    squared = (rebuilt - pixels).square().mean()
    absolute = (rebuilt - pixels).abs().mean()
    mean, logvar = posterior.mean, posterior.logvar
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    statistics = _statistics_error(mean)
    return {
        "loss": 4 * squared
        + 0.5 * absolute
        + recipe.kl_weight * kl
        + recipe.statistics_weight * statistics,
        "squared": squared,
        "kl": kl,
        "statistics": statistics,
        "psnr": -10 * (squared.detach() / 4).log10(),
    }


def _statistics_error(latents: Tensor) -> Tensor:
    values = MOCHI_STATS.normalize(VaeLatent(latents)).tensor.transpose(0, 1).flatten(1)
    return (values.std(dim=1) - 1).square().mean() + values.mean(dim=1).square().mean()


class NanoVae:
    """The autoencoder as a task. Every step draws its clips and noise from (seed, step).

    Args:
        model: on its device.
        recipe: phases, losses, precision.
    """

    drops = False

    def __init__(self, model: Autoencoder, recipe: VaeRecipe):
        self.parameters = dict(model.named_parameters())
        self._model, self._recipe = model, recipe

    def names(self, step: int) -> tuple[str, ...]:
        return (f"the clips of step {step + 1}",)

    def begin(self, step: int, average: WeightAverage | None) -> None:
        if average is not None and _freezes_encoder(self._recipe, step):
            _take_average(self._model.encoder, average, "encoder.")
        self._model.encoder.requires_grad_(_phase(self._recipe, step).encoder)

    def learn(self, on: bool) -> None:
        """Nothing drops."""

    def pieces(self, step: int) -> Iterator[Piece]:
        yield lambda: self._outcome(step)

    def _outcome(self, step: int) -> Outcome:
        recipe, phase = self._recipe, _phase(self._recipe, step)
        size = phase.size
        rng = np.random.default_rng([recipe.seed, step])
        device = self._model.decoder.output_proj.weight.device
        pixels = random_clips(rng, phase.batch, size.frames, size.height, size.width).to(device)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(size.latent.shape(phase.batch), generator=generator).to(device)
        # The network computes in its weights' dtype; the optimiser's own copy stays float32.
        dtype = torch.bfloat16 if recipe.bf16 else torch.float32
        weights = {name: parameter.to(dtype) for name, parameter in self.parameters.items()}
        inputs = (pixels, noise, recipe.latent_noise)
        rebuilt, posterior = functional_call(self._model, weights, inputs)
        terms = losses(rebuilt, pixels, posterior, recipe)
        loss = terms.pop("loss")
        shown = {name: term.detach() for name, term in terms.items()}
        return Outcome(loss, (0,), loss.detach().view(1), shown)


def train_vae(
    config: ModelConfig,
    recipe: VaeRecipe,
    folder: Path,
    report: Report | None = None,
    device: str = "cpu",
) -> Autoencoder:
    """Train, or go on from `folder/vae`, and return the averaged autoencoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)  # noqa: TID251 -- initialisers know no generator; forked
        model = Autoencoder(config).to(device)
    rates = {"base_lr": recipe.learning_rate, "base_adam_lr": recipe.adam_rate}
    optimizer = Muon([{"params": list(model.parameters()), **rates}])

    def rate(step: int) -> float:
        return warmup_cosine(step, recipe.steps, recipe.warmup_steps, floor=0.02)

    loop = Loop(steps=recipe.steps, rate=rate, ema=recipe.ema_decay, save_every=recipe.save_every)
    task = NanoVae(model, recipe)
    average = train_task(task, loop, optimizer, folder / "vae", recipe, report)
    model.load_state_dict(average.weights)
    return model.eval()


def _freezes_encoder(recipe: VaeRecipe, step: int) -> bool:
    before = step == 0 or _phase(recipe, step - 1).encoder
    return before and not _phase(recipe, step).encoder


@torch.no_grad()
def _take_average(module: nn.Module, average: WeightAverage, prefix: str) -> None:
    """Go on from the averaged weights: what is frozen is what ships."""
    for name, parameter in module.named_parameters():
        parameter.copy_(average.weights[prefix + name])


def _phase(recipe: VaeRecipe, step: int) -> VaePhase:
    for phase in recipe.phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    raise AssertionError("step beyond the last phase")
