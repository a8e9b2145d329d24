"""Adapters on a network: live = merged = the weight changed by hand; off again, bit for bit."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mochi.core.config import DiTConfig
from mochi.model import adapters as adapters_module
from mochi.model.adapters import (
    AdaptedLinear,
    Adapters,
    Factors,
    compute_dtype,
    dense_weight,
    is_quantised,
    linear_layers,
)
from mochi.model.dit import AsymmDiT
from mochi.model.layers import Linear
from mochi.model.stored import StoredLinear, StoredWeight

SIZES = [
    DiTConfig(depth=1, heads=1, head_dim=16, visual_width=16, text_width=8, text_features=16),
    DiTConfig(depth=3, heads=2, head_dim=16, visual_width=32, text_width=24, text_features=40),
]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random(*shape: int, rng: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=rng) / shape[-1] ** 0.5


@pytest.fixture(params=SIZES, ids=["one block", "three blocks"])
def dit(request: pytest.FixtureRequest) -> AsymmDiT:
    network, rng = AsymmDiT(request.param).eval().requires_grad_(False), generator()
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=rng) / parameter.shape[-1] ** 0.5)
    return network


def velocity(dit: AsymmDiT) -> Tensor:
    rng = generator()
    z = torch.randn(2, 12, 2, 4, 6, generator=rng)
    text = torch.randn(2, 5, dit.config.text_features, generator=rng)
    mask = torch.arange(5)[None] < torch.tensor([[5], [3]])
    with torch.no_grad():
        return dit(z, torch.tensor([0.3, 0.9]), text, mask)


def on_all(dit: AsymmDiT, rank: int = 3, seed: int = 1) -> dict[str, list[Factors]]:
    """Matrices for every linear layer; joint ones get two of three shares."""
    rng = torch.Generator().manual_seed(seed)
    found = {}
    for name, layer in linear_layers(dit):
        shares = [(0, 3), (2, 3)] if "qkv" in name else [(0, 1)]
        found[name] = [
            Factors(
                random(rank, layer.in_features, rng=rng),
                random(layer.out_features // parts, rank, rng=rng),
                0.5,
                part,
                parts,
            )
            for part, parts in shares
        ]
    return found


def changed_by_hand(dit: AsymmDiT, factors: dict[str, list[Factors]], strength: float) -> Tensor:
    """The velocity of a copy whose weights hold the sums."""
    copy = AsymmDiT(dit.config).eval().requires_grad_(False)
    copy.load_state_dict(dit.state_dict())
    for name, pieces in factors.items():
        layer = copy.get_submodule(name)
        for piece in pieces:
            rows = len(layer.weight) // piece.parts
            change = strength * piece.scale * (piece.b.double() @ piece.a.double())
            layer.weight[piece.part * rows : (piece.part + 1) * rows] += change.float()
    return velocity(copy)


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("merged", [False, True])
def test_an_adapter_is_a_change_of_the_weights(dit: AsymmDiT, merged: bool) -> None:
    factors, plain = on_all(dit), velocity(dit)
    expected = changed_by_hand(dit, factors, 0.7)
    Adapters(dit).add("style", factors, 0.7, merged=merged)
    assert far(velocity(dit), expected) < 2e-6
    assert far(expected, plain) > 0.05


@pytest.mark.parametrize("merged", [False, True])
def test_taken_off_the_network_is_the_one_that_it_was(dit: AsymmDiT, merged: bool) -> None:
    before, objects = velocity(dit), dict(dit.named_modules())
    adapters = Adapters(dit)
    adapters.add("style", on_all(dit), merged=merged)
    assert not velocity(dit).equal(before)
    adapters.remove("style")
    assert velocity(dit).equal(before)
    now = dict(dit.named_modules())
    assert now.keys() == objects.keys()
    assert all(now[name] is objects[name] for name in now)


def test_several_adapters_add_up_in_any_mixture_and_leave_in_any_order(dit: AsymmDiT) -> None:
    plain = velocity(dit)
    first, second = on_all(dit, seed=1), on_all(dit, rank=2, seed=2)
    only_second = changed_by_hand(dit, second, -0.5)
    results = []
    for modes in ((False, False), (True, True), (True, False), (False, True)):
        adapters = Adapters(dit)
        adapters.add("first", first, 0.8, merged=modes[0])
        adapters.add("second", second, -0.5, merged=modes[1])
        assert adapters.names == ("first", "second")
        results.append(velocity(dit))
        adapters.remove("first")
        assert far(velocity(dit), only_second) < 2e-6
        adapters.clear()
        assert velocity(dit).equal(plain)
        assert adapters.names == ()
    assert all(far(other, results[0]) < 2e-6 for other in results[1:])


@pytest.mark.parametrize("merged", [False, True])
def test_strength_changes_at_any_time_and_zero_is_no_adapter(dit: AsymmDiT, merged: bool) -> None:
    plain, factors = velocity(dit), on_all(dit)
    adapters = Adapters(dit)
    adapters.add("style", factors, 0.0, merged=merged)
    assert velocity(dit).equal(plain)
    adapters.set_strength("style", 2.0)
    assert far(velocity(dit), changed_by_hand_of(dit, adapters, factors, 2.0)) < 2e-6
    adapters.set_strength("style", 0.0)
    assert velocity(dit).equal(plain)


def changed_by_hand_of(
    dit: AsymmDiT, adapters: Adapters, factors: dict[str, list[Factors]], strength: float
) -> Tensor:
    adapters.clear()
    expected = changed_by_hand(dit, factors, strength)
    adapters.add("style", factors, strength)
    return expected


def test_the_strength_zero_skips_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Linear(4, 4)
    calls: list[object] = []
    monkeypatch.setattr(adapters_module.F, "dropout", lambda x, *_: calls.append(x) or x)
    network = nn.Sequential(layer)
    adapters = Adapters(network)
    adapters.add("a", {"0": [Factors(torch.ones(1, 4), torch.ones(4, 1))]}, 0.0)
    network(torch.ones(1, 4))
    assert calls == []
    adapters.set_strength("a", 1.0)
    network(torch.ones(1, 4))
    assert len(calls) == 1


def test_a_failure_in_the_middle_leaves_the_network_as_it_was(
    dit: AsymmDiT, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, objects = velocity(dit), dict(dit.named_modules())
    adapters, merge, calls = Adapters(dit), adapters_module._merged, []

    def no_memory(*words: object) -> nn.Module:
        calls.append(words)
        if len(calls) == 4:
            raise MemoryError
        return merge(*words)

    monkeypatch.setattr(adapters_module, "_merged", no_memory)
    with pytest.raises(MemoryError):
        adapters.add("style", on_all(dit), merged=True)
    assert adapters.names == ()
    assert velocity(dit).equal(before)
    assert all(objects[name] is module for name, module in dit.named_modules())
    adapters.add("style", on_all(dit), merged=True)  # and it can be tried again


@torch.enable_grad()
def test_an_adapter_trains_while_the_base_does_not(dit: AsymmDiT) -> None:
    adapters, weight = Adapters(dit), dit.blocks[0].attn.qkv_x.weight.clone()
    rng = generator()
    factors = {
        "blocks.0.attn.qkv_x": [
            Factors(
                random(2, dit.config.visual_width, rng=rng),
                torch.zeros(3 * dit.config.visual_width, 2),
            )
        ]
    }
    adapters.add("new", factors, dropout=0.5, dtype=torch.float32)
    (delta,) = adapters.live("new")["blocks.0.attn.qkv_x"]
    parameters = [delta.lora_A.requires_grad_(), delta.lora_B.requires_grad_()]
    optimiser = torch.optim.SGD(parameters, lr=0.5)
    dit.train()
    torch.manual_seed(0)  # dropout draws from torch's own generator
    z, text = (
        torch.randn(1, 12, 1, 4, 4, generator=rng),
        torch.zeros(1, 0, dit.config.text_features),
    )
    mask, target = torch.zeros(1, 0, dtype=torch.bool), torch.randn(1, 12, 1, 4, 4, generator=rng)

    def loss() -> torch.Tensor:
        return F.mse_loss(dit(z, torch.tensor([0.5]), text, mask), target)

    before = loss_without_dropout = float(torch.inf)
    for training in (False, True, True, True, True, False):
        dit.train(training)
        value = loss()
        if training:
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        else:
            before, loss_without_dropout = loss_without_dropout, value.item()
    assert loss_without_dropout < before
    assert delta.lora_B.abs().max() > 0  # it was zero
    assert dit.blocks[0].attn.qkv_x.base.weight.equal(weight)
    assert dit.blocks[0].attn.qkv_x.base.weight.grad is None
    assert delta.factors().b.equal(delta.lora_B)  # what a file gets is what was trained


@torch.enable_grad()
def test_gradients_are_those_of_the_formula() -> None:
    rng = generator()
    base = nn.Sequential(Linear(6, 9)).requires_grad_(False)
    x = torch.randn(4, 6, generator=rng, requires_grad=True)
    a, b = torch.randn(2, 6, generator=rng), torch.randn(3, 2, generator=rng)
    adapters = Adapters(base)
    adapters.add("new", {"0": [Factors(a, b, 1.5, 1, 3)]}, 0.5)
    (delta,) = adapters.live("new")["0"]
    delta.requires_grad_()
    base(x).square().sum().backward()
    found = (x.grad, delta.lora_A.grad, delta.lora_B.grad)
    a, b = a.requires_grad_(), b.requires_grad_()
    y = x.detach().requires_grad_()
    change = torch.cat([torch.zeros(4, 3), 0.75 * (y @ a.T @ b.T), torch.zeros(4, 3)], dim=1)
    linear = base[0].base
    (F.linear(y, linear.weight, linear.bias) + change).square().sum().backward()
    for mine, theirs in zip(found, (y.grad, a.grad, b.grad), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 4), (1, 0, 4), (2, 3, 1, 4), (4,)])
def test_inputs_of_any_number_of_dimensions_and_none_at_all(shape: tuple[int, ...]) -> None:
    network = nn.Sequential(Linear(4, 6)).requires_grad_(False)
    x = torch.randn(shape, generator=generator())
    factors = Factors(torch.ones(1, 4), torch.ones(3, 1), 1.0, 1, 2)
    expected = network(x)
    expected[..., 3:] += x.sum(-1, keepdim=True)
    Adapters(network).add("a", {"0": [factors]})
    assert torch.allclose(network(x), expected, atol=1e-6)


def test_dropout_works_in_training_alone() -> None:
    network = nn.Sequential(Linear(64, 8)).eval()
    x = torch.ones(1, 64)
    Adapters(network).add("a", {"0": [Factors(torch.ones(1, 64), torch.ones(8, 1))]}, dropout=0.5)
    assert network(x).equal(network(x))
    network.train()
    with torch.random.fork_rng():
        assert not network(x).equal(network(x))


@pytest.mark.parametrize("kind", ["float8", "q8_0"])
@pytest.mark.parametrize("merged", [False, True])
def test_on_quantised_layers_as_on_their_values(kind: str, merged: bool) -> None:
    rng = generator()
    stored = quantised(kind, torch.randn(12, 64, generator=rng))
    bias = torch.randn(12, generator=rng)
    dense = Linear(64, 12)
    dense.load_state_dict({"weight": stored.dense(torch.float32), "bias": bias})
    networks = [nn.Sequential(StoredLinear(stored, bias)), nn.Sequential(dense)]
    small, x = networks[0][0], torch.randn(5, 64, generator=rng)
    assert is_quantised(small)
    assert not is_quantised(dense)
    factors = {"0": [Factors(torch.randn(3, 64, generator=rng), torch.randn(12, 3, generator=rng))]}
    before = networks[0](x)
    adapters = [Adapters(network) for network in networks]
    for each in adapters:
        each.add("a", factors, 0.3, merged=merged)
    outputs = [network(x).detach() for network in networks]
    assert far(outputs[0], outputs[1]) < 1e-6
    assert isinstance(networks[0][0], Linear if merged else AdaptedLinear)
    assert dense_weight(small, torch.float32).equal(dense.weight)
    adapters[0].clear()
    assert networks[0][0] is small
    assert networks[0](x).equal(before)


def quantised(kind: str, weight: Tensor) -> StoredWeight:
    if kind == "float8":
        return StoredWeight("float8_e4m3fn", tuple(weight.shape), weight.to(torch.float8_e4m3fn))
    blocks = weight.view(-1, 32)
    scale = (blocks.abs().amax(1, keepdim=True) / 127).half()
    numbers = (blocks / scale.float()).round().clamp(-128, 127).to(torch.int8)
    data = torch.cat([scale.view(torch.uint8), numbers.view(torch.uint8)], dim=1)
    return StoredWeight("q8_0", tuple(weight.shape), data.view(len(weight), -1))


@pytest.mark.parametrize("merged", [False, True])
def test_in_bfloat16_it_computes_in_bfloat16(merged: bool) -> None:
    rng = generator()
    network = nn.Sequential(Linear(64, 12).to(torch.bfloat16)).requires_grad_(False)
    x = torch.randn(7, 64, generator=rng)
    a, b = torch.randn(4, 64, generator=rng) / 8, torch.randn(12, 4, generator=rng)
    exact = F.linear(x, network[0].weight.float() + b @ a, network[0].bias.float())
    Adapters(network).add("a", {"0": [Factors(a, b)]}, merged=merged)
    assert network[0].compute_dtype == compute_dtype(network[0]) == torch.bfloat16
    out = network(x)
    assert out.dtype == torch.bfloat16
    assert far(out.float(), exact) < 1e-2


def test_the_layers_of_an_adapted_network_are_found_under_their_own_names(dit: AsymmDiT) -> None:
    names = [name for name, _ in linear_layers(dit)]
    sizes = [(layer.in_features, layer.out_features) for _, layer in linear_layers(dit)]
    Adapters(dit).add("style", on_all(dit))
    assert [name for name, _ in linear_layers(dit)] == names
    assert [(x.in_features, x.out_features) for _, x in linear_layers(dit)] == sizes
    assert all(isinstance(layer, AdaptedLinear) for _, layer in linear_layers(dit))


def test_a_network_that_moves_meanwhile_gets_its_layers_back_where_it_is() -> None:
    network = nn.Sequential(Linear(4, 4)).requires_grad_(False)
    original = network[0]
    adapters = Adapters(network)
    adapters.add("a", {"0": [Factors(torch.ones(1, 4), torch.ones(4, 1))]}, merged=True)
    network.to("meta")
    adapters.remove("a")
    assert network[0] is original
    assert original.weight.is_meta
