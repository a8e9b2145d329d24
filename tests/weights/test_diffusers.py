"""The diffusers table against diffusers itself: its files, its names, its numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mochi.core.errors import WeightsError
from mochi.weights.folder import ModelFiles
from mochi.weights.layouts import DIFFUSERS_DECODER, DIFFUSERS_DIT, DIFFUSERS_ENCODER
from mochi.weights.loading import load_decoder, load_dit, load_encoder
from mochi.weights.names import Table

diffusers = pytest.importorskip("diffusers")

SMALL_SHARDS = "150KB"


def randomise(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = 0.3 if parameter.ndim == 1 else 1.5 / parameter[0].numel() ** 0.5
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.fixture(scope="module")
def transformer() -> Any:
    return randomise(
        diffusers.MochiTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=3,
            pooled_projection_dim=24,
            text_embed_dim=40,
            time_embed_dim=256,
        )
    )


@pytest.fixture(scope="module")
def vae() -> Any:
    return randomise(
        diffusers.AutoencoderKLMochi(
            encoder_block_out_channels=(32, 64, 64, 96),
            decoder_block_out_channels=(32, 64, 64, 96),
            layers_per_block=(1, 0, 1, 2, 1),
        )
    )


@pytest.fixture(scope="module")
def folder(transformer: Any, vae: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder: the transformer whole, sharded, and sharded as the variant bf16."""
    root = tmp_path_factory.mktemp("diffusers")
    (root / "model_index.json").write_text("{}")
    transformer.save_pretrained(root / "transformer", max_shard_size=SMALL_SHARDS)
    transformer.save_pretrained(root / "transformer", max_shard_size=SMALL_SHARDS, variant="bf16")
    vae.save_pretrained(root / "vae")
    return root


def theirs_again(table: Table, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = table.from_ours(state)
    return {
        k: v for name, tensor in state.items() for k, v in names.to_theirs(name, tensor).items()
    }


def test_the_folder_is_found(folder: Path):
    files = ModelFiles.find(folder)
    assert files.layout == "diffusers"
    assert len(files.dit) > 1
    assert all("bf16" not in path.name for path in files.dit)
    vae = (folder / "vae" / "diffusion_pytorch_model.safetensors",)
    assert files.part("decoder") == files.part("encoder") == vae
    variant = ModelFiles.find(folder, variant="bf16")
    assert all(".bf16-0" in path.name for path in variant.dit)
    assert len(variant.dit) == len(files.dit)
    index = folder / "transformer" / "diffusion_pytorch_model.safetensors.index.bf16.json"
    assert index.is_file()  # the odd name, as diffusers still writes it


def test_the_transformer_goes_there_and_back_bit_for_bit(folder: Path, transformer: Any):
    ours = load_dit(folder)
    again = theirs_again(DIFFUSERS_DIT, ours.state_dict())
    theirs = transformer.state_dict()
    assert again.keys() == theirs.keys()
    assert all(again[name].equal(tensor) for name, tensor in theirs.items())
    assert (ours.config.visual_ffn, ours.config.text_ffn) == (85, 64)  # their own rule


def test_the_vae_goes_there_and_back_bit_for_bit(folder: Path, vae: Any):
    again = theirs_again(DIFFUSERS_DECODER, load_decoder(folder).state_dict())
    again |= theirs_again(DIFFUSERS_ENCODER, load_encoder(folder).state_dict())
    theirs = vae.state_dict()
    assert again.keys() == theirs.keys()
    assert all(again[name].equal(tensor) for name, tensor in theirs.items())


def test_sizes_come_from_the_tensors_not_from_their_config(folder: Path):
    decoder, encoder = load_decoder(folder).config, load_encoder(folder).config
    assert (decoder.channels, decoder.blocks) == ((96, 64, 64, 32), (1, 2, 1, 0, 1))
    assert decoder.time_expansions == (3, 2, 1)
    assert (encoder.channels, encoder.blocks) == ((32, 64, 64, 96), (1, 0, 1, 2, 1))
    assert encoder.time_reductions == (1, 2, 3)


@torch.no_grad()
def test_the_loaded_transformer_computes_the_same(folder: Path, transformer: Any):
    """What a round trip cannot see: that pieces and halves mean what the table says."""
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(2, 12, 2, 6, 4, generator=generator)
    text = torch.randn(2, 9, 40, generator=generator)
    mask = torch.arange(9)[None] < torch.tensor([[9], [4]])
    sigma = torch.tensor([0.3, 0.8])
    ours = load_dit(folder)(z, sigma, text, mask)
    theirs = transformer(
        hidden_states=z,
        encoder_hidden_states=text,
        timestep=1000 * (1 - sigma),
        encoder_attention_mask=mask,
        return_dict=False,
    )[0]
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


@torch.no_grad()
def test_the_loaded_encoder_computes_the_same(folder: Path, vae: Any):
    pixels = torch.rand(1, 3, 7, 16, 24, generator=torch.Generator().manual_seed(3)) * 2 - 1
    ours = load_encoder(folder)(pixels)
    theirs = vae.encode(pixels).latent_dist
    for a, b in ((ours.mean, theirs.mean), (ours.logvar, theirs.logvar)):
        assert (a - b).norm() / b.norm() < 1e-5


def test_what_we_write_diffusers_loads(folder: Path, transformer: Any, vae: Any):
    fresh = diffusers.MochiTransformer3DModel.from_config(transformer.config)
    fresh.load_state_dict(theirs_again(DIFFUSERS_DIT, load_dit(folder).state_dict()), strict=True)
    fresh = diffusers.AutoencoderKLMochi.from_config(vae.config)
    state = theirs_again(DIFFUSERS_DECODER, load_decoder(folder).state_dict())
    state |= theirs_again(DIFFUSERS_ENCODER, load_encoder(folder).state_dict())
    fresh.load_state_dict(state, strict=True)


def test_a_component_an_index_and_shards_can_be_given_alone(folder: Path):
    component = folder / "transformer"
    whole = load_dit(folder).state_dict()
    index = component / "diffusion_pytorch_model.safetensors.index.json"
    shards = sorted(component.glob("diffusion_pytorch_model-*.safetensors"))
    for source in (component, index, shards):
        state = load_dit(source).state_dict()
        assert all(state[name].equal(tensor) for name, tensor in whole.items())


def test_half_of_the_shards_is_a_report_in_their_names(folder: Path):
    shards = sorted((folder / "transformer").glob("diffusion_pytorch_model-*.safetensors"))
    with pytest.raises(WeightsError, match=r"missing: .*transformer_blocks\.\d\.") as caught:
        load_dit(shards[:-1])
    assert "0 unexpected" in str(caught.value)


def test_foreign_tensors_beside_the_vae_are_unexpected(vae: Any, tmp_path: Path):
    from safetensors.torch import save_file

    path = tmp_path / "vae.safetensors"
    save_file({**vae.state_dict(), "quant_conv.weight": torch.zeros(1)}, path)
    for load in (load_decoder, load_encoder):
        with pytest.raises(WeightsError, match=r"unexpected: quant_conv\.weight"):
            load(path)
