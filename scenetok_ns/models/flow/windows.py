"""Scene tokens and a camera path to frames: padding to windows, denoising, decoding, cutting back.

The network only ever sees whole windows. A path that is too short, a lone camera included, or that is not a whole
number of the autoencoder's chunks, is continued with copies of its last camera. Latents behind those that the path's
own frames need are not decoded, and extra frames are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.autoencoders.base import Autoencoder, LatentSpace
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.noise import latent_noise
from scenetok_ns.models.flow.sampling import OnStep, SampledLatents, sample_windows
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.ops.finite import NotFiniteError, is_finite
from scenetok_ns.models.presets import SamplerConfig
from scenetok_ns.models.temporal import TemporalLayout


@dataclass(frozen=True)
class RenderedFrames:
    """Finished frames of a path, for every batch element."""

    first_frame: int
    frames: Float[Tensor, "b f 3 height width"]
    """In [0, 1], float32."""
    denoised: tuple[SampledLatents, ...] = ()
    """Latents that have become final since the part before. They run ahead of the frames, and count from the first new
    latent on, whatever the path goes on from."""


def finite_windows(windows: Iterator[RenderedFrames], scenes: Sequence[str]) -> Iterator[RenderedFrames]:
    """The windows, as long as all their pictures are numbers.

    Args:
        windows: Frames of a batch of paths.
        scenes: Name of the scene of each path.

    Raises NotFiniteError, which names the scene and the frame.
    """
    for window in windows:
        if not is_finite(window.frames):
            place = next(place for place, frames in enumerate(window.frames) if not is_finite(frames))
            raise NotFiniteError(
                f"rendering of {scenes[place] or 'the scene'} stopped at frame {window.first_frame}: pictures with "
                "numbers that are not finite; check the path's units, --guidance and the weights of the run"
            )
        yield window


@dataclass(frozen=True)
class CleanViews:
    """Views of the same scene that are there already, for a path to go on from."""

    latents: Float[Tensor, "b l c h w"]
    """Final: whole chunks, at most `SamplerConfig.clean_targets`."""
    cameras: CameraBatch
    """Cameras of all their frames."""


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
) -> Iterator[RenderedFrames]:
    """Frames of a path in order, each exactly once, as soon as they are final.

    Args:
        tokens: of one or more scenes; their device is where everything runs.
        cameras: one for each frame (at least one), relative to each scene's reference view.
        image_size: height and width of the frames in pixels.
        seed: of the starting noise; one for all scenes, or one for each.
        clean: views that the path goes on from, cameras relative like the others. The noise of the path is the same
            with and without.
        on_step: progress, called as on_step(done, total); what it raises ends the rendering.
        autocast: run the denoiser in bfloat16. The autoencoder chooses its own precision.

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
    )
    return decode_windows(autoencoder, sampled, path)


@dataclass(frozen=True)
class StartedPath:
    """Start of denoising: cameras and noise of whole windows."""

    cameras: CameraBatch
    noise: Float[Tensor, "b latents c h w"]
    """The first `clean` latents are no noise but final."""
    clean: int
    num_frames: int
    """Frames that are wanted, of those behind the clean ones."""


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
    autoencoder: Autoencoder, sampled: Iterator[SampledLatents], path: StartedPath
) -> Iterator[RenderedFrames]:
    """Frames of the latents that `sampled` gives out, each with the latents that have arrived since the one before."""
    first, arrived = 0, []

    def arriving() -> Iterator[Tensor]:
        wanted = autoencoder.latents_needed(path.num_frames)
        for part in sampled:
            arrived.append(replace(part, first=part.first - path.clean, window_first=part.window_first - path.clean))
            if wanted > 0:
                yield part.latents[:, :wanted]
            wanted -= part.latents.shape[1]

    for decoded in autoencoder.decode_stream(arriving(), num_frames=path.num_frames):
        denoised, arrived = tuple(arrived), []
        yield RenderedFrames(first, decoded.float(), denoised)
        first += decoded.shape[1]


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
    # A tensor on the cameras' device: a list of indices would be copied there, and waited for.
    return cameras.select(torch.arange(frames, device=cameras.c2w.device).clamp(max=last))
