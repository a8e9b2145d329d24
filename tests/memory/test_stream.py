"""Blocks that come and go give what blocks that stay give."""

import mmap
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mochi.core.errors import WeightsError
from mochi.memory.cargo import ALIGNMENT, Cargo
from mochi.memory.pinned import PinnedBlocks
from mochi.memory.slots import DeviceSlot
from mochi.memory.stream import BlockStream, Carriage
from mochi.weights.tensors import TensorFile

CPU = torch.device("cpu")
PAGE = mmap.PAGESIZE
DEPTH, WIDTH = 4, 96


class Block(nn.Module):
    """Two layers, a norm's weight, a buffer, and something that is not carried."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 2 * WIDTH)
        self.second = nn.Linear(2 * WIDTH, WIDTH, bias=False)
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.register_buffer("raw", torch.zeros(3, dtype=torch.uint8))
        self.mod = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x.to(self.first.weight.dtype)).relu()
        return x + (self.second(hidden) * self.scale).float() + self.raw.sum()


def run(blocks: Iterator[nn.Module] | Sequence[nn.Module], x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


@pytest.fixture
def plain() -> nn.ModuleList:
    blocks = nn.ModuleList(Block() for _ in range(DEPTH)).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in blocks.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    for index, block in enumerate(blocks):
        block.raw.fill_(index)
    return blocks


@pytest.fixture
def mapped(plain: nn.ModuleList, tmp_path: Path) -> nn.ModuleList:
    """The same blocks, their weights mapped from a file."""
    save_file(plain.state_dict(), tmp_path / "blocks.safetensors")
    file = TensorFile(tmp_path / "blocks.safetensors")
    with torch.device("meta"):
        blocks = nn.ModuleList(Block() for _ in range(DEPTH))
    blocks.load_state_dict({name: file.tensor(name) for name in file.names()}, assign=True)
    return blocks.requires_grad_(False)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))


def stays(name: str) -> bool:
    return name.startswith("mod.")


def test_streamed_in_place_is_what_resident_blocks_give(
    plain: nn.ModuleList, mapped: nn.ModuleList, x: Tensor
) -> None:
    stream = BlockStream(Carriage(CPU))
    for _ in range(3):
        assert torch.equal(run(stream.walk(list(mapped)), x), run(plain, x))
    stream.close()
    assert torch.equal(run(stream.walk(list(mapped)), x), run(plain, x))


@pytest.mark.parametrize("drops", [True, False])
def test_converted_on_the_way_is_what_a_converted_model_gives(
    plain: nn.ModuleList, mapped: nn.ModuleList, x: Tensor, drops: bool
) -> None:
    stream = BlockStream(Carriage(CPU, torch.bfloat16, drops_pages=drops))
    got = [run(stream.walk(list(mapped)), x) for _ in range(2)]
    expected = run(plain.to(torch.bfloat16), x)
    assert torch.equal(got[0], expected)
    assert torch.equal(got[1], expected)
    assert {weight.dtype for weight in mapped.parameters()} == {torch.float32}


def test_a_device_of_its_own_kind_gets_plain_copies(
    plain: nn.ModuleList, mapped: nn.ModuleList, x: Tensor
) -> None:
    slot = DeviceSlot(CPU, drops=True)
    got = x
    for block in mapped:
        cargo = Cargo.of(block)
        slot.bring(cargo)
        slot.enter(cargo)
        got = block(got)
        slot.leave(cargo)
    assert torch.equal(got, run(plain, x))


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages")
def test_about_two_blocks_are_resident_at_a_time(tmp_path: Path) -> None:
    count, numbers = 8, 1 << 20
    big = {f"{index}.weight": torch.zeros(numbers) for index in range(count)}
    save_file(big, tmp_path / "big.safetensors")
    file = TensorFile(tmp_path / "big.safetensors")
    blocks = [nn.Module() for _ in range(count)]
    for index, block in enumerate(blocks):
        block.weight = nn.Parameter(file.tensor(f"{index}.weight"), requires_grad=False)
    stream = BlockStream(Carriage(CPU))
    for _ in range(2):
        for block in stream.walk(blocks):
            assert float(block.weight.sum()) == 0.0
            held = [resident_bytes(b.weight) / (4 * numbers) for b in blocks]
            assert sum(held) < 2.5, held
    stream.close()
    assert sum(resident_bytes(block.weight) for block in blocks) < numbers


def resident_bytes(tensor: Tensor) -> int:
    """Bytes of the pages under a tensor that this process holds."""
    start, end = tensor.data_ptr() // PAGE, (tensor.data_ptr() + tensor.nbytes) // PAGE
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(8 * start)
        entries = file.read(8 * (end - start))
    return PAGE * sum(entry >> 7 for entry in entries[7::8])


def test_what_stays_is_not_touched(mapped: nn.ModuleList, x: Tensor) -> None:
    before = mapped[1].mod.weight
    for block in BlockStream(Carriage(CPU, torch.bfloat16, stays=stays)).walk(list(mapped)):
        assert block.mod.weight.dtype == torch.float32
        assert block.first.weight.dtype == torch.bfloat16
        assert block.raw.dtype == torch.uint8
    assert mapped[1].mod.weight is before


def test_a_weight_written_to_between_walks_is_used(mapped: nn.ModuleList, x: Tensor) -> None:
    stream = BlockStream(Carriage(CPU))
    run(stream.walk(list(mapped)), x)
    mapped[2].first.weight.mul_(2.0)
    mapped[3].second.weight = nn.Parameter(mapped[3].second.weight * 3, requires_grad=False)
    expected = run(mapped, x)
    for _ in range(2):
        assert torch.equal(run(stream.walk(list(mapped)), x), expected)


def test_a_run_that_breaks_off_leaves_the_blocks_as_they_were(
    plain: nn.ModuleList, mapped: nn.ModuleList, x: Tensor
) -> None:
    stream = BlockStream(Carriage(CPU, torch.bfloat16))
    before = list(mapped.parameters())

    def broken() -> None:
        for index, _ in enumerate(stream.walk(list(mapped))):
            if index == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert all(a is b for a, b in zip(mapped.parameters(), before, strict=True))
    assert torch.equal(run(stream.walk(list(mapped)), x), run(plain.to(torch.bfloat16), x))


def test_some_of_the_blocks_in_another_order(mapped: nn.ModuleList, x: Tensor) -> None:
    stream = BlockStream(Carriage(CPU))
    some = [mapped[3], mapped[0], mapped[0]]
    assert torch.equal(run(stream.walk(some), x), run(some, x))
    assert torch.equal(run(stream.walk(list(mapped)), x), run(mapped, x))
    assert list(stream.walk([])) == []


def test_each_block_is_checked_once_before_it_is_used(mapped: nn.ModuleList, x: Tensor) -> None:
    seen: list[int] = []
    stream = BlockStream(Carriage(CPU), lambda tensors: seen.append(len(tensors)))
    for _ in range(2):
        run(stream.walk(list(mapped)), x)
    assert seen == [len(Cargo.of(mapped[0]).items)] * DEPTH


def test_what_the_check_finds_is_raised_at_its_block(mapped: nn.ModuleList, x: Tensor) -> None:
    mapped[2].first.weight[0, 0] = float("nan")

    def check(tensors: Sequence[Tensor]) -> None:
        if any(bool(tensor.isnan().any()) for tensor in tensors):
            raise WeightsError("holds NaN")

    walk = BlockStream(Carriage(CPU), check).walk(list(mapped))
    assert [next(walk), next(walk)] == list(mapped)[:2]
    with pytest.raises(WeightsError, match="holds NaN"):
        next(walk)


def test_a_cargo_is_aligned_and_survives_empty_tensors() -> None:
    block = nn.Module()
    block.a = nn.Parameter(torch.arange(3.0), requires_grad=False)
    block.b = nn.Parameter(torch.empty(0, 4), requires_grad=False)
    block.c = nn.Parameter(torch.arange(5.0), requires_grad=False)
    cargo = Cargo.of(block, torch.bfloat16)
    assert [item.offset % ALIGNMENT for item in cargo.items] == [0, 0, 0]
    flat = torch.empty(cargo.nbytes, dtype=torch.uint8)
    cargo.fill(flat)
    cargo.attach(flat)
    assert block.a.tolist() == [0, 1, 2]
    assert block.b.shape == (0, 4)
    assert block.c.dtype == torch.bfloat16
    cargo.detach()
    assert block.c.dtype == torch.float32
    assert Cargo.of(nn.Module()).nbytes == 0


def test_kept_blocks_lie_in_one_buffer_each_and_know_when_they_no_longer_do(
    plain: nn.ModuleList, mapped: nn.ModuleList, x: Tensor
) -> None:
    kept = PinnedBlocks(empty=lambda nbytes: torch.empty(nbytes, dtype=torch.uint8))
    for block in mapped:
        kept.keep(Cargo.of(block, torch.bfloat16, stays))
    assert kept.nbytes == sum(Cargo.of(b, torch.bfloat16, stays).nbytes for b in mapped)
    cargo = Cargo.of(mapped[1], torch.bfloat16, stays)
    flat = kept.flat_of(cargo)
    assert flat is not None
    assert torch.equal(cargo.items[0].view(flat), mapped[1].scale)
    assert torch.equal(run(mapped, x), run(plain.to(torch.bfloat16), x))
    mapped[1].scale = nn.Parameter(mapped[1].scale * 2, requires_grad=False)
    assert kept.flat_of(Cargo.of(mapped[1], torch.bfloat16, stays)) is None


class Halves:
    """A weight that a file keeps in two halves."""

    def __init__(self, whole: Tensor):
        self.halves = [half.clone() for half in whole.chunk(2)]

    def read(self) -> Tensor:
        return torch.cat(self.halves)

    def sources(self) -> list[Tensor]:
        return self.halves


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_deferred_weights_are_put_together_each_time(
    plain: nn.ModuleList, mapped: nn.ModuleList, x: Tensor, dtype: torch.dtype | None
) -> None:
    deferred = {}
    for block in mapped:
        halves = Halves(block.first.weight)
        stand_in = torch.tensor(torch.nan).expand(block.first.weight.shape)
        block.first.weight = nn.Parameter(stand_in, requires_grad=False)
        deferred[id(block.first.weight)] = halves
    stream = BlockStream(Carriage(CPU, dtype, deferred=deferred))
    expected = run(plain.to(dtype) if dtype else plain, x)
    for _ in range(2):
        assert torch.equal(run(stream.walk(list(mapped)), x), expected)
    assert bool(mapped[0].first.weight.isnan().all())


def test_what_settles_goes_to_the_device_once(mapped: nn.ModuleList) -> None:
    """The meta device stands in for one that is not the CPU."""
    carriage = Carriage(torch.device("meta"), settles=stays)
    carriage.settle(mapped[0])
    settled = mapped[0].mod.weight
    assert settled.is_meta
    assert not mapped[0].first.weight.is_meta
    carriage.settle(mapped[0])
    assert mapped[0].mod.weight is settled
    assert len(carriage.cargo(mapped[0]).items) == len(Cargo.of(mapped[0]).items) - 2


@pytest.mark.gpu
@pytest.mark.parametrize("keeps", [True, False])
def test_blocks_on_a_gpu(
    plain: nn.ModuleList, mapped: nn.ModuleList, x: Tensor, keeps: bool
) -> None:
    device = torch.device("cuda:0")
    kept = PinnedBlocks()
    if keeps:
        for block in mapped:
            kept.keep(Cargo.of(block, torch.bfloat16, stays))
        assert mapped[0].first.weight.is_pinned()
    stream = BlockStream(Carriage(device, torch.bfloat16, stays=stays), kept=kept)
    expected = run(plain.to(device, torch.bfloat16), x.to(device))
    for _ in range(3):
        assert torch.equal(run(stream.walk(list(mapped)), x.to(device)), expected)
    stream.close()
