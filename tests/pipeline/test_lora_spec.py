"""`FILE:0.8` and its colons."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.core.errors import RequestError
from mochi.pipeline.lora_spec import LoraSpec, checked_scale, lora_spec


@pytest.mark.parametrize(
    ("text", "source", "scale"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:.5", "a.safetensors", 0.5),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        ("a.safetensors:+2", "a.safetensors", 2.0),
        ("a.safetensors:1e-2", "a.safetensors", 0.01),
        ("a.safetensors:0", "a.safetensors", 0.0),
        ("owner/name:0.5", "owner/name", 0.5),
        ("owner/name/x y.safetensors:0.5", "owner/name/x y.safetensors", 0.5),
        (r"C:\loras\a.safetensors", r"C:\loras\a.safetensors", 1.0),
        (r"C:\loras\a.safetensors:0.7", r"C:\loras\a.safetensors", 0.7),
        ("C:/loras/a.safetensors:0.7", "C:/loras/a.safetensors", 0.7),
        ("a:b/c.safetensors", "a:b/c.safetensors", 1.0),
        ("a:b/c.safetensors:0.7", "a:b/c.safetensors", 0.7),
        ("a:0.5:0.7", "a:0.5", 0.7),
    ],
)
def test_sources_and_scales(text: str, source: str, scale: float) -> None:
    assert LoraSpec.parse(text) == LoraSpec(source, scale)


@pytest.mark.parametrize(
    "text", ["", "  ", ":0.8", "a:nan", "a:inf", "a:-inf", "a:1e999", "a:NaN", "a:Infinity"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(RequestError, match="lora="):
        LoraSpec.parse(text)


def test_what_exists_goes_before_what_it_could_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd:0.8").touch()
    Path("a.safetensors").touch()
    assert LoraSpec.parse("odd:0.8") == LoraSpec("odd:0.8")
    assert LoraSpec.parse("odd:0.8:0.5") == LoraSpec("odd:0.8", 0.5)
    for text in ("a.safetensors:high", "a.safetensors:", "a.safetensors:0,8", "a.safetensors:0x1"):
        with pytest.raises(RequestError, match=r"no number; nearest: a\.safetensors:1\.0"):
            LoraSpec.parse(text)


@given(st.text(st.characters(codec="utf-8"), max_size=30), st.floats(-1e6, 1e6))
def test_any_source_with_any_scale(source: str, scale: float) -> None:
    try:
        spec = LoraSpec.parse(f"{source}:{scale!r}")
    except RequestError:
        assert not source
    else:
        assert spec == LoraSpec(source, scale)


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        spec = LoraSpec.parse(text)
    except RequestError:
        return
    assert math.isfinite(spec.scale)
    assert text.startswith(spec.source)


def test_what_python_may_give() -> None:
    assert lora_spec("a:0.5") == lora_spec(("a", 0.5)) == lora_spec([Path("a"), 0.5])
    assert lora_spec(Path("a:0.5")) == LoraSpec("a:0.5")
    spec = LoraSpec("a", 0.5, "merged")
    assert lora_spec(spec) is spec
    for given_ in (3, None, ("a",), ("a", "b", "c"), (3, 0.5), ("a", "0.5"), ("a", math.nan)):
        with pytest.raises(RequestError):
            lora_spec(given_)
    assert checked_scale(2) == 2.0
