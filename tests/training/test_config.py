"""A config says what is wrong with it: field, value, rule, the nearest that would do."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.core.errors import MochiError, OutputError, RequestError
from mochi.training.config import Config, read_config
from mochi.training.config_file import config_text, write_config

HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"optimizer": {}}, r"optimizer=\{\} is no section; nearest: optimiser"),
    ({"optimiser": {"learning_rate": 1}}, r"optimiser\.learning_rate=1 is no setting"),
    ({"training": {"step": 5}}, r"training\.step=5 is no setting; nearest: steps"),
    ({"training": 5}, r"training=5 is no section; nearest: \[training\]"),
    ({"training": {"steps": 1.5}}, r"training\.steps=1\.5 is not a whole number; nearest: 2"),
    ({"training": {"steps": True}}, r"training\.steps=True is not a whole number"),
    ({"training": {"steps": 0}}, r"training\.steps=0 is below 1; nearest: 1"),
    ({"optimiser": {"lr": 0}}, r"optimiser\.lr=0\.0 is not above 0"),
    ({"optimiser": {"lr": float("nan")}}, r"optimiser\.lr=nan is no finite number"),
    ({"optimiser": {"lr": "fast"}}, r"optimiser\.lr='fast' is not a number"),
    ({"optimiser": {"name": "adam"}}, r"optimiser\.name='adam' is unknown; nearest: adamw"),
    ({"data": {"caption_dropout": 1.5}}, r"is above 1; nearest: 1"),
    ({"lora": {"layers": "attention"}}, r"lora\.layers='attention' is no list"),
    ({"lora": {"layers": ["atention"]}}, r"nearest: attention"),
    ({"lora": {"layers": []}}, r"lora\.layers=\[\] is empty"),
    ({"lora": {"dropout": 1}}, r"lora\.dropout=1\.0 is not below 1"),
    ({"lora": {"dropout": 0.1}, "training": {"context": 2}}, r"lora\.dropout=0\.1 cannot"),
    ({"model": {"train": "full"}, "lora": {"rank": 2}}, r"lora=\{'rank': 2\} is for model\.train"),
    ({"model": {"train": "full", "quantise": "fp8"}}, r"model\.quantise='fp8' keeps weights"),
    ({"model": {"train": "decoder"}, "samples": {"every": 5}}, r"samples=.* is of the transformer"),
    ({"training": {"sigma_shift": 2.0}}, r"only with training\.sigma='shifted'"),
    ({"optimiser": {"adam_lr": 0.5}}, r"only with optimiser\.name='muon'"),
    ({"training": {"batch": 2, "accumulate": 3}}, r"is more than training\.batch=2; nearest: 2"),
    ({"training": {"steps": 10}, "optimiser": {"warmup_steps": 10}}, r"leaves none of"),
    ({"model": {"train": "full"}, "training": {"shard": True}}, r"training\.shard=True is of"),
    ({"training": {"shard": True, "checkpointed_blocks": 3}}, r"checkpointed_blocks=3 keeps"),
    ({"training": {"shard": True}, "prior": {"share": 0.5, "prompts": "p"}}, r"prior\.share=0\.5"),
    ({"samples": {"every": 10}}, r"samples\.prompts is empty"),
    ({"samples": {"every": 10, "prompts": [" "]}}, r"samples\.prompts=' ' is empty"),
    ({"prior": {"share": 0.5}}, r"goes with prior\.prompts"),
    ({"validation": {"sigmas": [0.0]}}, r"validation\.sigmas=0\.0 is not above 0"),
    ({"training": {"checkpointed_blocks": "some"}}, r"is not a whole number"),
    ({"training": {"checkpointed_blocks": -1}}, r"is below 0; nearest: 0"),
]


@pytest.mark.parametrize(("given_", "message"), HOSTILE, ids=lambda it: str(it)[:40])
def test_what_cannot_work_is_refused(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Config.of(given_)


def test_the_written_file_says_everything_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    write_config(path)
    assert read_config(path) == Config.of({}, tmp_path)
    whole = "\n".join(
        line.removeprefix("# ") if " = " in line else line
        for line in config_text().splitlines()
        if not line.startswith("# ") or " = " in line
    )
    assert Config.of(tomllib.loads(whole)) == Config()
    assert tomllib.loads(whole).keys() == Config().to_dict().keys()
    with pytest.raises(OutputError, match="exists"):
        write_config(path)


def test_plain_values_and_back() -> None:
    given_ = {"lora": {"layers": ["mlp", "blocks.*.attn.qkv_x"]}, "training": {"steps": 700}}
    config = Config.of(given_)
    assert Config.of(config.to_dict()) == config
    for train in ("full", "decoder"):
        config = Config.of({"model": {"train": train}})
        assert Config.of(config.to_dict()) == config


def test_paths_begin_at_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[data]\npath = "clips"\n[saving]\nfolder = "/elsewhere"\n')
    config = read_config(path)
    assert config.data.path == str(tmp_path / "clips")
    assert config.saving.folder == "/elsewhere"
    assert config.model.name == "nano"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[model", b"a = 1 = 2"])
def test_no_toml(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    with pytest.raises(RequestError, match="--init"):
        read_config(path)
    path.write_bytes(content)
    with pytest.raises(RequestError, match="no readable TOML"):
        read_config(path)


plain = st.none() | st.booleans() | st.integers() | st.floats()
values = plain | st.text(st.characters(codec="utf-8"))
names = st.sampled_from([*Config().to_dict(), "other"])
keys = st.sampled_from([*(k for s in Config().to_dict().values() for k in s), "other"])


def said_about(content: dict[str, Any]) -> str:
    """What a config is refused with; nothing where it is one."""
    try:
        Config.of(content)
    except MochiError as error:
        return str(error)
    return ""


@given(st.dictionaries(names, values | st.dictionaries(keys, values | st.lists(values))))
def test_anything_is_a_config_or_one_clear_line(content: dict[str, Any]) -> None:
    assert "\n" not in said_about(content)
