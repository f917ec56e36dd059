"""Method scenetok-refine: the tokens of one capture, encoded once, then optimised on its photographs.

Training is Nerfstudio's usual training on one scene: the result belongs to that scene. The networks are frozen; the
gradient of the loss (`training.scene_refinement.scene_loss`) goes to the tokens and, if requested, to low-rank adapters
of the denoiser.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.utils import comms
from torch import Tensor, nn
from torch.nn import Parameter

from scenetok_ns.data.scenes import BadScene, DataError
from scenetok_ns.data.scenes import Views as ImageViews
from scenetok_ns.data.training_batches import Clips
from scenetok_ns.data.view_sampling import target_of_capture
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch, scaled_poses
from scenetok_ns.models.flow.draws import draw_scenetok
from scenetok_ns.models.flow.sampling import OnStep
from scenetok_ns.models.metrics import picture_metrics, psnr
from scenetok_ns.models.networks.adapters import LowRankAdapters
from scenetok_ns.models.released_checkpoints import module_sha256
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.plugin.datamanager import SceneTokDataManager, SceneTokDataManagerConfig
from scenetok_ns.plugin.model import SceneTokModel, SceneTokModelConfig
from scenetok_ns.plugin.pipeline import SceneTokPipeline, SceneTokPipelineConfig
from scenetok_ns.rendering.scene_renderer import SceneRenderer
from scenetok_ns.tools.printing import print_line
from scenetok_ns.tools.seeds import mix
from scenetok_ns.training.scene_refinement import scene_loss
from scenetok_ns.training.tokenizer_weights import load_tokenizer

DATA_SEED = 1
"""Number that makes the random choice of clips independent of the noise."""


@dataclass
class RefineDataManagerConfig(SceneTokDataManagerConfig):
    """One capture. Training uses all of its views except those for evaluation."""

    _target: type = field(default_factory=lambda: RefineDataManager)


@dataclass(frozen=True)
class RefineBatch:
    """Clips of the capture for one step; positions are in units of the training data."""

    step: int
    target: Clips

    def to(self, device: torch.device | str) -> RefineBatch:
        return RefineBatch(self.step, self.target.map(lambda tensor: tensor.to(device)))


class RefineDataManager(SceneTokDataManager):
    """Reads all photographs once and keeps them; batches follow from seed and step."""

    config: RefineDataManagerConfig
    refines = True

    @cached_property
    def training_views(self) -> ImageViews:
        """Cropped photographs of the capture, without those for evaluation; poses in units of the training data."""
        if not self.scenes.source.is_capture:
            raise DataError(
                "scenetok-refine refines the tokens of one capture: name its dataparser (nerfstudio-data, colmap, ...)"
            )
        part = self.scenes.source.training_part()
        scene = part.scene(part.keys[0])
        return scene.load_views(range(scene.num_frames), (self.preset.data.image_size,) * 2)

    def training_batch(self, step: int) -> RefineBatch:  # type: ignore[override]
        return self._batch(step)

    def next_eval(self, step: int) -> tuple[RefineBatch, dict]:  # type: ignore[override]
        """Return the same clips of training views each time, because captures seldom have clips left for evaluation."""
        self.eval_count += 1
        return self._batch(-1).to(self.device), {}

    def _batch(self, step: int) -> RefineBatch:
        views, layout = self.training_views, latent_space(self.preset.target_autoencoder).layout
        generator = torch.Generator().manual_seed(mix(self.config.seed, comms.get_rank(), step, DATA_SEED))
        count = len(views.images)
        drawn = [target_of_capture(count, self.preset.data.views, layout, generator) for _ in range(self.batch_size)]
        chosen = torch.stack(drawn)
        return RefineBatch(step, Clips(views.images[chosen], views.c2w[chosen], views.intrinsics[chosen]))


@dataclass
class RefineModelConfig(SceneTokModelConfig):
    """Frozen networks, and the tokens of one scene."""

    _target: type = field(default_factory=lambda: RefineModel)
    adapter_rank: int = 16
    """Rank of adapters of the denoiser that are trained along with the tokens; 0: no adapters. Any run of the same
    networks can then render the tokens."""


class RefineModel(SceneTokModel):
    """The tokens of one scene, and adapters. `scenetok` keeps the networks as they were."""

    config: RefineModelConfig
    unrecordable = "scenetok-refine records no steps"
    start_line = "Starting a new refinement"
    renderer: RefinedSceneRenderer
    tokens: Parameter
    start_tokens: Tensor
    reference_c2w: Tensor
    scene_scale: Tensor

    def populate_modules(self) -> None:
        super().populate_modules()
        if self.preset.scene_generator is not None:
            raise ValueError(f"preset {self.preset.name} generates scenes; refine with the preset of its tokenizer")
        if self.average is not None:
            raise ValueError("scenetok-refine keeps no EMA weights: leave out --pipeline.model.ema-decay")
        if self.config.adapter_rank:
            self.uncompilable = "adapters are not compiled (--pipeline.model.adapter-rank 0 trains none)"
        if self.config.initial_weights is not None:
            raise ValueError(
                "scenetok-refine trains tokens on frozen networks: name these with --pipeline.model.tokenizer"
            )
        self.scenetok.requires_grad_(False)
        self.scenetok.low_vram = False  # the renderer shares networks with it, so they stay; autoencoders still go away
        shape = self.preset.compressor.num_tokens, self.preset.compressor.token_dim
        self.tokens = Parameter(torch.zeros(shape))
        self.register_buffer("start_tokens", torch.zeros(shape))
        self.register_buffer("reference_c2w", torch.eye(4))
        self.register_buffer("scene_scale", torch.ones(()))
        rank = self.config.adapter_rank
        self.adapters = LowRankAdapters(self.scenetok.denoiser, rank) if rank else None
        self._merged: tuple[int, SceneTok] | None = None
        plain = {entry.name: getattr(self.renderer, entry.name) for entry in fields(SceneRenderer) if entry.init}
        self.renderer = RefinedSceneRenderer(**plain, refined=self)

    def initialize_training_state(self) -> list[str]:
        """Load the frozen networks from `tokenizer`, and encode the capture with them."""
        scenes = self.renderer.scenes
        number = scenes.active
        source = load_tokenizer(self.scenetok, self.config.tokenizer)
        name, views = scenes.keys[number], scenes.context_views(number)
        tokens = self.renderer.encode_views(views, name, scenes.pose_scale(number))
        with torch.no_grad():
            self.tokens.copy_(tokens.mean)
            self.start_tokens.copy_(tokens.mean)
            self.reference_c2w.copy_(tokens.reference_c2w)
            self.scene_scale.fill_(tokens.pose_scale)
        self.invalidate_caches()
        count = f"{len(tokens.mean)} tokens of {name}, encoded from {len(views.images)} photographs"
        return [f"Networks: {source}", f"Refining {count}"]

    # --- Training ---

    def begin_training(self) -> None:
        super().begin_training()
        self._merged = None

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        adapters = {} if self.adapters is None else {"adapters": list(self.adapters.parameters())}
        return {"tokens": [self.tokens], **adapters}

    def forward(self, batch: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Training loss and metrics, as scalars on the device; noise follows from seed, rank and step."""
        if not isinstance(batch, RefineBatch):
            return super().forward(batch)
        if self.training:
            self.invalidate_caches()
        generator = torch.Generator(self.device)
        generator.manual_seed(mix(self.training_loss.seed, comms.get_rank(), batch.step))
        splits = self.preset.data.views.target_splits
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            target = self.training_loss.latents(batch.target, splits, role="target")
            reference = scaled_poses(self.reference_c2w[None], self.scene_scale)
            target = target.relative_to(reference.expand(len(target.latents), 4, 4))
            draws = draw_scenetok(
                generator,
                self.preset.training,
                num_context=1,
                tokens=(1, *self.tokens.shape),
                latents=tuple(target.latents.shape),  # type: ignore[arg-type]
                splits=splits,
                device=self.device,
            )
            self.enable_adapters(True)
            images = batch.target.images
            assert images is not None
            output = scene_loss(self.scenetok, self.scenetok.denoiser, self.tokens, target, images, draws, generator)
        moved = (self.tokens.detach() - self.start_tokens).square().mean().sqrt()
        return {"loss": output.loss, **output.metrics, "tokens_moved": moved}

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Print at the end of the training how much it has changed renders of the evaluation photographs."""

        def compare(step: int) -> None:
            if comms.is_main_process():
                print_line(self.gain())

        return [TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], compare)]

    def gain(self) -> str:
        """Describe the PSNR of the evaluation photographs before and after refining, in one line."""
        scenes, number = self.renderer.scenes, self.renderer.scenes.active
        try:
            target = scenes.target_views(number)
        except BadScene as error:
            return f"PSNR before and after refining is unknown: {error}"
        cameras = CameraBatch(target.c2w[None], target.intrinsics[None])
        trained = self.training
        self.eval()
        self.invalidate_caches()
        truth = target.images.to(self.device).float() / 255
        before, after = (
            float(psnr(pred=pictures, target=truth).mean())
            for pictures in (
                self.renderer.render_unrefined(number, cameras),
                self.renderer.render(self.renderer.tokens_of(number), cameras),
            )
        )
        self.train(trained)
        held_out = int(scenes.scene(number).target.min()) >= cast(Any, scenes.source).num_train
        photographs = f"photograph{'s' * (len(truth) > 1)}"
        kind = f"held-out {photographs}" if held_out else f"{photographs} (none is held out)"
        return f"PSNR on {len(truth)} {kind}: {before:.2f} dB before refining, {after:.2f} dB after"

    # --- Adapters ---

    def enable_adapters(self, enabled: bool) -> None:
        if self.adapters is not None:
            self.adapters.enabled = enabled

    def merged_networks(self, version: int) -> SceneTok:
        """The networks with the adapters in their weights, merged once for each `version` of the weights."""
        if self.adapters is None:
            return self.scenetok
        if self._merged is None or self._merged[0] != version:
            merged = copy(self.scenetok)
            merged._modules = {**self.scenetok._modules, "denoiser": self.adapters.merged(self.scenetok.denoiser)}
            self._merged = version, merged
        return self._merged[1]


@dataclass(frozen=True, eq=False, kw_only=True)
class RefinedSceneRenderer(SceneRenderer):
    """Renders the refined tokens of one scene, with the adapters in the denoiser's weights."""

    refined: RefineModel
    _cameras: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)
    """Scene -> poses and intrinsics of its context views."""

    encodes = False

    @property
    def networks(self) -> SceneTok:
        return self.refined.merged_networks(self.weights.number)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of networks, tokens and adapters."""
        parts = nn.ModuleDict({"networks": self.scenetok})
        parts.register_parameter("tokens", self.refined.tokens)
        if self.refined.adapters is not None:
            parts["adapters"] = self.refined.adapters
        return module_sha256(parts)

    def tokens_of(self, scene: int, on_step: OnStep | None = None) -> SceneTokens:
        """Return the refined tokens for any number, because there is one scene. A run that displays a token file
        returns the tokens of that file."""
        return self._scene_tokens(scene, self.refined.tokens.detach())

    def tokens_from(self, views: ImageViews, scene: int) -> SceneTokens:
        """Return the refined tokens for any views."""
        return self.tokens_of(scene)

    @torch.no_grad()
    def render_unrefined(self, scene: int, cameras: CameraBatch) -> Float[Tensor, "f 3 side side"]:
        """Render frames as before training, with the first tokens and without adapters."""
        self.refined.enable_adapters(False)
        tokens, settings = self._scene_tokens(scene, self.refined.start_tokens), self.settings
        return self.scenetok.render(tokens, cameras.to(self.device), seed=settings.seed, sampler=settings.sampler)

    def _scene_tokens(self, scene: int, mean: Float[Tensor, "n dim"]) -> SceneTokens:
        if (stored := self.scenes.stored_tokens(scene)) is not None:
            return stored.to(self.device)
        if scene not in self._cameras:
            views = self.scenes.context_views(scene)
            self._cameras[scene] = views.c2w, views.intrinsics
        c2w, intrinsics = self._cameras[scene]
        return SceneTokens(
            mean=mean.clone(),
            reference_c2w=self.refined.reference_c2w,
            preset=self.preset.name,
            scene=self.scenes.keys[scene],
            pose_scale=float(self.refined.scene_scale),
            cameras_c2w=c2w.to(self.device),
            cameras_intrinsics=intrinsics.to(self.device),
        )


@dataclass
class RefinePipelineConfig(SceneTokPipelineConfig):
    """A capture and its tokens."""

    _target: type = field(default_factory=lambda: RefinePipeline)
    datamanager: RefineDataManagerConfig = field(default_factory=RefineDataManagerConfig)
    model: RefineModelConfig = field(default_factory=RefineModelConfig)


class RefinePipeline(SceneTokPipeline):
    """See the module."""

    config: RefinePipelineConfig

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, Any]:
        """Return the metrics of the refined scene and, as `<metric>_before`, of the first tokens on the same views.

        During training (`step` is given), print the PSNR.
        """
        metrics = super().get_average_eval_image_metrics(step, output_path, get_std)
        self.eval()
        renderer = cast(RefineModel, self.model).renderer
        number = self.datamanager.scenes.active
        target = self.datamanager.scenes.target_views(number)
        pictures = renderer.render_unrefined(number, CameraBatch(target.c2w[None], target.intrinsics[None]))
        truth = target.images.to(pictures.device).float() / 255
        before: dict[str, Any] = picture_metrics(pred=pictures, target=truth)
        self.train()
        if step is not None and comms.is_main_process():
            begin, now = float(before["psnr"].mean()), float(metrics["psnr"])
            count = f"{len(truth)} photograph{'s' * (len(truth) > 1)}"
            print_line(f"Step {step}: PSNR on {count}: {now:.2f} dB; before refining {begin:.2f} dB")
        return metrics | {f"{name}_before": float(value.mean()) for name, value in before.items()}
