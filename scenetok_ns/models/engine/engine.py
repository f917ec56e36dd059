"""The rendering engine: one thread denoises and decodes, on a CUDA stream for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scenetok_ns.models.autoencoders.base import Autoencoder
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.engine.copies import Copies
from scenetok_ns.models.engine.options import EngineOptions
from scenetok_ns.models.engine.worker import Report, Worker
from scenetok_ns.models.flow.frame_stream import FrameStream
from scenetok_ns.models.flow.sampling import OnStep, SampledLatents, checked_schedule
from scenetok_ns.models.flow.streaming import StreamConfig
from scenetok_ns.models.flow.windows import CleanViews, RenderedFrames, StartedPath, decode_windows, start_path
from scenetok_ns.models.networks.compressor import Compressor
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.depth_head import DepthHead
from scenetok_ns.models.networks.scene_generator import SceneGenerator
from scenetok_ns.models.ops.graphs import working
from scenetok_ns.models.presets import SamplerConfig, SceneSamplerConfig
from scenetok_ns.models.temporal import TemporalLayout

T = TypeVar("T")
Finished = tuple[T, "torch.cuda.Event | None"]
"""A result, and the event after which it is valid."""


def tensors_of(result: object) -> Iterator[Tensor]:
    """Yield all tensors of a result of the engine."""
    if isinstance(result, RenderedFrames):
        yield result.frames
        for part in result.denoised:
            yield from tensors_of(part)
        yield from result.maps or ()
    elif isinstance(result, SampledLatents):
        yield result.latents
        yield result.uncertainty
        yield from result.last or ()
    elif isinstance(result, Tensor):
        yield result


class RenderingEngine:
    """Renders, encodes and generates on one device, with copies of a model's weights laid out for inference.

    Weights are copied when they are first needed, and again after they have changed. Any thread may call; one thread
    does the work (`worker.py`). Results are valid on the stream that is current where the caller receives them. Each
    method has the name, the arguments and the errors of its plain twin in models/flow, models/networks or
    models/autoencoders.
    """

    def __init__(self, device: torch.device, options: EngineOptions | None = None) -> None:
        self.device = device
        self.options = options or EngineOptions.for_device(device)
        self._worker = Worker("scenetok engine")
        on_cuda = device.type == "cuda"
        self._compute_stream = torch.cuda.Stream(device) if on_cuda else None
        # Frames to display have priority over latents of later windows.
        self._decode_stream = torch.cuda.Stream(device, priority=-1) if on_cuda else None
        self.copies = Copies(device, self.options, self._compute_stream)

    def render_windows(
        self,
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
        depth_head: DepthHead | None = None,
    ) -> Iterator[RenderedFrames]:
        """Same contract as `flow.windows.render_windows`, including eager argument checks."""
        path = start_path(autoencoder.space, tokens, cameras, image_size, sampler, seed, clean)
        layout = autoencoder.space.layout
        checked_schedule(denoiser, path.cameras, path.noise, layout, sampler, path.clean)

        def start(report: Report) -> Iterator[Finished[RenderedFrames]]:
            with self._preparing():
                self.copies.make_room("compressing", "generating", autoencoders=[autoencoder])
                denoising = self.copies.streaming_engine(denoiser).denoising
                decoder = self.copies.autoencoder(autoencoder)
                head = None if depth_head is None else depth_head.to(self.device)
            sampled = denoising.sample_windows(
                tokens,
                path.cameras,
                path.noise,
                layout,
                sampler,
                clean=path.clean,
                on_step=report,
                features=head is not None,
            )
            return self._decoded(decoder, sampled, path, head)

        inputs = tokens, path.noise, path.cameras.c2w, path.cameras.intrinsics
        return self._results(start, on_step, *inputs)

    def sample_latents(
        self,
        denoiser: Denoiser,
        tokens: Float[Tensor, "b n dim"],
        cameras: CameraBatch,
        noise: Float[Tensor, "b latents c h w"],
        layout: TemporalLayout,
        sampler: SamplerConfig,
        *,
        on_step: OnStep | None = None,
    ) -> Iterator[Float[Tensor, "b new c h w"]]:
        """Yield the latents of a path as they become final, without decoding. Same contract as
        `flow.sampling.sample_windows`."""
        checked_schedule(denoiser, cameras, noise, layout, sampler)

        def start(report: Report) -> Iterator[Finished[Tensor]]:
            with self._preparing():
                self.copies.make_room("compressing", "generating")
                denoising = self.copies.streaming_engine(denoiser).denoising
            for part in denoising.sample_windows(tokens, cameras, noise, layout, sampler, on_step=report):
                yield self._finished(part.latents, self._compute_stream)

        return self._results(start, on_step, tokens, noise, cameras.c2w, cameras.intrinsics)

    def open_stream(
        self,
        denoiser: Denoiser,
        autoencoder: Autoencoder,
        tokens: Float[Tensor, "1 n dim"],
        config: StreamConfig,
        image_size: tuple[int, int],
        *,
        seed: int = 0,
    ) -> Callable[[CameraBatch], RenderedFrames]:
        """Start a stream of frames through one scene. Returns `FrameStream.next`, which runs in the engine's thread."""

        def start(report: Report) -> Iterator[Finished[FrameStream]]:
            with self._preparing():
                self.copies.make_room("compressing", "generating", autoencoders=[autoencoder])
                streaming = self.copies.streaming_engine(denoiser)
                decoder = self.copies.autoencoder(autoencoder)
                latents = streaming.open(tokens, decoder.space.layout, config)
                stream = FrameStream(latents, decoder, image_size, seed, self.device)
            yield self._finished(stream, self._compute_stream)

        (stream,) = self._results(start, None, tokens)

        def following(cameras: CameraBatch) -> RenderedFrames:
            def step(report: Report) -> Iterator[Finished[RenderedFrames]]:
                with working(self._compute_stream):
                    chunk = stream.denoise(cameras)
                self._hand_over((chunk.latents, chunk.uncertainty))
                with working(self._decode_stream):
                    frames = stream.decode(chunk)
                yield self._finished(frames, self._decode_stream)

            (frames,) = self._results(step, None, cameras.c2w, cameras.intrinsics)
            return frames

        return following

    def sample_scene_tokens(
        self,
        generator: SceneGenerator,
        noise: Float[Tensor, "b n dim"],
        latents: Float[Tensor, "b v c h w"],
        cameras: CameraBatch,
        anchors: CameraBatch,
        mask: Bool[Tensor, "b v"],
        config: SceneSamplerConfig,
        *,
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "b n dim"]:
        """Same contract as `flow.sampling.sample_scene_tokens`."""

        def start(report: Report) -> Iterator[Finished[Tensor]]:
            with self._preparing():
                self.copies.make_room("compressing", "denoising", autoencoders=[])
                engine = self.copies.token_engine(generator)
            yield self._finished(
                engine.sample_scene_tokens(noise, latents, cameras, anchors, mask, config, on_step=report),
                self._compute_stream,
            )

        inputs = noise, latents, mask, cameras.c2w, cameras.intrinsics, anchors.c2w, anchors.intrinsics
        (tokens,) = self._results(start, on_step, *inputs)
        return tokens

    def encode(
        self,
        autoencoder: Autoencoder,
        images: Float[Tensor, "b v 3 height width"],
        noise: torch.Generator | None = None,
    ) -> Float[Tensor, "b v c h w"]:
        """Return normalised latents of images in [0, 1]; `noise` as in `Autoencoder.encode_raw`."""

        def start(report: Report) -> Iterator[Finished[Tensor]]:
            with self._preparing():
                latents = self.copies.autoencoder(autoencoder).encode(images, noise=noise)
            yield self._finished(latents, self._compute_stream)

        (latents,) = self._results(start, None, images)
        return latents

    def gaussian_parameters(
        self,
        compressor: Compressor,
        autoencoder: Autoencoder,
        images: Float[Tensor, "b v 3 height width"],
        cameras: CameraBatch,
        noise: torch.Generator | None = None,
    ) -> Float[Tensor, "b N 2*dim"]:
        """Encode context views and return the compressor's parameters of the scene tokens.

        Args:
            compressor: Network to run.
            autoencoder: Autoencoder of context views.
            images: Context views in [0, 1].
            cameras: Cameras of the views in the compressor's convention, relative to one of them.
            noise: As in `Autoencoder.encode_raw`.
        """

        def start(report: Report) -> Iterator[Finished[Tensor]]:
            with self._preparing():
                self.copies.make_room("generating")  # the denoiser may stay, because encoding needs less than decoding
                # Launched first, so that the device works while the host prepares the compressor.
                latents = self.copies.autoencoder(autoencoder).encode(images, noise=noise)
                engine = self.copies.compressing_engine(compressor)
            yield self._finished(engine.gaussian_parameters(latents, cameras), self._compute_stream)

        (parameters,) = self._results(start, None, images, cameras.c2w, cameras.intrinsics)
        return parameters

    def __deepcopy__(self, memo: dict[int, object]) -> RenderingEngine:
        """Return an empty engine: a copied model lays out its own weights."""
        return RenderingEngine(self.device, self.options)

    def __reduce__(self) -> tuple[object, ...]:
        return RenderingEngine, (self.device, self.options)

    def _results(
        self,
        start: Callable[[Report], Iterator[Finished[T]]],
        on_step: OnStep | None,
        *inputs: Tensor,
    ) -> Iterator[T]:
        """Yield results of a job of the worker on the caller's stream. The job waits for that stream's work so far.

        `inputs` are the tensors that the job reads: a caller that leaves early must not free them while it runs.
        """
        ready = self._event(None)

        def job(report: Report) -> Iterator[Finished[T]]:
            if ready is not None:
                torch.cuda.set_device(self.device)
                for stream in (self._compute_stream, self._decode_stream):
                    cast(torch.cuda.Stream, stream).wait_event(ready)
                    for tensor in inputs:
                        if tensor.is_cuda:
                            tensor.record_stream(cast(torch.cuda.Stream, stream))
            return start(report)

        for result, event in self._worker.run(job, on_step):
            if event is not None:
                current = torch.cuda.current_stream(self.device)
                current.wait_event(event)
                for tensor in tensors_of(result):
                    tensor.record_stream(current)
            yield result

    def _decoded(
        self, decoder: Autoencoder, sampled: Iterator[SampledLatents], path: StartedPath, head: DepthHead | None
    ) -> Iterator[Finished[RenderedFrames]]:
        """Yield frames, decoded while later windows are being denoised."""
        stream = self._decode_stream

        def handed_over() -> Iterator[SampledLatents]:
            for part in sampled:
                self._hand_over(tensors_of(part))
                yield part

        windows = decode_windows(decoder, handed_over(), path, head)
        while True:
            with working(stream):
                window = next(windows, None)
            if window is None:
                return
            yield self._finished(window, stream)

    def _hand_over(self, tensors: Iterable[Tensor]) -> None:
        """Let the decoder's stream use tensors that the compute stream has produced."""
        if self._decode_stream is not None and self._compute_stream is not None:
            self._decode_stream.wait_event(self._compute_stream.record_event())
            for tensor in tensors:
                tensor.record_stream(self._decode_stream)

    @contextmanager
    def _preparing(self) -> Iterator[None]:
        """Copy weights on one stream before both streams use them."""
        with working(self._compute_stream):
            yield
        if self._compute_stream is not None and self._decode_stream is not None:
            self._decode_stream.wait_stream(self._compute_stream)

    def _finished(self, result: T, stream: torch.cuda.Stream | None) -> Finished[T]:
        return result, self._event(stream)

    def _event(self, stream: torch.cuda.Stream | None) -> torch.cuda.Event | None:
        """Return an event after the present work of a stream (None: the current one)."""
        if self.device.type != "cuda":
            return None
        return (stream or torch.cuda.current_stream(self.device)).record_event()
