"""Generate the tokens of a scene from one to a few photographs and the poses along the path to render (c05, c09)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch, are_rigid, relative_cameras
from scenetok_ns.models.flow.noise import token_noise
from scenetok_ns.models.flow.sampling import OnStep, sample_scene_tokens
from scenetok_ns.models.inputs import (
    as_images,
    check_batch,
    check_cameras,
    check_kind,
    check_scale,
    check_seeds,
    check_views,
)
from scenetok_ns.models.ops.finite import require_finite
from scenetok_ns.models.presets import Preset, SceneSamplerConfig
from scenetok_ns.models.quirks import network_cameras
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.token_fitting import fit_tokens
from scenetok_ns.models.tokens import SceneTokens

if TYPE_CHECKING:
    from scenetok_ns.models.inputs import Pictures

SMALLEST_REACH = 1e-5
"""Distance of the farthest anchor from the first condition view, relative to the size of the positions, below which all
anchors count as one place: float32 poses hold about seven digits."""


def generate(
    model: SceneTok,
    images: Pictures,
    cameras: CameraBatch,
    anchors: CameraBatch,
    *,
    seed: int = 0,
    sampler: SceneSamplerConfig | None = None,
    scene: str = "",
    pose_scale: float = 1.0,
    sources: tuple[str, ...] = (),
    noise: torch.Generator | None = None,
    on_step: OnStep | None = None,
    autocast: bool | None = None,
) -> SceneTokens:
    """Generate a scene that looks like the photographs from their cameras and continues along the anchors.

    The same weights and seed give the same scene on every device, up to rounding. Poses are taken relative to the first
    photograph's camera.

    Args:
        model: Model with a scene generator (a scenegen preset).
        images: Photographs [v, 3, height, width] of the model's size, from one to
            `preset.data.views.max_condition_views`; kinds as in `SceneTok.encode`.
        cameras: Cameras of the photographs: CameraBatch of shape [1, v], OpenCV camera-to-world poses in capture units,
            intrinsics divided by image width and height.
        anchors: Poses from which the scene will be seen, spread over the paths to render: CameraBatch of shape
            [1, a]. In training there are `preset.data.views.num_context` of them, including the first photograph's.
        seed: Random seed. Each seed gives another scene that fits the photographs.
        sampler: Steps, guidance, solver, and steps of `fit_tokens` on the photographs afterwards. None: the preset's.
            Change it with `dataclasses.replace(preset.scene_sampler, steps=30)`.
        scene: Name of the scene, saved with the tokens.
        sources: SHA-256 of each photograph, saved with the tokens.
        pose_scale: Factor from capture units to training units, here and in `SceneTok.render`.
        noise: Random generator for sampling the latents of VA-VAE. None: take their means.
        on_step: Progress, called as on_step(done, total); an exception ends the generation.
        autocast: Run the generator in bfloat16. None: on CUDA only.

    Returns:
        Tokens of the scene, on the model's device.

    Raises:
        ValueError: The preset has no generator; numbers of views, image sizes or cameras do not fit; the anchors are
            not poses, or are all in one place, which gives the scene no scale.

    >>> views = photograph_views("room.jpg", model.preset)
    >>> tokens = generate(model, views.images, views.cameras, views.anchors, seed=1)
    """
    model.warn_if_untrained()
    preset = model.preset
    if preset.scene_sampler is None:
        raise ValueError(f"preset {preset.name} has no scene generator; choose a scenegen preset")
    views = as_images(images, "generate")
    check_condition_count(preset, len(views))
    check_views(views, cameras, model.image_size, "generate")
    check_cameras(cameras, "generate")
    check_batch(anchors, "generate", "anchors")
    check_seeds(seed, "generate")
    check_scale(pose_scale, "generate")
    sampler = sampler or preset.scene_sampler
    advice = "change the preset's with replace(model.preset.scene_sampler, steps=30)"
    check_kind(sampler, SceneSamplerConfig, "generate", "sampler", advice)
    reference = cameras.c2w[:, 0]
    posed, aimed = (relative_cameras(each, reference.to(each.c2w), pose_scale) for each in (cameras, anchors))
    check_anchors(aimed)
    shown = torch.arange(preset.data.views.max_condition_views, device=model.device) < len(views)
    # Training always had this many views, with null tokens for those that are not shown.
    filled = [min(view, len(views) - 1) for view in range(len(shown))]
    config = preset.compressor
    with torch.no_grad():
        engine = model.engine_for(autocast)
        latents = model.encode_images(views[None].to(model.device), engine, noise)
        sample: Callable[..., Tensor]
        if engine is None:
            sample = partial(sample_scene_tokens, autocast=model.autocasts(autocast))
        else:
            sample = engine.sample_scene_tokens
        tokens = sample(
            model.scene_generator,
            token_noise(seed, config.num_tokens, config.token_dim).to(model.device),
            latents[:, filled],
            network_cameras(posed.select(filled).to(model.device), "context", preset),
            network_cameras(aimed.to(model.device), "context", preset),
            shown[None],
            sampler,
            on_step=_part_of(on_step, after=sampler.fit_steps),
        )
    require_finite(tokens, f"the tokens generated for {scene or 'the scene'}")
    generated = SceneTokens(
        mean=tokens[0],
        reference_c2w=reference[0].float().to(model.device),
        preset=preset.name,
        scene=scene,
        pose_scale=pose_scale,
        sources=sources,
        cameras_c2w=anchors.c2w[0].float().to(model.device),
        cameras_intrinsics=anchors.intrinsics[0].float().to(model.device),
    )
    fit_progress = _part_of(on_step, before=sampler.steps)
    return fit_tokens(
        model, generated, views, cameras, steps=sampler.fit_steps, seed=seed, on_step=fit_progress, autocast=autocast
    )


def _part_of(on_step: OnStep | None, before: int = 0, after: int = 0) -> OnStep | None:
    """Return a callback that reports one part of the work: `before` steps precede it, and `after` steps follow."""
    if on_step is None:
        return None
    return lambda done, total: on_step(before + done, before + total + after)


def check_anchors(anchors: CameraBatch) -> None:
    """Raise ValueError unless the anchors are a batch of one with poses that give the scene a scale.

    The anchors are relative to the first condition view, in training units.
    """
    c2w = anchors.c2w.double()
    if len(c2w) != 1 or c2w.shape[1] == 0:
        raise ValueError(f"generate: expected a batch of one with at least one anchor, got {list(c2w.shape[:2])}")
    position, wrong = c2w[0, :, :3, 3], ~are_rigid(c2w[0])
    if wrong.any():
        raise ValueError(
            f"generate: anchor {int(wrong.nonzero()[0])} of {len(wrong)} is not a camera pose (a "
            "rotation without scale, and a finite position)"
        )
    size = 1 + float(position.abs().amax())
    if float(position.norm(dim=1).max()) < SMALLEST_REACH * size:
        raise ValueError(
            f"generate: all {len(position)} anchors are where the first photograph was taken, so the size of "
            "the scene is unknown; give a path that moves (turning on the spot is not enough), in the units of the "
            "training data, or a larger pose_scale"
        )


def check_condition_count(preset: Preset, count: int) -> None:
    """Raise ValueError unless the generator of `preset` takes that many condition views."""
    most = preset.data.views.max_condition_views
    if not 1 <= count <= most:
        raise ValueError(f"{count} condition views, but preset {preset.name} takes 1 to {most}")
