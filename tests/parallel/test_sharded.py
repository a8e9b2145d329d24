"""Weights that are spread over ranks compute as if they were all here, and are read once."""

from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from tests.parallel.crew import Crew
from tests.parallel.test_pipeline import PROMPT, SMALL, _run
from tests.parallel.test_tokens import _inputs, _network
from tests.pipeline.test_loras import make_lora
from torch import Tensor, nn

import mochi
from mochi.cli.commands import app
from mochi.core.errors import RequestError
from mochi.core.events import CancelToken
from mochi.memory import cargo as cargo_module
from mochi.memory.cargo import Cargo
from mochi.model.dit import AsymmDiT
from mochi.parallel.formulae import weights_bytes
from mochi.parallel.group import Group, Traffic
from mochi.parallel.mesh import Mesh
from mochi.parallel.scheme import Scheme
from mochi.parallel.sharded import ShardedBlocks, ShardedDit, part_bytes
from mochi.parallel.world import World
from mochi.pipeline.sharding import StoredLoad, WeightShards
from mochi.pipeline.share import OnMesh
from mochi.weights.convert import Wishes, plan_conversion
from mochi.weights.source import open_path


def _own_group(world: World, name: str = "weights") -> Group:
    return Group(range(world.size), world, name, Traffic())


def _nothing(tensors: Any) -> None:
    return None


def _sharded(dit: AsymmDiT, group: Group, dtype: Any, overlap: bool) -> Any:
    shards = WeightShards(group, overlap)
    cpu = torch.device("cpu")
    made = shards.dit(list(dit.blocks), cpu, dtype, deferred={}, check=_nothing)
    dit.residency = made
    return made


def _velocities(world: World, scheme: str, dtypes: list[torch.dtype]) -> Any:
    mesh, group = Mesh.join(Scheme.parse(scheme), world), _own_group(world)
    for dtype in dtypes:
        dit, whole = (_network(dtype).requires_grad_(False) for _ in range(2))
        whole.blocks.float()  # as blocks are when used: what is stored, in float32
        before = [parameter.clone() for parameter in dit.parameters()]
        total = sum(Cargo.of(block).nbytes for block in dit.blocks)
        residency = _sharded(dit, group, torch.float32, overlap=dtype == torch.float32)
        assert residency.kept_bytes <= total / world.size + 512 * 2 * len(dit.blocks)
        for network in (whole, dit):
            mesh.install(network)
        with torch.no_grad():
            expected = whole(**_inputs(3, (3, 0, 17)))
            for _ in range(2):
                assert torch.equal(dit(**_inputs(3, (3, 0, 17))), expected)
        residency.close()
        assert all(torch.equal(a, b) for a, b in zip(before, dit.parameters(), strict=True))


@pytest.mark.parametrize("scheme", ["ulysses=2", "ring=3", "ulysses=2,ring=2"])
def test_a_sharded_network_computes_as_a_whole_one(crew: Crew, scheme: str) -> None:
    crew.run(Scheme.parse(scheme).devices, _velocities, scheme, [torch.float32, torch.bfloat16])


class Odd(nn.Module):
    """Weights of several dtypes, none of a round size, as quantised layers have them."""

    def __init__(self, seed: int):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(7, 13, generator=draw).bfloat16())
        self.register_buffer("codes", torch.randint(0, 255, (331,), generator=draw).byte())
        self.register_buffer("scale", torch.randn(3, 5, generator=draw))
        self.register_buffer("eight", torch.randn(17, generator=draw).to(torch.float8_e4m3fn))
        self.register_buffer("one", torch.tensor(seed))


def _tensors(block: nn.Module) -> list[Tensor]:
    return [block.weight, block.codes, block.scale, block.eight, block.one]


def _walked(world: World, stops: tuple[int, ...]) -> Any:
    group = _own_group(world)
    blocks = nn.ModuleList(Odd(seed) for seed in range(4))
    expected = [[t.detach().clone() for t in _tensors(block)] for block in blocks]
    sharded = ShardedBlocks(lambda block: StoredLoad.of(block, None), group, torch.device("cpu"))
    sharded.keep(blocks)
    for block in blocks:  # what is not kept may go
        block.weight.data.zero_()
        for buffer in block.buffers():
            buffer.zero_()
    for stop in stops:  # a walk may end early
        for index, block in enumerate(sharded.walk(list(blocks))):
            for ours, theirs in zip(_tensors(block), expected[index], strict=True):
                assert torch.equal(
                    ours.view(-1).view(torch.uint8), theirs.view(-1).view(torch.uint8)
                )
            if index == stop:
                break
    sent = dict(group.traffic.sent)
    sharded.close()
    return sent, [Cargo.of(block).nbytes for block in blocks]


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_bytes_come_together_whatever_they_mean(crew: Crew, ranks: int) -> None:
    for sent, sizes in crew.run(ranks, _walked, (9, 1, 9)):
        walks = [*sizes, sizes[0], *sizes[1:2], sizes[2], *sizes, sizes[0]]
        assert sent == weights_bytes(walks, ranks)


