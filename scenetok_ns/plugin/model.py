"""SceneTok as a Nerfstudio model: holds networks and scene tokens, renders whatever camera it is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.base_model import Model, ModelConfig
from torch import Tensor, nn
from torch.nn import Parameter

from scenetok_ns.bridge.cameras import request_of
from scenetok_ns.bridge.evaluation_scenes import EvaluationScenes
from scenetok_ns.bridge.viewer_threads import asked_by_viewer
from scenetok_ns.data.scenes import Views as ImageViews
from scenetok_ns.data.sources.photograph import GenerationInputs
from scenetok_ns.data.square_pictures import Wide
from scenetok_ns.data.training_batches import TrainingBatch
from scenetok_ns.models.autoencoders.registry import latent_space, weights_file
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.sampling import OnStep
from scenetok_ns.models.flow.windows import RenderedFrames
from scenetok_ns.models.metrics import picture_metrics
from scenetok_ns.models.networks.averaging import WeightAverage
from scenetok_ns.models.networks.block_execution import Checkpointing
from scenetok_ns.models.presets import SceneSamplerConfig, Solver, changed, load_preset
from scenetok_ns.models.released_checkpoints import check_weights, module_sha256
from scenetok_ns.models.scenegen import generate
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.rendering.path_renderer import PathRenderer
from scenetok_ns.rendering.pictures import picture_outputs, relative_uncertainty
from scenetok_ns.training.loss import TrainingLoss
from scenetok_ns.viewer.renderer import ViewerRenderer

logger = logging.getLogger(__name__)

ENGINES: dict[str, Literal["auto", "exact"] | None] = {"auto": "auto", "exact": "exact", "off": None}
EARLIER_ENGINES = {"full": "auto", "on": "exact"}
"""Names in run folders of earlier versions."""


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
    """Keep in main memory what has nothing to do: about half the memory on the GPU, a slower start."""
    engine: Literal["auto", "exact", "off"] = "auto"
    """What renders on a GPU (docs/performance.md). auto: the engine, autoencoders in bfloat16. exact: the engine,
    autoencoders in the published code's precision. off: the plain loop, as everywhere else."""
    compile: bool = False
    """Training: compile the networks' blocks (torch.compile): a minute or two at the start, then several times as fast
    on a GPU. What was compiled is kept for the next start. Checkpoints are the same."""
    fused: bool = True
    """Training on a GPU: run the networks' blocks on kernels of our own, forward and backward. Less memory, no waiting
    for a compiler, the same gradients but for rounding; hooks on parts of a block do not run. Without Triton, and where
    part of a block is frozen, nothing changes. False: torch's operations."""
    cuda_graph: bool = False
    """Training on GPUs: record the forward and backward pass once and replay it. Pays where the host cannot launch
    kernels as fast as the GPU works, as with small batches."""
    gradient_checkpointing: Checkpointing = "none"
    """Training: what is computed again in the backward pass to save memory. selective: what is cheap; full: all."""
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
    wide: Wide = "border"
    """Pictures that are no squares. border: the square view is shown whole, with its border; fill: the picture is cut
    out of a larger square, whose ends lie outside of what the training cameras saw: the model's guess."""
    seed: int = 0
    """Of the noise that renders start from: another seed gives another of the pictures that fit the scene."""
    scene_steps: int | None = None
    """SceneGen: steps in which a scene is generated; None: the preset's."""
    scene_guidance: float | None = None
    """SceneGen: classifier-free guidance scale, 1 is off; None: the preset's."""
    scene_solver: Solver | None = None
    """SceneGen: euler, or multistep (second order, for fewer steps); None: the preset's."""
    scene_seed: int = 0
    """SceneGen: another seed gives another of the scenes that fit the photographs."""
    tokenizer: Path | None = None
    """SceneGen and scenetok-refine, training afresh: run folder or released checkpoint with the compressor and the
    denoiser that stay frozen; None: those in the package, where the preset's tokenizer comes with it."""

    # Set by the pipeline, which knows where training data comes from.
    defer_autoencoders: tyro.conf.Suppress[bool] = False
    # Of ray-based models; they mean nothing here. A collider would expect rays.
    enable_collider: tyro.conf.Suppress[bool] = False
    collider_params: tyro.conf.Suppress[dict[str, float] | None] = None
    loss_coefficients: tyro.conf.Suppress[dict[str, float]] = field(default_factory=dict)
    eval_num_rays_per_chunk: tyro.conf.Suppress[int] = 4096


