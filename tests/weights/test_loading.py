"""Networks out of files: right, strict, without a second copy."""

import gc
import re
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mochi.core.config import MOCHI_1, DiTConfig
from mochi.core.errors import WeightsError
from mochi.model.decoder import Decoder
from mochi.model.dit import AsymmDiT
from mochi.model.encoder import Encoder
from mochi.model.stored import StoredWeight
from mochi.weights.checkpoint import Checkpoint
from mochi.weights.containers import Contents
from mochi.weights.finite import count_non_finite
from mochi.weights.loading import check, load_decoder, load_dit, load_encoder
from mochi.weights.networks import KINDS, shapes_of
from mochi.weights.report import LoadReport
from mochi.weights.stored import plain
from mochi.weights.tensors import TensorFile

State = dict[str, Tensor]
Write = Callable[..., Path]
LOADERS = {"dit": load_dit, "decoder": load_decoder, "encoder": load_encoder}
NETWORKS = {"dit": AsymmDiT, "decoder": Decoder, "encoder": Encoder}
PARTS = list(LOADERS)


@pytest.mark.parametrize("part", PARTS)
def test_every_tensor_arrives(original: Path, states: dict[str, State], part: str):
    for source in (original, original / f"{part}.safetensors", [original / f"{part}.safetensors"]):
        network = LOADERS[part](source)
        state = network.state_dict()
        assert state.keys() == states[part].keys()
        assert all(state[name].equal(tensor) for name, tensor in states[part].items())


def test_a_loaded_network_computes_what_the_built_one_does(
    original: Path, states: dict[str, State]
):
    built = load_dit(original).config
    network = AsymmDiT(built)
    network.load_state_dict(states["dit"])
    inputs = (
        torch.randn(1, 12, 2, 4, 4),
        torch.tensor([0.4]),
        torch.randn(1, 7, built.text_features),
        torch.arange(7)[None] < 5,
    )
    with torch.no_grad():
        assert load_dit(original)(*inputs).equal(network(*inputs))


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_the_stored_dtype_is_kept(states: dict[str, State], write: Write, stored: torch.dtype):
    path = write({name: tensor.to(stored) for name, tensor in states["dit"].items()})
    for name, parameter in load_dit(path).named_parameters():
        assert parameter.dtype == (torch.float32 if name == "pos_frequencies" else stored)
    for name, parameter in load_dit(path, dtype=torch.bfloat16).named_parameters():
        wanted = torch.float32 if name == "pos_frequencies" else torch.bfloat16
        assert parameter.dtype == wanted
        assert parameter.equal(states["dit"][name].to(stored).to(wanted))


def test_parameters_lie_in_the_file_and_training_never_reaches_it(
    states: dict[str, State], write: Write
):
    path = write(states["decoder"])
    before = path.read_bytes()
    network = load_decoder(path)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    network(torch.randn(1, 12, 1, 2, 2)).square().mean().backward()
    optimiser.step()
    changed = network.state_dict()["output_proj.weight"]
    assert not changed.equal(states["decoder"]["output_proj.weight"])
    assert path.read_bytes() == before


