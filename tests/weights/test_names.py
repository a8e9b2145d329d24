"""The tables run both ways: nothing is lost, nothing is invented, every line is the right one."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mochi.core.config import T5Size
from mochi.weights.layouts import (
    DIFFUSERS_DECODER,
    DIFFUSERS_DIT,
    DIFFUSERS_ENCODER,
    ORIGINAL_DIT,
    TABLES,
)
from mochi.weights.names import Table
from mochi.weights.ops import STACK, SWAP_HALVES
from mochi.weights.t5 import t5_shapes
from mochi.weights.templates import Template

State = dict[str, Tensor]
T = "transformer_blocks"

# (table, ours, theirs), for a DiT of three blocks and VAEs of the published depths.
LINES = [
    (DIFFUSERS_DIT, "x_embedder.proj.weight", "patch_embed.proj.weight"),
    (DIFFUSERS_DIT, "t_embedder.mlp.2.bias", "time_embed.timestep_embedder.linear_2.bias"),
    (DIFFUSERS_DIT, "t5_y_embedder.to_kv.bias", "time_embed.pooler.to_kv.bias"),
    (DIFFUSERS_DIT, "t5_yproj.weight", "time_embed.caption_proj.weight"),
    (DIFFUSERS_DIT, "blocks.0.mod_x.weight", f"{T}.0.norm1.linear.weight"),
    (DIFFUSERS_DIT, "blocks.0.mod_y.weight", f"{T}.0.norm1_context.linear.weight"),
    (DIFFUSERS_DIT, "blocks.2.mod_y.bias", f"{T}.2.norm1_context.linear_1.bias"),
    (
        DIFFUSERS_DIT,
        "blocks.1.attn.qkv_x.weight",
        f"{T}.1.attn1.to_q.weight {T}.1.attn1.to_k.weight {T}.1.attn1.to_v.weight",
    ),
    (
        DIFFUSERS_DIT,
        "blocks.1.attn.qkv_y.weight",
        f"{T}.1.attn1.add_q_proj.weight {T}.1.attn1.add_k_proj.weight "
        f"{T}.1.attn1.add_v_proj.weight",
    ),
    (DIFFUSERS_DIT, "blocks.1.attn.k_norm_y.weight", f"{T}.1.attn1.norm_added_k.weight"),
    (DIFFUSERS_DIT, "blocks.1.attn.proj_x.bias", f"{T}.1.attn1.to_out.0.bias"),
    (DIFFUSERS_DIT, "blocks.1.attn.proj_y.bias", f"{T}.1.attn1.to_add_out.bias"),
    (DIFFUSERS_DIT, "blocks.1.mlp_y.w1.weight", f"{T}.1.ff_context.net.0.proj.weight"),
    (DIFFUSERS_DIT, "blocks.1.mlp_x.w2.weight", f"{T}.1.ff.net.2.weight"),
    (DIFFUSERS_DIT, "final_layer.mod.weight", "norm_out.linear.weight"),
    (DIFFUSERS_DIT, "final_layer.linear.weight", "proj_out.weight"),
    (DIFFUSERS_DIT, "pos_frequencies", "pos_frequencies"),
    (DIFFUSERS_DECODER, "blocks.0.0.weight", "decoder.conv_in.weight"),
    (
        DIFFUSERS_DECODER,
        "blocks.0.3.stack.5.bias",
        "decoder.block_in.resnets.2.conv2.conv.bias",
    ),
    (
        DIFFUSERS_DECODER,
        "blocks.2.blocks.3.stack.0.weight",
        "decoder.up_blocks.1.resnets.3.norm1.norm_layer.weight",
    ),
    (DIFFUSERS_DECODER, "blocks.3.proj.bias", "decoder.up_blocks.2.proj.bias"),
    (
        DIFFUSERS_DECODER,
        "blocks.4.1.stack.2.weight",
        "decoder.block_out.resnets.1.conv1.conv.weight",
    ),
    (DIFFUSERS_DECODER, "output_proj.weight", "decoder.proj_out.weight"),
    (DIFFUSERS_ENCODER, "layers.0.weight", "encoder.proj_in.weight"),
    (
        DIFFUSERS_ENCODER,
        "layers.3.stack.3.bias",
        "encoder.block_in.resnets.2.norm2.norm_layer.bias",
    ),
    (
        DIFFUSERS_ENCODER,
        "layers.5.layers.0.weight",
        "encoder.down_blocks.1.conv_in.conv.weight",
    ),
    (
        DIFFUSERS_ENCODER,
        "layers.6.layers.4.attn_block.norm.weight",
        "encoder.down_blocks.2.norms.3.norm_layer.weight",
    ),
    (
        DIFFUSERS_ENCODER,
        "layers.7.attn_block.attn.qkv.weight",
        "encoder.block_out.attentions.0.to_q.weight encoder.block_out.attentions.0.to_k.weight "
        "encoder.block_out.attentions.0.to_v.weight",
    ),
    (
        DIFFUSERS_ENCODER,
        "layers.9.attn_block.attn.out.bias",
        "encoder.block_out.attentions.2.to_out.0.bias",
    ),
    (DIFFUSERS_ENCODER, "output_norm.bias", "encoder.norm_out.norm_layer.bias"),
]
# The names that tell a table how deep the network is.
PUBLISHED = {
    "dit": ["blocks.2.mod_x.bias"],
    "decoder": ["blocks.3.proj.bias"],
    "encoder": [f"layers.{i}.layers.0.bias" for i in (4, 5, 6)],
}
PUBLISHED_THEIRS = [
    f"{T}.2.norm1.linear.bias",
    "decoder.up_blocks.2.proj.bias",
    "encoder.block_in.resnets.2.conv1.conv.bias",
    "encoder.down_blocks.2.conv_in.conv.bias",
]


@pytest.mark.parametrize(("table", "ours", "theirs"), LINES, ids=[line[1] for line in LINES])
def test_a_line_of_the_published_tables(table: Table, ours: str, theirs: str):
    assert table.from_ours(PUBLISHED[table.part]).sources(ours).names == tuple(theirs.split())
    for name in theirs.split():
        assert table.from_theirs(PUBLISHED_THEIRS).ours(name) == ours


def table_of(part: str) -> Table:
    return next(t for t in TABLES if t.part == part and t.layout == "diffusers")


@pytest.mark.parametrize("part", ["dit", "decoder", "encoder"])
def test_round_trip_is_bit_exact(states: dict[str, State], part: str):
    table, ours = table_of(part), states[part]
    there = table.from_ours(ours)
    theirs = {}
    for name, tensor in ours.items():
        pieces = there.to_theirs(name, tensor)
        assert not pieces.keys() & theirs.keys()
        theirs |= pieces
    assert {n: tuple(t.shape) for n, t in theirs.items()} == there.their_shapes(
        {n: tuple(t.shape) for n, t in ours.items()}
    )
    back = table.from_theirs(theirs)
    assert {back.ours(name) for name in theirs} == set(ours)
    for name, tensor in ours.items():
        assert back.to_ours(name, theirs.__getitem__).equal(tensor)
    shapes = {n: tuple(t.shape) for n, t in theirs.items()}
    assert back.our_shapes(shapes) == {n: tuple(t.shape) for n, t in ours.items()}


def test_the_reference_checkpoints_go_round(shared: Path):
    checkpoints = json.loads((shared / "goldens" / "shapes.json").read_text())
    for file, listed in checkpoints.items():
        shapes = {name: tuple(shape) for name, shape in listed.items()}
        table = table_of(file.removesuffix(".safetensors"))
        theirs = table.from_ours(shapes).their_shapes(shapes)
        assert table.from_theirs(theirs).our_shapes(theirs) == shapes


def test_what_must_change_does_change(states: dict[str, State]):
    """A table of plain renames would pass the round trip as well."""
    ours = states["dit"]
    names = DIFFUSERS_DIT.from_ours(ours)
    for name in ("blocks.0.mlp_x.w1.weight", "final_layer.mod.bias"):
        (theirs,) = names.to_theirs(name, ours[name]).values()
        first, second = ours[name].chunk(2)
        assert theirs.equal(torch.cat([second, first]))
    k = names.to_theirs("blocks.0.attn.qkv_x.weight", ours["blocks.0.attn.qkv_x.weight"])
    assert list(k.values())[1].equal(ours["blocks.0.attn.qkv_x.weight"].chunk(3)[1])


def test_foreign_names_belong_to_nothing():
    names = DIFFUSERS_DIT.from_theirs(PUBLISHED_THEIRS)
    for name in (
        "transformer_blocks.0.attn1.to_q.lora_A.weight",
        "transformer_blocks.00.norm1.linear.weight",
        "transformer_blocks.0.norm1_context.linear_1.weight",
        "patch_embed.proj.scale",
        "x_embedder.proj.weight",
    ):
        assert names.ours(name) is None
    assert DIFFUSERS_ENCODER.from_theirs(PUBLISHED_THEIRS).is_neighbour("decoder.conv_in.weight")
    with pytest.raises(KeyError):
        names.sources("blocks.0.other.weight")


def test_no_two_lines_write_the_same_name(states: dict[str, State]):
    for table in TABLES:
        ours = t5_shapes(T5Size(depth=3)) if table.part == "t5" else states[table.part]
        names = table.from_ours(ours)
        written = [name for ours_name in ours for name in names.sources(ours_name).names]
        assert len(set(written)) == len(written)


def test_the_original_layout_changes_nothing(states: dict[str, State]):
    names = ORIGINAL_DIT.from_theirs(states["dit"])
    assert all(names.sources(name).names == (name,) for name in states["dit"])
    tensor = states["dit"]["t5_yproj.weight"]
    assert names.to_ours("t5_yproj.weight", lambda _: tensor) is tensor


def test_incomplete_pieces_have_no_shape_of_ours():
    names = DIFFUSERS_DIT.from_theirs(PUBLISHED_THEIRS)
    assert names.our_shapes({f"{T}.0.attn1.to_q.weight": (4, 4)}) == {}


@given(st.integers(0, 99), st.integers(0, 99), st.sampled_from(["weight", "bias"]))
def test_a_template_reads_what_it_writes(b: int, j: int, p: str):
    template = Template.bind("layers.{b+down}.x.{j+1}.{p}", {"down": 3})
    name = template.format({"b": b, "j": j, "p": p})
    assert name == f"layers.{b + 3}.x.{j + 1}.{p}"
    assert template.match(name) == {"b": b, "j": j, "p": p}


def test_a_template_refuses_numbers_below_its_offset():
    assert Template.bind("a.{j+1}", {}).match("a.0") is None
    assert Template.bind("a.{last}", {"last": 4}).match("a.4") == {}
    assert Template.bind("a.{last}", {"last": 4}).match("a.5") is None


@given(st.integers(1, 4), st.integers(1, 5))
def test_operations_undo_themselves(parts: int, rows: int):
    tensor = torch.arange(parts * rows * 2.0).view(parts * rows, 2)
    pieces = STACK.split(tensor, parts)
    assert STACK.join(pieces).equal(tensor)
    assert [tuple(p.shape) for p in pieces] == STACK.split_shape((parts * rows, 2), parts)
    even = torch.arange(2.0 * rows)
    assert SWAP_HALVES.join(SWAP_HALVES.split(even, 1)).equal(even)
