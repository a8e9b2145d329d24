"""Against diffusers and peft: they load what we write, we load what they save, outputs agree."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.weights.lora.conftest import is_attention, kwargs, pairs_for
from torch import Tensor, nn

from mochi.model.adapters import Adapters
from mochi.model.dit import AsymmDiT
from mochi.weights.loading import load_dit
from mochi.weights.lora import Lora
from mochi.weights.lora_read import layer_sizes, read_lora
from mochi.weights.lora_write import save_lora

diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj"]
ATTENTION += ["to_add_out"]
EVERYTHING = [*ATTENTION, "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj"]
EVERYTHING += ["ff_context.net.2", "norm1.linear", "norm1_context.linear", "norm1_context.linear_1"]
EVERYTHING += ["norm_out.linear", "proj_out", "time_embed.caption_proj", "pooler.to_q"]


def randomise(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = 0.3 if parameter.ndim == 1 else 1.0 / parameter[0].numel() ** 0.5
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=[(2, 2), (3, 4)], ids=["depth 2", "depth 3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `transformer` folder of diffusers."""
    depth, heads = request.param
    network = diffusers.MochiTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=16,
        num_layers=depth,
        pooled_projection_dim=24,
        text_embed_dim=40,
        time_embed_dim=256,
    )
    root = tmp_path_factory.mktemp("diffusers")
    randomise(network).save_pretrained(root)
    return root


@pytest.fixture
def theirs(folder: Path) -> Any:
    return diffusers.MochiTransformer3DModel.from_pretrained(folder).eval().requires_grad_(False)


@pytest.fixture
def ours(folder: Path) -> AsymmDiT:
    return load_dit(folder).eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(2, 12, 2, 6, 4, generator=generator)
    text = torch.randn(2, 9, 40, generator=generator)
    mask = torch.arange(9)[None] < torch.tensor([[9], [4]])
    return z, torch.tensor([0.3, 0.8]), text, mask


def their_velocity(network: Any) -> Tensor:
    z, sigma, text, mask = inputs()
    return network(
        hidden_states=z,
        encoder_hidden_states=text,
        timestep=1000 * (1 - sigma),
        encoder_attention_mask=mask,
        return_dict=False,
    )[0]


def our_velocity(dit: AsymmDiT, lora: Lora, merged: bool = False) -> Tensor:
    adapters = Adapters(dit)
    adapters.add("it", lora.factors(), merged=merged)
    velocity = dit(*inputs())
    adapters.clear()
    return velocity


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(
    ("alpha", "which"),
    [(4, is_attention), (8, lambda layer: True), (3, lambda layer: True)],
    ids=["attention", "all, twice", "all, three quarters"],
)
def test_diffusers_loads_what_we_write(
    theirs: Any, ours: AsymmDiT, tmp_path: Path, alpha: float, which: Any
) -> None:
    from safetensors.torch import save_file

    sizes = layer_sizes(ours)
    path = tmp_path / "original.safetensors"
    save_file(pairs_for(sizes, which=which), path, kwargs(4, alpha))
    lora = read_lora(path, sizes)
    save_lora(lora, tmp_path / "lora.safetensors", "diffusers")
    pipeline_like(theirs).load_lora_weights(tmp_path, weight_name="lora.safetensors")
    plain, expected = ours(*inputs()), their_velocity(theirs)
    assert far(our_velocity(ours, lora), expected) < 1e-5
    assert far(our_velocity(ours, lora, merged=True), expected) < 1e-5
    assert far(plain, expected) > 0.05
    again = read_lora(tmp_path / "lora.safetensors", sizes)
    assert far(our_velocity(ours, again), expected) < 1e-5


def pipeline_like(transformer: Any) -> Any:
    """A `MochiPipeline` with nothing but its transformer: what loads adapters in it."""
    return diffusers.MochiPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )


def test_their_plain_door_which_reads_no_settings_opens_it_too(
    theirs: Any, ours: AsymmDiT, tmp_path: Path
) -> None:
    """`load_lora_adapter(FILE)` takes alpha = rank whatever the file says."""
    from safetensors.torch import save_file

    sizes = layer_sizes(ours)
    save_file(pairs_for(sizes), tmp_path / "o.safetensors", kwargs(4, 2))
    lora = read_lora(tmp_path / "o.safetensors", sizes)
    save_lora(lora, tmp_path / "lora.safetensors", "diffusers")
    theirs.load_lora_adapter(str(tmp_path / "lora.safetensors"))
    assert far(our_velocity(ours, lora), their_velocity(theirs)) < 1e-5


def with_random_adapter(network: Any, **settings: Any) -> Any:
    """peft's own layers around a network's, with numbers in both matrices."""
    network.add_adapter(peft.LoraConfig(init_lora_weights=False, **settings), "default")
    generator = torch.Generator().manual_seed(3)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 4, "target_modules": ATTENTION},
        {"r": 4, "lora_alpha": 10, "target_modules": EVERYTHING},
        {"r": 2, "lora_alpha": 3, "target_modules": ["to_q", "to_v"], "use_rslora": True},
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ATTENTION,
            "rank_pattern": {"to_q": 2, r".*\.0\.attn1\.to_k": 3},
            "alpha_pattern": {"^transformer_blocks.1.attn1.to_out.0": 1},
        },
    ],
    ids=["attention", "everything", "q and v, rank-stabilised", "patterns"],
)
def test_we_load_what_diffusers_and_peft_save(
    theirs: Any, ours: AsymmDiT, tmp_path: Path, settings: dict[str, Any]
) -> None:
    expected = their_velocity(with_random_adapter(theirs, **settings))
    sizes = layer_sizes(ours)
    theirs.save_lora_adapter(tmp_path / "model")  # as the model saves it
    diffusers.MochiPipeline.save_lora_weights(  # and as the pipeline does
        tmp_path / "pipeline",
        transformer_lora_layers=peft.get_peft_model_state_dict(theirs),
        transformer_lora_adapter_metadata=theirs.peft_config["default"].to_dict(),
    )
    for saved in ("model", "pipeline"):
        lora = read_lora(tmp_path / saved, sizes)
        assert lora.flavour == "diffusers"
        assert far(our_velocity(ours, lora), expected) < 1e-5
        assert far(our_velocity(ours, lora, merged=True), expected) < 1e-5
    for target in ("original", "comfy"):
        save_lora(lora, tmp_path / f"{target}.safetensors", target)
        again = read_lora(tmp_path / f"{target}.safetensors", sizes)
        assert far(our_velocity(ours, again), expected) < 1e-5


def test_a_folder_that_peft_saved(theirs: Any, ours: AsymmDiT, tmp_path: Path) -> None:
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=ATTENTION, init_lora_weights=False, task_type=None
    )
    model = peft.get_peft_model(theirs, config)
    generator = torch.Generator().manual_seed(4)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 4
    lora = read_lora(tmp_path, layer_sizes(ours))
    assert set(lora.alphas) == {6.0}
    assert far(our_velocity(ours, lora), their_velocity(theirs)) < 1e-5
