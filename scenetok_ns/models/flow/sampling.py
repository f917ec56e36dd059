"""Denoising loops: windows of latents given scene tokens (parity c08), and scene tokens themselves (parity c09).

Everything that is constant over the steps is computed once: the keys and values of the scene tokens for the whole path,
the embedding of the cameras for each window. Times stay in float32 (the published inference rounds them to bfloat16).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.rectified_flow import euler_step, multistep_velocity, network_time, time_grid
from scenetok_ns.models.flow.schedules import Schedule, schedule_matrix
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.scene_generator import SceneGenerator
from scenetok_ns.models.presets import SamplerConfig, SceneSamplerConfig, Solver
from scenetok_ns.models.temporal import TemporalLayout

OnStep = Callable[[int, int], None]
"""Called as on_step(done, total) before each step and once after the last. An exception from it ends the loop."""
OnEstimate = Callable[[int, Callable[[], Float[Tensor, "b window c h w"]]], None]
"""Called as on_estimate(window_first, latents) after each step that makes no latents final. latents() computes the
clean latents that the network expects at that moment; nothing is computed unless you call it. An exception ends the
loop."""


class LastFeatures(NamedTuple):
    """Input of a depth head for a window."""

    features: Float[Tensor, "b window n hidden"]
    """Features of the denoiser before its output projection, from the last prediction with the scene."""
    poses: Float[Tensor, "b window n hidden"]
    """Embeddings of the cameras."""


@dataclass(frozen=True)
class SampledLatents:
    """Latents that have just become final, and the uncertainty of their window."""

    first: int
    latents: Float[Tensor, "b new c h w"]
    """Latents first ... first + new - 1: whole chunks of the temporal layout."""
    window_first: int
    uncertainty: Float[Tensor, "b window h w"]
    """Norm over the channels of the last conditional velocity, for the latents from `window_first` on."""
    last: LastFeatures | None = None
    """Features of the same latents; None: they were not requested."""


def path_schedule(config: SamplerConfig, num_latents: int, clean: int = 0) -> Schedule:
    """Create the schedule of a path of `num_latents` latents from `config`; see `schedule_matrix`."""
    return schedule_matrix(
        config.schedule,
        horizon=num_latents,
        steps=config.steps,
        window=config.window,
        clean_targets=config.clean_targets,
        uncertainty=config.pyramid_uncertainty,
        shift=config.timestep_shift,
        clean=clean,
    )


def sample_latents(
    denoiser: Denoiser,
    tokens: Float[Tensor, "b n dim"],
    cameras: CameraBatch,
    noise: Float[Tensor, "b latents c h w"],
    layout: TemporalLayout,
    config: SamplerConfig,
    *,
    on_step: OnStep | None = None,
    autocast: bool = False,
) -> tuple[Float[Tensor, "b latents c h w"], Float[Tensor, "b window h w"]]:
    """All latents of a path, and the uncertainty of its last window. Arguments and errors as `sample_windows`."""
    parts = list(sample_windows(denoiser, tokens, cameras, noise, layout, config, on_step=on_step, autocast=autocast))
    return torch.cat([part.latents for part in parts], dim=1), parts[-1].uncertainty


def sample_windows(
    denoiser: Denoiser,
    tokens: Float[Tensor, "b n dim"],
    cameras: CameraBatch,
    noise: Float[Tensor, "b latents c h w"],
    layout: TemporalLayout,
    config: SamplerConfig,
    *,
    clean: int = 0,
    on_step: OnStep | None = None,
    autocast: bool = False,
    features: bool = False,
    on_estimate: OnEstimate | None = None,
) -> Iterator[SampledLatents]:
    """Denoise a path window by window, and yield latents as they become final.

    Args:
        tokens: scene tokens, before projection.
        cameras: cameras of all frames of the path (whole chunks), relative to the scene's reference view.
        noise: latents from which the path starts; the network runs on their device.
        layout: temporal layout of the latents' autoencoder.
        clean: number of leading latents of `noise` that are already final (whole chunks, at most
            `config.clean_targets`). The path continues from them, and they are not yielded.
        autocast: run the network in bfloat16.
        features: also yield the last features, for a depth head.
        on_estimate: receives intermediate results; they change nothing.

    Raises (at once, not at the first window):
        ValueError: numbers of frames and latents do not agree; a window would cut a chunk in two; guidance is below 1,
            or asked of a denoiser without a null token.
    """
    schedule = checked_schedule(denoiser, cameras, noise, layout, config, clean)
    states = [denoiser.null_state(len(tokens))] if config.guidance > 1 else []
    report = on_step or no_report
    inputs = denoiser, tokens, states, cameras, noise, layout, schedule, config, report, autocast, features
    return _denoise(*inputs, on_estimate or _no_estimate)


def checked_schedule(
    denoiser: Denoiser,
    cameras: CameraBatch,
    noise: Float[Tensor, "b latents c h w"],
    layout: TemporalLayout,
    config: SamplerConfig,
    clean: int = 0,
) -> Schedule:
    """The schedule of a path, once its arguments have been found to fit together. Errors as `sample_windows`."""
    num_latents = noise.shape[1]
    if cameras.num_views != layout.num_frames(num_latents):
        raise ValueError(
            f"sample: {num_latents} latents are {layout.num_frames(num_latents)} frames, but there are "
            f"{cameras.num_views} cameras; pad the path first (rendering.pad_path)"
        )
    schedule = path_schedule(config, num_latents, clean)
    if (
        clean % layout.latents_per_chunk
        or any(start % layout.latents_per_chunk for start in schedule.window_starts)
        or (min(schedule.window, num_latents) % layout.latents_per_chunk)
    ):
        raise ValueError(
            f"sample: the {config.schedule} schedule with windows of {config.window} and {config.clean_targets} clean "
            f"latents cuts chunks of {layout.latents_per_chunk} latents in two; use full_sequence with multiples of "
            f"{layout.latents_per_chunk}"
        )
    check_guidance(config.guidance)
    if config.guidance > 1:
        denoiser.null_state(len(noise))  # a model without null token is refused before any work is done
    return schedule


@torch.no_grad()
def _denoise(
    denoiser: Denoiser,
    tokens: Tensor,
    null_states: list[Tensor],
    cameras: CameraBatch,
    noise: Tensor,
    layout: TemporalLayout,
    schedule: Schedule,
    config: SamplerConfig,
    on_step: OnStep,
    autocast: bool,
    features: bool,
    on_estimate: OnEstimate,
) -> Iterator[SampledLatents]:
    # Autocast never spans a yield: it would leak into the caller.
    precision = partial(torch.autocast, noise.device.type, torch.bfloat16, enabled=autocast)
    num_latents, chunk = noise.shape[1], layout.latents_per_chunk
    times = schedule.times.to(noise.device)
    with precision():
        contexts = [denoiser.cross_attention_kv(state) for state in (denoiser.project(tokens), *null_states)]
    x, velocities = noise.clone(), torch.zeros_like(noise)
    window, given_out = slice(0, 0), schedule.finished(0)
    poses = torch.empty(0)
    for step in range(schedule.steps):
        on_step(step, schedule.steps)
        start = schedule.window_starts[step]
        moved = slice(start, min(start + schedule.window, num_latents))
        with precision():
            if moved != window:
                window = moved
                poses = denoiser.embed_poses(cameras.select(layout.frame_slice(window.start, window.stop)))
            t_previous, t, t_next = (times[i, window].expand(len(x), -1) for i in (max(step - 1, 0), step, step + 1))
            inputs = x[:, window], poses, network_time(t)
            final = schedule.finished(step + 1) // chunk * chunk
            last = None
            if features and final > given_out:
                first, hidden = denoiser.velocity_and_features(*inputs, contexts[0])
                last = LastFeatures(hidden, poses)
            else:
                first = denoiser.velocity(*inputs, contexts[0])
            others = [denoiser.velocity(*inputs, context) for context in contexts[1:]]
            conditional, velocity = guided([first, *others], config.guidance)
        previous, velocities[:, window] = velocities[:, window].clone(), velocity
        x[:, window] = _advance(config.solver, x[:, window], velocity, previous, (t_previous, t, t_next))
        if final > given_out:
            latents, uncertainty = x[:, given_out:final].clone(), conditional.norm(dim=2)
            yield SampledLatents(given_out, latents, window.start, uncertainty, last)
            given_out = final
        else:
            on_estimate(window.start, partial(euler_step, x[:, window], velocity, t_next, torch.zeros_like(t_next)))
    on_step(schedule.steps, schedule.steps)


@torch.no_grad()
def sample_scene_tokens(
    generator: SceneGenerator,
    noise: Float[Tensor, "b n dim"],
    latents: Float[Tensor, "b v c h w"],
    cameras: CameraBatch,
    anchors: CameraBatch,
    mask: Bool[Tensor, "b v"],
    config: SceneSamplerConfig,
    *,
    on_step: OnStep | None = None,
    autocast: bool = False,
) -> Float[Tensor, "b n dim"]:
    """Generate scene tokens for the denoiser from noise, condition views and anchor poses.

    Args:
        latents: normalised latents of the condition views.
        cameras: cameras of the condition views. They and `anchors` are relative to condition view 0.
        mask: condition views to use. Guidance compares with a prediction that uses none of them, but the same anchors.

    Raises:
        ValueError: guidance is below 1.
    """
    check_guidance(config.guidance)
    report = on_step or no_report
    precision = partial(torch.autocast, noise.device.type, torch.bfloat16, enabled=autocast)
    conditions = condition_copies(latents, cameras, anchors, mask, config.guidance)
    copies = len(conditions[0]) // len(latents)
    with precision():
        context = generator.cross_attention_kv(generator.embed_condition(*conditions))
    times = time_grid(config.steps, config.timestep_shift).to(noise.device)
    x, previous = noise, torch.zeros_like(noise)
    for step in range(config.steps):
        report(step, config.steps)
        t_previous, t, t_next = (times[i].expand(noise.shape[:2]) for i in (max(step - 1, 0), step, step + 1))
        with precision():
            both = generator.velocity(x.repeat(copies, 1, 1), network_time(t).repeat(copies, 1), context)
        _, velocity = guided(both.chunk(copies), config.guidance)
        x, previous = _advance(config.solver, x, velocity, previous, (t_previous, t, t_next)), velocity
    report(config.steps, config.steps)
    return x / generator.config.scale


def condition_copies(
    latents: Tensor, cameras: CameraBatch, anchors: CameraBatch, mask: Tensor, guidance: float
) -> tuple[Tensor, CameraBatch, CameraBatch, Tensor]:
    """Conditions of a generator's predictions. With guidance, both predictions of a step form one batch: first all
    elements as given, then all without views."""
    masks = [mask, torch.zeros_like(mask)] if guidance > 1 else [mask]
    copies = len(masks)
    return latents.repeat(copies, 1, 1, 1, 1), cameras.repeat(copies), anchors.repeat(copies), torch.cat(masks)


def guided(velocities: Sequence[Tensor], guidance: float) -> tuple[Tensor, Tensor]:
    """Return the conditional velocity, and the velocity to follow: null + guidance * (conditional - null)."""
    conditional, *null = velocities
    return conditional, null[0] + guidance * (conditional - null[0]) if null else conditional


def _advance(
    solver: Solver, x: Tensor, velocity: Tensor, previous: Tensor, times: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Take one step of `solver`; `times` are the previous, the current and the next time."""
    t_previous, t, t_next = times
    if solver == "multistep":
        velocity = multistep_velocity(velocity, previous, t_previous, t, t_next)
    return euler_step(x, velocity, t, t_next)


def check_guidance(guidance: float) -> None:
    if guidance < 1:
        raise ValueError(f"sample: expected a guidance of at least 1 (1 is off), got {guidance}")


def no_report(done: int, total: int) -> None:
    pass


def _no_estimate(window_first: int, latents: Callable[[], Tensor]) -> None:
    pass
