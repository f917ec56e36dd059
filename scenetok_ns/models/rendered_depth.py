"""Depth of rendered views for models without a depth head, by a plane sweep over views that were rendered jointly.

Views of a path are compared with one another. A single view, or a path that only turns, has no parallax: then the model
renders further views around it, and the view is compared with them. This needs no training, but is less accurate than a
depth head, and slower: each such group of further views takes a window of denoising.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch, camera_spread
from scenetok_ns.models.depth_geometry import DepthMaps
from scenetok_ns.models.flow.sampling import OnStep, no_report
from scenetok_ns.models.flow.windows import CleanViews, FrameDepths, RenderedFrames, join_paths
from scenetok_ns.models.plane_sweep import sweep_depths
from scenetok_ns.models.presets import SamplerConfig
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.tokens import SceneTokens

SMALLEST_BASELINE = 0.15
"""Minimum distance between cameras, in units of the scene, for their pictures to show depth."""
RADIUS = 0.3
"""Radius of the ring of further views around a view, in units of the scene."""
MOST_COMPANIONS = 16
"""Maximum number of further views around a view."""


def depth_windows(
    model: SceneTok,
    tokens: SceneTokens,
    cameras: CameraBatch,
    *,
    seed: int = 0,
    sampler: SamplerConfig | None = None,
    on_step: OnStep | None = None,
) -> Iterator[RenderedFrames]:
    """Render the frames of a path with depth, like `SceneTok.render_windows`, with or without a depth head.

    Without a head, a plane sweep finds the depth. Frames then arrive window by window, because each is compared with
    the other frames of its window and of the window before.
    """
    render = model.render_windows(tokens, cameras, seed=seed, sampler=sampler, on_step=on_step, depth=True)
    if model.depth_head() is not None:
        yield from render
        return
    sampler = sampler or model.preset.sampler
    held = latent_space(model.preset.target_autoencoder).layout.num_frames(sampler.window)
    before, waiting = 0, []
    frames: list[Tensor] = []
    for window in render:
        waiting.append(window)
        frames.extend(window.frames[0])
        end = window.first_frame + window.frames.shape[1]
        if end - waiting[0].first_frame < held and end < cameras.num_views:
            continue
        first = waiting[0].first_frame
        shown = cameras.select(slice(before, end))
        maps = sweep_views(
            model, tokens, torch.stack(frames), shown, list(range(first - before, end - before)), sampler, seed
        )
        for one in waiting:
            part = slice(one.first_frame - first, one.first_frame - first + one.frames.shape[1])
            yield replace(one, maps=FrameDepths(maps.depth[None, part], maps.confidence[None, part]))
        frames, before, waiting = frames[first - before :], first, []


@torch.no_grad()
def sweep_views(
    model: SceneTok,
    tokens: SceneTokens,
    frames: Float[Tensor, "n 3 height width"],
    cameras: CameraBatch,
    references: list[int],
    sampler: SamplerConfig,
    seed: int,
    *,
    latents: Float[Tensor, "b l c h w"] | None = None,
    on_step: OnStep = no_report,
) -> DepthMaps:
    """Estimate the depth of some rendered views, in units of the capture.

    Args:
        model: Model that renders further views if these have no parallax.
        tokens: The scene.
        frames: Rendered views in [0, 1]. Render them jointly if their depths have to agree.
        cameras: A batch of one with their cameras, in units of the capture.
        references: Indices of the views whose depth is wanted.
        sampler: Sampler of further views.
        seed: Random seed of further views.
        latents: Final latents of the middle view of `references`, from which further views continue. None: they do not
            continue from a view.
        on_step: Progress of further views, called as on_step(done, total); an exception ends the work.
    """
    unit = scene_unit(tokens)
    cameras = cameras.to(model.device)
    position = cameras.c2w[0, :, :3, 3].float()
    farthest = torch.cdist(position[references], position).amax(dim=1)
    if float(farthest.median()) < SMALLEST_BASELINE * unit:
        middle = references[len(references) // 2]
        around = companions(model, cameras.select([middle]), unit, sampler)
        clean = None
        if latents is not None and latents.shape[1] <= sampler.clean_targets:
            count = latent_space(model.preset.target_autoencoder).layout.num_frames(latents.shape[1])
            clean = CleanViews(latents, cameras.select([middle] * count))
        windows = model.render_windows(tokens, around, seed=seed, sampler=sampler, clean=clean, on_step=on_step)
        frames = torch.cat([frames[references], *(window.frames[0] for window in windows)])
        cameras = join_paths(cameras.select(references), around)
        references = list(range(len(references)))
    return sweep_depths(frames.to(model.device), cameras, references, unit=unit)


def scene_unit(tokens: SceneTokens) -> float:
    """Size of a scene in units of the capture: the spread of its cameras, or, if that is unknown or tiny, the unit of
    the training data."""
    spread = 0.0 if tokens.cameras_c2w is None else camera_spread(tokens.cameras_c2w)
    return spread if spread * tokens.pose_scale > 0.1 else 1 / tokens.pose_scale


def companions(model: SceneTok, camera: CameraBatch, unit: float, sampler: SamplerConfig) -> CameraBatch:
    """Cameras on a ring around a camera, with its orientation: about as many as fit into a window beside it."""
    layout = latent_space(model.preset.target_autoencoder).layout
    room = (sampler.window - layout.latents_per_chunk) // layout.latents_per_chunk * layout.frames_per_chunk
    count = min(max(room, layout.frames_per_chunk, 4), MOST_COMPANIONS)
    angle = torch.arange(count, device=camera.c2w.device) / count * 2 * math.pi
    offset = torch.stack([angle.cos(), 0.6 * angle.sin(), torch.zeros_like(angle)], dim=1) * RADIUS * unit
    c2w = camera.c2w.expand(1, count, 4, 4).clone()
    c2w[0, :, :3, 3] += offset.to(c2w) @ camera.c2w[0, 0, :3, :3].mT
    return CameraBatch(c2w, camera.intrinsics.expand(1, count, 3, 3))
