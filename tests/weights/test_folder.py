"""The files of a model are found by what is in them, and what is not there is said."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.weights.marked import State, fp8_scaled, in_safetensors

from mochi.core.config import T5Size
from mochi.core.errors import WeightsError
from mochi.weights.candidates import look
from mochi.weights.folder import ModelFiles, open_part, part_files
from mochi.weights.loading import load_dit
from mochi.weights.t5 import t5_shapes
from mochi.weights.variants import WeightName, choose, parse

STEM = "diffusion_pytorch_model"
T5 = T5Size(vocabulary=40, width=16, feed_forward=24, depth=2, heads=2, head_dim=8)
COMFY = {
    "dit": "model.diffusion_model.",
    "decoder": "vae.decoder.",
    "encoder": "vae.encoder.",
    "t5": "text_encoders.t5xxl.transformer.",
}


@pytest.fixture(scope="module")
def t5_state() -> State:
    generator = torch.Generator().manual_seed(4)
    return {name: torch.randn(shape, generator=generator) for name, shape in t5_shapes(T5).items()}


@pytest.fixture
def model(original: Path, t5_state: State, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(original, folder)
    for name in ("text_encoder", "tokenizer"):
        (folder / name).mkdir()
    save_file(t5_state, folder / "text_encoder" / "model.safetensors")
    (folder / "text_encoder" / "config.json").write_text('{"model_type": "t5"}')
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def diffusers(states: dict[str, State], tmp_path: Path) -> Callable[[Path], Path]:
    """Write a diffusers folder."""
    from mochi.weights.layouts import DIFFUSERS_DECODER, DIFFUSERS_DIT, DIFFUSERS_ENCODER

    def write(folder: Path) -> Path:
        theirs: dict[str, State] = {"transformer": {}, "vae": {}}
        tables = {"dit": DIFFUSERS_DIT, "decoder": DIFFUSERS_DECODER, "encoder": DIFFUSERS_ENCODER}
        for part, table in tables.items():
            names = table.from_ours(states[part])
            for name, tensor in states[part].items():
                found = names.to_theirs(name, tensor)
                theirs["transformer" if part == "dit" else "vae"] |= found
        for component, state in theirs.items():
            (folder / component).mkdir(parents=True, exist_ok=True)
            tensors = {name: tensor.contiguous() for name, tensor in state.items()}
            save_file(tensors, folder / component / f"{STEM}.safetensors")
        return folder

    return write


def prefixed(part: str, state: State) -> State:
    return {COMFY[part] + name: tensor for name, tensor in state.items()}


# ---------------------------------------------------------------------------------------- layouts


def test_original_files_are_found(model: Path):
    (model / "mochi.json").write_text("{}")
    files = ModelFiles.find(str(model))
    assert files.layout == "original"
    assert files.dit == (model / "dit.safetensors",)
    assert files.part("decoder") == (model / "decoder.safetensors",)
    assert files.part("encoder") == (model / "encoder.safetensors",)
    assert files.part("t5") == (model / "text_encoder" / "model.safetensors",)
    assert files.t5_config == model / "text_encoder" / "config.json"
    assert files.tokenizer_folder() == model / "tokenizer"
    assert files.card == model / "mochi.json"
    assert files.description == (
        "dit in dit.safetensors (original, float32); decoder in decoder.safetensors (original, "
        "float32); encoder in encoder.safetensors (original, float32); t5 in "
        "text_encoder/model.safetensors (Hugging Face, float32)"
    )


def test_names_of_files_do_not_matter(model: Path):
    expected = ModelFiles.find(model)
    for index, path in enumerate(sorted(model.glob("*.safetensors"))):
        path.rename(model / f"file {index}")
    (model / "notes.txt").write_text("not weights")
    (model / "README").write_bytes(b"\x10\0\0\0\0\0\0\0{ nor is this")
    files = ModelFiles.find(model)
    assert files.parts.keys() == expected.parts.keys()
    assert load_dit(files.dit).config == load_dit(model).config


def test_only_what_is_needed_must_be_there(model: Path):
    (model / "encoder.safetensors").unlink()
    shutil.rmtree(model / "tokenizer")
    shutil.rmtree(model / "text_encoder")
    files = ModelFiles.find(model)
    assert files.card is None
    with pytest.raises(WeightsError, match=r"no file with a Mochi encoder.*--vae"):
        files.part("encoder")
    with pytest.raises(WeightsError, match=r"no file with a T5 encoder.*--text-encoder"):
        files.part("t5")
    with pytest.raises(WeightsError, match=r"no folder tokenizer; name .* --tokenizer"):
        files.tokenizer_folder()


def test_a_broken_file_is_the_reason_that_is_given(model: Path):
    raw = (model / "encoder.safetensors").read_bytes()
    (model / "encoder.safetensors").write_bytes(raw[:-9])
    with pytest.raises(WeightsError, match=r"encoder\.safetensors: is truncated"):
        ModelFiles.find(model).part("encoder")
    (model / "dit.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"holds no whole model, .*dit\.safetensors: is empty"):
        ModelFiles.find(model)


def test_original_files_go_before_a_diffusers_folder(model: Path, diffusers: Callable[..., Path]):
    diffusers(model)
    files = ModelFiles.find(model)
    assert files.layout == "original"
    assert files.description.endswith("a diffusers model, which is here as well, was not taken")


def test_half_an_original_model_beside_a_diffusers_one_is_refused(
    model: Path, diffusers: Callable[..., Path]
):
    diffusers(model)
    (model / "decoder.safetensors").unlink()
    (model / "encoder.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"mixes layouts: dit\.safetensors .*--dit"):
        ModelFiles.find(model)


def test_halves_of_two_layouts_are_no_model(model: Path, diffusers: Callable[..., Path]):
    diffusers(model)
    (model / "decoder.safetensors").unlink()
    (model / "encoder.safetensors").unlink()
    shutil.rmtree(model / "transformer")
    with pytest.raises(
        WeightsError, match=r"mixes layouts, and none is whole: .*--dit and --vae"
    ) as caught:
        ModelFiles.find(model)
    assert "dit.safetensors" in str(caught.value)
    assert f"vae/{STEM}.safetensors" in str(caught.value)


def test_a_whole_diffusers_folder(tmp_path: Path, diffusers: Callable[..., Path]):
    files = ModelFiles.find(diffusers(tmp_path / "d"))
    assert files.layout == "diffusers"
    assert files.parts["decoder"] == files.parts["encoder"]


def comfy_vae(states: dict[str, State]) -> State:
    return {
        f"{part}.{name}": tensor
        for part in ("decoder", "encoder")
        for name, tensor in states[part].items()
    }


@pytest.mark.parametrize("below", ["", "split_files"])
def test_comfyui_files_in_their_folders(
    states: dict[str, State], t5_state: State, tmp_path: Path, below: str
):
    root = tmp_path / below
    for name in ("diffusion_models", "vae", "text_encoders"):
        (root / name).mkdir(parents=True)
    fp8_scaled(states["dit"], "old").save(root / "diffusion_models" / "mochi.safetensors")
    save_file(comfy_vae(states), root / "vae" / "mochi_vae.safetensors")
    fp8_scaled(t5_state, "new").save(root / "text_encoders" / "t5xxl.safetensors")
    files = ModelFiles.find(tmp_path)
    assert files.part("encoder") == files.part("decoder")
    assert "ComfyUI, float32" in files.description
    assert "fp8_scaled (old marking)" in files.description
    assert files.t5_config is None
    assert open_part("t5", files.part("t5")).config == T5


def test_comfyui_files_in_one_folder(states: dict[str, State], t5_state: State, tmp_path: Path):
    in_safetensors(states["dit"], "q8_0").save(tmp_path / "a.safetensors")
    save_file(comfy_vae(states), tmp_path / "b.safetensors")
    save_file({name: t.half() for name, t in t5_state.items()}, tmp_path / "c.safetensors")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "spiece.model").write_bytes(b"x")
    files = ModelFiles.find(tmp_path)
    assert files.tokenizer == tmp_path / "tokenizer"
    assert [paths[0].name for paths in files.parts.values()] == [
        "a.safetensors", "b.safetensors", "b.safetensors", "c.safetensors",
    ]  # fmt: skip


def all_in_one(states: dict[str, State], t5_state: State) -> State:
    found = {}
    for part, state in {**states, "t5": t5_state}.items():
        found |= prefixed(part, state)
    return found | {"text_encoders.t5xxl.logit_scale": torch.ones(())}


def test_an_all_in_one_file(states: dict[str, State], t5_state: State, tmp_path: Path):
    path = tmp_path / "model.bin"
    save_file(all_in_one(states, t5_state), path)
    for place in (path, tmp_path):
        files = ModelFiles.find(place)
        assert set(files.parts) == {"dit", "decoder", "encoder", "t5"}
        assert files.description == (
            "dit, decoder, encoder, t5 in model.bin (ComfyUI all-in-one, float32)"
        )
    loaded = load_dit(path).state_dict()
    assert all(loaded[name].equal(tensor) for name, tensor in states["dit"].items())


def test_a_file_is_completed_from_beside_it(model: Path):
    files = ModelFiles.find(model / "dit.safetensors")
    assert set(files.parts) == {"dit", "decoder", "encoder", "t5"}
    assert files.tokenizer == model / "tokenizer"
    shutil.copy(model / "dit.safetensors", model / "another")  # the one that was named is meant
    assert ModelFiles.find(model / "another").dit == (model / "another",)


def test_a_file_alone_says_what_to_name(original: Path, tmp_path: Path):
    shutil.copy(original / "dit.safetensors", tmp_path / "x")
    with pytest.raises(WeightsError, match=r"no Mochi decoder beside x; name a file with --vae"):
        ModelFiles.find(tmp_path / "x")
    given = {"decoder": (original / "decoder.safetensors",)}
    files = ModelFiles.find(tmp_path / "x", None, given)
    assert files.part("decoder") == given["decoder"]
    assert len(files.fingerprint()) == 64


def test_two_candidates_are_listed(model: Path, states: dict[str, State]):
    fp8_scaled(states["dit"], "old").save(model / "small.safetensors")
    with pytest.raises(WeightsError, match=r"2 files with an AsymmDiT: dit\.safetensors .*--dit"):
        ModelFiles.find(model)
    given = {"dit": (model / "small.safetensors",)}
    assert ModelFiles.find(model, None, given).dit == given["dit"]


def test_no_model_says_what_was_looked_for(tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "vae").mkdir()
    with pytest.raises(
        WeightsError, match=r"dit\.safetensors and decoder\.safetensors, .*found notes\.txt, vae/"
    ):
        ModelFiles.find(tmp_path)


def test_other_networks_are_no_model(tmp_path: Path):
    save_file({"model.embed.weight": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="holds no model"):
        ModelFiles.find(tmp_path)
    with pytest.raises(WeightsError, match=r"holds nothing of an AsymmDiT; it has 1 tensors of"):
        ModelFiles.find(tmp_path / "x.safetensors")


def test_paths_that_are_nothing(tmp_path: Path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, says in (("none", "does not exist"), ("loop", "loop|symbolic"), ("a\0b", "null")):
        with pytest.raises(WeightsError, match=says):
            ModelFiles.find(tmp_path / name)


def test_loops_of_links_inside_a_folder(model: Path):
    (model / "vae").symlink_to(model)
    (model / "more.safetensors").symlink_to(model / "more.safetensors")
    (model / "x").symlink_to(model / "y")
    (model / "y").symlink_to(model / "x")
    assert ModelFiles.find(model / "vae" / "vae" / "dit.safetensors").layout == "original"
    assert ModelFiles.find(model).layout == "original"
    (model / "vae").unlink()
    (model / "dit.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"more\.safetensors: cannot be read: .*links"):
        ModelFiles.find(model)


def test_parts_of_folders(model: Path, diffusers: Callable[..., Path], tmp_path: Path):
    (model / "decoder.safetensors").unlink()
    assert part_files("dit", model) == (model / "dit.safetensors",)
    assert part_files("t5", model / "text_encoder")[0].name == "model.safetensors"
    with pytest.raises(WeightsError, match="no file with a Mochi decoder"):
        part_files("decoder", model)
    other = diffusers(tmp_path / "d")
    assert open_part("encoder", other / "vae").layout == "diffusers"
    assert open_part("dit", other).layout == "diffusers"
    with pytest.raises(WeightsError, match="no files were given"):
        open_part("dit", [])


# --------------------------------------------------------------------------------- names of files


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"{STEM}.safetensors", WeightName(STEM, "")),
        (f"{STEM}.fp16.safetensors", WeightName(STEM, "fp16")),
        (f"{STEM}-00001-of-00009.safetensors", WeightName(STEM, "", is_shard=True)),
        (f"{STEM}.bf16-00001-of-00009.safetensors", WeightName(STEM, "bf16", is_shard=True)),
        (f"{STEM}.safetensors.index.json", WeightName(STEM, "", is_index=True)),
        (f"{STEM}.safetensors.index.bf16.json", WeightName(STEM, "bf16", is_index=True)),
        (f"{STEM}.bf16.safetensors.index.json", WeightName(STEM, "bf16", is_index=True)),
        ("model.bf16-00001-of-00002.safetensors", WeightName("model", "bf16", is_shard=True)),
        ("config.json", None),
        ("model.bin", None),
        ("a/model.safetensors", None),
    ],
)
def test_file_names_in_the_hugging_face_manner(name: str, expected: WeightName | None):
    assert parse(name) == expected


def test_the_variant_that_is_taken():
    both = ["m.safetensors", "m.fp16.safetensors"]
    assert choose(both, None) == ""
    assert choose(both, "fp16") == "fp16"
    assert choose(both, "bf16") == ""
    assert choose(both, "bf16", fall_back=False) is None
    assert choose(["m.fp16.safetensors", "m.bf16.safetensors"], None) == "bf16"
    assert choose(["config.json"], None) is None


def test_variants_in_a_folder(states: dict[str, State], tmp_path: Path):
    for variant in ("", ".bf16"):
        save_file(states["dit"], tmp_path / f"dit{variant}.safetensors")
    for asked, name in ((None, "dit"), ("bf16", "dit.bf16"), ("fp16", "dit")):
        (found,) = look(tmp_path, variant=asked).candidates["dit"]
        assert found.paths == (tmp_path / f"{name}.safetensors",)


# ------------------------------------------------------------------------------------ fingerprint


def test_the_fingerprint_is_of_the_weights_not_of_the_place(model: Path, tmp_path: Path):
    first = ModelFiles.find(model).fingerprint()
    assert len(first) == 64
    moved = model.rename(tmp_path / "elsewhere")
    (moved / "README.md").write_text("text")
    assert ModelFiles.find(moved).fingerprint() == first


@pytest.mark.parametrize(
    "file", ["dit", "decoder", "encoder", "text_encoder/model", "tokenizer/tokenizer.json"]
)
def test_the_fingerprint_sees_every_part(model: Path, file: str):
    before = ModelFiles.find(model).fingerprint()
    path = model / (file if file.endswith("json") else f"{file}.safetensors")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert ModelFiles.find(model).fingerprint() != before


def test_the_fingerprint_samples_large_files(model: Path):
    """Both ends and the header count; a fingerprint of 40 GB must not read 40 GB."""
    files = ModelFiles.find(model)
    path = model / "dit.safetensors"
    with path.open("ab") as file:
        file.truncate(3_000_000_000)  # a hole: no disk is used
    before = files.fingerprint()
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\1")
    assert files.fingerprint() != before