def _refused(world: World) -> Any:
    def check(tensors: Any) -> None:
        raise ValueError("a weight is NaN")

    sharded = ShardedBlocks(
        lambda block: StoredLoad.of(block, None),
        _own_group(world),
        torch.device("cpu"),
        check=check,
    )
    with pytest.raises(ValueError, match="NaN"):
        next(sharded.walk([Odd(0)]))
    sharded.close()


def test_bad_weights_are_refused_on_every_rank(crew: Crew) -> None:
    crew.run(2, _refused)


class Alone:
    """A rank's view of a group that it never talks to."""

    def __init__(self, size: int, place: int):
        self.size, self.place = size, place


def _resident(path: Path) -> int:
    """Bytes of a mapped file that this process holds."""
    lines, found, inside = Path("/proc/self/smaps").read_text().splitlines(), 0, False
    for line in lines:
        if "-" in line.split(" ", 1)[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_a_rank_reads_only_what_it_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cargo_module.pages, "drop", lambda tensors: 0)
    path, rows = tmp_path / "weights", 2048
    torch.arange(rows * 1024, dtype=torch.float32).numpy().tofile(path)
    mapped = torch.from_file(str(path), shared=False, size=rows * 1024).view(rows, 1024)
    block = nn.Module()
    block.weight = nn.Parameter(mapped, requires_grad=False)
    group: Any = Alone(4, 2)
    sharded = ShardedBlocks(lambda it: StoredLoad.of(it, None), group, torch.device("cpu"))
    sharded.keep([block])
    assert sharded.kept_bytes == part_bytes(mapped.nbytes, 4) == 2 * 2**20
    assert _resident(path) < 2.5 * 2**20


def test_a_part_of_converted_weights_is_that_part_of_the_whole() -> None:
    block = Odd(1)
    cargo = Cargo.of(block, torch.float32)
    whole = torch.zeros(cargo.nbytes, dtype=torch.uint8)
    cargo.fill(whole)
    parts = [torch.zeros(256, dtype=torch.uint8) for _ in range(cargo.nbytes // 256)]
    for place, part in enumerate(parts):
        cargo.fill_part(part, 256 * place)
    assert torch.equal(torch.cat(parts), whole)


def _sharded_run(world: World, scheme: str, loading: dict[str, Any]) -> Any:
    pipe = mochi.load(device="cpu", **loading)
    mesh, group = Mesh.join(Scheme.parse(scheme), world), _own_group(world)
    pipe.parts.shards = WeightShards(group)
    pipe.share = OnMesh(mesh, world.device, CancelToken())
    frames: list[Any] = []
    for _ in range(2):
        facts = _run(pipe, pipe.request(PROMPT, **SMALL), None, frames)
    assert isinstance(pipe.parts.dit().residency, ShardedDit)
    assert group.traffic.total > 0
    pipe.parts.release_all()
    return facts["latents"].latent.tensor.numpy()


@pytest.mark.parametrize(("to", "quantize"), [("", None), ("gguf", "q8_0"), ("comfy", "fp8")])
def test_a_video_of_sharded_weights_is_that_of_one_process(
    crew: Crew, tiny_model: Path, tmp_path: Path, to: Any, quantize: Any
) -> None:
    style = make_lora(mochi.load(str(tiny_model), device="cpu"), tmp_path / "style.safetensors")
    loading: dict[str, Any] = {"model": str(tiny_model), "loras": [(str(style), 0.7)]}
    if quantize is not None:
        wishes = Wishes(to, quantize=quantize, parts=("dit",))
        plan_conversion(open_path(tiny_model).source, tmp_path / "small", wishes).write(False)
        (loading["dit"],) = (str(path) for path in (tmp_path / "small").rglob("*.*[fs]"))
    clip = mochi.load(device="cpu", **loading).generate(PROMPT, **SMALL)
    expected = clip.latents.latent.tensor.numpy()
    for latents in crew.run(4, _sharded_run, "guidance=2,ulysses=2", loading):
        assert abs(latents - expected).max() < 1e-5


def test_halves_that_leave_out_different_blocks_cannot_share_weights(tiny_model: Path) -> None:
    pipe = mochi.load(
        str(tiny_model), device="cpu", devices=2, shard=True, parallel="guidance=2,ulysses=1"
    )
    with pytest.raises(RequestError, match="guidance=1, or no step cache"):
        pipe.generate(PROMPT, step_cache="first-block:0.3", **SMALL)


def test_one_device_has_nobody_to_share_weights_with() -> None:
    command = typer.main.get_command(app)
    with pytest.raises(RequestError, match="--devices 2"):
        command.main(["generate", PROMPT, "--shard"], standalone_mode=False)
