"""A camera that moves through a scene: frames as soon as their poses are known."""

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
    """Frames of one scene, chunk after chunk. `SceneTok.open_stream` starts it; use it from one thread at a time."""

    def __init__(
        self,
        step: Callable[[CameraBatch], RenderedFrames],
        layout: TemporalLayout,
        network_cameras: Callable[[Sequence[CameraBatch]], CameraBatch],
        tokens: SceneTokens,
    ) -> None:
        """Join the parts.

        Args:
            step: Renders the next chunk from cameras as the denoiser needs them.
            layout: Temporal layout of the latents.
            network_cameras: Makes such cameras from those of the capture.
            tokens: Tokens of the scene.
        """
        self._step, self.layout, self._network_cameras, self._tokens = step, layout, network_cameras, tokens

    def next(self, cameras: CameraBatch) -> RenderedFrames:
        """Render the next chunk.

        Args:
            cameras: CameraBatch of shape [1, f] with `layout.frames_per_chunk` cameras, or a single one that all
                frames of the chunk have: OpenCV camera-to-world poses in capture units, intrinsics divided by image
                width and height.

        Returns:
            Frames of a batch of one, on the model's device.

        Raises:
            ValueError: There is another number of cameras.
            NotFiniteError: Frames hold numbers that are not finite.
        """
        if cameras.num_views == 1:
            cameras = cameras.select([0] * self.layout.frames_per_chunk)
        made = self._step(self._network_cameras([cameras.to("cpu")]))
        return next(finite_windows(iter([made]), [self._tokens.scene], torch.ones(1)))

    def path(self, cameras: CameraBatch, on_step: OnStep | None = None) -> Iterator[RenderedFrames]:
        """Render all frames of a path; same contract as `SceneTok.render_windows`."""
        return stream_path(self.next, cameras.to("cpu"), self.layout, on_step)
