"""T5 block by block: the features of the whole encoder, bit for bit."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from mochi.core.errors import MochiError
from mochi.memory.stream import BlockStream, Carriage
from mochi.model.residency import Block, Resident
from mochi.text.runners import StreamedT5, WholeT5
from mochi.text.t5 import load_t5

PROMPTS = [(3, 9, 1), (5, 5, 7, 2, 4, 1), (8, 1)]
CPU = torch.device("cpu")


def carried(dtype: torch.dtype) -> BlockStream:
    return BlockStream(Carriage(CPU, dtype, returns=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_streamed_blocks_give_what_the_whole_encoder_gives(tiny: Any, dtype: torch.dtype) -> None:
    whole = WholeT5(load_t5(tiny.encoder, dtype))
    streamed = StreamedT5(load_t5(tiny.encoder, None), carried(dtype), dtype, CPU)
    for _ in range(2):
        for a, b in zip(whole.run(PROMPTS), streamed.run(PROMPTS), strict=True):
            assert torch.equal(a, b)
            assert b.dtype == dtype
    assert (whole.width, whole.vocabulary) == (streamed.width, streamed.vocabulary)


def test_weights_stay_as_they_are_stored(tiny: Any) -> None:
    model = load_t5(tiny.encoder, None)
    StreamedT5(model, carried(torch.bfloat16), torch.bfloat16, CPU).run(PROMPTS)
    assert {weight.dtype for weight in model.encoder.block.parameters()} == {torch.float32}


class Counted(Resident):
    """Counts the walks."""

    walks = 0

    def walk(self, blocks: Sequence[Block]) -> Iterator[Block]:
        self.walks += 1
        return super().walk(blocks)


def test_all_prompts_pass_in_one_walk(tiny: Any) -> None:
    residency = Counted()
    encoder = tiny.load(residency=residency)
    together = encoder.encode(["a red circle", "", "a blue square moves"])
    assert residency.walks == 1
    expected = tiny.load().encode(["a red circle", "", "a blue square moves"])
    assert torch.equal(together.features, expected.features)
    assert torch.equal(together.mask, expected.mask)
    encoder.encode("")
    assert residency.walks == 1


def test_a_closed_encoder_lets_its_blocks_go(tiny: Any) -> None:
    encoder = tiny.load(residency=Resident())
    encoder.encode("a red circle")
    encoder.close()
    with pytest.raises(MochiError, match="closed"):
        encoder.encode("a red circle")
    assert encoder.token_count("a red circle") > 1


def test_a_block_that_fails_leaves_the_weights_as_they_were(tiny: Any) -> None:
    model = load_t5(tiny.encoder, None)
    streamed = StreamedT5(model, carried(torch.bfloat16), torch.bfloat16, CPU)

    def fail(*_: Any) -> None:
        raise MemoryError

    handle = model.encoder.block[1].register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        streamed.run(PROMPTS)
    handle.remove()
    assert {weight.dtype for weight in model.encoder.block.parameters()} == {torch.float32}
    assert len(streamed.run(PROMPTS)) == len(PROMPTS)
