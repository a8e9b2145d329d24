"""Every setting of a training, checked once: what cannot work is refused before anything loads."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mochi.core.errors import RequestError
from mochi.training.schedule import SCHEDULES
from mochi.training.setting import read_section, setting, unknown
from mochi.training.sigma import SIGMAS

TRAINED = ("lora", "full", "decoder")
OPTIMISERS = ("adamw", "adamw8bit", "muon")
QUANTISED = ("none", "fp8", "q8_0", "q4_0")
LAYERS = ("attention", "mlp", "modulation", "conditioning", "all")


@dataclass(frozen=True)
class Model:
    """The base model, and what of it learns."""

    name: str = setting("nano", "nano, a folder or file with weights, or a name on the hub.")
    train: str = setting(
        "lora",
        "lora: an adapter beside the transformer's layers. full: all of the transformer's "
        "weights. decoder: the VAE's decoder, from the clips themselves.",
        words=TRAINED,
    )
    dtype: str = setting(
        "auto",
        "What the network computes in. What is trained is kept in float32 in any case.",
        words=("auto", "float32", "bfloat16"),
    )
    quantise: str = setting(
        "none",
        "Keep the base's blocks in this smaller form (QLoRA); for adapters only. A base that is "
        "stored in fp8 or GGUF stays as it is stored anyway.",
        words=QUANTISED,
    )


@dataclass(frozen=True)
class Data:
    """What is learned from."""

    path: str = setting(
        "data", "A folder that `mochi prepare` wrote; to train the decoder, a folder of clips."
    )
    caption_dropout: float = setting(
        0.1, "Share of the clips that are seen with an empty prompt.", least=0.0, most=1.0
    )
    frames: int = setting(
        25, "Frames of a clip, 6k+1; for the decoder, which reads clips itself.", least=1
    )
    height: int = setting(64, "Likewise, a multiple of 16.", least=16)
    width: int = setting(64, "Likewise, a multiple of 16.", least=16)


@dataclass(frozen=True)
class Lora:
    """The adapter."""

    rank: int = setting(16, "Rank of the matrices.", least=1)
    alpha: float = setting(16.0, "The change is scaled by alpha / rank.", above=0.0)
    dropout: float = setting(
        0.0, "Share of an adapter's inputs that training drops.", least=0.0, below=1.0
    )
    layers: tuple[str, ...] = setting(
        ("attention",),
        "Which layers: attention, mlp and modulation of the blocks, conditioning (what prepares "
        'prompt and noise level), all; or names with *, such as "blocks.*.attn.qkv_x".',
    )


@dataclass(frozen=True)
class Optimiser:
    """How the weights move."""

    name: str = setting(
        "adamw",
        "adamw; adamw8bit, with a quarter of its memory; or muon, orthogonal steps for matrices.",
        words=OPTIMISERS,
    )
    lr: float = setting(2e-4, "Learning rate after the warm-up.", above=0.0)
    adam_lr: float = setting(
        1e-3, "Of muon: learning rate of what is no matrix inside the network.", above=0.0
    )
    beta1: float = setting(0.9, "Decay of the mean of gradients.", least=0.0, below=1.0)
    beta2: float = setting(0.999, "Decay of the mean of their squares.", least=0.0, below=1.0)
    weight_decay: float = setting(0.01, "Share of a weight that goes, times lr.", least=0.0)
    clip_norm: float = setting(
        1.0, "Gradients are scaled down to this norm; 0 leaves them.", least=0.0
    )
    warmup_steps: int = setting(200, "Steps until the learning rate is reached.", least=0)
    schedule: str = setting("cosine", "What follows: cosine, linear or constant.", words=SCHEDULES)
    floor: float = setting(0.0, "Factor of the learning rate at the end.", least=0.0, most=1.0)
    ema: float = setting(
        0.0,
        "Decay of a running mean of the weights, which is then what is sampled, validated and "
        "written; 0 for none.",
        least=0.0,
        below=1.0,
    )


@dataclass(frozen=True)
class Training:
    """Steps, and what one is made of."""

    steps: int = setting(2000, "Updates of the weights.", least=1)
    batch: int = setting(1, "Clips in a step, over all devices.", least=1)
    accumulate: int = setting(
        1, "Pieces that a device cuts its share of a step into, to save memory.", least=1
    )
    seed: int = setting(0, "Of everything that is drawn at random.", least=0)
    sigma: str = setting(
        "uniform",
        "Distribution of the noise level: uniform; logit-normal (of sigma_mean and "
        "sigma_deviation); shifted (towards noise, by sigma_shift).",
        words=SIGMAS,
    )
    sigma_mean: float = setting(0.0, "Of logit-normal.")
    sigma_deviation: float = setting(1.0, "Of logit-normal.", above=0.0)
    sigma_shift: float = setting(3.0, "Of shifted; 1 is uniform.", above=0.0)
    checkpointed_blocks: int | str = setting(
        "all",
        "Blocks that keep no activations and compute them again on the way back: a number, or "
        '"all". Each saves memory and costs a third of its time.',
        least=0,
        all_word=True,
    )
    context: int = setting(
        1, "Devices that share the tokens of one clip; the others take other clips.", least=1
    )
    shard: bool = setting(
        False,
        "Each device keeps a part of the base's blocks, which come together for their turn; for "
        "an adapter on a base that one device cannot hold.",
    )


@dataclass(frozen=True)
class Prior:
    """Videos of the base model itself, learned along, so that the rest stays as it was."""

    share: float = setting(
        0.0, "Share of each batch that is taken from them; 0 for none.", least=0.0, below=1.0
    )
    prompts: str = setting("", "A text file, one prompt a line; one video is made of each.")


@dataclass(frozen=True)
class Saving:
    """What is written, and where."""

    folder: str = setting("run", "Where everything goes.")
    every: int = setting(100, "Steps between checkpoints.", least=1)
    keep: int = setting(2, "How many checkpoints stay.", least=1)


@dataclass(frozen=True)
class Validation:
    """Loss on clips that are not trained on, with the same noise every time."""

    every: int = setting(0, "Steps between validations; 0 for none.", least=0)
    share: float = setting(
        0.1, "Share of the clips that is set aside; at least one.", above=0.0, below=1.0
    )
    sigmas: tuple[float, ...] = setting(
        (0.1, 0.3, 0.5, 0.7, 0.9), "Noise levels.", above=0.0, most=1.0
    )


@dataclass(frozen=True)
class Samples:
    """Videos with the weights as they are, from the same seeds each time."""

    every: int = setting(0, "Steps between samples; 0 for none.", least=0)
    prompts: tuple[str, ...] = setting((), "What they show.")
    seed: int = setting(0, "Of the first; the others count up.", least=0)
    frames: int = setting(0, "Frames of a sample; 0 as the model's card says.", least=0)
    height: int = setting(0, "Likewise.", least=0)
    width: int = setting(0, "Likewise.", least=0)
    steps: int = setting(0, "Likewise.", least=0)
    guidance: float = setting(0.0, "Likewise.", least=0.0)


@dataclass(frozen=True)
class Reports:
    """Who is told besides the terminal, the run page and history.jsonl."""

    tensorboard: bool = setting(False, "Write TensorBoard's files.")
    wandb: str = setting("", "A project of Weights & Biases; empty for none.")
    wandb_mode: str = setting(
        "",
        "online, offline or disabled; empty as that program is set.",
        words=("", "online", "offline", "disabled"),
    )


@dataclass(frozen=True)
class Config:
    """All sections."""

    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    lora: Lora = field(default_factory=Lora)
    optimiser: Optimiser = field(default_factory=Optimiser)
    training: Training = field(default_factory=Training)
    prior: Prior = field(default_factory=Prior)
    saving: Saving = field(default_factory=Saving)
    validation: Validation = field(default_factory=Validation)
    samples: Samples = field(default_factory=Samples)
    reports: Reports = field(default_factory=Reports)

    @classmethod
    def of(cls, given: Mapping[str, Any], folder: Path | None = None) -> Config:
        """A config from what a file says.

        Args:
            given: sections, each a mapping.
            folder: where relative paths begin; None leaves them.

        Raises:
            RequestError: a setting is unknown, breaks its rule, or contradicts another one.
        """
        kinds = {one.name: one.default_factory for one in fields(cls)}
        sections: dict[str, Any] = {}
        for name, values in given.items():
            if name not in kinds:
                raise unknown(name, values, "is no section", name, list(kinds))
            if not isinstance(values, Mapping):
                raise RequestError(name, values, "is no section", f"[{name}]")
            kind: Any = kinds[name]
            sections[name] = read_section(kind, name, values)
        config = cls(**sections)
        _check(config, given)
        return config if folder is None else config._from(folder)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values by section, without sections that do not apply; `of` reads them back."""
        absent = {"full": ("lora",), "decoder": ("lora", "prior", "samples")}
        return {
            name: {key: list(v) if isinstance(v, tuple) else v for key, v in section.items()}
            for name, section in asdict(self).items()
            if name not in absent.get(self.model.train, ())
        }

    def _from(self, folder: Path) -> Config:
        """With paths that do not depend on where the program was started."""
        prior = self.prior.prompts
        name, here = self.model.name, folder / self.model.name
        return replace(
            self,
            model=replace(self.model, name=str(here) if here.exists() else name),
            data=replace(self.data, path=str(folder / self.data.path)),
            saving=replace(self.saving, folder=str(folder / self.saving.folder)),
            prior=replace(self.prior, prompts=str(folder / prior) if prior else ""),
        )