class SceneTokModel(Model):
    """See the module. `connect` must be called before the first render."""

    config: SceneTokModelConfig
    encodes = True
    """Whether other context views give other tokens."""

    def populate_modules(self) -> None:
        super().populate_modules()
        self.preset = load_preset(self.config.preset)
        check_weights(self.config.context_weights, self.config.context_weights_sha256, "context")
        check_weights(self.config.target_weights, self.config.target_weights_sha256, "target")
        weights = self.config.context_weights, self.config.target_weights
        deferred = self.config.defer_autoencoders
        self.scenetok = SceneTok.from_preset(self.preset, *weights, low_vram=self.config.low_vram, deferred=deferred)
        engine = EARLIER_ENGINES.get(self.config.engine, self.config.engine)
        if engine not in ENGINES:
            raise ValueError(f"engine: expected {', '.join(ENGINES)}, got {engine!r}; set pipeline.model.engine")
        self.scenetok.engine_options = ENGINES[engine]
        if self.config.pretrained:
            self.scenetok.load_embedded()
        self.training_loss = TrainingLoss(self.scenetok)
        self.scenetok.compressor.requires_grad_(not self.preset.training.freeze_compressor)
        self.scenetok.denoiser.requires_grad_(not self.preset.training.freeze_denoiser)
        config = self.config
        self.average = None if config.ema_decay is None else WeightAverage(self.trained_networks(), config.ema_decay)
        self.scenetok.prepare_training(
            compiled=config.compile, checkpointing=config.gradient_checkpointing, fused=config.fused
        )
        self.sampler = changed(self.preset.sampler, steps=config.steps, guidance=config.guidance, solver=config.solver)
        self.scene_sampler = self.preset.scene_sampler and changed(
            self.preset.scene_sampler,
            steps=config.scene_steps,
            guidance=config.scene_guidance,
            solver=config.scene_solver,
        )
        self.path_renderer = PathRenderer(self._sample, latent_space(self.preset.target_autoencoder).layout)
        self.viewer_renderer: ViewerRenderer | None = None
        self._tokens: dict[tuple[int, str], SceneTokens] = {}
        self._scenes: EvaluationScenes | None = None
        self._weights_version = 0

    def connect(self, scenes: EvaluationScenes, training_seed: int) -> None:
        """Tell the model where context views come from, and the seed of the noise in training."""
        self._scenes = scenes
        self.training_loss.seed = training_seed

    def invalidate_caches(self) -> None:
        """Drop tokens and frames: the weights have changed."""
        self._weights_version += 1

    def trained_networks(self) -> dict[str, nn.Module]:
        """Those networks of `scenetok` whose weights training changes, at first at least."""
        return {
            name: network
            for name, network in self.scenetok.named_children()
            if any(parameter.requires_grad for parameter in network.parameters())
        }

    def begin_training(self) -> None:
        """To be called by a trainer before its first step."""
        self.scenetok.begin_training()

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

    @property
    def weights_version(self) -> int:
        """Another number when the weights have changed."""
        return self._weights_version

    # --- Checkpoints ---

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """As of any module: trained weights are trained weights, also while the averaged ones are in their place."""
        with self._weights_in_place():
            return super().state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        with self._weights_in_place():
            return super().load_state_dict(*args, **kwargs)

    def _weights_in_place(self) -> AbstractContextManager[None]:
        return nullcontext() if self.average is None else self.average.swapped_out()

    def get_extra_state(self) -> dict[str, Any]:
        return {"preset": self.preset.name}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Checked by the pipeline, which can say what to do about it."""

    # --- Training ---

    def initialize_training_state(self) -> list[str]:
        """Load what training afresh starts from, beside the embedded weights; lines that say what it is."""
        if self.preset.scene_generator is None:
            return []
        from scenetok_ns.training.tokenizer_weights import load_tokenizer  # it reads runs, and so imports the pipeline

        return [f"Frozen tokenizer: {load_tokenizer(self.scenetok, self.config.tokenizer)}"]

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        parameters = [parameter for parameter in self.scenetok.parameters() if parameter.requires_grad]
        return {"networks": parameters} if parameters else {}

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:  # type: ignore[override]
        """Training loss and metrics of a batch, as scalars on the device.

        Noise follows from seed, rank and step, like the data. The one entry point of training, so that
        DistributedDataParallel sees every gradient.
        """
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

    # --- Rendering ---

    def tokens_of(self, scene: int, on_step: OnStep | None = None) -> SceneTokens:
        """Tokens of an evaluation scene: as stored, or encoded or generated when first needed, with the weights of the
        moment. `on_step` reports on a generation, and ends it by raising."""
        if self._scenes is None:
            raise RuntimeError("SceneTokModel: no context views; the pipeline must call connect() first")
        if (stored := self._scenes.stored_tokens(scene)) is not None:
            return stored.to(self.device)
        key = (scene, self._scene_settings())
        if key not in self._tokens:
            conditions, name = self._scenes.conditions(scene), self._scenes.keys[scene]
            if conditions is None:
                tokens = self.tokens_from(self._scenes.context_views(scene), scene)
            else:
                tokens = self.generate(conditions, name, on_step)
            self._tokens = {k: v for k, v in self._tokens.items() if k[1] == key[1]} | {key: tokens}
        return self._tokens[key]

    def tokens_from(self, views: ImageViews, scene: int) -> SceneTokens:
        """Tokens of an evaluation scene when the model is given these views of it."""
        if self._scenes is None:
            raise RuntimeError("SceneTokModel: no context views; the pipeline must call connect() first")
        return self.encode_views(views, self._scenes.keys[scene], self._scenes.pose_scale(scene))

    def encode_views(self, views: ImageViews, scene: str, pose_scale: float = 1.0) -> SceneTokens:
        cameras = CameraBatch(views.c2w[None], views.intrinsics[None]).to(self.device)
        images = views.images.to(self.device).float() / 255
        return self.scenetok.encode(images, cameras, scene=scene, pose_scale=pose_scale)

    def generate(
        self,
        conditions: GenerationInputs,
        scene: str,
        on_step: OnStep | None = None,
        *,
        seed: int | None = None,
        sampler: SceneSamplerConfig | None = None,
    ) -> SceneTokens:
        """A scene from photographs and anchors; None: with this model's scene seed and scene sampler."""
        views, anchors = conditions.views, conditions.anchors
        return generate(
            self.scenetok,
            views.images.to(self.device).float() / 255,
            CameraBatch(views.c2w[None], views.intrinsics[None]),
            CameraBatch(anchors[None], views.intrinsics[:1].expand(len(anchors), -1, -1)[None]),
            seed=self.config.scene_seed if seed is None else seed,
            sampler=sampler or self.scene_sampler,
            scene=scene,
            pose_scale=conditions.pose_scale,
            on_step=on_step,
        )

    def _scene_settings(self) -> str:
        """All that the tokens of a scene depend on, beside the scene."""
        generation = f"|{self.config.scene_seed}|{self.scene_sampler}" if self.scene_sampler else ""
        return f"{self._weights_version}{generation}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all trained numbers that pictures depend on."""
        return module_sha256(self.scenetok)

    @property
    def renderer(self) -> SceneTok:
        """The networks that pictures are rendered with."""
        return self.scenetok

    @torch.no_grad()
    def render_tokens(self, tokens: SceneTokens, cameras: CameraBatch) -> Float[Tensor, "f 3 height width"]:
        """All frames of a path from any tokens, with this model's seed and sampler."""
        return self.renderer.render(tokens, cameras.to(self.device), seed=self.config.seed, sampler=self.sampler)

    def _sample(
        self, scene: int, cameras: CameraBatch, on_step: Callable[[int, int], None]
    ) -> Iterator[RenderedFrames]:
        return self.renderer.render_windows(
            self.tokens_of(scene, on_step),
            cameras.to(self.device),
            seed=self.config.seed,
            sampler=self.sampler,
            on_step=on_step,
        )

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """Picture of a one-camera slice at exactly the camera's size; `obb_box` has no meaning for this model.

        Tools get errors as they are. A viewer's render thread would end for good, so it gets a picture of the message.
        """
        if self.viewer_renderer is not None and asked_by_viewer():
            return self.viewer_renderer.outputs(camera)
        active = 0 if self._scenes is None else self._scenes.active
        settings = f"{self.config.seed}|{self.sampler}|{self._scene_settings()}"
        frame = self.path_renderer.frame(camera, active, settings, self.config.wide)
        request = request_of(camera, self.config.wide)
        rgb = request.fit(frame.picture[None])[0].permute(1, 2, 0).clamp(0, 1)
        uncertainty = relative_uncertainty(frame.uncertainty, latent_space(self.preset.target_autoencoder).channels)
        return picture_outputs(rgb, request.fit(uncertainty[None, None])[0].permute(1, 2, 0), request)

    def get_outputs(self, ray_bundle: Any) -> dict[str, Tensor | list]:
        raise NotImplementedError(
            "SceneTok renders whole pictures, not single rays: --render-nearest-camera and exports are not possible"
        )

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        return torch.cat([outputs[output_name], outputs["accumulation"]], dim=-1)

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics of one picture, and truth and prediction side by side."""
        truth, rgb = batch["image"].to(outputs["rgb"].device)[..., :3], outputs["rgb"]
        metrics = picture_metrics(pred=to_pictures(rgb), target=to_pictures(truth))
        return {name: float(value) for name, value in metrics.items()}, {"img": torch.cat([truth, rgb], dim=1)}


def to_pictures(image: Float[Tensor, "height width 3"]) -> Float[Tensor, "1 3 height width"]:
    return image.permute(2, 0, 1)[None]
