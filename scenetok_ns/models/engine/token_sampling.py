"""`flow.sampling.sample_scene_tokens` as CUDA graphs of one step; see `denoising.py`.

All tokens have one time, so the modulations of a step are a single row and are computed for many steps ahead.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.engine import trunk
from scenetok_ns.models.engine.options import EngineOptions
from scenetok_ns.models.engine.window import step_table
from scenetok_ns.models.flow.rectified_flow import network_time, time_grid
from scenetok_ns.models.flow.sampling import OnStep, check_guidance, condition_copies, no_report
from scenetok_ns.models.networks.scene_generator import SceneGenerator
from scenetok_ns.models.ops.graphs import StepGraphs, working
from scenetok_ns.models.presets import SceneSamplerConfig

AHEAD = 64
"""Maximum number of steps whose modulations are on the device at once."""


@dataclass(frozen=True)
class TokenKey:
    """Everything that determines the shapes and the arithmetic of a step."""

    batch: int
    copies: int
    num_keys: int
    multistep: bool


class TokenSteps:
    """Scene tokens on their way from noise to data; used as `window.WindowSteps`."""

    def __init__(
        self, weights: trunk.TrunkWeights, embed: tuple[Tensor, Tensor, Tensor], key: TokenKey, graphs: bool
    ) -> None:
        """`embed`: Weight and bias that embed the tokens, and the embedding of their places."""
        self.weights, self.key = weights, key
        self._embed, self._graphs = embed, StepGraphs() if graphs else None
        dtype, device = weights.modulation.dtype, weights.modulation.device
        depth, d = weights.cross_k_norm.shape
        hidden, dim = embed[0].shape

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, device=device, dtype=dtype)

        self.x = zeros(key.batch, embed[2].shape[1], dim)
        self._previous = zeros(*self.x.shape)
        self._modulation = zeros(AHEAD, len(weights.modulation), dtype=dtype)
        self._advance = zeros(AHEAD, 2)
        self._index = zeros(1, dtype=torch.int64)
        self._guidance = zeros(1)
        shape = (depth, key.copies * key.batch, hidden // d, key.num_keys, d)
        self._keys, self._values = zeros(*shape, dtype=dtype), zeros(*shape, dtype=dtype)

    def load(self, noise: Tensor, keys: Tensor, values: Tensor, guidance: float) -> None:
        self.x.copy_(noise)
        self._keys.copy_(keys)
        self._values.copy_(values)
        self._guidance.fill_(guidance)

    def load_steps(self, times: Float[Tensor, "steps hidden"], advance: Float[Tensor, "steps 2"]) -> None:
        """Load the time embeddings of at most AHEAD steps, and their lengths and weights (`window.step_table`)."""
        condition = F.silu(times).to(self._modulation.dtype)
        trunk.modulations(self.weights, condition, out=self._modulation[: len(times)])
        self._advance[: len(advance)].copy_(advance)
        self._index.zero_()

    def prepare(self) -> None:
        if self._graphs is not None:
            self._graphs.capture(self.key, self._step)

    def step(self) -> None:
        if self._graphs is None:
            self._step()
        else:
            self._graphs.replay(self.key)

    def _step(self) -> None:
        weight, bias, places = self._embed
        length, change_weight = self._advance.index_select(0, self._index)[0]
        tokens = F.linear(self.x.to(weight.dtype), weight, bias) + places
        velocities = trunk.trunk_forward(
            self.weights,
            tokens.expand(self.key.copies, *tokens.shape).contiguous(),
            self._modulation.index_select(0, self._index)[None],
            self._keys,
            self._values,
            None,
        ).float()
        velocity = velocities[0]
        if self.key.copies == 2:
            velocity = velocities[1] + self._guidance * (velocities[0] - velocities[1])
        if self.key.multistep:
            change = velocity - self._previous
            self._previous.copy_(velocity)
            velocity = velocity + change_weight * change
        self.x.add_(length * velocity)
        self._index.add_(1)


class TokenEngine:
    """Samples scene tokens with a copy of a generator's weights. Use it from one thread at a time."""

    def __init__(
        self,
        generator: SceneGenerator,
        device: torch.device,
        options: EngineOptions,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        self.device, self._options = device, options
        model = generator.model
        # Conditions and times are embedded by a copy of the generator without its blocks.
        shell = copy.deepcopy(generator, {id(model.blocks): nn.ModuleList()})
        self._generator = shell.to(device).eval()
        self._weights = trunk.trunk_weights(model, device, options.dtype)
        embed = (model.x_embedder.weight, model.x_embedder.bias, model.pos_embed)
        self._embed = tuple(tensor.detach().to(device, options.dtype) for tensor in embed)
        self._steps: tuple[TokenKey, TokenSteps] | None = None
        self._stream = stream

    def sample_scene_tokens(
        self,
        noise: Float[Tensor, "b n dim"],
        latents: Float[Tensor, "b v c h w"],
        cameras: CameraBatch,
        anchors: CameraBatch,
        mask: Bool[Tensor, "b v"],
        config: SceneSamplerConfig,
        *,
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "b n dim"]:
        """Same contract as `flow.sampling.sample_scene_tokens`."""
        check_guidance(config.guidance)
        report = on_step or no_report
        with working(self._stream):
            context = self._context(latents, cameras, anchors, mask, config.guidance)
            keys, values = trunk.keys_values(self._weights, context)
            key = TokenKey(len(noise), len(context) // len(noise), keys.shape[3], config.solver == "multistep")
            steps = self._steps_of(key)
            steps.prepare()
            steps.load(noise, keys, values, config.guidance)
            times = time_grid(config.steps, config.timestep_shift)
            advance = step_table(times[:, None], self.device)[..., 0]
            moments = network_time(times[:-1]).to(self.device)
            for first in range(0, config.steps, AHEAD):
                ahead = slice(first, first + AHEAD)
                with torch.autocast(self.device.type, self._options.dtype, enabled=self._options.autocasts):
                    embedded = self._generator.model.t_embedder(moments[ahead])
                steps.load_steps(embedded.float(), advance[ahead])
                for step in range(first, min(first + AHEAD, config.steps)):
                    report(step, config.steps)
                    steps.step()
            tokens = steps.x / self._generator.config.scale
        report(config.steps, config.steps)
        return tokens

    def _context(
        self, latents: Tensor, cameras: CameraBatch, anchors: CameraBatch, mask: Tensor, guidance: float
    ) -> Tensor:
        arguments = condition_copies(latents, cameras, anchors, mask, guidance)
        with torch.autocast(self.device.type, self._options.dtype, enabled=self._options.autocasts):
            return self._generator.embed_condition(*arguments)

    def _steps_of(self, key: TokenKey) -> TokenSteps:
        if self._steps is None or self._steps[0] != key:
            self._steps = None  # frees the memory first
            self._steps = key, TokenSteps(self._weights, self._embed, key, self._options.graphs)  # type: ignore[arg-type]
        return self._steps[1]
