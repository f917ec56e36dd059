"""Render frames from scene tokens and a camera path: padding to windows, denoising, decoding, dropping extra frames.

The network only sees whole windows. A path that is too short (even a single camera), or that is not a whole number of
the autoencoder's chunks, is continued with copies of its last camera. Latents that the path's own frames do not need
are not decoded, and extra frames are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.autoencoders.base import Autoencoder, LatentSpace
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.noise import latent_noise
from scenetok_ns.models.flow.sampling import OnEstimate, OnStep, SampledLatents, sample_windows
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.depth_head import DepthHead, as_depth
from scenetok_ns.models.ops.finite import NotFiniteError, is_finite
from scenetok_ns.models.presets import SamplerConfig
from scenetok_ns.models.temporal import TemporalLayout

OnFrame = Callable[[Callable[[], Float[Tensor, "b 3 height width"]]], None]
"""Called as on_frame(frame) after denoising steps. frame() decodes the path's first frame as it is expected at that
moment, in [0, 1]; nothing is decoded unless you call it. An exception ends the rendering."""


@dataclass(frozen=True, repr=False)
class RenderedFrames:
    """Finished frames of a path, for every batch element."""

    first_frame: int
    frames: Float[Tensor, "b f 3 height width"]
    """Frames in [0, 1], float32."""
    denoised: tuple[SampledLatents, ...] = ()
    """Latents that have become final since the previous part. They run ahead of the frames. Their numbers count from
    the first new latent, also if the path continues from earlier views."""
    maps: FrameDepths | None = None
    """Depth of the frames; None: it was not requested."""

    def __repr__(self) -> str:
        depth = "" if self.maps is None else ", with depth"
        return f"RenderedFrames(first_frame={self.first_frame}, frames {list(self.frames.shape)}{depth})"


class FrameDepths(NamedTuple):
    """Depth of frames, along the camera's optical axis."""

    depth: Float[Tensor, "b f 1 height width"]
    confidence: Float[Tensor, "b f 1 height width"]
    """Estimated probability that the depth is within a tenth of the truth."""

    def scaled(self, factors: Float[Tensor, " b"]) -> FrameDepths:
        """Convert to units that are `1 / factors` times the current ones."""
        return FrameDepths(self.depth * factors.to(self.depth)[:, None, None, None, None], self.confidence)


def finite_windows(
    windows: Iterator[RenderedFrames], scenes: Sequence[str], units: Float[Tensor, " b"]
) -> Iterator[RenderedFrames]:
    """Pass on windows with depth in units of the captures, and check that all pictures are finite.

    Args:
        windows: Frames of a batch of paths.
        scenes: Name of the scene of each path.
        units: Factor from the networks' units to those of each scene's capture, for depth.

    Raises NotFiniteError, which names the scene and the frame.
    """
    for window in windows:
        if not is_finite(window.frames):
            place = next(place for place, frames in enumerate(window.frames) if not is_finite(frames))
            raise NotFiniteError(
                f"rendering of {scenes[place] or 'the scene'} stopped at frame {window.first_frame}: pictures with "
                "numbers that are not finite; check the path's units, --guidance and the weights of the run"
            )
        yield window if window.maps is None else replace(window, maps=window.maps.scaled(units))


@dataclass(frozen=True)
class CleanViews:
    """Existing views of the same scene, from which a path continues."""

    latents: Float[Tensor, "b l c h w"]
    """Final latents: whole chunks, at most `SamplerConfig.clean_targets`."""
    cameras: CameraBatch
    """Cameras of all frames of the latents."""


def render_windows(
    denoiser: Denoiser,
    autoencoder: Autoencoder,
    tokens: Float[Tensor, "b n dim"],
    cameras: CameraBatch,
    image_size: tuple[int, int],
    sampler: SamplerConfig,
    *,
    seed: int | Sequence[int] = 0,
    clean: CleanViews | None = None,
    on_step: OnStep | None = None,
    autocast: bool = False,
    depth_head: DepthHead | None = None,
    on_frame: OnFrame | None = None,
) -> Iterator[RenderedFrames]:
    """Yield the frames of a path in order, each exactly once, as soon as they are final.

    Args:
        tokens: tokens of one or more scenes; the networks run on their device.
        cameras: a camera for each frame (at least one), relative to each scene's reference view.
        image_size: height and width of the frames in pixels.
        seed: random seed of the starting noise; one for all scenes, or one for each.
        clean: views that the path continues from, with cameras relative to the reference too. They do not change the
            noise of the path.
        on_step: progress, called as on_step(done, total); an exception ends the rendering.
        autocast: run the denoiser in bfloat16. The autoencoder chooses its own precision.
        depth_head: also predict depth, in the networks' units, from the last denoising step.
        on_frame: receives estimates of the first frame between the steps; they change nothing.

    Raises (at once, not at the first frame):
        ValueError: no cameras, or too few seeds; more clean views than the sampler has room for; see also
            `sample_windows`.
    """
    path = start_path(autoencoder.space, tokens, cameras, image_size, sampler, seed, clean)
    sampled = sample_windows(
        denoiser,
        tokens,
        path.cameras,
        path.noise,
        autoencoder.space.layout,
        sampler,
        clean=path.clean,
        on_step=on_step,
        autocast=autocast,
        features=depth_head is not None,
        on_estimate=None if on_frame is None else first_frame_estimates(autoencoder, path, on_frame),
    )
    return decode_windows(autoencoder, sampled, path, depth_head)


