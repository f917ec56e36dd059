"""The steps of one window of latents, on buffers at fixed addresses, so that a step can be a CUDA graph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.engine import trunk
from scenetok_ns.models.flow.rectified_flow import multistep_ratio
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.layers import embed_patches
from scenetok_ns.models.ops.graphs import StepGraphs
from scenetok_ns.models.ops.rope import RotaryTable

CAPACITY = 64
"""Number of steps whose time embeddings are on the device at once; must be even."""
TOGETHER, FEW_ROWS = 2, 512
"""Steps whose modulations are computed together where a window has few rows. They alone (256, where half of the latents
are clean) leave the product waiting for its 300 MB of weights: on an H100 a step's part takes 119 us instead of 145."""


@dataclass(frozen=True)
class DenoiserWeights:
    """Weights and sizes of a denoiser that a step needs, in the engine's precision."""

    trunk: trunk.TrunkWeights
    patches: Tensor
    patches_bias: Tensor | None
    latent_shape: tuple[int, int, int]
    grid: tuple[int, int]
    patch_size: int

    @classmethod
    def of(cls, denoiser: Denoiser, device: torch.device, dtype: torch.dtype) -> DenoiserWeights:
        embed = denoiser.model.x_embedder.proj
        return cls(
            trunk=trunk.trunk_weights(denoiser.model, device, dtype),
            patches=embed.weight.detach().to(device, dtype),
            patches_bias=None if embed.bias is None else embed.bias.detach().to(device, dtype),
            latent_shape=denoiser.latent_shape,
            grid=denoiser.grid,
            patch_size=denoiser.config.patch_size,
        )


@dataclass(frozen=True)
class WindowKey:
    """Everything that determines the shapes and the arithmetic of a step."""

    batch: int
    latents: int
    copies: int
    """2 with guidance, which needs a second prediction without the scene for each element; otherwise 1."""
    num_tokens: int
    multistep: bool
    features: bool = False
    """Whether the last features are kept, for the depth head."""


