"""The ranks of a run in their places: which groups each of them is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from mochi.model.context import TextContext
from mochi.model.dit import AsymmDiT
from mochi.model.modulation import StepTables
from mochi.parallel.coordinates import Coordinates
from mochi.parallel.group import Group, Traffic
from mochi.parallel.scheme import Scheme
from mochi.parallel.shares import shares
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

        def group(name: str, place: Callable[[Coordinates], object]) -> Group:
            """The ranks that agree with this one in `place`."""
            found = [place(Coordinates.of(scheme, rank)) for rank in range(world.size)]
            inside = [rank for rank, there in enumerate(found) if there == found[world.rank]]
            return Group(inside, world, name, traffic)

        return cls(
            scheme,
            guidance=group("guidance", lambda at: (at.ring, at.ulysses)),
            ulysses=group("ulysses", lambda at: (at.guidance, at.ring)),
            ring=group("ring", lambda at: (at.guidance, at.ulysses)),
            tokens=group("tokens", lambda at: at.guidance),
            everyone=group("everyone", lambda at: 0),
            traffic=traffic,
        )

    def install(self, dit: AsymmDiT) -> MeshDit:
        """Let a network compute its share; every rank holds the same weights. It may be called
        again, and takes the place of what another mesh installed."""
        before = dit.exchange
        if isinstance(before, MeshExchange) and before.everyone is self.tokens:
            return MeshDit(dit, self, before)
        ringed = isinstance(before, MeshExchange) and dit.attention is not before.local
        local = before.local if isinstance(before, MeshExchange) and ringed else dit.attention
        exchange = MeshExchange(self.ulysses, self.ring, self.tokens, dit.config.heads, local)
        dit.exchange, dit.attention = exchange, exchange.attention
        return MeshDit(dit, self, exchange)


def _nothing() -> None:
    return


class MeshDit:
    """A network on a mesh, for `sample`: a guided step's passes run on the halves of the mesh.

    Attributes:
        before_step: called by every rank before each step's first pass.
    """

    def __init__(self, dit: AsymmDiT, mesh: Mesh, exchange: MeshExchange):
        self.dit, self.mesh, self.exchange = dit, mesh, exchange
        self.before_step: Callable[[], object] = _nothing
        self._order: Sequence[TextContext] = ()

    def prepare_text(self, text: Tensor, mask: Tensor) -> TextContext:
        """As the network's own."""
        return self.dit.prepare_text(text, mask)

    def prepare_steps(
        self, sigmas: Sequence[float], contexts: Sequence[TextContext]
    ) -> StepTables | None:
        """As the network's own."""
        self._order = contexts
        return self.dit.prepare_steps(sigmas, contexts)

    def velocity(self, z: Tensor, sigma: Tensor, context: TextContext) -> Tensor:
        """As the network's own."""
        return self.velocities(z, sigma, [context])[0]

    def velocities(
        self,
        z: Tensor,
        sigma: Tensor | float,
        contexts: Sequence[TextContext],
        tables: StepTables | None = None,
        before_block: Callable[[], object] | None = None,
    ) -> list[Tensor]:
        """As the network's own; with two halves and two contexts, each half computes one."""
        self.before_step()
        halves = self.mesh.guidance
        shared = halves.size > 1 and len(contexts) == halves.size
        mine = [contexts[halves.place]] if shared else contexts
        with self._alike(z, len(mine)):
            found = self.dit.velocities(z, sigma, mine, tables, before_block)
        shapes = [tuple(found[0].shape)] * halves.size
        if shared:
            return halves.share(found[0], shapes, GUIDANCE)
        if halves.size > 1 and self.dit.shortcut is not None:
            # Only one half remembers this pass from earlier steps, and may have left blocks out.
            return [halves.share(found[0], shapes, GUIDANCE)[self._owner(contexts[0])]]
        return found

    def _owner(self, context: TextContext) -> int:
        """The half that computes a pass in guided steps."""
        return next((place for place, c in enumerate(self._order) if c is context), 0)

    @contextmanager
    def _alike(self, z: Tensor, passes: int) -> Iterator[None]:
        """All ranks run passes together, or all apart: their tokens may differ by one."""
        chosen, patch = self.dit.passes, self.dit.config.patch
        tokens = z.shape[0] * z[0, 0].numel() // patch**2
        most = shares(tokens, self.mesh.tokens.size)[0]
        self.dit.passes = "together" if self.dit.runs_together(passes * most) else "apart"
        try:
            yield
        finally:
            self.dit.passes = chosen
