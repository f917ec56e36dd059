"""Train few-step students: causal ones that stream, or ones that denoise windows.

The student starts from the denoiser's own weights and learns to predict final latents from the few noise levels that it
is used at. A causal student sees earlier chunks as a stream does, in one pass over the window with a block-causal mask.

First the levels lie on the line between noise and the true latents (teacher forcing). Then they come from the student's
own rollout, so that it sees its own past, as in use (Self Forcing, 2506.08009; there, too, gradients pass through the
chosen step alone). The loss is a regression, not distribution matching: scene tokens nearly determine the picture, so
there is little choice that a mean could blur, and neither a second network nor its updates are needed.

Where the sampler of the trained network takes many steps, its samples are the targets, and the student starts from the
same noise (pairs of reflow, 2209.03003, and of CausVid's first stage, 2412.07772). Causal Forcing (2602.02214, and
2605.15141 with consistency distillation) shows that pairs of a sampler that sees the future leave a causal student with
a mean over that future. Here that future is only what the scene tokens leave open.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.losses import LatentViews, mean_square
from scenetok_ns.models.flow.rectified_flow import euler_step, interpolate, network_time, time_grid
from scenetok_ns.models.flow.sampling import sample_latents
from scenetok_ns.models.flow.streaming import rotary_rows
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.layers import KeyValues
from scenetok_ns.models.ops.rope import apply_rotary
from scenetok_ns.models.presets import Preset, SamplerConfig
from scenetok_ns.models.student_weights import OWN_STEPS
from scenetok_ns.models.temporal import TemporalLayout

SAME_NOISE = 0.5
"""Share of batch elements whose chunks all start from the same noise, as in streams."""
CONTINUED = 0.5
"""Share of batch elements of a window student that begin with final latents, as windows after the first do."""


@dataclass(frozen=True)
class StudentRecipe:
    """How a student will be used; its training imitates this."""

    steps: int
    causal: bool
    timestep_shift: float | None
    chunk: int
    """Number of latents per chunk of the temporal layout."""
    clean_targets: int
    """Number of final latents at the start of each window after the first."""

    @classmethod
    def of(cls, preset: Preset, layout: TemporalLayout, steps: int, causal: bool) -> StudentRecipe:
        sampler = preset.sampler
        return cls(steps, causal, sampler.timestep_shift, layout.latents_per_chunk, sampler.clean_targets)

    def times(self, device: torch.device) -> Float[Tensor, " steps+1"]:
        return _times(self.steps, self.timestep_shift, device)


@cache
def _times(steps: int, shift: float | None, device: torch.device) -> Float[Tensor, " steps+1"]:
    """Times on a device. They are cached, because a recorded step (CUDA graph) cannot copy from CPU memory."""
    return time_grid(steps, shift).to(device)


@dataclass(frozen=True)
class StudentDraws:
    """Random numbers of one training step."""

    noise: Float[Tensor, "b l c h w"]
    step: Int[Tensor, " b"]
    """Denoising step at which each element is trained."""
    continued: Bool[Tensor, " b"]
    """Whether the first latents of each element are final. Only window students have such elements."""


@dataclass(frozen=True)
class Estimates:
    """Final latents as a student predicts them."""

    latents: Float[Tensor, "b l c h w"]
    counts: Float[Tensor, "b l"]
    """1 for predicted latents, 0 for given ones."""

    def loss(self, target: Float[Tensor, "b l c h w"]) -> Float[Tensor, ""]:
        """Compute the mean squared error of the predicted latents."""
        error = mean_square(self.latents.flatten(0, 1), target.flatten(0, 1)).view(self.counts.shape)
        return (error * self.counts).sum() / self.counts.sum()


def learns_from_samples(preset: Preset) -> bool:
    """Whether a student's targets are samples of the trained network. Otherwise they are the latents of the data."""
    return preset.sampler.steps > OWN_STEPS


