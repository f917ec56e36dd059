"""Render frames of a camera that moves through a scene, as soon as their poses are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.frame_stream import stream_path
from scenetok_ns.models.flow.sampling import OnStep
from scenetok_ns.models.flow.windows import RenderedFrames, finite_windows
from scenetok_ns.models.temporal import TemporalLayout
from scenetok_ns.models.tokens import SceneTokens


class SceneStream:
    """Renders one scene chunk by chunk. Create it with `SceneTok.open_stream`; use it from one thread at a time."""

    def __init__(
        self,
        step: Callable[[CameraBatch], RenderedFrames],
        layout: TemporalLayout,
        network_cameras: Callable[[Sequence[CameraBatch]], CameraBatch],
        tokens: SceneTokens,
    ) -> None:
        """Create a stream; `SceneTok.open_stream` does this for you.

        Args:
            step: Renders the next chunk, given cameras in the denoiser's convention.
            layout: Temporal layout of the latents.
            network_cameras: Converts cameras of the capture to the denoiser's convention.
            tokens: Tokens of the scene.
        """
        self._step, self.layout, self._network_cameras, self._tokens = step, layout, network_cameras, tokens

    def next(self, cameras: CameraBatch) -> RenderedFrames:
        """Render the next chunk.

        Args:
            cameras: CameraBatch of shape [1, f] with `layout.frames_per_chunk` cameras, or a single camera for all
                frames of the chunk: OpenCV camera-to-world poses in capture units, intrinsics divided by image width
                and height.

        Returns:
            Frames of a batch of one, on the model's device.

        Raises:
            ValueError: The number of cameras is neither 1 nor `layout.frames_per_chunk`.
            NotFiniteError: Frames hold numbers that are not finite.
        """
        if cameras.num_views == 1:
            cameras = cameras.select([0] * self.layout.frames_per_chunk)
        made = self._step(self._network_cameras([cameras.to("cpu")]))
        return next(finite_windows(iter([made]), [self._tokens.scene], torch.ones(1)))

    def path(self, cameras: CameraBatch, on_step: OnStep | None = None) -> Iterator[RenderedFrames]:
        """Render all frames of a path; same contract as `SceneTok.render_windows`."""
        return stream_path(self.next, cameras.to("cpu"), self.layout, on_step)
