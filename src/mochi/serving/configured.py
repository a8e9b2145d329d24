"""What the settings offer, as those parts want it that do not read settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mochi.serving.examples import PAGE
from mochi.serving.runner.protocol import Checks, LoraEntry, ModelEntry, Watch
from mochi.serving.settings import ClassifierSetting, ServeSettings


def model_entries(settings: ServeSettings) -> tuple[ModelEntry, ...]:
    """What runners are told of the models and adapters on offer."""
    return tuple(
        ModelEntry(
            model.name,
            model.source,
            model.options(),
            tuple(
                LoraEntry(it.name, it.source, it.scale, it.mode, it.description)
                for it in settings.loras
                if not it.models or model.name in it.models
            ),
            _checks(settings),
        )
        for model in settings.models
    )


def open_signer(settings: ServeSettings, work: Path) -> Callable[[Path, str], None]:
    """What signs finished videos: nothing, without a certificate.

    Raises:
        RequestError: certificate and key do not sign.
    """
    if settings.c2pa_certificate is None or settings.c2pa_key is None:
        return lambda video, model: None
    from mochi.serving.provenance import Signer

    signer = Signer(settings.c2pa_certificate, settings.c2pa_key)
    signer.check(PAGE / "examples" / "red-circle.mp4", work)
    return signer.sign


def _checks(settings: ServeSettings) -> Checks:
    if settings.safety == "off":
        return Checks()
    blocks = settings.safety == "block"
    return Checks(blocks, _watch(settings.prompt_classifier), _watch(settings.frame_classifier))


def _watch(given: ClassifierSetting | None) -> Watch | None:
    if given is None:
        return None
    return Watch(given.source, given.labels, given.threshold, given.licence)