def draw_student(
    generator: torch.Generator, shape: tuple[int, int, int, int, int], recipe: StudentRecipe
) -> StudentDraws:
    """Draw the random numbers of one step for latents of shape `shape`, on the generator's device."""
    device, b = generator.device, shape[0]
    noise = torch.randn(shape, generator=generator, device=device)
    same = torch.rand(b, 1, 1, 1, 1, generator=generator, device=device) < SAME_NOISE
    noise = torch.where(same, noise[:, : recipe.chunk].repeat(1, shape[1] // recipe.chunk, 1, 1, 1), noise)
    step = torch.randint(recipe.steps, (b,), generator=generator, device=device)
    return StudentDraws(noise, step, torch.rand(b, generator=generator, device=device) < CONTINUED)


def student_estimates(
    student: Denoiser,
    state: Float[Tensor, "b n hidden"],
    target: LatentViews,
    draws: StudentDraws,
    recipe: StudentRecipe,
    *,
    own: bool,
) -> Estimates:
    """Predict the final latents of windows, each element from the noise level of its step.

    Args:
        student: Network that learns; gradients pass through its last prediction alone.
        state: Result of `Denoiser.project` of the scene tokens.
        target: Final latents, with the cameras of their frames relative to the scene's reference.
        draws: Random numbers of this step.
        recipe: How the student will be used.
        own: Take the noise levels from the student's own rollout; False: interpolate between noise and target.
    """
    poses = student.embed_poses(target.cameras)
    times, latents = recipe.times(draws.noise.device), target.latents.float()
    head = _given_latents(draws, recipe)
    if recipe.steps == 1:
        levels = draws.noise[None]
    elif own:
        with torch.no_grad():
            context = student.cross_attention_kv(state)
            if recipe.causal:
                levels = stream_levels(student, context, poses, draws.noise, times, recipe.chunk)
            else:
                levels = window_levels(student, context, poses, torch.where(head, latents, draws.noise), times, head)
    else:
        lines = [interpolate(latents, draws.noise, t.expand(latents.shape[:2])) for t in times[:-1]]
        levels = torch.stack(lines)
    rows = torch.arange(len(latents), device=latents.device)
    noisy = levels[draws.step, rows]
    t = times[draws.step][:, None].expand(latents.shape[:2])
    if recipe.causal:
        last = times[-2].expand(latents.shape[:2])
        past = None if recipe.steps == 1 else (levels[-1], network_time(last))
        velocity = student.velocity_causal(noisy, poses, network_time(t), state, recipe.chunk, past)
    else:
        t = t.masked_fill(head[..., 0, 0, 0], 0.0)
        noisy = torch.where(head, latents, noisy)
        velocity = student.velocity(noisy, poses, network_time(t), state)
    estimate = euler_step(noisy, velocity.float(), t, torch.zeros_like(t))
    return Estimates(estimate, (t > 0).float())


def _given_latents(draws: StudentDraws, recipe: StudentRecipe) -> Bool[Tensor, "b l 1 1 1"]:
    """Mark the latents of a window student that are final from the start."""
    length = draws.noise.shape[1]
    count = min(recipe.clean_targets, length - recipe.chunk) // recipe.chunk * recipe.chunk
    first = torch.arange(length, device=draws.noise.device) < (0 if recipe.causal else count)
    return (draws.continued[:, None] & first)[:, :, None, None, None]


def stream_levels(
    student: Denoiser,
    context: list[KeyValues],
    poses: Float[Tensor, "b l n hidden"],
    noise: Float[Tensor, "b l c h w"],
    times: Float[Tensor, " steps+1"],
    chunk: int,
) -> Float[Tensor, "steps b l c h w"]:
    """Return the inputs of every step of a stream over one window. Like `LatentStream`, but no chunk is forgotten."""
    steps, tokens = len(times) - 1, chunk * student.positions
    table = student.rotary(noise.shape[1], noise.device)
    past: list[KeyValues] = [(keys[:, :, :0], values[:, :, :0]) for keys, values in context]
    chunks = []
    for place, x in enumerate(noise.split(chunk, dim=1)):
        rotary, own = rotary_rows(table, place, tokens), past
        inputs = []
        for step in range(steps):
            inputs.append(x)
            t, after = (times[k].expand(x.shape[:2]) for k in (step, step + 1))
            seen = poses[:, place * chunk : (place + 1) * chunk]
            velocity, own = student.forward_after(x, seen, network_time(t), context, rotary, past)
            x = euler_step(x, velocity.float(), t, after)
        chunks.append(torch.stack(inputs))
        past = [
            (torch.cat([before[0], apply_rotary(mine[0], rotary)], dim=2), torch.cat([before[1], mine[1]], dim=2))
            for before, mine in zip(past, own, strict=True)
        ]
    return torch.cat(chunks, dim=2)


def window_levels(
    student: Denoiser,
    context: list[KeyValues],
    poses: Float[Tensor, "b l n hidden"],
    start: Float[Tensor, "b l c h w"],
    times: Float[Tensor, " steps+1"],
    head: Bool[Tensor, "b l 1 1 1"],
) -> Float[Tensor, "steps b l c h w"]:
    """Return the inputs of every step of a window in which the latents marked by `head` are final."""
    x, inputs, given = start, [start], head[..., 0, 0, 0]
    for now, after in pairwise(times[:-1]):
        t, t_next = (value.expand(x.shape[:2]).masked_fill(given, 0.0) for value in (now, after))
        x = euler_step(x, student.velocity(x, poses, network_time(t), context).float(), t, t_next)
        inputs.append(x)
    return torch.stack(inputs)


@torch.no_grad()
def sampled_target(
    teacher: Denoiser,
    tokens: Float[Tensor, "b n dim"],
    cameras: CameraBatch,
    noise: Float[Tensor, "b l c h w"],
    layout: TemporalLayout,
    sampler: SamplerConfig,
) -> LatentViews:
    """Sample a window from its noise with the trained network, as targets instead of the latents of the data."""
    latents, _ = sample_latents(teacher, tokens, cameras, noise, layout, sampler)
    return LatentViews(latents, cameras)
