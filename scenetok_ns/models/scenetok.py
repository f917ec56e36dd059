"""A trained model in Python: photographs -> scene tokens -> frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch, relative_cameras
from scenetok_ns.models.depth_weights import DepthSource, embedded_depth_head
from scenetok_ns.models.flow.frame_stream import FrameStream
from scenetok_ns.models.flow.sampling import OnStep
from scenetok_ns.models.flow.single_step import single_step_frames
from scenetok_ns.models.flow.streaming import LatentStream, StreamConfig
from scenetok_ns.models.flow.windows import CleanViews, OnFrame, RenderedFrames, finite_windows, render_windows
from scenetok_ns.models.inputs import check_cameras, check_rendering, check_seeds
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.depth_head import DepthHead
from scenetok_ns.models.presets import SamplerConfig
from scenetok_ns.models.pretrained import GivenFiles, read_pretrained
from scenetok_ns.models.quirks import network_cameras
from scenetok_ns.models.scene_encoding import SceneEncoder
from scenetok_ns.models.scene_stream import SceneStream
from scenetok_ns.models.student_weights import Student, StudentSource, embedded_student
from scenetok_ns.models.tokens import SceneTokens, check_tokens
from scenetok_ns.models.weight_files import CheckpointError


class SceneTok(SceneEncoder):
    """Encodes photographs of a scene to tokens, and renders frames of any camera from the tokens.

    >>> model = SceneTok.from_pretrained("scenetok-tiny")
    >>> pose_scale = pose_scale_of(cameras, model.preset)  # cameras: CameraBatch [1, v]
    >>> tokens = model.encode(images, cameras, pose_scale=pose_scale)  # images [v, 3, 128, 128]
    >>> frames = model.render(tokens, path)  # [f, 3, 128, 128] in [0, 1]
    """

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        preset: str | None = None,
        context_weights: str | Path | None = None,
        target_weights: str | Path | None = None,
        tokenizer: str | Path | None = None,
        device: torch.device | str | None = None,
        low_vram: bool = False,
    ) -> SceneTok:
        """Load a trained model.

        Args:
            source: One of

                - a preset whose weights come with the package (scenetok-tiny, scenegen-tiny), or whose files
                  `scenetok download` has put into the cache (re10k, ...);
                - a run folder of ns-train, `scenetok import` or `scenetok download`, or its config.yml: its latest
                  checkpoint, with the EMA weights if the run keeps them;
                - a checkpoint of a run (step-NNNNNNNNN.ckpt);
                - a released checkpoint (.ckpt);
                - networks in a safetensors file, with `preset`;
                - a preset file of your own (.yaml) that names bundled weights, or a released checkpoint in the cache.
            preset: Preset, or preset file of your own (.yaml). Default: the preset that the source names or fits.
            context_weights: Weight file of the autoencoder of photographs. Default: the one that a run names; else a
                file with the published name beside the checkpoint or in the cache.
            target_weights: Weight file of the autoencoder of frames. Default: as for `context_weights`.
            tokenizer: For a scene generator's released checkpoint: the file of its compressor and denoiser. Default: as
                for the autoencoders.
            device: Device. Default: the GPU, or the CPU without one.
            low_vram: Keep idle networks in CPU memory. Halves GPU memory; starts more slowly.

        Returns:
            The model in eval mode, without gradients for its weights (`requires_grad_(True)` turns them on).

        Raises:
            FileNotFoundError: There is no such source.
            ValueError: The source cannot be read, does not fit the preset, or an autoencoder's file is missing. A
                CheckpointError is a ValueError, too.

        >>> model = SceneTok.from_pretrained("runs/room/scenetok/2026-01-01_120000")
        """
        given = [None if file is None else Path(file) for file in (context_weights, target_weights, tokenizer)]
        found = read_pretrained(source, preset, GivenFiles(*given))
        model = cls.from_preset(found.preset, found.context_weights, found.target_weights, low_vram=low_vram)
        model.load_state_dict(dict(found.tensors))
        if found.depth_weights is not None:
            model.depth = DepthSource(found.depth_weights)
        else:
            model.depth = DepthSource(embedded_depth_head(found.preset), required=False)
        if found.student_weights is not None:
            model.students = StudentSource(found.student_weights)
        else:
            model.students = StudentSource(embedded_student(found.preset), required=False)
        chosen = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
        return model.eval().requires_grad_(False).to(chosen)

    def render(
        self,
        tokens: SceneTokens,
        cameras: CameraBatch,
        *,
        seed: int = 0,
        sampler: SamplerConfig | None = None,
        on_step: OnStep | None = None,
        autocast: bool | None = None,
    ) -> Float[Tensor, "f 3 height width"]:
        """Render all frames of a path.

        Records no gradients; `predict` does.

        Args:
            tokens: Tokens of one scene, made by these networks.
            cameras: CameraBatch of shape [1, f], a camera for each frame: OpenCV camera-to-world poses in
                capture units, intrinsics divided by image width and height.
            seed: Random seed. The same seed and path give the same frames.
            sampler: Steps, guidance and solver. None: the preset's. Change it with
                `dataclasses.replace(model.preset.sampler, steps=4)`.
            on_step: Progress, called as on_step(done, total); an exception from it ends the rendering.
            autocast: Run the denoiser in bfloat16. None: on CUDA only. False: float32, without the engine.

        Returns:
            Frames [f, 3, height, width] in [0, 1], float32, on the model's device.

        Raises:
            ValueError: The tokens are of another preset or shape; an argument has another type; there are no
                cameras, or no photograph can have them (`check_cameras`; axes are not checked).
            NotFiniteError: Frames hold numbers that are not finite.

        >>> frames = model.render(tokens, camera_path("orbit", tokens, 48))
        """
        check_cameras(cameras, "render")
        windows = self.render_windows(tokens, cameras, seed=seed, sampler=sampler, on_step=on_step, autocast=autocast)
        return torch.cat([window.frames[0] for window in windows])

    def render_windows(
        self,
        tokens: SceneTokens,
        cameras: CameraBatch,
        *,
        seed: int = 0,
        sampler: SamplerConfig | None = None,
        clean: CleanViews | None = None,
        on_step: OnStep | None = None,
        autocast: bool | None = None,
        depth: bool = False,
        on_frame: OnFrame | None = None,
    ) -> Iterator[RenderedFrames]:
        """Yield the frames of a path as they become final.

        The arguments are those of `render_many`, for one scene. Frames are a batch of one.
        """
        settings = {"sampler": sampler, "clean": clean, "on_step": on_step, "autocast": autocast, "depth": depth}
        return self.render_many([tokens], [cameras], seeds=[seed], on_frame=on_frame, **settings)  # type: ignore[arg-type]

    def render_many(
        self,
        tokens: Sequence[SceneTokens],
        cameras: Sequence[CameraBatch],
        *,
        seeds: int | Sequence[int] = 0,
        sampler: SamplerConfig | None = None,
        clean: CleanViews | None = None,
        on_step: OnStep | None = None,
        autocast: bool | None = None,
        depth: bool = False,
        on_frame: OnFrame | None = None,
    ) -> Iterator[RenderedFrames]:
        """Render one path in each of several scenes together, and yield frames as they become final.

        Each scene gets the same frames as if it were rendered alone. Errors in the arguments are raised by the call
        itself, not with the first frame.

        Args:
            tokens: Tokens of the scenes.
            cameras: Path of each scene: CameraBatch of shape [1, f] as in `render`, all with the same number of frames.
            seeds: Random seed of each scene, or one seed for all.
            sampler: As in `render`.
            clean: Finished views from which the paths continue, in a batch of the same scenes; cameras in units of the
                capture.
            on_step: Progress, called as on_step(done, total); an exception from it ends the rendering.
            autocast: Run the denoiser in bfloat16. None: on CUDA only. False: float32, without the engine.
            depth: Also predict depth, in units of the capture, if there is a depth head. `rendered_depth` finds depth
                without one.
            on_frame: Receives estimates of the first frame between the steps (`OnFrame`). The engine gives none: it
                renders a path of one window in a tenth of a second.

        Raises:
            ValueError: The tokens are of another preset or shape; numbers of scenes, paths and cameras do not match;
                there are no cameras; see also `sample_windows`.
        """
        check_rendering(tokens, cameras, seeds, sampler, "render")
        if not tokens or len(tokens) != len(cameras) or len({path.c2w.shape for path in cameras}) > 1:
            raise ValueError(
                f"render: expected at least one scene and as many equally long paths, got {len(tokens)} scenes and "
                f"paths of {[path.num_views for path in cameras]} cameras; render paths of other lengths separately"
            )
        self.warn_if_untrained()
        for scene in tokens:
            self.check_tokens(scene)
        if clean is not None:
            paths = zip(clean.cameras.c2w.split(1), clean.cameras.intrinsics.split(1), strict=True)
            clean = replace(
                clean, cameras=self._target_cameras(tokens, [CameraBatch(*path) for path in paths], self.device)
            )
        head = self.depth_head() if depth else None
        sampler = sampler or self.preset.sampler
        return self._render(tokens, cameras, self.denoiser, sampler, seeds, clean, on_step, autocast, head, on_frame)

    def _render(
        self,
        tokens: Sequence[SceneTokens],
        cameras: Sequence[CameraBatch],
        denoiser: Denoiser,
        sampler: SamplerConfig,
        seeds: int | Sequence[int],
        clean: CleanViews | None,
        on_step: OnStep | None,
        autocast: bool | None,
        depth_head: DepthHead | None,
        on_frame: OnFrame | None = None,
    ) -> Iterator[RenderedFrames]:
        engine = self.engine_for(autocast)
        if engine is not None:
            render = engine.render_windows
        else:
            render = partial(render_windows, autocast=self.autocasts(autocast), on_frame=on_frame)
        windows = render(
            denoiser,
            self._autoencoder(1, engine),
            torch.stack([scene.mean.to(self.device) for scene in tokens]),
            self._target_cameras(tokens, cameras, self.device),
            self.image_size,
            sampler,
            seed=seeds,
            clean=clean,
            on_step=on_step,
            depth_head=depth_head,
        )
        units = torch.tensor([1 / scene.pose_scale for scene in tokens])
        return finite_windows(windows, [scene.scene for scene in tokens], units)

    def student(self) -> Student:
        """Return the student that streams frames or denoises windows in few steps, on the device.

        Raises CheckpointError: There is none for these weights.
        """
        found = self.students.student(self.preset, self.compressor, self.denoiser)
        if found is None:
            raise CheckpointError(
                f"there is no few-step student for these weights of preset {self.preset.name}: train one with "
                "`ns-train scenetok-stream --pipeline.model.tokenizer RUN`, and give its file with --student"
            )
        if found.denoiser is not self.denoiser and not self.low_vram:
            found.denoiser.to(self.device)
        return found

    @property
    def streams(self) -> bool:
        """Whether there is a causal student, or the denoiser is one, so that `open_stream` works.

        Raises CheckpointError for a student's file that was named and does not fit.
        """
        found = self.students.student(self.preset, self.compressor, self.denoiser)
        layout = latent_space(self.preset.target_autoencoder).layout
        whole = self.preset.denoiser.num_latents % layout.latents_per_chunk == 0
        return found is not None and found.causal and whole

    def open_stream(
        self, tokens: SceneTokens, *, seed: int = 0, steps: int | None = None, autocast: bool | None = None
    ) -> SceneStream:
        """Start a stream of frames: a camera that moves through a scene, without knowing where it goes.

        Args:
            tokens: Tokens of one scene, made by these networks.
            seed: Random seed of the noise.
            steps: Denoising steps of a chunk of frames. None: those that the student was trained for.
            autocast: Run the denoiser in bfloat16. None: on CUDA only. False: float32, without the engine.

        Raises:
            CheckpointError: There is no causal student for these weights.
            ValueError: The tokens are of another preset or shape; the latents cannot be streamed.

        >>> stream = model.open_stream(tokens)
        >>> frames = stream.next(camera).frames[0]  # [f, 3, height, width]; camera: CameraBatch [1, f]
        """
        self.check_tokens(tokens)
        check_seeds(seed, "open_stream")
        self.warn_if_untrained()
        student = self.student()
        if not student.causal:
            raise CheckpointError("this student denoises windows and cannot stream: train one with --causal True")
        layout = latent_space(self.preset.target_autoencoder).layout
        shift = self.preset.sampler.timestep_shift
        config = StreamConfig.for_denoiser(student.denoiser, layout, steps or student.steps, shift)
        mean, engine = tokens.mean[None].to(self.device), self.engine_for(autocast)
        autoencoder = self._autoencoder(1, engine)
        if engine is not None:
            step = engine.open_stream(student.denoiser, autoencoder, mean, config, self.image_size, seed=seed)
        else:
            precise = self.autocasts(autocast)
            latents = LatentStream(student.denoiser, mean, layout, config, autocast=precise)
            step = FrameStream(latents, autoencoder, self.image_size, seed, self.device).next
        return SceneStream(step, layout, partial(self._target_cameras, [tokens], device=torch.device("cpu")), tokens)

    def stream_windows(
        self,
        tokens: SceneTokens,
        cameras: CameraBatch,
        *,
        seed: int = 0,
        steps: int | None = None,
        on_step: OnStep | None = None,
        autocast: bool | None = None,
    ) -> Iterator[RenderedFrames]:
        """Render a path with the student: as a stream, or window by window if it is not causal.

        Same contract as `render_windows`, without depth.

        Args:
            steps: Denoising steps. None: those that the student was trained for.

        Raises:
            CheckpointError: There is no student for these weights.
        """
        student = self.student()
        if student.causal:
            return self.open_stream(tokens, seed=seed, steps=steps, autocast=autocast).path(cameras, on_step)
        sampler = replace(self.preset.sampler, steps=steps or student.steps, guidance=1.0, solver="euler")
        return self._render([tokens], [cameras], student.denoiser, sampler, [seed], None, on_step, autocast, None)

    def depth_head(self) -> DepthHead | None:
        """Return the depth head for the current weights, on the model's device, or None."""
        head = self.depth.head(self.preset, self.denoiser)
        return None if head is None else head.to(self.device)

    def predict(
        self, tokens: SceneTokens, cameras: CameraBatch, *, seed: int = 0, autocast: bool | None = None
    ) -> Float[Tensor, "f 3 height width"]:
        """Predict the frames of a path in one denoising step, with gradients, for losses on tokens.

        Frames are softer than those of `render`: without further steps the model predicts the mean of all plausible
        frames. Gradients reach `tokens.mean`, and the weights, if `requires_grad_(True)` turned theirs on.

        Args:
            tokens: Tokens of one scene. Give them a mean that requires gradients: `replace(tokens, mean=parameter)`.
            cameras: CameraBatch of shape [1, f], as in `render`.
            seed: Random seed of the noise that the step starts from.
            autocast: Run the denoiser in bfloat16. None: on CUDA only.

        Returns:
            Frames [f, 3, height, width] in [0, 1], float32.

        Raises:
            ValueError: As in `render`.

        >>> mean = tokens.mean.clone().requires_grad_(True)
        >>> loss = (model.predict(replace(tokens, mean=mean), cameras) - photographs).square().mean()
        >>> loss.backward()  # mean.grad: [n, dim]
        """
        check_cameras(cameras, "predict")
        check_seeds(seed, "predict")
        self.check_tokens(tokens)
        self.warn_if_untrained()
        self.engine_for(False)  # the engine records no gradients
        frames = single_step_frames(
            self.denoiser,
            self.target_autoencoder,
            tokens.mean[None].to(self.device),
            self._target_cameras([tokens], [cameras], self.device),
            self.image_size,
            self.preset.sampler,
            seed=seed,
            autocast=self.autocasts(autocast),
        )
        return frames[0]

    def _target_cameras(
        self, tokens: Sequence[SceneTokens], paths: Sequence[CameraBatch], device: torch.device
    ) -> CameraBatch:
        """Convert a path for each scene, in units of the capture, to a batch of cameras for the denoiser."""
        relative = []
        for scene, path in zip(tokens, paths, strict=True):
            reference = scene.reference_c2w[None].to(path.c2w.device)
            relative.append(relative_cameras(path, reference, scene.pose_scale).to(device))
        together = CameraBatch(
            torch.cat([path.c2w for path in relative]), torch.cat([path.intrinsics for path in relative])
        )
        return network_cameras(together, "target", self.preset)

    def check_tokens(self, tokens: SceneTokens) -> None:
        """Raise ValueError unless these networks can render the tokens, or some of a scene's tokens."""
        check_tokens(tokens, self.preset)
