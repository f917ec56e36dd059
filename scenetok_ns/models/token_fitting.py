"""Fit scene tokens to photographs: a few steps of gradient descent on the tokens, with frozen networks.

Generation and compression turn photographs into tokens without a look at the result, so a render from a photograph's
own camera differs from the photograph. A few steps that compare the two move the tokens to a scene nearby that shows
the photographs better. Unlike refinement (`training.scene_refinement`), fitting takes seconds and trains no adapters,
and any run of the same networks renders the result.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch, relative_cameras
from scenetok_ns.models.flow.rectified_flow import euler_step, network_time
from scenetok_ns.models.flow.sampling import OnStep
from scenetok_ns.models.inputs import as_images, check_cameras, check_kind, check_seeds, check_views
from scenetok_ns.models.ops.finite import require_finite
from scenetok_ns.models.quirks import network_cameras
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.tokens import SceneTokens

if TYPE_CHECKING:
    from scenetok_ns.models.inputs import Pictures

MOST_VIEWS = 4
"""Maximum number of photographs per step. If there are more, each step draws some of them at random."""
RATE = 0.05
"""Adam's learning rate in the first step, relative to the standard deviation of the tokens; falls to 0 linearly."""
SQUARE = 10.0
"""Weight of the mean squared error, relative to the mean absolute error."""


def fit_tokens(
    model: SceneTok,
    tokens: SceneTokens,
    images: Pictures,
    cameras: CameraBatch,
    *,
    steps: int = 20,
    seed: int = 0,
    on_step: OnStep | None = None,
    autocast: bool | None = None,
) -> SceneTokens:
    """Optimise tokens so that renders from the photographs' cameras look more like the photographs.

    Each step predicts up to four of the photographs from noise in one denoising step, and follows the gradient of the
    pixel error. Equal arguments give equal tokens, up to rounding.

    Args:
        model: Model whose weights stay as they are.
        tokens: Tokens of one scene, made by these networks.
        images: Photographs [v, 3, height, width] of the model's size; types as in `SceneTok.encode`.
        cameras: Cameras of the photographs, CameraBatch of shape [1, v]: OpenCV camera-to-world poses in capture units,
            intrinsics divided by image width and height.
        steps: Number of steps. 0 returns the tokens unchanged.
        seed: Random seed of noise and order.
        on_step: Progress, called as on_step(done, total); an exception ends the fitting.
        autocast: Run the denoiser in bfloat16. None: on CUDA only.

    Returns:
        New tokens without variance, on the model's device.

    Raises:
        ValueError: Tokens, images and cameras do not fit the model or each other; `steps` is below 0.
        NotFiniteError: The fitted tokens hold numbers that are not finite.

    >>> tokens = model.encode(images, cameras, pose_scale=pose_scale_of(cameras, model.preset))
    >>> tokens = fit_tokens(model, tokens, images, cameras, steps=50)
    """
    check_kind(model, SceneTok, "fit_tokens", "model", "the order is model, tokens, images, cameras")
    check_kind(tokens, SceneTokens, "fit_tokens", "tokens", "the order is model, tokens, images, cameras")
    if steps < 0:
        raise ValueError(f"fit_tokens: expected steps of at least 0, got {steps}")
    model.check_tokens(tokens)
    check_seeds(seed, "fit_tokens")
    model.warn_if_untrained()
    truth = as_images(images, "fit_tokens").to(model.device)
    check_views(truth, cameras, model.image_size, "fit_tokens")
    check_cameras(cameras, "fit_tokens")
    tokens = tokens.to(model.device)
    if steps == 0:
        return tokens
    model.engine_for(False)  # the engine records no gradients
    reference = tokens.reference_c2w[None]
    seen = relative_cameras(cameras.to(model.device), reference, tokens.pose_scale)
    seen = network_cameras(seen, "target", model.preset)
    order = torch.Generator().manual_seed(seed)
    spread = float(tokens.mean.float().std())
    with torch.enable_grad():
        mean = tokens.mean.detach().float().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([mean], betas=(0.9, 0.99))
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * spread * (1 - step / steps)
            chosen = torch.randperm(len(truth), generator=order)[:MOST_VIEWS]
            shown = CameraBatch(seen.c2w[0, chosen, None], seen.intrinsics[0, chosen, None])
            with torch.autocast(model.device.type, torch.bfloat16, enabled=model.autocasts(autocast)):
                frames = _predicted(model, mean, shown, order)
            error = frames.float() - truth[chosen, None]
            loss = SQUARE * error.square().mean() + error.abs().mean()
            (mean.grad,) = torch.autograd.grad(loss, mean)
            optimizer.step()
            if on_step is not None:
                on_step(step + 1, steps)
    fitted = mean.detach()
    require_finite(fitted, f"the tokens fitted to the photographs of {tokens.scene or 'the scene'}")
    return replace(tokens, mean=fitted.to(tokens.mean.dtype), logvar=None)


def _predicted(
    model: SceneTok, mean: Float[Tensor, "n dim"], cameras: CameraBatch, noise: torch.Generator
) -> Float[Tensor, "v f 3 height width"]:
    """Predict each view in its own window, as short as the denoiser allows. All frames of a window show the view."""
    denoiser, layout = model.denoiser, latent_space(model.preset.target_autoencoder).layout
    count, chunks = cameras.c2w.shape[0], denoiser.config.target_splits
    still = CameraBatch(
        cameras.c2w.expand(-1, chunks * layout.frames_per_chunk, -1, -1),
        cameras.intrinsics.expand(-1, chunks * layout.frames_per_chunk, -1, -1),
    )
    shape = count, chunks * layout.latents_per_chunk, *denoiser.latent_shape
    start = torch.randn(shape, generator=noise).to(mean.device)
    time = torch.ones(shape[:2], device=mean.device)
    state = denoiser.project(mean.expand(count, -1, -1))
    velocity = denoiser.velocity(start, denoiser.embed_poses(still), network_time(time), state)
    return model.target_autoencoder.decode(euler_step(start, velocity.float(), time, torch.zeros_like(time)))
