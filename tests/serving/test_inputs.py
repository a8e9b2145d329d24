"""What an input may say: one word for each thing, on every surface, and every rule by its field."""

import re
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator, meta
from tests.serving.fake_child import DEFAULTS

from mochi.cli.generate import generate
from mochi.core.errors import RequestError
from mochi.core.request import GenerateRequest
from mochi.serving.configured import model_entries
from mochi.serving.input_schema import input_schema
from mochi.serving.inputs import FIELDS, OURS, Checked, check_input
from mochi.serving.problems import Problem
from mochi.serving.runner.protocol import LoraEntry
from mochi.serving.settings import ServeSettings, read_settings

SETTINGS = ServeSettings(data=Path("unused"))
LORAS = {"ink": 0.8, "night.v2": 1.0}
ENTRIES = (
    LoraEntry("ink", "/loras/ink.safetensors", 0.8, description="black ink on paper"),
    LoraEntry("night.v2", "owner/night"),
)
HERE_ALONE = {  # of the machine, of files, of the terminal: never said by a client
    "context", "like", "output", "overwrite", "preview", "embeddings", "save_embeddings",
    "latents", "save_latents", "model", "dit", "vae", "text_encoder", "tokenizer", "lora_mode",
    "device", "devices", "dtype", "dequantize", "products", "text_dtype", "memory", "attention",
    "kernels", "passes", "tables", "server", "token", "quiet", "json_output",
}  # fmt: skip


def check(**given: Any) -> Checked:
    return check_input({"prompt": "x", "seed": 1, **given}, DEFAULTS, SETTINGS, loras=LORAS)


def refusal(**given: Any) -> dict[str, str]:
    with pytest.raises(Problem) as caught:
        check(**given)
    assert caught.value.status == 422
    return {entry["field"]: entry["description"] for entry in caught.value.fields}


def test_what_the_command_line_can_say_a_client_can_say() -> None:
    ours = {OURS.get(name, name) for name in FIELDS}
    options = set(signature(generate).parameters) - HERE_ALONE
    parallel = {"parallel", "shard", "launcher"}  # how devices share the work is the server's
    assert options - parallel - {"lora"} == ours
    assert ours - {"preset"} < set(GenerateRequest.__dataclass_fields__)


def test_the_lossy_fast_paths_are_inputs() -> None:
    made = check(step_cache="tea", linear_every=2).request
    assert (made["step_cache"], made["linear_every"]) == ("tea:0.06", 2)
    assert "loras" not in made
    assert set(refusal(step_cache="often", linear_every=0)) == {
        "input.step_cache",
        "input.linear_every",
    }


def test_guidance_may_be_one_for_each_step() -> None:
    made = check(num_inference_steps=3, guidance_scale=[2, 2.5, 1]).request
    assert made["guidance"] == [2.0, 2.5, 1.0]
    assert "input.guidance_scale" in refusal(num_inference_steps=3, guidance_scale=[2, 2])
    assert "input.guidance_scale" in refusal(guidance_scale=[])
    assert "input.guidance_scale" in refusal(guidance_scale=[2, "x"])


def test_adapters_are_named_from_the_list() -> None:
    made = check(loras=["night.v2:-0.5", "ink"]).request
    assert made["loras"] == [["night.v2", -0.5], ["ink", 0.8]]
    assert "loras" not in check(loras=[]).request
    for wrong in ("ink", ["paper"], ["ink:9"], ["ink:nan"], ["ink", "ink:1"], [1], ["ink:"]):
        assert set(refusal(loras=wrong)) == {"input.loras"}
    assert "paper" in refusal(loras=["paper"])["input.loras"]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "genmo/lora", "ink.safetensors"])
def test_no_path_and_no_hub_name_gets_through(name: str) -> None:
    assert set(refusal(loras=[name])) == {"input.loras"}
    with pytest.raises(Problem) as caught:
        check_input({"prompt": "x", "loras": [name]}, DEFAULTS, SETTINGS)
    assert "is unknown" in caught.value.fields[0]["description"]


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
INPUTS = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["x", "", " "])},
    optional={
        "num_frames": st.integers(0, 200),
        "num_inference_steps": st.integers(0, 300),
        "guidance_scale": st.floats(-1, 20) | st.lists(st.floats(0, 10), max_size=3),
        "step_cache": st.sampled_from(["off", "tea", "tea:0.06", "tea:1", "often"]),
        "loras": st.lists(st.sampled_from(["ink", "ink:0.5", "ink:5", "paper"]), max_size=3),
        "width": st.integers(0, 900),
        "solver": st.sampled_from(["euler", "magic"]) | VALUES,
        "threshold": st.floats(0, 1),
    },
)


@given(INPUTS)
@settings(max_examples=60, deadline=None)
def test_what_the_schema_refuses_is_refused(input_: dict[str, Any]) -> None:
    """The other way round the server may know more: how many scales there are steps, say."""
    schema = input_schema(DEFAULTS, SETTINGS, ENTRIES)
    said = {name: value for name, value in input_.items() if value is not None}
    wrong = {
        str(error.instance_path[0]) for error in Draft202012Validator(schema).iter_errors(said)
    }
    try:
        check_input(input_, DEFAULTS, SETTINGS, loras=LORAS)
        refused = set()
    except Problem as problem:
        refused = {entry["field"].removeprefix("input.") for entry in problem.fields}
    assert wrong <= refused


def test_the_schema_names_adapters_and_their_usual_scales() -> None:
    schema = input_schema(DEFAULTS, SETTINGS, ENTRIES)
    assert meta.is_valid(schema)
    assert schema["properties"]["loras"]["items"]["anyOf"][0]["enum"] == list(LORAS)
    assert schema["properties"]["loras"]["x-scales"] == LORAS
    assert schema["properties"]["loras"]["x-descriptions"] == {"ink": "black ink on paper"}
    assert "loras" not in input_schema(DEFAULTS, SETTINGS)["properties"]
    assert schema["properties"]["guidance_scale"]["default"] == 2.0


def test_models_and_adapters_come_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "serve.toml").write_text(
        """
        [[models]]
        name = "genmoai/mochi-1"
        source = "/models/mochi-1"
        memory = "low"
        products = "int8"
        [[models]]
        name = "mochi/nano"
        [[loras]]
        name = "ink"
        source = "/loras/ink.safetensors"
        scale = 0.8
        models = ["mochi/nano"]
        """
    )
    large, nano = model_entries(read_settings(data=tmp_path))
    assert large.options["memory"] == "low"
    assert large.options["products"] == "int8"
    assert (large.lora_scales, nano.lora_scales) == ({}, {"ink": 0.8})
    assert "dit" not in large.options


@pytest.mark.parametrize(
    ("lora", "rule"),
    [
        ({"name": "a:b", "source": "x"}, "loras.0.name"),
        ({"name": "../a", "source": "x"}, "loras.0.name"),
        ({"name": "a"}, "loras.0.source"),
        ({"name": "a", "source": "x", "scale": 9}, "loras.0.scale"),
        ({"name": "a", "source": "x", "models": ["no/such"]}, "no/such"),
    ],
)
def test_settings_of_adapters_that_are_wrong(
    tmp_path: Path, lora: dict[str, Any], rule: str
) -> None:
    with pytest.raises(RequestError, match=re.escape(rule)):
        read_settings(data=tmp_path, loras=[lora])