def test_meta_reads_nothing(original: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(TensorFile, "tensor", lambda *_: pytest.fail("a tensor was read"))
    network = load_dit(original, device="meta", dtype=torch.bfloat16)
    assert all(parameter.is_meta for parameter in network.parameters())
    assert network.pos_frequencies.dtype == torch.float32


@pytest.mark.parametrize("part", PARTS)
def test_a_network_without_memory_is_the_one_that_is_built(part: str):
    config = getattr(MOCHI_1, part)
    with torch.device("meta"):
        built = NETWORKS[part](config)
    empty = KINDS[part].empty(config)
    assert all(tensor.is_meta for tensor in (*empty.parameters(), *empty.buffers()))
    assert shapes_of(empty) == shapes_of(built)


@pytest.mark.parametrize("part", PARTS)
def test_weights_are_assigned_as_torch_would_do_it(
    original: Path, states: dict[str, State], part: str
):
    loaded = LOADERS[part](original)
    with torch.device("meta"):
        network = NETWORKS[part](loaded.config)
    network.load_state_dict(states[part], assign=True)
    assert list(loaded.state_dict()) == list(network.state_dict())
    for name, parameter in network.named_parameters():
        found = loaded.get_parameter(name)
        assert found.requires_grad == parameter.requires_grad, name
        assert found.equal(parameter), name


# ------------------------------------------------------------------------------------- strictness


def damaged(states: dict[str, State]) -> list[tuple[str, str, int | None]]:
    """Every tensor missing, and its outputs and inputs one too many."""
    return [
        (part, name, dimension)
        for part, state in states.items()
        for name, tensor in state.items()
        for dimension in (None, *range(min(tensor.ndim, 2)))
    ]


def of_shapes(shapes: dict[str, tuple[int, ...]]) -> Checkpoint:
    """A checkpoint without numbers."""
    tensors = {n: plain(torch.float32, s, 4 * prod(s), torch.zeros) for n, s in shapes.items()}
    return Checkpoint(Contents((Path("some.file"),), frozenset({"safetensors"}), tensors, {}))


def test_each_missing_tensor_and_each_wrong_shape_is_named(states: dict[str, State]):
    unnamed = []
    for part, name, dimension in damaged(states):
        shapes = {n: tuple(t.shape) for n, t in states[part].items()}
        if dimension is None:
            del shapes[name]
        else:
            longer = list(shapes[name])
            longer[dimension] += 1
            shapes[name] = tuple(longer)
        try:
            of_shapes(shapes).part(part).check()
            unnamed.append((part, name, dimension, "accepted"))
        except WeightsError as error:
            if name not in str(error):
                unnamed.append((part, name, dimension, str(error)))
    # The last stage has no residual blocks here, so one tensor alone knows its width; that this
    # one is no multiple of 32 is all that can be said.
    assert [case[:3] for case in unnamed] == [("decoder", "output_proj.weight", 1)]


def test_the_report_lists_missing_unexpected_and_wrong(states: dict[str, State], write: Write):
    state = dict(states["dit"])
    del state["blocks.1.attn.proj_x.bias"]
    state["blocks.1.attn.extra.bias"] = torch.zeros(3)
    state["t5_yproj.bias"] = torch.zeros(5)
    path = write(state)
    with pytest.raises(WeightsError) as caught:
        load_dit(path)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith(
        "does not fit an AsymmDiT: 1 missing, 1 unexpected, 1 of the wrong shape"
    )
    assert lines[1:] == [
        "  missing: blocks.1.attn.proj_x.bias (32,)",
        "  unexpected: blocks.1.attn.extra.bias (3,)",
        "  wrong shape: t5_yproj.bias (5,), not (24,)",
    ]
    report = check("dit", path)
    assert not report.ok
    assert report.unexpected == {"blocks.1.attn.extra.bias": (3,)}


def test_a_missing_last_block_is_missing_and_nothing_else(states: dict[str, State], write: Write):
    for gone in ("blocks.2.", ("blocks.2.", "blocks.1.m")):  # at its beginning, in the middle
        path = write({n: t for n, t in states["dit"].items() if not n.startswith(gone)})
        report = check("dit", path)
        assert not report.unexpected
        assert not report.wrong_shape
        assert set(report.missing) == {n for n in states["dit"] if n.startswith(gone)}


def test_one_foreign_tensor_does_not_make_a_block(states: dict[str, State], write: Write):
    path = write({**states["dit"], "blocks.2.mlp_y.w2.weight": torch.zeros(24, 256)})
    assert check("dit", path).unexpected == {"blocks.2.mlp_y.w2.weight": (24, 256)}


def test_a_long_report_is_cut():
    report = LoadReport.compare({f"a{i}": (1,) for i in range(40)}, {})
    assert str(report).endswith("and 28 more")
    assert LoadReport.compare({"a": (1,)}, {"a": (1,)}).ok


@pytest.mark.parametrize("part", PARTS)
def test_biases_where_there_are_none_are_refused(states: dict[str, State], write: Write, part: str):
    odd = {
        "dit": "blocks.0.attn.qkv_x.bias",
        "decoder": "blocks.0.0.extra",
        "encoder": "output_proj.bias",
    }
    path = write({**states[part], odd[part]: torch.zeros(4)})
    with pytest.raises(WeightsError, match=re.escape(f"unexpected: {odd[part]} (4,)")):
        LOADERS[part](path)


@pytest.mark.parametrize("part", PARTS)
def test_no_biases_at_all_is_a_list_of_them(states: dict[str, State], write: Write, part: str):
    path = write({n: t for n, t in states[part].items() if not n.endswith("bias")})
    with pytest.raises(WeightsError, match="0 unexpected, 0 of the wrong shape\n  missing: "):
        LOADERS[part](path)


@pytest.mark.parametrize("wanted", PARTS)
@pytest.mark.parametrize("given", PARTS)
def test_another_part_is_recognised(original: Path, wanted: str, given: str):
    if wanted == given:
        return
    article = {"dit": "an AsymmDiT", "decoder": "a Mochi decoder", "encoder": "a Mochi encoder"}
    with pytest.raises(WeightsError, match=f"looks like {article[given]}"):
        LOADERS[wanted](original / f"{given}.safetensors")


def test_another_model_is_shown_by_its_names(write: Write):
    path = write({"model.layers.0.mlp.weight": torch.zeros(2), "lm_head.weight": torch.zeros(2)})
    with pytest.raises(WeightsError, match=r"2 tensors of something else: .*lm_head\.weight"):
        load_dit(path)
    with pytest.raises(WeightsError, match="no tensors at all"):
        load_decoder(write({}, "empty.safetensors"))


def test_no_files_are_an_error():
    with pytest.raises(WeightsError, match="no files were given"):
        load_dit([])


# --------------------------------------------------------------------------------- NaN and dtypes


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_no_numbers_are_refused(
    states: dict[str, State], write: Write, value: float, dtype: torch.dtype
):
    state = {name: tensor.to(dtype) for name, tensor in states["encoder"].items()}
    state["layers.0.weight"] = state["layers.0.weight"].clone()
    state["layers.0.weight"][3, 5] = value
    path = write(state)
    count = state["layers.0.weight"].numel()
    with pytest.raises(
        WeightsError, match=f"NaN or infinity: 1 of {count} values of layers.0.weig"
    ):
        load_encoder(path)
    load_encoder(path, check_finite=False)


def test_large_but_finite_weights_are_accepted(states: dict[str, State], write: Write):
    load_encoder(write({**states["encoder"], "layers.0.weight": torch.full((32, 15), 3e38)}))


def test_infinities_of_both_signs_do_not_cancel():
    tensor = torch.tensor([1.0, float("inf"), -float("inf"), float("nan")])
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert count_non_finite(StoredWeight("", (4,), tensor.to(dtype))) == 3
        assert count_non_finite(StoredWeight("", (2,), tensor[:2].to(dtype))) == 1
    assert count_non_finite(StoredWeight("", (0,), torch.zeros(0))) == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64])
