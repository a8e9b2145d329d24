"""`--lora`, `mochi lora`, and what videos remember of adapters."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.weights.lora.conftest import kwargs, pairs_for

from mochi.cli.adapters import lora_entries, lora_text, recorded_loras
from mochi.pipeline.lora_spec import LoraSpec
from mochi.weights.loading import load_dit
from mochi.weights.lora_read import layer_sizes, read_lora

PROMPT = "a red circle moves left on a black background"


@pytest.fixture
def style(tiny_model: Path, here: Path) -> Path:
    """An adapter for the tiny model, in the folder where commands run."""
    sizes = layer_sizes(load_dit(tiny_model / "dit.safetensors", device="meta"))
    save_file({k: 2 * v for k, v in pairs_for(sizes).items()}, "style.safetensors", kwargs(4, 8))
    return here / "style.safetensors"


def make(mochi, model: Path, output: str, *words: object):  # type: ignore[no-untyped-def]
    return mochi("generate", PROMPT, "--seed", 0, "--model", model, "-o", output, "--json", *words)


def test_an_adapter_changes_the_video_and_is_shown(mochi, tiny_model: Path, style: Path) -> None:  # type: ignore[no-untyped-def]
    assert make(mochi, tiny_model, "bare.gif").code == 0
    done = make(mochi, tiny_model, "a.gif", "--lora", "style.safetensors:0.8")
    assert done.code == 0, done.err
    (entry,) = json.loads(done.out)["loras"]
    assert (entry["file"], entry["scale"], entry["mode"]) == ("style.safetensors", 0.8, "live")
    assert Path("a.gif").read_bytes() != Path("bare.gif").read_bytes()
    shown = mochi("show", "a.gif").out
    assert f"style.safetensors:0.8 (sha256 {entry['sha256'][:12]})" in shown
    assert json.loads(mochi("show", "a.gif", "--json").out)["loras"] == [entry]


def test_a_video_is_repeated_with_its_adapters(mochi, tiny_model: Path, style: Path) -> None:  # type: ignore[no-untyped-def]
    make(mochi, tiny_model, "a.gif", "--lora", "style.safetensors:0.8")
    again = mochi("generate", "--like", "a.gif", "-o", "b.gif")
    assert again.code == 0, again.err
    assert "adapter" not in again.err
    assert Path("b.gif").read_bytes() == Path("a.gif").read_bytes()
    Path("other").mkdir()
    shutil.move("style.safetensors", "other")
    shutil.copy("a.gif", "other")  # an adapter beside the video is found too
    again = mochi("generate", "--like", "other/a.gif", "-o", "c.gif")
    assert Path("c.gif").read_bytes() == Path("a.gif").read_bytes()
    assert "adapter" not in again.err


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "another file by now"])
def test_a_video_whose_adapter_is_missing_says_so(
    mochi, tiny_model: Path, style: Path, gone: bool
) -> None:  # type: ignore[no-untyped-def]
    make(mochi, tiny_model, "a.gif", "--lora", "style.safetensors:0.8")
    if gone:
        style.unlink()
    else:
        save_file({k: -v for k, v in load_file(style).items()}, style, kwargs(4, 8))
    again = mochi("generate", "--like", "a.gif", "-o", "b.gif")
    assert again.code == 0
    assert "made with the adapter style.safetensors:0.8" in again.err
    assert "give it with --lora" in again.err


def test_what_is_asked_for_goes_before_what_the_video_had(
    mochi, tiny_model: Path, style: Path
) -> None:  # type: ignore[no-untyped-def]
    make(mochi, tiny_model, "a.gif", "--lora", "style.safetensors:0.8")
    make(mochi, tiny_model, "bare.gif")
    half = mochi("generate", "--like", "a.gif", "-o", "b.gif", "--lora", "style.safetensors:0.4")
    assert "style has the scale 0.4, not 0.8" in half.err
    without = mochi("generate", "--like", "a.gif", "-o", "c.gif", "--lora", "none")
    assert "made with the adapter" in without.err
    assert Path("c.gif").read_bytes() == Path("bare.gif").read_bytes()
    with_it = mochi("generate", "--like", "bare.gif", "-o", "d.gif", "--lora", style)
    assert "made without the adapter style" in with_it.err


@pytest.mark.parametrize(
    "entry",
    [
        "style",
        {"file": 3, "sha256": "x", "scale": 1},
        {"file": "", "sha256": "x", "scale": 1},
        {"file": "x", "sha256": "00", "scale": "1"},
        {"file": "x", "sha256": "00", "scale": True},
    ],
)
def test_what_is_no_adapter_in_a_record_is_left_out(entry: object) -> None:
    assert lora_entries({"loras": [entry]}) == lora_entries({"loras": entry}) == []
    assert recorded_loras({"loras": [entry, None]}, Path("a.gif"), "live") == []


def test_a_record_leads_to_no_other_place(here: Path) -> None:
    import hashlib

    secret = here / "secret"
    secret.write_bytes(b"x")
    (here / "videos").mkdir()
    digest = hashlib.sha256(b"x").hexdigest()
    for name in ("../secret", "./secret", str(secret), "x\x1b[31m", "a\0b", "videos/.."):
        record = {"loras": [{"file": name, "sha256": digest, "scale": 1.0}]}
        assert recorded_loras(record, here / "videos" / "a.gif", "live") == []
        assert lora_text(record["loras"][0]).isprintable()
    record = {"loras": [{"file": "secret", "sha256": digest, "scale": 0.5}]}
    assert recorded_loras(record, here / "a.gif", "merged") == [LoraSpec("secret", 0.5, "merged")]


def test_a_sweep_with_an_adapter_makes_other_videos(mochi, tiny_model: Path, style: Path) -> None:  # type: ignore[no-untyped-def]
    small = {"prompt": PROMPT, "frames": 7, "steps": 2}
    lines = [small, small | {"output": "named.gif"}]
    Path("r.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ("sweep", "r.jsonl", "--model", tiny_model, "--format", "gif", "--json")
    assert mochi(*words).code == 0
    done = mochi(*words, "--lora", "style.safetensors")
    statuses = [json.loads(line) for line in done.out.splitlines()]
    assert [status["status"] for status in statuses] == ["made", "failed"]
    assert "exists" in statuses[1]["error"]  # another video has that name
    done = mochi(*words, "--lora", "style.safetensors", "--lora-mode", "merged", "--overwrite")
    assert done.code == 0
    again = mochi(*words, "--lora", "style.safetensors", "--lora-mode", "merged")
    assert [json.loads(line)["status"] for line in again.out.splitlines()] == ["there", "there"]
    assert len(list(Path("sweep").iterdir())) == 4


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--lora", "none.safetensors"], 2, "lora='none.safetensors'"),
        (["--lora", "style.safetensors:nan"], 2, "no finite number"),
        (["--lora", "style.safetensors:high"], 2, "nearest: style.safetensors:1.0"),
        (["--lora", ""], 2, "is empty"),
        (["--lora-mode", "fused"], 2, "live, merged"),
        (["--lora", "style.safetensors", "--lora", "style.safetensors:0.5"], 2, "is on already"),
        (["--lora", "broken.safetensors"], 1, "truncated"),
        (["--lora", "foreign.safetensors"], 1, "fits no layer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_adapters(
    mochi, tiny_model: Path, style: Path, words: list[str], code: int, says: str
) -> None:  # type: ignore[no-untyped-def]
    Path("broken.safetensors").write_bytes(style.read_bytes()[:-10])
    foreign = {"blocks.0.attn.qkv_x.lora_A": torch.ones(4, 7)}
    save_file(foreign | {"blocks.0.attn.qkv_x.lora_B": torch.ones(9, 4)}, "foreign.safetensors")
    done = make(mochi, tiny_model, "out.gif", *words)
    assert done.code == code
    assert done.out == ""
    lines = [line for line in done.err.splitlines() if line.startswith("mochi: error")]
    assert len(lines) == 1
    assert says in lines[0]
    assert not Path("out.gif").exists()


# -------------------------------------------------------------------------------------- mochi lora


@pytest.mark.parametrize("command", [["lora"], ["weights", "lora"]])
def test_convert(mochi, style: Path, command: list[str]) -> None:  # type: ignore[no-untyped-def]
    done = mochi(*command, "convert", style, "d.safetensors", "--to", "diffusers")
    assert done.code == 0, done.err
    assert "d.safetensors: diffusers, 7 layers, rank 4, alpha 8" in done.out
    done = mochi(*command, "convert", "d.safetensors", "o.safetensors", "--to", "original", "-q")
    assert done.out == ""
    again, state = load_file("o.safetensors"), load_file(style)
    assert again.keys() == state.keys()
    assert all(again[name].equal(tensor) for name, tensor in state.items())
    assert mochi(*command, "convert", style, "d.safetensors", "--to", "comfy").code == 1
    words = ("--to", "comfy", "--overwrite", "--dtype", "bfloat16")
    assert mochi(*command, "convert", style, "d.safetensors", *words).code == 0
    assert {pair.a.dtype for pair in read_lora("d.safetensors").pairs} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--to", "kohya"], "original, comfy, diffusers"),
        (["--to", "comfy", "--dtype", "int8"], "float32, bfloat16, float16"),
        ([], "--to"),
        (["--to", "comfy", "--depth", "0"], "--depth"),
    ],
)
def test_convert_refuses(mochi, style: Path, words: list[str], says: str) -> None:  # type: ignore[no-untyped-def]
    done = mochi("lora", "convert", style, "x.safetensors", *words)
    assert done.code == 2
    assert says in done.err
    assert not Path("x.safetensors").exists()


def test_inspect(mochi, style: Path, tiny_model: Path) -> None:  # type: ignore[no-untyped-def]
    done = mochi("lora", "inspect", style, "--model", tiny_model)
    assert done.code == 0, done.err
    assert "original, 7 layers, rank 4, alpha 8" in done.out
    assert "blocks.0.attn.qkv_x" in done.out
    facts = json.loads(mochi("lora", "inspect", style, "--json").out)
    state = load_file(style)
    layer = facts["layers"][0]
    change = 2 * state[f"{layer['layer']}.lora_B"] @ state[f"{layer['layer']}.lora_A"]
    assert layer["norm"] == pytest.approx(change.norm().item(), rel=1e-4)
    assert facts["problems"] == []


def test_inspect_tells_what_is_suspicious(mochi, style: Path, tiny_model: Path) -> None:  # type: ignore[no-untyped-def]
    state = load_file(style)
    state["blocks.0.attn.qkv_x.lora_B"].zero_()
    state["blocks.0.attn.qkv_y.lora_A"][0, 0] = float("nan")
    state["blocks.0.attn.proj_x.lora_B"] *= 1e6
    state["blocks.5.attn.proj_x.lora_A\x1b"] = torch.ones(1)
    save_file(state, "bad.safetensors", kwargs(4, 8))
    done = mochi("lora", "inspect", "bad.safetensors", "--model", tiny_model)
    assert done.code == 1
    for line in (
        "blocks.0.attn.qkv_x: lora_B is all zeros: it changes nothing",
        "blocks.0.attn.qkv_y: 1 of 128 numbers of lora_A are NaN or infinite",
        "times as large as that of the median layer",
        "6 of 7 layers fit",
    ):
        assert line in done.out
    assert "\x1b" not in done.out
    assert json.loads(mochi("lora", "inspect", "bad.safetensors", "--json").out)["problems"]
    assert mochi("lora", "inspect", "nowhere.safetensors").code == 2


def test_without_a_command_there_is_help(mochi) -> None:  # type: ignore[no-untyped-def]
    assert "convert" in mochi("lora", "--help").out
    assert "lora" in mochi("weights", "--help").out
