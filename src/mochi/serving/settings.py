"""What a server is told: on the command line, in `MOCHI_SERVE_...` variables, in a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from mochi.core.errors import RequestError
from mochi.serving.fleet.settings import FleetSetting

CONFIG = "serve.toml"
DEFAULT_NAME = "genmoai/mochi-1"
MAX_LORA_SCALE = 4.0
_NAME = r"^[A-Za-z0-9][\w.-]{0,62}/[A-Za-z0-9][\w.-]{0,62}$"
_LORA_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"


class ModelSetting(BaseModel, extra="forbid"):
    """A model on offer: the name clients say, and what `mochi.load` is given.

    Attributes:
        source: the model; the fields behind it are options of `mochi.load` by the same names.
    """

    name: str = Field(DEFAULT_NAME, pattern=_NAME)
    source: str = "nano"
    dit: str | None = None
    vae: str | None = None
    text_encoder: str | None = None
    tokenizer: str | None = None
    dtype: str = "auto"
    text_dtype: str = "float32"
    dequantize: bool = False
    products: str = "exact"
    memory: str = "auto"

    def options(self) -> dict[str, Any]:
        """What `mochi.load` is given beside the source."""
        return self.model_dump(exclude={"name", "source"}, exclude_none=True)


class LoraSetting(BaseModel, extra="forbid"):
    """An adapter on offer: the name clients say, and what `Pipeline.add_lora` is given.

    Attributes:
        scale: where a client says none.
        models: names of the models that it is for; empty: all.
        description: for people who choose.
    """

    name: str = Field(pattern=_LORA_NAME)
    source: str
    scale: float = Field(1.0, ge=-MAX_LORA_SCALE, le=MAX_LORA_SCALE)
    mode: Literal["live", "merged"] = "live"
    models: tuple[str, ...] = ()
    description: str = ""


class TrainingSetting(BaseModel, extra="forbid"):
    """Trainings on this server.

    Attributes:
        device: where they run; one at a time.
        max_steps: of one training.
        waiting_limit: trainings that wait or run, in all.
        max_files, unpacked_bytes: of an archive of clips.
    """

    device: str = "auto"
    max_steps: int = Field(5000, ge=1)
    waiting_limit: int = Field(10, ge=1)
    max_files: int = Field(10_000, ge=1)
    unpacked_bytes: int = Field(20_000_000_000, ge=1)


class ClassifierSetting(BaseModel, extra="forbid"):
    """A classifier of prompts or frames.

    Attributes:
        source: a folder, or a name on the hub.
        labels: those that are watched.
        threshold: from which chance on.
        licence: agrees to a licence that asks for something, by its name.
    """

    source: str
    labels: tuple[str, ...] = Field(min_length=1)
    threshold: float = Field(0.8, gt=0, le=1)
    licence: str | None = None


class ServeSettings(BaseSettings):
    """Every setting, with what holds when nobody says anything.

    Attributes:
        data: folder of the database, the videos and the lock that keeps a second server out.
        public_url: what clients reach the server by; addresses in answers begin with it.
        database: a PostgreSQL URL, for several servers; else SQLite in `data`.
        blobs: a folder, or a URL for fsspec (s3://, gs://).
        models, loras: what clients may name; nothing else can be loaded.
        devices: one runner each; `auto` is the best one.
        ray: replicas on a Ray cluster, beside the runners of this machine.
        training: trainings, which are off without it.
        waiting_limit, account_waiting_limit: jobs that may wait, in all and of one account.
        requests_per_minute: of one account or address; 0 is no limit.
        together: jobs that fit are made in one batch, up to so many, where that is faster: small
            clips of the same size and steps.
        max_attempts: how often a job may lose its runner.
        stop_seconds: how long a running job may still take when the server is told to stop.
        retention_days: after which ended jobs and all they made are removed; None keeps them.
        price_per_hour: of a device, for estimates and `metrics.price`.
        webhook_hosts: names that webhooks may go to; `*` is any public address.
        webhook_private: those of them that are named, without `*`, may be at private addresses.
        link_seconds: how long a signed address works.
        safety: what is done about what the term list or a classifier finds: nothing, a line in the
            log and the audit, a refusal.
        safety_terms: a file with a term on each line, in place of the built-in list.
        prompt_classifier, frame_classifier: asked in the runner, before and after the run.
        c2pa_certificate, c2pa_key: PEM files; with them every video is signed.
    """

    model_config = SettingsConfigDict(env_prefix="MOCHI_SERVE_", extra="forbid")

    data: Path = Path("mochi-data")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    public_url: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    database: str | None = None
    blobs: str | None = None
    models: tuple[ModelSetting, ...] = (ModelSetting(name=DEFAULT_NAME),)
    loras: tuple[LoraSetting, ...] = ()
    devices: tuple[str, ...] = ("auto",)
    ray: FleetSetting | None = None
    training: TrainingSetting | None = None
    waiting_limit: int = Field(1000, ge=1)
    account_waiting_limit: int = Field(200, ge=1)
    requests_per_minute: int = Field(1200, ge=0)
    max_frames: int = Field(170, ge=1)
    max_height: int = Field(848, ge=16)
    max_width: int = Field(848, ge=16)
    max_steps: int = Field(200, ge=1)
    upload_bytes: int = Field(100_000_000, ge=1)
    together: int = Field(4, ge=1, le=16)
    lease_seconds: float = Field(30.0, gt=0)
    max_attempts: int = Field(3, ge=1)
    stop_seconds: float = Field(30.0, ge=0)
    retention_days: float | None = Field(None, gt=0)
    price_per_hour: float | None = Field(None, ge=0)
    currency: str = "USD"
    webhook_hosts: tuple[str, ...] = ()
    webhook_private: bool = False
    link_seconds: int = Field(24 * 3600, ge=60)
    safety: Literal["off", "log", "block"] = "log"
    safety_terms: Path | None = None
    prompt_classifier: ClassifierSetting | None = None
    frame_classifier: ClassifierSetting | None = None
    c2pa_certificate: Path | None = None
    c2pa_key: Path | None = None
    log_format: Literal["text", "json"] = "text"

    @field_validator("public_url")
    @classmethod
    def _without_slash(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return None if url is None else url.rstrip("/")

    @field_validator("models")
    @classmethod
    def _one_each(cls, models: tuple[ModelSetting, ...]) -> tuple[ModelSetting, ...]:
        if not models or len({model.name for model in models}) != len(models):
            raise ValueError("must hold at least one model, and no name twice")
        return models

    @model_validator(mode="after")
    def _certificate_and_key(self) -> ServeSettings:
        if (self.c2pa_certificate is None) != (self.c2pa_key is None):
            raise ValueError("c2pa_certificate and c2pa_key come together")
        return self

    @model_validator(mode="after")
    def _loras_of_models(self) -> ServeSettings:
        names, known = [it.name for it in self.loras], {model.name for model in self.models}
        if len(set(names)) != len(names):
            raise ValueError("loras must hold no name twice")
        for lora in self.loras:
            if unknown := set(lora.models) - known:
                raise ValueError(f"lora {lora.name} is for {unknown.pop()}, which is no model here")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Said explicitly, then the environment, then the file."""
        said = env_settings() | init_settings()
        path = Path(said.get("data", "mochi-data")) / CONFIG
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, path)


def read_settings(**said: Any) -> ServeSettings:
    """The settings: those said here go first, None is "not said".

    Raises:
        RequestError: a setting breaks its rule, or the file is no TOML.
    """
    try:
        return ServeSettings(**{name: value for name, value in said.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or CONFIG
        rule = first["msg"].removeprefix("Value error, ")
        raise RequestError(field, first.get("input"), f"is not possible: {rule}") from None
    except ValueError as error:  # tomllib's, of a file that is none
        raise RequestError("config", CONFIG, f"cannot be read: {error}") from error