def first_frame_estimates(autoencoder: Autoencoder, path: StartedPath, on_frame: OnFrame) -> OnEstimate:
    """Turn `on_frame` into a callback for latents: it passes on estimates of the path's first frame until that frame
    is final."""
    needed = slice(path.clean, path.clean + autoencoder.latents_needed(1))

    def on_estimate(window_first: int, latents: Callable[[], Tensor]) -> None:
        def frame() -> Tensor:
            first = latents()[:, needed.start - window_first : needed.stop - window_first]
            return next(autoencoder.decode_stream([first], num_frames=1))[:, 0].float()

        if window_first <= path.clean:
            on_frame(frame)

    return on_estimate


@dataclass(frozen=True)
class StartedPath:
    """Start of denoising: cameras and noise of whole windows."""

    cameras: CameraBatch
    noise: Float[Tensor, "b latents c h w"]
    """Number of leading latents that are final, not noise."""
    clean: int
    num_frames: int
    """Number of requested frames after the clean ones."""


def start_path(
    space: LatentSpace,
    tokens: Float[Tensor, "b n dim"],
    cameras: CameraBatch,
    image_size: tuple[int, int],
    sampler: SamplerConfig,
    seed: int | Sequence[int],
    clean: CleanViews | None,
) -> StartedPath:
    """Arguments and errors as `render_windows`."""
    seeds = [seed] * len(tokens) if isinstance(seed, int) else list(seed)
    if len(seeds) != len(tokens) or cameras.batch_size != len(tokens):
        raise ValueError(
            f"render: {len(tokens)} scenes need as many camera paths, and one seed or one for each; "
            f"got {cameras.batch_size} paths and {len(seeds)} seeds"
        )
    before = 0 if clean is None else clean.latents.shape[1]
    padded = pad_path(cameras.to(tokens.device), space.layout, sampler.window - before)
    shape = (space.channels, *space.latent_size(image_size))
    start = latent_noise(seeds, space.layout.num_latents(padded.num_views), shape).to(tokens.device)
    if clean is not None:
        padded = join_paths(clean.cameras.to(tokens.device), padded)
        start = torch.cat([clean.latents.to(start), start], dim=1)
    return StartedPath(padded, start, before, cameras.num_views)


@torch.no_grad()
def decode_windows(
    autoencoder: Autoencoder, sampled: Iterator[SampledLatents], path: StartedPath, depth_head: DepthHead | None = None
) -> Iterator[RenderedFrames]:
    """Decode the latents that `sampled` yields; each result has the latents that have arrived since the previous one.

    With a `depth_head`, also predict depth; the latents must then come with their last features.
    """
    first, arrived = 0, []
    depths: list[tuple[Tensor, Tensor]] = []

    def arriving() -> Iterator[Tensor]:
        wanted = autoencoder.latents_needed(path.num_frames)
        for part in sampled:
            if depth_head is not None:
                depths.append(head_outputs(depth_head, part))
                part = replace(part, last=None)
            arrived.append(replace(part, first=part.first - path.clean, window_first=part.window_first - path.clean))
            if wanted > 0:
                yield part.latents[:, :wanted]
            wanted -= part.latents.shape[1]

    for decoded in autoencoder.decode_stream(arriving(), num_frames=path.num_frames):
        denoised, arrived = tuple(arrived), []
        maps = None
        if depth_head is not None:
            joined = [torch.cat(parts, dim=1) for parts in zip(*depths, strict=True)]
            count = decoded.shape[1]
            depths = [(joined[0][:, count:], joined[1][:, count:])]
            maps = FrameDepths(
                *as_depth(joined[0][:, :count], joined[1][:, :count], (decoded.shape[-2], decoded.shape[-1]))
            )
        yield RenderedFrames(first, decoded.float(), denoised, maps)
        first += decoded.shape[1]


def head_outputs(head: DepthHead, part: SampledLatents) -> tuple[Tensor, Tensor]:
    """Predict the depth of all frames of new latents. The head predicts it together with the rest of their window."""
    assert part.last is not None
    first, last = part.first - part.window_first, part.first - part.window_first + part.latents.shape[1]
    frames = head.layout.frame_slice(first, last)
    log_inverse, log_scale = head(*part.last)
    return log_inverse[:, frames], log_scale[:, frames]


def join_paths(first: CameraBatch, second: CameraBatch) -> CameraBatch:
    """One path after the other."""
    c2w = torch.cat([first.c2w, second.c2w.to(first.c2w)], dim=1)
    return CameraBatch(c2w, torch.cat([first.intrinsics, second.intrinsics.to(first.intrinsics)], dim=1))


def pad_path(cameras: CameraBatch, layout: TemporalLayout, window: int) -> CameraBatch:
    """Continue a path with its last camera, to whole chunks of frames and at least one window of latents."""
    if cameras.num_views < 1:
        raise ValueError("render: the camera path is empty; give it at least one camera")
    latents = max(layout.num_latents(cameras.num_views), window)
    frames = layout.num_frames(latents)
    last = cameras.num_views - 1
    # A tensor on the cameras' device, because copying a list of indices there would wait for the device.
    return cameras.select(torch.arange(frames, device=cameras.c2w.device).clamp(max=last))
