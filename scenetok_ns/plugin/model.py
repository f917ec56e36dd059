"""SceneTok as a Nerfstudio model: networks, their training, and pictures of any camera for the tools."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox, SceneBox
from nerfstudio.models.base_model import Model, ModelConfig
from torch import Tensor, nn
from torch.nn import Parameter

from scenetok_ns.bridge.evaluation_scenes import EvaluationScenes
from scenetok_ns.bridge.viewer_threads import asked_by_viewer
from scenetok_ns.data.square_pictures import Aspect
from scenetok_ns.data.training_batches import TrainingBatch
from scenetok_ns.models.autoencoders.registry import check_encoding, weights_file
from scenetok_ns.models.depth_weights import DepthSource
from scenetok_ns.models.metrics import picture_metrics
from scenetok_ns.models.networks.averaging import WeightAverage
from scenetok_ns.models.networks.block_execution import Checkpointing
from scenetok_ns.models.presets import Encoding, Preset, Solver, changed, load_preset
from scenetok_ns.models.released_checkpoints import check_weights
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.student_weights import StudentSource
from scenetok_ns.rendering.scene_renderer import AutoencoderFile, SceneRenderer
from scenetok_ns.rendering.token_renderer import RenderSettings
from scenetok_ns.training.initial_weights import load_initial_weights
from scenetok_ns.training.loss import TrainingLoss
from scenetok_ns.training.step_memory import TrainingRun
from scenetok_ns.training.step_plan import Flags, StepPlan, Wishes, plan_steps
from scenetok_ns.training.tokenizer_weights import load_tokenizer
from scenetok_ns.viewer.renderer import ViewerRenderer

FLAGS = Flags(*(f"--pipeline.model.{name} True" for name in ("fused", "compile", "cuda-graph", "float8")))
MOVES = "--pipeline.model.low-vram True moves autoencoders, unless you train from latents (scenetok latents)"
ENGINES: dict[str, Literal["auto", "exact"] | None] = {"auto": "auto", "exact": "exact", "off": None}


@dataclass
class SceneTokModelConfig(ModelConfig):
    """SceneTok of one preset."""

    _target: type = field(default_factory=lambda: SceneTokModel)
    preset: str = "re10k"
    """Architecture and recipe: a name from the project's configs folder, or a YAML file of that form."""
    context_weights: Path | None = None
    """Weight file of the autoencoder that encodes photographs (VA-VAE); none for presets with pixel patches."""
    target_weights: Path | None = None
    """Weight file of the autoencoder that decodes frames (Video DC-AE, Wan); none for presets with pixel patches."""
    context_weights_sha256: str | None = None
    """SHA-256 that the weight file must have; `scenetok import` writes it. None: not checked."""
    target_weights_sha256: str | None = None
    """SHA-256 that the weight file must have; `scenetok import` writes it. None: not checked."""
    pretrained: bool = True
    """Start from the weights that come with the package, where the preset has some; False: from random weights."""
    low_vram: bool = False
    """Keep idle networks in CPU memory. Halves GPU memory; starts more slowly."""
    depth_weights: Path | None = None
    """Weight file of a depth head that `ns-train scenetok-depth` trained for these networks. None: the embedded head,
    if the embedded weights are unchanged; otherwise depth comes from comparing views, which is slower."""
    stream: bool = False
    """Render paths with a few-step student (`ns-train scenetok-stream`): faster, without depth. Models whose sampler
    takes at most two steps need no student."""
    student_weights: Path | None = None
    """Weight file of a student that `ns-train scenetok-stream` trained for these networks. None: the embedded student,
    if there is one and the embedded weights are unchanged."""
    engine: Literal["auto", "exact", "off"] = "auto"
    """Renderer on a GPU (docs/performance.md). auto: the engine, autoencoders in bfloat16. exact: the engine,
    autoencoders in the published code's precision. off: the plain loop, as everywhere else."""
    compile: bool | None = None
    """Training: compile everything that is not fused (torch.compile), which takes 10 to 60 seconds at the start. None:
    on a GPU, if training is long enough."""
    fused: bool | None = None
    """Training on a GPU: run the networks' blocks on our own kernels, which need less memory and no compilation. Hooks
    on parts of a block do not run. None: if the kernels fit. False: use torch's operations."""
    float8: bool = False
    """Training on Ada, Hopper or newer: run matrix products of fused blocks in FP8. Experimental: changes the loss."""
    cuda_graph: bool | None = None
    """Training on GPUs: record the forward and backward pass once and replay it. None: if steps can be recorded."""
    gradient_checkpointing: Checkpointing | None = None
    """Training: activations to recompute in the backward pass, to save memory. selective: cheap ones; full: all. None:
    as few as the GPU's memory allows."""
    ema_decay: float | None = None
    """Training: keep an exponential moving average of the trained weights, with a decay of e.g. 0.9999, and evaluate,
    render and open the run with it; None: no average. Costs the memory of the trained weights once more."""
    steps: int | None = None
    """Denoising steps of a render; None: the preset's."""
    guidance: float | None = None
    """Classifier-free guidance scale, 1 is off; None: the preset's."""
    solver: Solver | None = None
    """euler, or multistep (second order, for fewer steps); None: the preset's."""
    preview_steps: int | None = None
    """Denoising steps of the viewer's pictures while the camera moves; None: 4 on a GPU, 2 on a CPU."""
    wide: Aspect = "border"
    """Pictures that are not square. border: a square view with a border beside it; fill: a part of a larger square
    view, whose outer parts the model guesses."""
    seed: int = 0
    """Random seed for rendering: another seed gives another of the pictures that fit the scene."""
    scene_steps: int | None = None
    """SceneGen: number of steps to generate a scene; None: the preset's."""
    scene_guidance: float | None = None
    """SceneGen: classifier-free guidance scale, 1 is off; None: the preset's."""
    scene_solver: Solver | None = None
    """SceneGen: euler, or multistep (second order, for fewer steps); None: the preset's."""
    scene_fit_steps: int | None = None
    """SceneGen: steps in which generated tokens are fitted to the photographs, 0 is off; None: the preset's."""
    scene_seed: int = 0
    """SceneGen: another seed gives another of the scenes that fit the photographs."""
    encoding: Encoding = "mean"
    """How photographs become tokens. mean: nothing is sampled. latents: VA-VAE's latents are sampled, as in the
    published code, also in training. published: scene tokens are sampled as well, except in training."""
    tokenizer: Path | None = None
    """SceneGen and scenetok-refine, at the start of training: run folder or released checkpoint with the compressor
    and the denoiser that stay frozen; None: those in the package, where the preset's tokenizer comes with it."""
    initial_weights: Path | None = None
    """At the start of training: run folder, checkpoint or released checkpoint to start from. Tensors that fit in name
    and shape are loaded; scene tokens of a smaller model become the first tokens. The other tensors stay random and are
    listed."""

    defer_autoencoders: tyro.conf.Suppress[bool] = False
    """Training: build the autoencoders on first use. Training from latents does so without it."""
    # Options of ray-based models; they mean nothing here. A collider would expect rays.
    enable_collider: tyro.conf.Suppress[bool] = False
    collider_params: tyro.conf.Suppress[dict[str, float] | None] = None
    loss_coefficients: tyro.conf.Suppress[dict[str, float]] = field(default_factory=dict)
    eval_num_rays_per_chunk: tyro.conf.Suppress[int] = 4096

    def render_settings(self, preset: Preset) -> RenderSettings:
        """The preset's samplers with the numbers that are given here, and the seeds."""
        sampler = changed(preset.sampler, steps=self.steps, guidance=self.guidance, solver=self.solver)
        scene_sampler = preset.scene_sampler and changed(
            preset.scene_sampler,
            steps=self.scene_steps,
            guidance=self.scene_guidance,
            solver=self.scene_solver,
            fit_steps=self.scene_fit_steps,
        )
        return RenderSettings(
            sampler=sampler,
            scene_sampler=scene_sampler,
            seed=self.seed,
            scene_seed=self.scene_seed,
            wide=self.wide,
            preview_steps=self.preview_steps,
            encoding=self.encoding,
            stream=self.stream,
            stream_steps=self.steps,
        )

    def autoencoder_files(self) -> dict[str, AutoencoderFile]:
        given = {
            "context": (self.context_weights, self.context_weights_sha256),
            "target": (self.target_weights, self.target_weights_sha256),
        }
        return {role: AutoencoderFile(path, sha256) for role, (path, sha256) in given.items() if path is not None}


