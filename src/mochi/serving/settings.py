"""What a server is told: on the command line, in `MOCHI_SERVE_...` variables, in a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from mochi.core.errors import RequestError

CONFIG = "serve.toml"
DEFAULT_NAME = "genmoai/mochi-1"
_NAME = r"^[A-Za-z0-9][\w.-]{0,62}/[A-Za-z0-9][\w.-]{0,62}$"


class ModelSetting(BaseModel, extra="forbid"):
    """A model on offer: the name clients say, and what `mochi.load` is given."""

    name: str = Field(DEFAULT_NAME, pattern=_NAME)
    source: str = "nano"
    dtype: str = "auto"


class ServeSettings(BaseSettings):
    """Every setting, with what holds when nobody says anything.

    Attributes:
        data: folder of the database, the videos and the lock that keeps a second server out.
        public_url: what clients reach the server by; addresses in answers begin with it.
        database: a PostgreSQL URL, for several servers; else SQLite in `data`.
        blobs: a folder, or a URL for fsspec (s3://, gs://).
        devices: one runner each; `auto` is the best one.
        waiting_limit, account_waiting_limit: jobs that may wait, in all and of one account.
        requests_per_minute: of one account or address; 0 is no limit.
        max_attempts: how often a job may lose its runner.
        stop_seconds: how long a running job may still take when the server is told to stop.
        retention_days: after which ended jobs and all they made are removed; None keeps them.
        price_per_hour: of a device, for estimates and `metrics.price`.
        webhook_hosts: names that webhooks may go to; `*` is any public address.
        webhook_private: those of them that are named, without `*`, may be at private addresses.
        link_seconds: how long a signed address works.
        safety: what the term list does: nothing, a line in the log, a refusal.
        safety_terms: a file with a term on each line, in place of the built-in list.
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
    devices: tuple[str, ...] = ("auto",)
    waiting_limit: int = Field(1000, ge=1)
    account_waiting_limit: int = Field(200, ge=1)
    requests_per_minute: int = Field(1200, ge=0)
    max_frames: int = Field(170, ge=1)
    max_height: int = Field(848, ge=16)
    max_width: int = Field(848, ge=16)
    max_steps: int = Field(200, ge=1)
    upload_bytes: int = Field(100_000_000, ge=1)
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
        field = ".".join(str(part) for part in first["loc"])
        rule = first["msg"].removeprefix("Value error, ")
        raise RequestError(field, first.get("input"), f"is not possible: {rule}") from None
    except ValueError as error:  # tomllib's, of a file that is none
        raise RequestError("config", CONFIG, f"cannot be read: {error}") from error
