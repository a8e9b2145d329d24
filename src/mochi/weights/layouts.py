"""The layouts of checkpoints that people have: a table per network and layout.

The left column is ours, which is the published one. A new layout is a new table. Order matters:
the first rule that matches a name is the rule for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mochi.weights.names import (
    DIT_BLOCK,
    DIT_INNER,
    SAME,
    Part,
    Rule,
    Table,
    count,
    depth,
    indices,
)
from mochi.weights.ops import STACK, SWAP_HALVES, Op
from mochi.weights.templates import Numbers


def _rows(ours: str, theirs: str, rows: Mapping[str, str], op: Op = STACK) -> tuple[Rule, ...]:
    """Rules for several tensors below one pair of prefixes; `|` parts the names of a split."""
    return tuple(
        Rule(f"{ours}{a}.{{p}}", tuple(f"{theirs}{name}.{{p}}" for name in b.split("|")), op)
        for a, b in rows.items()
    )


def _no_numbers(names: Iterable[str]) -> Numbers:
    return {}


# ------------------------------------------------------------------------------------ the original


def _same(part: Part, marks: tuple[str, ...]) -> Table:
    return Table("original", part, marks, (SAME,), _no_numbers, _no_numbers)


ORIGINAL_DIT = _same(
    "dit", ("t5_yproj.weight", "x_embedder.proj.weight", "t_embedder.mlp.0.weight")
)
ORIGINAL_DECODER = _same(
    "decoder", ("blocks.0.0.weight", "blocks.1.proj.weight", "blocks.2.proj.weight")
)
ORIGINAL_ENCODER = _same("encoder", ("layers.0.weight", "output_norm.weight", "output_norm.bias"))


# --------------------------------------------------------------------------------------- diffusers


def _dit_ours(names: Iterable[str]) -> Numbers:
    return {"last": depth(names, DIT_BLOCK, DIT_INNER) - 1}


def _dit_theirs(names: Iterable[str]) -> Numbers:
    inner = ("attn1.to_add_out.weight", "ff_context.net.0.proj.weight", "ff_context.net.2.weight")
    last = "norm1_context.linear_1.weight"
    return {"last": depth(names, "transformer_blocks.{n}.", inner, last) - 1}


DIFFUSERS_DIT = Table(
    layout="diffusers",
    part="dit",
    marks=(
        "time_embed.caption_proj.weight",
        "patch_embed.proj.weight",
        "time_embed.timestep_embedder.linear_1.weight",
    ),
    our_numbers=_dit_ours,
    their_numbers=_dit_theirs,
    rules=(
        Rule("pos_frequencies", ("pos_frequencies",)),
        *_rows(
            "",
            "",
            {
                "x_embedder.proj": "patch_embed.proj",
                "t_embedder.mlp.0": "time_embed.timestep_embedder.linear_1",
                "t_embedder.mlp.2": "time_embed.timestep_embedder.linear_2",
                "t5_y_embedder.to_kv": "time_embed.pooler.to_kv",
                "t5_y_embedder.to_q": "time_embed.pooler.to_q",
                "t5_y_embedder.to_out": "time_embed.pooler.to_out",
                "t5_yproj": "time_embed.caption_proj",
                "final_layer.linear": "proj_out",
                # the last block only scales the text, so it is another kind of norm there
                "blocks.{last}.mod_y": "transformer_blocks.{last}.norm1_context.linear_1",
            },
        ),
        *_rows("", "", {"final_layer.mod": "norm_out.linear"}, SWAP_HALVES),
        *_rows(
            "blocks.{i}.",
            "transformer_blocks.{i}.",
            {
                "mod_x": "norm1.linear",
                "mod_y": "norm1_context.linear",
                "attn.qkv_x": "attn1.to_q|attn1.to_k|attn1.to_v",
                "attn.qkv_y": "attn1.add_q_proj|attn1.add_k_proj|attn1.add_v_proj",
                "attn.q_norm_x": "attn1.norm_q",
                "attn.k_norm_x": "attn1.norm_k",
                "attn.q_norm_y": "attn1.norm_added_q",
                "attn.k_norm_y": "attn1.norm_added_k",
                "attn.proj_x": "attn1.to_out.0",
                "attn.proj_y": "attn1.to_add_out",
                "mlp_x.w2": "ff.net.2",
                "mlp_y.w2": "ff_context.net.2",
            },
        ),
        *_rows(
            "blocks.{i}.mlp_",
            "transformer_blocks.{i}.",
            {"x.w1": "ff.net.0.proj", "y.w1": "ff_context.net.0.proj"},
            SWAP_HALVES,
        ),
    ),
)


# A residual block: its place in ours, then the stage and the index in theirs.
def _res_block(ours: str, stage: str) -> tuple[Rule, ...]:
    return _rows(
        f"{ours}.",
        f"{stage}.",
        {
            "stack.0": "resnets.{j}.norm1.norm_layer",
            "stack.2": "resnets.{j}.conv1.conv",
            "stack.3": "resnets.{j}.norm2.norm_layer",
            "stack.5": "resnets.{j}.conv2.conv",
            "attn_block.norm": "norms.{j}.norm_layer",
            "attn_block.attn.qkv": "attentions.{j}.to_q|attentions.{j}.to_k|attentions.{j}.to_v",
            "attn_block.attn.out": "attentions.{j}.to_out.0",
        },
    )


def _decoder_ours(names: Iterable[str]) -> Numbers:
    return {"last": count(names, "blocks.{n}.proj.")}


def _decoder_theirs(names: Iterable[str]) -> Numbers:
    return {"last": count(names, "decoder.up_blocks.{n}.proj.") + 1}


DIFFUSERS_DECODER = Table(
    layout="diffusers",
    part="decoder",
    marks=(
        "decoder.conv_in.weight",
        "decoder.proj_out.weight",
        "decoder.up_blocks.0.proj.weight",
    ),
    our_numbers=_decoder_ours,
    their_numbers=_decoder_theirs,
    neighbours=("encoder.",),
    rules=(
        *_rows(
            "",
            "decoder.",
            {
                "blocks.0.0": "conv_in",
                "output_proj": "proj_out",
                "blocks.{b+1}.proj": "up_blocks.{b}.proj",
            },
        ),
        *_res_block("blocks.0.{j+1}", "decoder.block_in"),
        *_res_block("blocks.{last}.{j}", "decoder.block_out"),
        *_res_block("blocks.{b+1}.blocks.{j}", "decoder.up_blocks.{b}"),
    ),
)


def _encoder_ours(names: Iterable[str]) -> Numbers:
    """`down` is the index of the first down block, `out` of the first block after them."""
    down = indices(names, "layers.{n}.layers.") or {1}
    return {"down": min(down), "out": max(down) + 1}


def _encoder_theirs(names: Iterable[str]) -> Numbers:
    names = list(names)
    down = count(names, "encoder.block_in.resnets.{n}.") + 1
    return {"down": down, "out": down + count(names, "encoder.down_blocks.{n}.")}


DIFFUSERS_ENCODER = Table(
    layout="diffusers",
    part="encoder",
    marks=("encoder.proj_in.weight", "encoder.proj_out.weight", "encoder.norm_out.norm_layer.bias"),
    our_numbers=_encoder_ours,
    their_numbers=_encoder_theirs,
    neighbours=("decoder.",),
    rules=(
        *_rows(
            "",
            "encoder.",
            {
                "layers.0": "proj_in",
                "output_norm": "norm_out.norm_layer",
                "output_proj": "proj_out",
                "layers.{b+down}.layers.0": "down_blocks.{b}.conv_in.conv",
            },
        ),
        *_res_block("layers.{b+down}.layers.{j+1}", "encoder.down_blocks.{b}"),
        *_res_block("layers.{j+out}", "encoder.block_out"),
        *_res_block("layers.{j+1}", "encoder.block_in"),
    ),
)

# ---------------------------------------------------------------------------------- text encoders

T5 = Table(
    layout="Hugging Face",
    part="t5",
    marks=(
        "shared.weight",
        "encoder.final_layer_norm.weight",
        "encoder.block.0.layer.0.SelfAttention.q.weight",
    ),
    our_numbers=_no_numbers,
    their_numbers=_no_numbers,
    neighbours=("decoder.", "lm_head."),  # the rest of a whole T5, not needed to encode
    aliases={"encoder.embed_tokens.weight": "shared.weight"},
    rules=(SAME,),
)

T5_LLAMA_CPP = Table(
    layout="llama.cpp",
    part="t5",
    marks=("token_embd.weight", "enc.output_norm.weight", "enc.blk.0.attn_q.weight"),
    our_numbers=_no_numbers,
    their_numbers=_no_numbers,
    neighbours=("dec.", "output."),
    rules=(
        *_rows("", "", {"shared": "token_embd", "encoder.final_layer_norm": "enc.output_norm"}),
        *_rows(
            "encoder.block.{i}.layer.",
            "enc.blk.{i}.",
            {
                "0.layer_norm": "attn_norm",
                "0.SelfAttention.q": "attn_q",
                "0.SelfAttention.k": "attn_k",
                "0.SelfAttention.v": "attn_v",
                "0.SelfAttention.o": "attn_o",
                "0.SelfAttention.relative_attention_bias": "attn_rel_b",
                "1.layer_norm": "ffn_norm",
                "1.DenseReluDense.wi_0": "ffn_gate",
                "1.DenseReluDense.wi_1": "ffn_up",
                "1.DenseReluDense.wo": "ffn_down",
            },
        ),
    ),
)

TABLES: tuple[Table, ...] = (
    ORIGINAL_DIT,
    ORIGINAL_DECODER,
    ORIGINAL_ENCODER,
    DIFFUSERS_DIT,
    DIFFUSERS_DECODER,
    DIFFUSERS_ENCODER,
    T5,
    T5_LLAMA_CPP,
)