def read_config(path: Path) -> Config:
    """The config in a TOML file; relative paths in it begin at its own folder.

    Raises:
        RequestError: there is no such file, it is no TOML, or as `Config.of`.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        rule = "does not exist; `mochi finetune --init` writes one"
        raise RequestError("config", str(path), rule) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RequestError("config", str(path), f"is no readable TOML: {error}") from None
    return Config.of(given, path.resolve().parent)


def _check(config: Config, given: Mapping[str, Any]) -> None:
    """Refuse settings that contradict each other, and those that would be ignored."""
    training, optimiser = config.training, config.optimiser
    _check_trained(config, given)
    _check_ignored(config, given)
    _check_layers(config.lora.layers)
    if optimiser.warmup_steps >= training.steps and "warmup_steps" in given.get("optimiser", {}):
        rule = f"leaves none of training.steps={training.steps} after it"
        raise RequestError(
            "optimiser.warmup_steps", optimiser.warmup_steps, rule, training.steps // 10
        )
    if training.accumulate > training.batch:
        rule = f"is more than training.batch={training.batch}"
        raise RequestError("training.accumulate", training.accumulate, rule, training.batch)
    if config.lora.dropout and training.context > 1:
        rule = f"cannot be the same on the training.context={training.context} devices of a clip"
        raise RequestError("lora.dropout", config.lora.dropout, rule, 0)
    if config.samples.every and not config.samples.prompts:
        rule = "wants videos, and samples.prompts is empty"
        raise RequestError("samples.every", config.samples.every, rule, 0)
    for prompt in config.samples.prompts:
        if not prompt.strip():
            raise RequestError("samples.prompts", prompt, "is empty")
    if (config.prior.share > 0) != bool(config.prior.prompts):
        rule = "goes with prior.prompts, a file: both or none"
        raise RequestError("prior.share", config.prior.share, rule, 0)


def _check_layers(layers: tuple[str, ...]) -> None:
    if not layers:
        raise RequestError("lora.layers", list(layers), "is empty", ", ".join(LAYERS))
    for word in layers:
        if word not in LAYERS and "." not in word:
            raise unknown("lora.layers", word, "is unknown", word, LAYERS)


def _check_trained(config: Config, given: Mapping[str, Any]) -> None:
    train = config.model.train
    if train != "lora":
        if given.get("lora"):
            rule = 'is for model.train="lora", and it is'
            raise RequestError("lora", given["lora"], f"{rule} {train!r}", "no [lora]")
        if config.model.quantise != "none":
            rule = "keeps weights that cannot learn; it is for model.train='lora'"
            raise RequestError("model.quantise", config.model.quantise, rule, "none")
        if config.training.shard:
            rule = "is of a base that does not learn, for model.train='lora'"
            raise RequestError("training.shard", True, rule, False)
    if config.training.shard:
        _check_sharded(config)
    if train == "decoder":
        for section in ("prior", "samples"):
            if given.get(section):
                rule = "is of the transformer, and model.train is 'decoder'"
                raise RequestError(section, given[section], rule, f"no [{section}]")
        if config.training.context > 1:
            rule = "is of the transformer, and model.train is 'decoder'"
            raise RequestError("training.context", config.training.context, rule, 1)


def _check_sharded(config: Config) -> None:
    if config.training.checkpointed_blocks != "all":
        rule = "keeps weights that training.shard lets go"
        blocks = config.training.checkpointed_blocks
        raise RequestError("training.checkpointed_blocks", blocks, rule, "all")
    if config.prior.share:
        rule = "needs the whole base before the training, and training.shard keeps parts"
        raise RequestError("prior.share", config.prior.share, rule, 0)


_BELONGS = {
    ("training", "sigma_mean"): ("training", "sigma", "logit-normal"),
    ("training", "sigma_deviation"): ("training", "sigma", "logit-normal"),
    ("training", "sigma_shift"): ("training", "sigma", "shifted"),
    ("optimiser", "adam_lr"): ("optimiser", "name", "muon"),
    ("data", "frames"): ("model", "train", "decoder"),
    ("data", "height"): ("model", "train", "decoder"),
    ("data", "width"): ("model", "train", "decoder"),
}
"""Settings that do something only where another one has a certain value."""


def _check_ignored(config: Config, given: Mapping[str, Any]) -> None:
    """A setting that would do nothing is refused, if it is not what it is anyway."""
    plain = Config()
    for (section, name), (other, key, value) in _BELONGS.items():
        chosen = given.get(section, {}).get(name)
        if chosen is None or getattr(getattr(config, other), key) == value:
            continue
        if chosen != getattr(getattr(plain, section), name):
            rule = f"does something only with {other}.{key}={value!r}"
            raise RequestError(f"{section}.{name}", chosen, rule)
