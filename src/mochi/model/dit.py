"""AsymmDiT, the asymmetric diffusion transformer of Mochi 1 (SPEC 2).

Many visual tokens and a few text tokens attend to each other in every block; each stream has its
own width and its own weights. The network and its two ends are here, a block is in `block.py`.
"""

# Shapes: B batch, C latent channels, T H W latent frames and pixels, N visual tokens, L text
#         tokens, D visual width, E text width, G text features, P contexts, R = P * B, S steps.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from mochi.core.config import DiTConfig
from mochi.core.errors import RequestError
from mochi.core.speed import Passes
from mochi.model.attention import ChosenAttention
from mochi.model.block import AsymmBlock, Means, Streams
from mochi.model.conditioning import AttentionPool, TimestepEmbedder
from mochi.model.context import TextContext as TextContext
from mochi.model.exchange import Attention, OneDevice, TokenExchange
from mochi.model.fast import DeviceKernels
from mochi.model.kernels import Kernels, PlainKernels
from mochi.model.layers import Linear, compute_dtype
from mochi.model.modulation import Modulation, StepTables, tabulate
from mochi.model.residency import Residency, Resident
from mochi.model.rope import Rotary, RotaryTables, positions
from mochi.model.shortcut import Shortcut

TOGETHER_TOKENS = {"cpu": 2_048, "cuda": 20_000}
"""Up to so many visual tokens in all, the passes of a step run as one batch. A GPU is filled by
10,000 of one pass (PERFORMANCE 2.11), a processor by some hundred."""


