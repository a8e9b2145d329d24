"""The config files of a diffusers folder, from the sizes of the networks.

diffusers and transformers build a network from its config and know fewer shapes of Mochi than we
do; `cannot_build` says where a model is one that they do not know.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mochi.core.config import DecoderConfig, DiTConfig, EncoderConfig, T5Size
from mochi.core.latents import MOCHI_STATS
from mochi.weights.t5 import BUCKETS

T5_TOKENIZER = "T5TokenizerFast"
_VERSION = "0.32.0"  # the first with Mochi; a newer one reads it
_PATCH_CHANNELS = 3
_EPSILON = 1e-6


def transformer_config(sizes: DiTConfig) -> dict[str, Any]:
    """`transformer/config.json`."""
    return {
        "_class_name": "MochiTransformer3DModel",
        "_diffusers_version": _VERSION,
        "activation_fn": "swiglu",
        "attention_head_dim": sizes.head_dim,
        "in_channels": sizes.latent_channels,
        "max_sequence_length": sizes.text_tokens,
        "num_attention_heads": sizes.heads,
        "num_layers": sizes.depth,
        "out_channels": None,
        "patch_size": sizes.patch,
        "pooled_projection_dim": sizes.text_width,
        "qk_norm": "rms_norm",
        "text_embed_dim": sizes.text_features,
        "time_embed_dim": sizes.time_features,
    }


def vae_config(encoder: EncoderConfig | None, decoder: DecoderConfig | None) -> dict[str, Any]:
    """`vae/config.json`. Counts of blocks are the encoder's, as there is room for one list only;
    where one network is absent, its sizes are those of Mochi 1."""
    encoder = encoder or EncoderConfig()
    decoder = decoder or DecoderConfig()
    return {
        "_class_name": "AutoencoderKLMochi",
        "_diffusers_version": _VERSION,
        "act_fn": "silu",
        "add_attention_block": [False] + [True] * len(encoder.channels),
        "decoder_block_out_channels": list(reversed(decoder.channels)),
        "encoder_block_out_channels": list(encoder.channels),
        "in_channels": _PATCH_CHANNELS * (1 + 2 * len(encoder.fourier)),
        "latent_channels": decoder.latent_channels,
        "latents_mean": list(MOCHI_STATS.mean),
        "latents_std": list(MOCHI_STATS.std),
        "layers_per_block": list(encoder.blocks),
        "out_channels": _PATCH_CHANNELS,
        "scaling_factor": 1.0,
        "spatial_expansions": [2] * len(encoder.time_reductions),
        "temporal_expansions": list(encoder.time_reductions),
    }


def t5_config(size: T5Size) -> dict[str, Any]:
    """`text_encoder/config.json` of a T5 v1.1 encoder."""
    return {
        "architectures": ["T5EncoderModel"],
        "d_ff": size.feed_forward,
        "d_kv": size.head_dim,
        "d_model": size.width,
        "decoder_start_token_id": 0,
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "layer_norm_epsilon": _EPSILON,
        "model_type": "t5",
        "num_heads": size.heads,
        "num_layers": size.depth,
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": BUCKETS,
        "tie_word_embeddings": False,
        "use_cache": False,
        "vocab_size": size.vocabulary,
    }


def t5_metadata(size: T5Size) -> dict[str, str | int | float]:
    """What the .gguf file of a T5 v1.1 encoder says of its sizes."""
    sizes = {
        "block_count": size.depth,
        "embedding_length": size.width,
        "feed_forward_length": size.feed_forward,
        "vocab_size": size.vocabulary,
        "attention.head_count": size.heads,
        "attention.key_length": size.head_dim,
        "attention.value_length": size.head_dim,
        "attention.layer_norm_epsilon": _EPSILON,
        "attention.relative_buckets_count": BUCKETS,
    }
    architecture = "t5encoder"
    named = {f"{architecture}.{name}": value for name, value in sizes.items()}
    return {"general.architecture": architecture} | named


def scheduler_config() -> dict[str, Any]:
    """`scheduler/scheduler_config.json`: Euler on sigmas that count the other way round."""
    return {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "_diffusers_version": _VERSION,
        "invert_sigmas": True,
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "use_dynamic_shifting": False,
    }


def model_index(components: Collection[str], tokenizer: str = T5_TOKENIZER) -> dict[str, Any]:
    """`model_index.json` of a folder that holds these components; the others are null there.

    Args:
        components: their folders' names.
        tokenizer: transformers' name of the tokenizer's class.
    """
    classes = {
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
        "text_encoder": ("transformers", "T5EncoderModel"),
        "tokenizer": ("transformers", tokenizer),
        "transformer": ("diffusers", "MochiTransformer3DModel"),
        "vae": ("diffusers", "AutoencoderKLMochi"),
    }
    rows = {
        name: list(known) if name in components else [None, None] for name, known in classes.items()
    }
    # SPEC 3: an empty prompt has no ids and no mask
    head = {"_class_name": "MochiPipeline", "_diffusers_version": _VERSION}
    return {**head, "force_zeros_for_empty_prompt": True, **rows}


def cannot_build(
    dit: DiTConfig | None, encoder: EncoderConfig | None, decoder: DecoderConfig | None
) -> list[str]:
    """Why diffusers could not load these networks, one line for each reason; empty as a rule."""
    reasons = []
    if dit is not None:
        mlps = [("visual", dit.visual_width, dit.visual_ffn)]
        if dit.depth > 1:  # the last block has no MLP for the text
            mlps.append(("text", dit.text_width, dit.text_ffn))
        for stream, width, hidden in mlps:
            if hidden != (usual := 4 * width * 2 // 3):
                reasons.append(
                    f"its MochiTransformer3DModel gives a {stream} width of {width} an MLP of "
                    f"{usual}, this model has {hidden}"
                )
    if (encoder is None) != (decoder is None):
        reasons.append("its AutoencoderKLMochi needs both encoder and decoder")
    if encoder is not None and decoder is not None:
        if encoder.blocks != tuple(reversed(decoder.blocks)):
            reasons.append(
                "its AutoencoderKLMochi has one list of block counts for both; this encoder has "
                f"{list(encoder.blocks)}, the decoder, from its end, {list(decoder.blocks[::-1])}"
            )
        if encoder.time_reductions != tuple(reversed(decoder.time_expansions)):
            reasons.append("its AutoencoderKLMochi changes time alike in encoder and decoder")
    return reasons
