"""Fit 3D Gaussians to pictures with known cameras."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.models.cameras import CameraBatch, camera_spread, scaled_poses
from scenetok_ns.models.metrics import ssim
from scenetok_ns.splats.gaussians import Gaussians
from scenetok_ns.splats.rasterizer import NEAR, Rasterize
from scenetok_ns.tools.seeds import seeded_generator

LEARNING_RATES = {"means": 1.6e-4, "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "sh0": 2.5e-3, "sh_rest": 1.25e-4}
"""Learning rates of 3D Gaussian splatting with one picture per step, for a world in which the spread of the cameras is
one."""
FINAL_MEANS_RATE = 0.01
"""Final learning rate of the means relative to the first; the decay is exponential."""
SSIM_WEIGHT = 0.2
OPACITY_WEIGHT, SCALE_WEIGHT = 0.01, 0.01
"""Regularisation weights of Kheradmand et al. 2024 (3D Gaussian splatting as Markov chain Monte Carlo). They make
unneeded Gaussians transparent and small."""

Parameters = dict[str, nn.Parameter]
Optimizers = dict[str, torch.optim.Optimizer]


@dataclass(frozen=True)
class FitOptions:
    """Options of a fit."""

    iterations: int = 1000
    batch_size: int = 8
    """Number of views per step."""
    seed: int = 0


class Refinement(Protocol):
    """Changes the set of Gaussians in place between steps, in a world in which the spread of the cameras is one.

    See `Relocation`.
    """

    def __call__(self, parameters: Parameters, optimizers: Optimizers, step: int, means_rate: float) -> None: ...


class Relocation:
    """gsplat's Markov chain Monte Carlo strategy.

    Dead Gaussians move to the places of others, Gaussians are added up to a total of `limit`, and positions are
    jittered. This stops for the last tenth of the iterations, so that the Gaussians settle.
    """

    def __init__(self, limit: int, iterations: int) -> None:
        from gsplat.strategy import MCMCStrategy

        self.strategy = MCMCStrategy(
            cap_max=limit, refine_start_iter=min(500, iterations // 4), refine_stop_iter=int(0.9 * iterations)
        )
        self.state = self.strategy.initialize_state()

    def __call__(self, parameters: Parameters, optimizers: Optimizers, step: int, means_rate: float) -> None:
        if step < self.strategy.refine_stop_iter:
            self.strategy.step_post_backward(parameters, optimizers, self.state, step, info={}, lr=means_rate)


def fit_gaussians(
    start: Gaussians,
    frames: Float[Tensor, "n 3 height width"],
    cameras: CameraBatch,
    options: FitOptions,
    rasterize: Rasterize,
    refine: Refinement | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Gaussians:
    """Fit Gaussians so that they look like the frames from their cameras.

    The loss is that of 3D Gaussian splatting: absolute error and structural similarity. A background of random colour
    behind every picture makes holes visible. The world is scaled for the fit and scaled back afterwards, so its units
    do not matter.

    Args:
        start: Gaussians to start from. They are not changed.
        frames: Frames in [0, 1], on the device of `start`.
        cameras: Their cameras, a batch of one.
        options: Iterations, batch size and seed.
        rasterize: Renders Gaussians, such as `gsplat_rasterize`.
        refine: Changes the set of Gaussians between steps. None: the set does not change.
        on_step: Called as on_step(done, total) after each step.

    Returns:
        The fitted Gaussians, without gradients.
    """
    size = (frames.shape[-2], frames.shape[-1])
    unit = camera_spread(cameras.c2w[0]) or 1.0
    begin = start.scaled(1 / unit)
    parameters: Parameters = {name: nn.Parameter(value.clone()) for name, value in begin.tensors().items()}
    cameras = CameraBatch(scaled_poses(cameras.c2w, 1 / unit), cameras.intrinsics)
    near = NEAR * begin.extent
    # The noise of a gradient over several views is smaller by the square root of their number.
    rates = {name: math.sqrt(options.batch_size) * rate for name, rate in LEARNING_RATES.items()}
    optimizers: Optimizers = {
        name: torch.optim.Adam([value], lr=rates[name], eps=1e-15) for name, value in parameters.items()
    }
    decay = FINAL_MEANS_RATE ** (1 / options.iterations)
    draws = seeded_generator(options.seed)
    order = epochs(len(frames), options, draws)
    backgrounds = torch.rand(options.iterations, options.batch_size, 3, 1, 1, generator=draws).to(frames.device)
    for step in range(options.iterations):
        views = order[step].to(frames.device)
        truth = frames[views]
        gaussians = Gaussians(**parameters)
        drawn = rasterize(gaussians, cameras.select(views), size, near)
        rgb = drawn.rgb + (1 - drawn.alpha) * backgrounds[step, : len(views)]
        loss = picture_loss(rgb, truth) + regularisation(gaussians)
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        rate = optimizers["means"].param_groups[0]["lr"]
        if refine is not None:
            refine(parameters, optimizers, step, rate)
        optimizers["means"].param_groups[0]["lr"] = rate * decay
        on_step(step + 1, options.iterations)
    return Gaussians(**parameters).detach().scaled(unit)


def epochs(count: int, options: FitOptions, generator: torch.Generator) -> Tensor:
    """Draw the views of each step [iterations, batch]: all views once, in random order, before any is repeated."""
    batch = min(options.batch_size, count)
    passes = -(-options.iterations * batch // count)
    order = torch.cat([torch.randperm(count, generator=generator) for _ in range(passes)])
    return order[: options.iterations * batch].reshape(options.iterations, batch)


def picture_loss(rgb: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"]) -> Float[Tensor, ""]:
    absolute = (rgb - truth).abs().mean()
    return (1 - SSIM_WEIGHT) * absolute + SSIM_WEIGHT * (1 - ssim(pred=rgb, target=truth).mean())


def regularisation(gaussians: Gaussians) -> Float[Tensor, ""]:
    return OPACITY_WEIGHT * gaussians.opacities.sigmoid().mean() + SCALE_WEIGHT * gaussians.scales.exp().mean()
