"""What `inspect` sees: parts, forms and sizes, and everything that is wrong with them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.weights.models import DIT, TEXT, random_model, random_state, write_original
from torch import Tensor

from mochi.weights.checkpoint import Checkpoint
from mochi.weights.convert import Wishes, plan_conversion
from mochi.weights.inspect import Inspection, inspect
from mochi.weights.source import open_path

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_original(tmp_path_factory.mktemp("tiny"), random_model())


def look(path: Path) -> Inspection:
    return inspect(open_path(path).checkpoints)


def oddities(found: Inspection) -> list[tuple[str, str, bool]]:
    return [(o.name, o.what, o.is_broken) for part in found.parts for o in part.oddities]


def test_a_good_model(original: Path):
    told: list[tuple[str, int, int]] = []
    opened = open_path(original)
    found = inspect(opened.checkpoints, lambda *words: told.append(words))
    assert not found.is_broken
    assert not oddities(found)
    assert [part.part for part in found.parts] == ["dit", "decoder", "encoder", "t5"]
    for part in found.parts:
        states = random_model()[part.part]
        [(kind, held)] = part.kinds.items()
        assert kind == "float32"
        assert held.tensors == len(states)
        assert part.parameters == sum(tensor.numel() for tensor in states.values())
        assert part.nbytes == 4 * part.parameters
    assert found.parts[0].config["depth"] == DIT.depth
    assert found.parts[3].config["heads"] == TEXT.heads
    assert told[-1][1] == told[-1][2] == sum(part.nbytes for part in found.parts)
    plain = found.to_dict()
    assert plain["parts"][0]["parameters"] == found.parts[0].parameters
    assert plain["is_broken"] is False


@pytest.mark.parametrize(
    ("wishes", "kind"),
    [
        (Wishes("comfy", quantize="fp8", all_in_one=True), "fp8_scaled"),
        (Wishes("original", quantize="q4_0", parts=("dit",)), "q4_0"),
        (Wishes("original", quantize="fp8", parts=("dit",)), "float8_e4m3fn"),
    ],
)
def test_quantised_files(original: Path, tmp_path: Path, wishes: Wishes, kind: str):
    path = tmp_path / "a.safetensors"
    plan_conversion(open_path(original).source, path, wishes).write()
    found = look(path)
    assert not found.is_broken
    dit = found.parts[0]
    assert set(dit.kinds) == {"float32", kind}
    assert dit.parameters == sum(t.numel() for t in random_state("dit", DIT).values())
    assert dit.nbytes < 4 * dit.parameters


def test_strange_values_are_named(tmp_path: Path):
    state = random_state("dit", DIT)
    state["t5_yproj.bias"][3] = float("nan")
    state["blocks.0.attn.qkv_x.weight"][0, :2] = float("inf")
    state["blocks.1.mlp_x.w2.weight"].zero_()
    state["final_layer.linear.bias"].fill_(0.5)
    save_file(state, tmp_path / "dit.safetensors")
    found = look(tmp_path / "dit.safetensors")
    assert sorted(oddities(found)) == [
        ("blocks.0.attn.qkv_x.weight", "NaN or infinity", True),
        ("blocks.1.mlp_x.w2.weight", "all zero", False),
        ("final_layer.linear.bias", "constant", False),
        ("t5_yproj.bias", "NaN or infinity", True),
    ]
    assert found.is_broken


def test_zeros_alone_break_nothing(tmp_path: Path):
    state = random_state("dit", DIT)
    state["t5_yproj.bias"].zero_()
    save_file(state, tmp_path / "dit.safetensors")
    found = look(tmp_path / "dit.safetensors")
    assert oddities(found) == [("t5_yproj.bias", "all zero", False)]
    assert not found.is_broken


def test_missing_foreign_and_misshapen_tensors(tmp_path: Path):
    state = random_state("dit", DIT)
    del state["blocks.1.attn.proj_x.bias"]
    state["blocks.1.extra"] = torch.ones(2, 2) * torch.arange(2)
    state["t5_yproj.bias"] = torch.arange(5.0)
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}
    save_file(prefixed, tmp_path / "a.safetensors")
    found = look(tmp_path / "a.safetensors")
    assert [o[1:] for o in oddities(found)] == [
        ("missing", True),
        ("unexpected", True),
        ("wrong shape", True),
    ]
    assert all(name.startswith("model.diffusion_model.") for name, *_ in oddities(found))
    assert found.is_broken


def test_lost_scales_are_seen(original: Path, tmp_path: Path):
    from safetensors.torch import load_file

    path = tmp_path / "a.safetensors"
    wishes = Wishes("comfy", quantize="fp8", parts=("dit",))
    plan_conversion(open_path(original).source, path, wishes).write()
    state = load_file(path)
    lost = {n: t for n, t in state.items() if not n.endswith(("scale_weight", "scaled_fp8"))}
    save_file(lost, path)
    found = look(path)
    assert [what for _, what, _ in oddities(found)] == ["scales missing"]
    assert found.is_broken


def test_a_file_of_something_else(tmp_path: Path):
    save_file({"model.layers.0.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    found = inspect([Checkpoint.open(tmp_path / "other.safetensors")])
    assert found.is_broken
    assert found.parts == []
    assert list(found.unclaimed.values()) == [("model.layers.0.weight",)]
