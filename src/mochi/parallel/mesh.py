"""The ranks of a run in their places: which groups each of them is in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from mochi.model.context import TextContext
from mochi.model.dit import AsymmDiT
from mochi.model.modulation import StepTables
from mochi.parallel.group import Group, Traffic
from mochi.parallel.scheme import Scheme
from mochi.parallel.tokens import MeshExchange
from mochi.parallel.world import World

GUIDANCE = "guidance"


@dataclass(frozen=True)
class Mesh:
    """This rank's groups. Ranks next to each other in the world share a Ulysses group, since that
    is where most travels; then come rings, and the two halves of guidance are farthest apart.

    Attributes:
        scheme: the sizes.
        guidance, ulysses, ring: the groups along each direction.
        tokens: the ranks that share the tokens of one pass, in token order.
        everyone: all ranks.
        traffic: what this rank has sent.
    """

    scheme: Scheme
    guidance: Group
    ulysses: Group
    ring: Group
    tokens: Group
    everyone: Group
    traffic: Traffic

    @classmethod
    def join(cls, scheme: Scheme, world: World) -> Mesh:
        """Take this process's place; every rank of the world calls it."""
        assert world.size == scheme.devices
        traffic = Traffic()

        def group(name: str, place: Callable[[int, int, int], object]) -> Group:
            """The ranks that agree with this one in `place(guidance, ring, ulysses)`."""
            mine = place(*_coordinates(scheme, world.rank))
            every = range(world.size)
            inside = [rank for rank in every if place(*_coordinates(scheme, rank)) == mine]
            return Group(inside, world, name, traffic)

        return cls(
            scheme,
            guidance=group("guidance", lambda g, r, u: (r, u)),
            ulysses=group("ulysses", lambda g, r, u: (g, r)),
            ring=group("ring", lambda g, r, u: (g, u)),
            tokens=group("tokens", lambda g, r, u: g),
            everyone=group("everyone", lambda g, r, u: 0),
            traffic=traffic,
        )

    def install(self, dit: AsymmDiT) -> MeshDit:
        """Let a network compute its share; every rank holds the same weights."""
        exchange = MeshExchange(
            self.ulysses, self.ring, self.tokens, dit.config.heads, dit.attention
        )
        dit.exchange, dit.attention = exchange, exchange.attention
        return MeshDit(dit, self)


def _coordinates(scheme: Scheme, index: int) -> tuple[int, int, int]:
    rest, ulysses = divmod(index, scheme.ulysses)
    guidance, ring = divmod(rest, scheme.ring)
    return guidance, ring, ulysses


class MeshDit:
    """A network on a mesh, for `sample`: a guided step's passes run on the halves of the mesh."""

    def __init__(self, dit: AsymmDiT, mesh: Mesh):
        self.dit, self.mesh = dit, mesh

    def prepare_text(self, text: Tensor, mask: Tensor) -> TextContext:
        """As the network's own."""
        return self.dit.prepare_text(text, mask)

    def prepare_steps(
        self, sigmas: Sequence[float], contexts: Sequence[TextContext]
    ) -> StepTables | None:
        """As the network's own."""
        return self.dit.prepare_steps(sigmas, contexts)

    def velocity(self, z: Tensor, sigma: Tensor, context: TextContext) -> Tensor:
        """As the network's own."""
        return self.dit.velocity(z, sigma, context)

    def velocities(
        self,
        z: Tensor,
        sigma: Tensor | float,
        contexts: Sequence[TextContext],
        tables: StepTables | None = None,
        before_block: Callable[[], object] | None = None,
    ) -> list[Tensor]:
        """As the network's own; with two halves and two contexts, each half computes one."""
        halves = self.mesh.guidance
        if halves.size == 1 or len(contexts) != halves.size:
            return self.dit.velocities(z, sigma, contexts, tables, before_block)
        mine = [contexts[halves.place]]
        (found,) = self.dit.velocities(z, sigma, mine, tables, before_block)
        return halves.share(found, [tuple(found.shape)] * halves.size, GUIDANCE)