def test_whole_numbers_are_refused_rather_than_guessed(
    states: dict[str, State], write: Write, dtype: torch.dtype
):
    state = {**states["dit"]}
    state["blocks.0.attn.qkv_x.weight"] = state["blocks.0.attn.qkv_x.weight"].to(dtype)
    with pytest.raises(
        WeightsError, match=r"blocks\.0\.attn\.qkv_x\.weight as .*only floats and known"
    ):
        load_dit(write(state))


# ------------------------------------------------------------------------------------------ memory


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    text = Path("/proc/self/smaps_rollup").read_text()
    found = re.search(r"Anonymous:\s+(\d+) kB", text)
    assert found is not None
    return 1024 * int(found[1])


def sparse_dit(path: Path, config: DiTConfig) -> int:
    """A bf16 checkpoint whose data are a hole in the file, all zero; returns its size."""
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in AsymmDiT(config).state_dict().items()}
    entries, position = [], 0
    for name, shape in shapes.items():
        end = position + 2 * shape.numel()
        entries.append(
            f'"{name}":{{"dtype":"BF16","shape":{list(shape)},"data_offsets":[{position},{end}]}}'
        )
        position = end
    header = ("{" + ",".join(entries) + "}").encode()
    header += b" " * (-len(header) % 8)  # as all writers do; data out of step would be copied
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + position)
    return position


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps_rollup")
@pytest.mark.parametrize(
    "depth", [4, pytest.param(32, marks=pytest.mark.long)], ids=["0.2 GB", "1 GB"]
)
def test_loading_takes_no_memory_of_its_own(tmp_path: Path, depth: int):
    config = DiTConfig(depth=depth, heads=8, visual_width=1024, text_width=512)
    load_dit(_warm(tmp_path))
    size = sparse_dit(tmp_path / "dit.safetensors", config)
    gc.collect()
    before = anonymous_bytes()
    network = load_dit(tmp_path / "dit.safetensors")  # reads everything: the check for NaN
    grown = anonymous_bytes() - before
    assert sum(p.numel() * 2 for p in network.parameters()) == pytest.approx(size, rel=0.01)
    assert grown < 40e6 < size


def _warm(folder: Path) -> Path:
    tiny = DiTConfig(depth=1, heads=1, head_dim=8, visual_width=8, text_width=8, text_features=8)
    sparse_dit(folder / "warm.safetensors", tiny)
    return folder / "warm.safetensors"