class SceneTokModel(Model):
    """Nerfstudio's module: the networks, their training, and pictures for the tools (`renderer`)."""

    config: SceneTokModelConfig
    unrecordable: str | None = None
    """Why the steps of this method cannot be recorded; None: they can."""
    uncompilable: str | None = None
    """Why the networks of this method are not compiled; None: they are."""
    start_line: str | None = None
    """Line that a new training prints instead of the lines about its start and its steps; None: those lines."""
    step_plan = StepPlan()
    """How training steps run; `choose_steps` sets it."""

    def __init__(
        self,
        config: SceneTokModelConfig,
        scene_box: SceneBox,
        num_train_data: int,
        *,
        scenes: EvaluationScenes,
        training_seed: int = 0,
        trains: bool = True,
        from_latents: bool = False,
        **kwargs: Any,
    ) -> None:
        """Build the networks on the CPU, or on the device of the context.

        Args:
            config: Preset, weights and options.
            scene_box: Nerfstudio's; it means nothing here.
            num_train_data: Nerfstudio's; it means nothing here.
            kwargs: Nerfstudio's; they mean nothing here.
            scenes: Evaluation scenes to encode or generate, and to render.
            training_seed: Random seed of the noise in training.
            trains: Whether training may follow. Else no EMA weights are kept beside the networks' own.
            from_latents: Whether training needs no autoencoder. They are then built on first use.
        """
        given = {"scenes": scenes, "training_seed": training_seed, "trains": trains, "from_latents": from_latents}
        super().__init__(config, scene_box, num_train_data, **given, **kwargs)

    def populate_modules(self) -> None:
        super().populate_modules()
        config, given = self.config, self.kwargs
        self.preset = load_preset(config.preset)
        check_weights(config.context_weights, config.context_weights_sha256, "context")
        check_weights(config.target_weights, config.target_weights_sha256, "target")
        weights, deferred = (config.context_weights, config.target_weights), config.defer_autoencoders
        deferred = deferred or given["from_latents"]
        self.scenetok = SceneTok.from_preset(self.preset, *weights, low_vram=config.low_vram, deferred=deferred)
        if config.engine not in ENGINES:
            raise ValueError(f"engine: expected {', '.join(ENGINES)}, got {config.engine!r}; set pipeline.model.engine")
        self.scenetok.engine_options = ENGINES[config.engine]
        check_encoding(self.preset, config.encoding, "--pipeline.model.encoding")
        if config.pretrained:
            self.scenetok.load_embedded()
        if config.depth_weights is not None:
            self.scenetok.depth = DepthSource(config.depth_weights)
        if config.student_weights is not None:
            self.scenetok.students = StudentSource(config.student_weights)
        self.training_loss = TrainingLoss(
            self.scenetok, given["training_seed"], draws_latents=config.encoding != "mean"
        )
        self.scenetok.compressor.requires_grad_(not self.preset.training.freeze_compressor)
        self.scenetok.denoiser.requires_grad_(not self.preset.training.freeze_denoiser)
        decay = config.ema_decay if given["trains"] else None
        self.average = None if decay is None else WeightAverage(self.trained_networks(), decay)
        self.renderer = SceneRenderer(
            scenetok=self.scenetok,
            scenes=given["scenes"],
            settings=config.render_settings(self.preset),
            autoencoder_files=config.autoencoder_files(),
        )

    @cached_property
    def viewer_renderer(self) -> ViewerRenderer:
        """Pictures for Nerfstudio's viewer, with settings of its own."""
        return ViewerRenderer(self.renderer)

    # --- Weights ---

    def trained_networks(self) -> dict[str, nn.Module]:
        """Networks of `scenetok` whose weights are trained, at least at first."""
        return {
            name: network
            for name, network in self.scenetok.named_children()
            if any(parameter.requires_grad for parameter in network.parameters())
        }

    def invalidate_caches(self) -> None:
        """Call this when weights have changed: tokens and frames are then computed again on demand."""
        self.renderer.weights.advance()

    def freeze_compressor(self) -> None:
        """End the training of the compressor; its weights stay as they are."""
        self.scenetok.compressor.requires_grad_(False)
        for parameter in self.scenetok.compressor.parameters():
            parameter.grad = None

    @property
    def has_autoencoders(self) -> bool:
        """Whether photographs can be encoded and latents decoded; False: training from latents, no weights given."""
        sources = (
            (self.preset.context_autoencoder, self.config.context_weights),
            (self.preset.target_autoencoder, self.config.target_weights),
        )
        return all(weights is not None or weights_file(config) is None for config, weights in sources)

    def train(self, mode: bool = True) -> SceneTokModel:
        """Switch modes as usual; in eval mode the EMA weights are swapped in, if they are kept."""
        super().train(mode)
        if self.average is not None and self.average.swapped_in == mode:
            if mode:
                self.average.swap_out()
            else:
                self.average.swap_in()
            self.invalidate_caches()
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Save the trained weights as such, also while the EMA weights are swapped in."""
        with self._trained_weights():
            return super().state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        with self._trained_weights():
            return super().load_state_dict(*args, **kwargs)

    def _trained_weights(self) -> AbstractContextManager[None]:
        return nullcontext() if self.average is None else self.average.swapped_out()

    def get_extra_state(self) -> dict[str, Any]:
        return {"preset": self.preset.name}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Ignore the extra state: the pipeline compares it, and can name the option to change."""

    # --- Training ---

    def choose_steps(self, run: TrainingRun) -> StepPlan:
        """Choose and prepare the training steps with the options of the configuration; see `plan_steps`."""
        config = self.config
        self.step_plan = plan_steps(
            self.scenetok,
            run,
            Wishes(config.fused, config.compile, config.cuda_graph, config.gradient_checkpointing, config.float8),
            FLAGS,
            uncompilable=self.uncompilable,
            unrecordable=self.unrecordable or (MOVES if config.low_vram and not run.from_latents else None),
            averaged=self.average is not None,
            pictures=self.has_autoencoders or not run.from_latents,
        )
        return self.step_plan

    def initialize_training_state(self) -> list[str]:
        """Load the weights that a new training starts from, in addition to the embedded ones. Returns lines that
        describe it."""
        lines = []
        if self.config.initial_weights is not None:
            with self._trained_weights():
                lines += load_initial_weights(self.scenetok, self.config.initial_weights).lines()
            if self.average is not None:
                self.average.restart()
            self.invalidate_caches()
        if self.preset.scene_generator is not None:
            lines.append(f"Frozen tokenizer: {load_tokenizer(self.scenetok, self.config.tokenizer)}")
        elif self.config.tokenizer is not None:
            raise ValueError(
                "--pipeline.model.tokenizer only works with scenegen methods and scenetok-refine: preset "
                f"{self.preset.name} trains the tokenizer itself; --pipeline.model.initial-weights starts from one"
            )
        return lines

    def begin_training(self) -> None:
        """Call this before the first step of the optimizer."""
        self.scenetok.begin_training()

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        parameters = [parameter for parameter in self.scenetok.parameters() if parameter.requires_grad]
        return {"networks": parameters} if parameters else {}

    def forward(self, batch: TrainingBatch | RayBundle) -> dict[str, Tensor]:  # type: ignore[override]
        """Training loss and metrics of a batch, as scalars on the device.

        Noise follows from seed, rank and step, like the data. This is the only entry point of training, so that
        DistributedDataParallel sees every gradient.
        """
        if isinstance(batch, RayBundle):  # an exporter's
            return self.get_outputs(batch)  # type: ignore[return-value]
        if self.training:
            self.invalidate_caches()
        # While a pass is recorded they are set already, and could not be set.
        if not (self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
            self.training_loss.prepare(batch.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            output = self.training_loss(batch)
        return {"loss": output.loss, **output.metrics}

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: Any) -> dict[str, Tensor]:
        return {name: value for name, value in outputs.items() if name != "loss"}

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: Any, metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        return {"loss": outputs["loss"]}

    # --- Pictures ---

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """Render a one-camera slice at exactly the camera's size. `obb_box` has no meaning for this model.

        Tools get errors unchanged. A viewer gets a picture of the message, because an error would end its thread.
        """
        return (self.viewer_renderer if asked_by_viewer() else self.renderer).outputs(camera)

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor | list]:  # type: ignore[override]
        """Outputs of rays of the context views, for exporters."""
        return self.renderer.ray_outputs.of_rays(ray_bundle)  # type: ignore[return-value]

    @torch.no_grad()
    def get_outputs_for_camera_ray_bundle(self, camera_ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Outputs of all rays of one of the context views, for exporters. Raises UsageError for any other rays."""
        return self.renderer.ray_outputs.of_picture(camera_ray_bundle)

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        return torch.cat([outputs[output_name], outputs["accumulation"]], dim=-1)

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics of one picture, and truth and prediction side by side."""
        truth, rgb = batch["image"].to(outputs["rgb"].device)[..., :3], outputs["rgb"]
        pred, target = (picture.permute(2, 0, 1)[None] for picture in (rgb, truth))
        metrics = picture_metrics(pred=pred, target=target)
        return {name: float(value) for name, value in metrics.items()}, {"img": torch.cat([truth, rgb], dim=1)}
