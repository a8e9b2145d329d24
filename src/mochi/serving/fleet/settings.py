"""What a server is told of its fleet, and how large the fleet should be."""

from __future__ import annotations

from pydantic import BaseModel, Field, model_validator


class FleetSetting(BaseModel, extra="forbid"):
    """Replicas on a Ray cluster.

    Attributes:
        address: of the cluster, as `ray.init` takes it: `auto`, `host:port`, `ray://...`; `local`
            starts one on this machine alone.
        least, most: replicas at any time; between them as many as there are jobs.
        resources: of each rank, by Ray's names: `{"GPU": 1}`, `{"CPU": 1}`.
        ranks: of each replica, all on one machine.
        idle_seconds: after which a replica that is not needed goes.
    """

    address: str = "auto"
    least: int = Field(0, ge=0)
    most: int = Field(4, ge=1)
    resources: dict[str, float] = {"GPU": 1}
    ranks: int = Field(1, ge=1)
    idle_seconds: float = Field(300.0, ge=0)

    @model_validator(mode="after")
    def _least_is_no_more_than_most(self) -> FleetSetting:
        if self.least > self.most:
            raise ValueError(f"least={self.least} must be at most most={self.most}")
        return self

    @property
    def bundle(self) -> dict[str, float]:
        """What one replica takes of its machine."""
        return {name: amount * self.ranks for name, amount in self.resources.items()}


def wanted(setting: FleetSetting, waiting: int, running: int, *, models_known: bool) -> int:
    """How many replicas there should be: one for each job, within the limits.

    Until something is known of the models there is at least one, which looks at them.
    """
    floor = max(setting.least, 0 if models_known else 1)
    return min(max(waiting + running, floor), max(setting.most, floor))


def superfluous(idle_seconds: list[float | None], want: int, setting: FleetSetting) -> list[int]:
    """Which replicas go: those idle for long enough, the longest first, never below `want`.

    Args:
        idle_seconds: of each replica; None while it works or comes up.
        want: see `wanted`.
        setting: see `FleetSetting`.
    """
    ready = [
        (seconds, index)
        for index, seconds in enumerate(idle_seconds)
        if seconds is not None and seconds >= setting.idle_seconds
    ]
    ready.sort(reverse=True)
    return [index for _, index in ready[: max(0, len(idle_seconds) - want)]]