class AsymmDiT(nn.Module):
    """Predicts the velocity `z0 - eps` of a noisy latent from its noise level and a prompt.

    Parameters have the published names. Each computes in its stored dtype; norms, modulation,
    rotary positions and the result are float32 whatever that is.

    Attributes:
        exchange: how tokens move between devices; `OneDevice()` unless replaced.
        attention: the attention kernel; the fastest for the hardware unless replaced.
        kernels: the elementwise pieces; the fastest for the device unless replaced, and the plain
            ones whenever gradients are recorded.
        residency: where the blocks' weights are; all in place unless replaced.
        passes: whether the passes of a step run as one batch, `together`, or one after the other in
            each block, `apart`; `auto` decides by the number of tokens.
        tabulates: whether `prepare_steps` makes tables; else each step works out its own.
        shortcut: may stand in for blocks; None unless set. With one, passes run apart.
    """

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config = config
        self.exchange: TokenExchange = OneDevice()
        self.attention: Attention = ChosenAttention()
        self.kernels: Kernels = DeviceKernels()
        self.residency: Residency = Resident()
        self.passes: Passes = "auto"
        self.tabulates = True
        self.shortcut: Shortcut | None = None
        self.x_embedder = PatchEmbed(config)
        self.t_embedder = TimestepEmbedder(config.visual_width, config.time_features)
        self.t5_y_embedder = AttentionPool(config.text_features, config.visual_width)
        self.t5_yproj = Linear(config.text_features, config.text_width)
        self.pos_frequencies = nn.Parameter(torch.empty(3, config.heads, config.head_dim // 2))
        if not self.pos_frequencies.is_meta:  # there it would import torch._dynamo, 1.6 s
            nn.init.normal_(self.pos_frequencies, std=0.02)
        self.blocks = nn.ModuleList(
            AsymmBlock(config, updates_text=index < config.depth - 1)
            for index in range(config.depth)
        )
        self.final_layer = FinalLayer(config)

    def forward(
        self, z_BCTHW: Tensor, sigma_B: Tensor, text_BLG: Tensor, mask_BL: Tensor
    ) -> Tensor:
        """Velocity of a latent.

        Args:
            z_BCTHW: noisy latent in DiT space, height and width even.
            sigma_B: noise level of each row, from 0 (clean) to 1 (noise).
            text_BLG: text features.
            mask_BL: True where a token is valid; rows may differ, a row may have none.

        Returns:
            Velocity, float32, shaped as the latent.

        Raises:
            RequestError: shapes do not go together.
        """
        return self.velocity(z_BCTHW, sigma_B, self.prepare_text(text_BLG, mask_BL))

    def prepare_text(self, text_BLG: Tensor, mask_BL: Tensor) -> TextContext:
        """Everything about the prompts that does not depend on the step.

        Raises:
            RequestError: shapes do not go together.
        """
        self._check_text(text_BLG, mask_BL)
        mask_BL = mask_BL.bool()
        counts = tuple(int(count) for count in mask_BL.sum(dim=1).tolist())
        # Attention has no order, so valid tokens may come first whatever the mask looks like.
        order_BL = torch.argsort(~mask_BL, dim=1, stable=True)[:, : max(counts, default=0)]
        packed_BLG = text_BLG.gather(1, order_BL.unsqueeze(-1).expand(-1, -1, text_BLG.shape[-1]))
        pooled_BD = self.t5_y_embedder(text_BLG, mask_BL)
        return TextContext(self.t5_yproj(packed_BLG), counts, pooled_BD)

    def prepare_steps(
        self, sigmas: Sequence[float], contexts: Sequence[TextContext]
    ) -> StepTables | None:
        """Everything about the steps of a run that does not depend on the latent; None where that
        is switched off.

        Where they are used, the modulation layers are not: the blocks' `mod_x` and `mod_y` and the
        final layer's `mod`. They hold as long as weights and prompts stay as they are.
        """
        if not self.tabulates:
            return None
        levels_S = torch.tensor(list(sigmas), device=contexts[0].pooled.device)
        return self._tabulated(self.t_embedder(levels_S).unsqueeze(1), sigmas, contexts)

    def velocity(self, z_BCTHW: Tensor, sigma_B: Tensor, context: TextContext) -> Tensor:
        """As `forward`, for prompts that are prepared already."""
        return self.velocities(z_BCTHW, sigma_B, [context])[0]

    def velocities(
        self,
        z_BCTHW: Tensor,
        sigma: Tensor | float,
        contexts: Sequence[TextContext],
        tables: StepTables | None = None,
        before_block: Callable[[], object] | None = None,
    ) -> list[Tensor]:
        """Velocities of one latent under several prompts, in one walk through the blocks.

        Args:
            z_BCTHW: noisy latent in DiT space.
            sigma: noise level, one for all rows or one for each, `(B,)`.
            contexts: prompts for all rows, one for each velocity.
            tables: of `prepare_steps`; used if they know this level and these contexts.
            before_block: called before each block; what it raises ends the walk.

        Returns:
            A velocity for each context, float32, shaped as the latent.

        Raises:
            RequestError: shapes do not go together.
        """
        for context in contexts:
            self._check_latent(z_BCTHW, sigma, context)
        _, _, frames, height, width = z_BCTHW.shape
        size = frames, height // self.config.patch, width // self.config.patch
        x_BND = self.exchange.split_tokens(self.x_embedder(z_BCTHW))
        groups = self._groups(contexts, x_BND)
        tables, step = self._tables_for(sigma, groups, z_BCTHW.shape[0], tables)
        modulations = [tables.at(step, group) for group in groups]
        outputs = self._walk(x_BND, groups, modulations, self._means(size, tables), before_block)
        velocities: list[Tensor] = []
        for group, out_RNP in zip(groups, outputs, strict=True):
            all_RNP = self.exchange.gather_tokens(out_RNP).float()
            velocities += unpatchify(all_RNP, *size, self.config.patch).chunk(len(group))
        return velocities

    def _walk(
        self,
        x_BND: Tensor,
        groups: Sequence[Sequence[TextContext]],
        modulations: Sequence[Modulation],
        means: Means,
        before_block: Callable[[], object] | None,
    ) -> list[Tensor]:
        """Patch pixels of each group's rows, `(R, N, patch * patch * C)`."""
        streams: list[Streams] = []
        running = list(range(len(groups)))
        for index, block in enumerate(self.residency.walk(self._in_order)):
            if before_block is not None:
                before_block()
            if not streams:
                streams = [
                    block.start(x_BND.repeat(len(group), 1, 1), group, modulation, means.kernels)
                    for group, modulation in zip(groups, modulations, strict=True)
                ]
                running = self._still_running(running, groups, streams, before=True)
            for place in running:
                now, following = (
                    modulations[place].block(index),
                    modulations[place].block(index + 1),
                )
                streams[place] = block(streams[place], now, following, means)
            if index == 0:
                running = self._still_running(running, groups, streams, before=False)
            if not running:
                break
        if self.shortcut is not None:
            for place in running:
                self.shortcut.computed(groups[place][0], streams[place].x_BND)
        return [
            self.final_layer(stream.x_BND, modulation, means.kernels)
            for stream, modulation in zip(streams, modulations, strict=True)
        ]

    def _still_running(
        self,
        running: list[int],
        groups: Sequence[Sequence[TextContext]],
        streams: list[Streams],
        before: bool,
    ) -> list[int]:
        """The passes that have blocks to run, asked before or after the first of them."""
        if self.shortcut is None:
            return running
        left = []
        for place in running:
            context, stream = groups[place][0], streams[place]
            if before:
                end = self.shortcut.before_first(context, stream.x_BND, stream.normed_x)
            else:
                end = self.shortcut.after_first(context, stream.x_BND)
            if end is None:
                left.append(place)
            else:
                streams[place] = replace(stream, x_BND=end)
        return left

    @property
    def _in_order(self) -> list[AsymmBlock]:
        return cast("list[AsymmBlock]", list(self.blocks))

    def runs_together(self, tokens: int) -> bool:
        """Whether passes with so many visual tokens in all run as one batch."""
        device = self.pos_frequencies.device.type
        few = tokens <= TOGETHER_TOKENS.get(device, TOGETHER_TOKENS["cpu"])
        return self.passes == "together" or (self.passes == "auto" and few)

    def _groups(
        self, contexts: Sequence[TextContext], x_BND: Tensor
    ) -> Sequence[Sequence[TextContext]]:
        """The contexts that run as one batch each."""
        together = self.runs_together(len(contexts) * x_BND[..., 0].numel())
        if self.shortcut is None and together and TextContext.text_is_in_one_piece(contexts):
            return [contexts]
        return [[context] for context in contexts]

    def _tables_for(
        self,
        sigma: Tensor | float,
        groups: Sequence[Sequence[TextContext]],
        rows: int,
        tables: StepTables | None,
    ) -> tuple[StepTables, int]:
        """The given tables if they know this step, else new ones of this step alone."""
        if tables is not None and not isinstance(sigma, Tensor):
            step = tables.step_of(sigma)
            if step is not None and all(tables.knows(group) for group in groups):
                return tables, step
        contexts = [context for group in groups for context in group]
        if not isinstance(sigma, Tensor):
            sigma = torch.full((1,), sigma, device=contexts[0].pooled.device)
        time_1RD = self.t_embedder(sigma).unsqueeze(0)
        if time_1RD.shape[1] == rows:
            time_1RD = time_1RD.repeat(1, len(contexts), 1)
        return self._tabulated(time_1RD, [], contexts), 0

    def _tabulated(
        self, time_SRD: Tensor, sigmas: Sequence[float], contexts: Sequence[TextContext]
    ) -> StepTables:
        blocks = self.residency.walk_modulation(self._in_order)
        return tabulate(time_SRD, sigmas, contexts, blocks, len(self.blocks), self.final_layer.mod)

    def _means(self, size: tuple[int, int, int], tables: StepTables) -> Means:
        """What the blocks work with in this step; positions are made once for a run."""
        if size not in tables.places:
            where_1N3 = positions(*size, device=self.pos_frequencies.device).unsqueeze(0)
            mine_1N3 = self.exchange.split_tokens(where_1N3)
            made = None
            if mine_1N3 is where_1N3:
                made = RotaryTables.make(self.pos_frequencies, *size)
            tables.places[size] = mine_1N3[0], made
        rotary = Rotary(self.pos_frequencies, *tables.places[size])
        plain = torch.is_grad_enabled()
        kernels = PlainKernels() if plain else self.kernels.on(self.pos_frequencies.device)
        return Means(rotary, self.exchange, self.attention, kernels)

    def _check_text(self, text_BLG: Tensor, mask_BL: Tensor) -> None:
        features = self.config.text_features
        if text_BLG.ndim != 3 or text_BLG.shape[-1] != features:
            raise RequestError(
                "text",
                tuple(text_BLG.shape),
                "is not (batch, tokens, features)",
                f"(B, L, {features})",
            )
        if mask_BL.shape != text_BLG.shape[:2]:
            raise RequestError(
                "mask", tuple(mask_BL.shape), "does not cover the text", tuple(text_BLG.shape[:2])
            )

    def _check_latent(self, z_BCTHW: Tensor, sigma: Tensor | float, context: TextContext) -> None:
        shape, patch = tuple(z_BCTHW.shape), self.config.patch
        if len(shape) != 5 or shape[1] != self.config.latent_channels:
            raise RequestError(
                "latent", shape, f"is not (batch, {self.config.latent_channels}, t, h, w)"
            )
        if shape[3] % patch or shape[4] % patch or 0 in shape:
            raise RequestError(
                "latent", shape, f"has a height or width that is no multiple of {patch}"
            )
        if isinstance(sigma, Tensor) and sigma.shape != shape[:1]:
            raise RequestError("sigma", tuple(sigma.shape), "is not one per row", shape[:1])
        if len(context.counts) != shape[0]:
            raise RequestError(
                "text", len(context.counts), "is not one prompt per latent", shape[0]
            )


class PatchEmbed(nn.Module):
    """Latent to tokens: a convolution over 2 x 2 patches of each frame."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.proj = nn.Conv2d(
            config.latent_channels, config.visual_width, config.patch, stride=config.patch
        )

    def forward(self, z_BCTHW: Tensor) -> Tensor:
        """`(B, C, T, H, W)` to `(B, N, D)`, tokens in (t, h, w) order."""
        batch = z_BCTHW.shape[0]
        frames = z_BCTHW.to(self.proj.weight.dtype).transpose(1, 2).flatten(0, 1)
        patches = self.proj(frames)
        return patches.flatten(2).transpose(1, 2).reshape(batch, -1, patches.shape[1])


class FinalLayer(nn.Module):
    """Tokens to patch pixels: LayerNorm, shift and scale, a linear layer."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.mod = Linear(config.visual_width, 2 * config.visual_width)
        self.linear = Linear(config.visual_width, config.patch**2 * config.latent_channels)

    def forward(self, x_BND: Tensor, modulation: Modulation, kernels: Kernels) -> Tensor:
        """`(B, N, D)` to `(B, N, patch * patch * C)`."""
        dtype = compute_dtype(self.linear)
        return self.linear(
            kernels.shifted_norm(x_BND, modulation.scale_R1D, modulation.shift_R1D, dtype)
        )


def unpatchify(out_BNP: Tensor, frames: int, rows: int, columns: int, patch: int) -> Tensor:
    """`(B, N, patch * patch * C)`, packed (p_h, p_w, channel), to `(B, C, T, H, W)`."""
    x = out_BNP.unflatten(1, (frames, rows, columns)).unflatten(-1, (patch, patch, -1))
    return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