class WindowSteps:
    """Latents of a window on their way from noise to data.

    Call `load` with the tables of a stretch of steps, then `step` for each of them, then read `x`, `previous`,
    `conditional` and `features`.
    Nothing here waits for the device.
    """

    def __init__(
        self,
        weights: DenoiserWeights,
        key: WindowKey,
        rotary: RotaryTable,
        graphs: StepGraphs | None,
        *,
        low_vram: bool = False,
    ) -> None:
        """`low_vram`: Compute the modulations of one step at a time, which halves the largest buffer."""
        self.weights, self.key, self.rotary, self._graphs = weights, key, rotary, graphs
        dtype, device = weights.patches.dtype, weights.patches.device
        depth, d = weights.trunk.cross_k_norm.shape
        hidden = weights.trunk.modulation.shape[1]
        b, w, positions = key.batch, key.latents, weights.grid[0] * weights.grid[1]

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, device=device, dtype=dtype)

        self.x = zeros(b, w, *weights.latent_shape)
        self.previous = zeros(*self.x.shape)
        """Velocity of the previous step, for the multistep solver."""
        self.conditional = zeros(*self.x.shape)
        """Velocity that was predicted with the scene at the last step."""
        self.features = zeros(b, w * positions, hidden, dtype=dtype) if key.features else None
        """Features before the output projection, predicted with the scene at the last step."""
        self._together = TOGETHER if b * w * positions <= FEW_ROWS and not low_vram else 1
        self._poses = zeros(w, positions, 1, b, hidden)
        self._times = zeros(CAPACITY, w, hidden)
        self._advance = zeros(CAPACITY, 2, w)
        self._index = torch.arange(self._together, device=device)
        """Numbers of this step and of the following steps whose modulations are computed together with it."""
        self._done = 0
        self._guidance = zeros(1)
        # Latents first: those that move are one block of rows, for all steps and elements of the batch.
        self._modulation = zeros(w * positions, self._together, b, len(weights.trunk.modulation), dtype=dtype)
        self._keys, self._values = (
            zeros(depth, key.copies * b, hidden // d, key.num_tokens, d, dtype=dtype) for _ in range(2)
        )

    def load_scene(self, keys: Tensor, values: Tensor, guidance: float) -> None:
        """Load keys and values of the scene tokens, those of all conditional elements first (`trunk.keys_values`)."""
        self._keys.copy_(keys)
        self._values.copy_(values)
        self._guidance.fill_(guidance)

    def load(
        self,
        x: Float[Tensor, "b w c h w2"],
        previous: Float[Tensor, "b w c h w2"] | None,
        poses: Float[Tensor, "b w n hidden"],
        times: Float[Tensor, "steps w hidden"],
        advance: Float[Tensor, "steps 2 w"],
        clean: int,
    ) -> None:
        """Load what changes from window to window.

        Args:
            times: Embeddings of the latents' times at each of at most CAPACITY steps.
            advance: Length of each step, and the weight of the change of velocity (multistep only).
            clean: Number of leading latents that are clean at all these steps.
        """
        self.x.copy_(x)
        if previous is not None:
            self.previous.copy_(previous)
        self._poses.copy_(poses.permute(1, 2, 0, 3)[:, :, None])
        self._times[: len(times)].copy_(times)
        self._advance[: len(advance)].copy_(advance)
        self._restart()
        if clean:  # their time never changes, so neither do their modulations
            self._modulate(self._times[:1].expand(self._together, -1, -1), 0, clean)

    def step(self, clean: int) -> None:
        """Take one step of all latents except the first `clean`, whose time is 0 and which do not change."""
        which = self._done % self._together
        self._done += 1
        if self._graphs is None:
            self._step(clean, which)
        else:
            self._graphs.replay((self.key, clean, which))

    def prepare(self, clean: int) -> None:
        """Capture the graphs of `step(clean)`. Call this before `load`, because capturing overwrites the buffers."""
        if self._graphs is None:
            return
        self._restart()  # the last stretch may have left the index behind the last step there is room for
        for which in range(self._together):
            self._graphs.capture((self.key, clean, which), partial(self._step, clean, which))

    def _restart(self) -> None:
        self._index.sub_(self._index[:1].clone())
        self._done = 0

    def _step(self, clean: int, which: int) -> None:
        """`which`: Index of the step among those whose modulations are computed together."""
        advance = self._advance.index_select(0, self._index[:1])[0, :, None, :, None, None, None]
        if which == 0:
            self._modulate(self._times.index_select(0, self._index), clean, self.key.latents)
        conditional, velocity = self._velocity(self._modulation[:, which])
        self.conditional.copy_(conditional)
        length, weight = advance
        if self.key.multistep:
            change = velocity - self.previous
            self.previous.copy_(velocity)
            velocity = velocity + weight * change
        self.x.addcmul_(length, velocity)
        self._index.add_(1)

    def _modulate(self, times: Float[Tensor, "steps w hidden"], start: int, stop: int) -> None:
        positions = self._poses.shape[1]
        embedded = times[:, start:stop].transpose(0, 1)[:, None, :, None]
        condition = F.silu(embedded + self._poses[start:stop]).to(self._modulation.dtype)
        rows = self._modulation[start * positions : stop * positions]
        trunk.modulations(self.weights.trunk, condition.flatten(0, 3), out=rows.flatten(0, 2))

    def _velocity(self, modulation: Float[Tensor, "n b all"]) -> tuple[Tensor, Tensor]:
        """Return the velocity with the scene, and the velocity to follow."""
        weights, copies = self.weights, self.key.copies
        x = embed_patches(self.x.to(weights.patches.dtype), weights.patches, weights.patches_bias).flatten(1, 2)
        patches = trunk.trunk_forward(
            weights.trunk,
            x.expand(copies, *x.shape).contiguous(),
            modulation.transpose(0, 1),
            self._keys,
            self._values,
            self.rotary,
            self.features,
        )
        h, w = weights.grid
        p = weights.patch_size
        maps = rearrange(patches, "k b (l h w) (p q c) -> k b l c (h p) (w q)", h=h, w=w, p=p, q=p).float()
        if copies == 1:
            return maps[0], maps[0]
        conditional, null = maps
        return conditional, null + self._guidance * (conditional - null)


def step_table(times: Float[Tensor, "steps+1 latents"], device: torch.device) -> Float[Tensor, "steps 2 latents"]:
    """Return the length of each step in time, and the weight of the last change of velocity in it.

    `flow.rectified_flow.multistep_ratio` defines the weight.
    """
    now, after = times[:-1], times[1:]
    before = torch.cat([now[:1], now[:-1]])
    return to_device(torch.stack([after - now, multistep_ratio(before, now, after)], dim=1), device)


def to_device(table: Tensor, device: torch.device) -> Tensor:
    """Copy a table, usually from the CPU, to the device without waiting for the device."""
    if device.type != "cuda" or table.is_cuda:
        return table.to(device)
    return table.pin_memory().to(device, non_blocking=True)
