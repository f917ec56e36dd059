"""`flow.sampling.sample_windows` as CUDA graphs of one step, with everything that does not change computed once.

Keys and values of the scene tokens are computed once per scene, camera embeddings once per path, and modulations of
clean latents once per window. The layout of the weights is shared by all (`trunk.py`).
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.engine import trunk
from scenetok_ns.models.engine.options import EngineOptions
from scenetok_ns.models.engine.window import CAPACITY, DenoiserWeights, WindowKey, WindowSteps, step_table, to_device
from scenetok_ns.models.flow.rectified_flow import network_time
from scenetok_ns.models.flow.sampling import LastFeatures, OnStep, SampledLatents, checked_schedule, no_report
from scenetok_ns.models.flow.schedules import Schedule
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.ops.graphs import StepGraphs, working
from scenetok_ns.models.ops.rope import RotaryTable
from scenetok_ns.models.presets import SamplerConfig
from scenetok_ns.models.temporal import TemporalLayout

POSES_AT_ONCE = 64
"""Maximum number of latents whose cameras are embedded together, because ray maps are large."""
STEPS_AHEAD = 4
"""Maximum number of launched steps that wait for the device."""
KEPT_WINDOWS = 4
"""Maximum number of kinds of windows (batch size, guidance, ...) whose buffers and graphs are kept."""


@dataclass(frozen=True)
class Stretch:
    """Consecutive steps of one window, after the last of which `final` leading latents of the path are final."""

    steps: range
    start: int
    clean: int
    """Number of leading latents that are clean at all these steps, if skipping them saves work; otherwise 0."""
    final: int


def stretches(schedule: Schedule, num_latents: int, clean_targets: int, chunk: int) -> list[Stretch]:
    """Divide the steps of a schedule into stretches of at most CAPACITY steps."""
    first_noisy = [next((i for i, t in enumerate(row) if t > 0), num_latents) for row in schedule.times.tolist()]
    finals = [count // chunk * chunk for count in first_noisy]
    found: list[Stretch] = []
    for step in range(schedule.steps):
        start = schedule.window_starts[step]
        clean = clean_targets if first_noisy[step] - start >= clean_targets else 0
        own = Stretch(range(step, step + 1), start, clean, finals[step + 1])
        last = found[-1] if found else None
        # A step that makes latents final ends its stretch: they are yielded before the next one.
        goes_on = last is not None and finals[step] == finals[step - 1] and len(last.steps) < CAPACITY
        if last is not None and goes_on and (last.start, last.clean) == (start, clean):
            found[-1] = replace(own, steps=range(last.steps.start, step + 1))
        else:
            found.append(own)
    return found


class DenoisingEngine:
    """Denoises windows with a copy of a denoiser's weights. Use it from one thread at a time.

    Several paths may be in progress, as long as only one window is computed at a time.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        device: torch.device,
        options: EngineOptions,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        """`stream`: CUDA stream that all work runs on. CUDA graphs need a stream other than the default one."""
        self._denoiser, self._options = denoiser, options
        self.device = device
        self._weights = DenoiserWeights.of(denoiser, device, options.dtype)
        # Cameras and times are embedded in float32, because this is a small part of the work.
        self._pose_embed = copy.deepcopy(denoiser.pose_embed).to(device).float().eval()
        self._t_embedder = copy.deepcopy(denoiser.model.t_embedder).to(device).float()
        project = denoiser.cnd_proj
        self._project = tuple(tensor.detach().to(device, options.dtype) for tensor in (project.weight, project.bias))
        self._windows: dict[WindowKey, WindowSteps] = {}
        self._scene_of: dict[WindowKey, object] = {}
        self._stream = stream
        self._under_way: deque[torch.cuda.Event] = deque()

    def sample_windows(
        self,
        tokens: Float[Tensor, "b n dim"],
        cameras: CameraBatch,
        noise: Float[Tensor, "b latents c h w"],
        layout: TemporalLayout,
        config: SamplerConfig,
        *,
        clean: int = 0,
        on_step: OnStep | None = None,
        features: bool = False,
    ) -> Iterator[SampledLatents]:
        """Same contract as `flow.sampling.sample_windows`; the tensors are valid on the engine's stream."""
        schedule = checked_schedule(self._denoiser, cameras, noise, layout, config, clean)
        return self._denoise(tokens, cameras, noise, layout, schedule, config, on_step or no_report, features)

    def _denoise(
        self,
        tokens: Tensor,
        cameras: CameraBatch,
        noise: Tensor,
        layout: TemporalLayout,
        schedule: Schedule,
        config: SamplerConfig,
        on_step: OnStep,
        features: bool,
    ) -> Iterator[SampledLatents]:
        with working(self._stream):
            path = _Path.start(self, tokens, cameras, noise, layout, schedule, config, features)
            plan = stretches(schedule, noise.shape[1], config.clean_targets, layout.latents_per_chunk)
            # Prepared in the reverse order: the largest graph sets the size of the memory that they share.
            steps = self._window_steps(path.key)
            for clean in sorted({stretch.clean for stretch in plan}):
                steps.prepare(clean)
        given_out = schedule.finished(0)
        for stretch in plan:
            with working(self._stream):
                self._run(path, self._window_steps(path.key), stretch, on_step, schedule.steps)
                part = path.final_latents(given_out, stretch) if stretch.final > given_out else None
            if part is not None:
                given_out = stretch.final
                yield part
        on_step(schedule.steps, schedule.steps)

    def _run(self, path: _Path, steps: WindowSteps, stretch: Stretch, on_step: OnStep, total: int) -> None:
        window = slice(stretch.start, stretch.start + path.key.latents)
        rows = slice(stretch.steps.start, stretch.steps.stop)
        steps.prepare(stretch.clean)  # again, if other kinds of windows have displaced this one meanwhile
        if self._scene_of.get(path.key) is not path:
            steps.load_scene(path.keys, path.values, path.guidance)
            self._scene_of[path.key] = path
        steps.load(
            path.x[:, window],
            None if path.velocities is None else path.velocities[:, window],
            path.poses[:, window],
            self._t_embedder(network_time(path.times[rows, window])),
            path.advance[rows, :, window],
            stretch.clean,
        )
        for step in stretch.steps:
            on_step(step, total)
            steps.step(stretch.clean)
            self._keep_close()
        path.x[:, window] = steps.x
        if path.velocities is not None:
            path.velocities[:, window] = steps.previous
        path.conditional, path.features = steps.conditional, steps.features

    def _keep_close(self) -> None:
        """Wait until at most STEPS_AHEAD steps are waiting for the device. Otherwise the last step would be launched
        before the first one is done, and neither progress reports nor interrupts would have any effect."""
        if self._stream is None:
            return
        self._under_way.append(self._stream.record_event())
        if len(self._under_way) > STEPS_AHEAD:
            self._under_way.popleft().synchronize()

    def _window_steps(self, key: WindowKey) -> WindowSteps:
        if key not in self._windows:
            while len(self._windows) >= KEPT_WINDOWS:
                oldest = next(iter(self._windows))
                del self._windows[oldest]
                self._scene_of.pop(oldest, None)
            graphs = StepGraphs() if self._options.graphs else None
            rotary = self._denoiser.rotary(key.latents, self.device)
            low_vram = self._options.low_vram
            self._windows[key] = WindowSteps(self._weights, key, rotary, graphs, low_vram=low_vram)
        return self._windows[key]

    def states(self, tokens: Tensor, with_null: bool) -> Tensor:
        """Return the states that the blocks attend to. With guidance, null states for all elements follow."""
        state = F.linear(tokens.to(self._project[0].dtype), *self._project)
        if not with_null:
            return state
        # All null tokens are equal, so attention to as many as the scene has gives the same result as to one.
        null = self._denoiser.null_state(len(tokens))[:, : state.shape[1]]
        return torch.cat([state, null.to(state)])

    def embed_poses(self, cameras: CameraBatch, layout: TemporalLayout) -> Float[Tensor, "b l n hidden"]:
        """Embed the cameras of a whole path in pieces; the embeddings of different latents are independent."""
        chunk = max(POSES_AT_ONCE // layout.latents_per_chunk, 1) * layout.frames_per_chunk
        pieces = range(0, cameras.num_views, chunk)
        embedded = [self._pose_embed(cameras.select(slice(i, i + chunk))) for i in pieces]
        return self._denoiser.rounded_poses(torch.cat(embedded, dim=1))

    def embed_times(self, t_net: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch hidden"]:
        """Embed network times in float32."""
        return self._t_embedder(t_net)

    def rotary(self, num_latents: int) -> RotaryTable:
        """Return the rotation table of a window, on the device."""
        return self._denoiser.rotary(num_latents, self.device)

    @property
    def weights(self) -> DenoiserWeights:
        return self._weights

    @property
    def options(self) -> EngineOptions:
        return self._options

    @property
    def stream(self) -> torch.cuda.Stream | None:
        """CUDA stream that all work runs on; None: the CPU."""
        return self._stream


@dataclass
class _Path:
    """A path that is being denoised, and what was computed for it."""

    key: WindowKey
    keys: Tensor
    values: Tensor
    guidance: float
    poses: Float[Tensor, "b latents n hidden"]
    times: Float[Tensor, "steps latents"]
    advance: Float[Tensor, "steps 2 latents"]
    """Length of each step, and the weight of the change of velocity in it."""
    x: Float[Tensor, "b latents c h w"]
    velocities: Float[Tensor, "b latents c h w"] | None
    conditional: Tensor | None = None
    features: Tensor | None = None

    @classmethod
    def start(
        cls,
        engine: DenoisingEngine,
        tokens: Tensor,
        cameras: CameraBatch,
        noise: Tensor,
        layout: TemporalLayout,
        schedule: Schedule,
        config: SamplerConfig,
        features: bool,
    ) -> _Path:
        copies = 2 if config.guidance > 1 else 1
        keys, values = trunk.keys_values(engine.weights.trunk, engine.states(tokens.to(engine.device), copies == 2))
        multistep = config.solver == "multistep"
        latents = min(schedule.window, noise.shape[1])
        x = noise.to(engine.device, torch.float32, copy=True)
        return cls(
            key=WindowKey(len(tokens), latents, copies, keys.shape[3], multistep, features),
            keys=keys,
            values=values,
            guidance=config.guidance,
            poses=engine.embed_poses(cameras.to(engine.device), layout),
            times=to_device(schedule.times[:-1], engine.device),
            advance=step_table(schedule.times, engine.device),
            x=x,
            velocities=torch.zeros_like(x) if multistep else None,
        )

    def final_latents(self, first: int, stretch: Stretch) -> SampledLatents:
        assert self.conditional is not None
        latents = self.x[:, first : stretch.final].clone()
        uncertainty = self.conditional.norm(dim=2)
        if self.features is None:
            return SampledLatents(first, latents, stretch.start, uncertainty)
        poses = self.poses[:, stretch.start : stretch.start + self.key.latents]
        features = self.features.unflatten(1, poses.shape[1:3]).clone()
        return SampledLatents(first, latents, stretch.start, uncertainty, LastFeatures(features, poses))
