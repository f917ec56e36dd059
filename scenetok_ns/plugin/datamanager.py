"""Batches from many scenes for training; one active scene, and a set of evaluation scenes, for the tools."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.datamanagers.base_datamanager import DataManager, VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.pixel_samplers import PixelSamplerConfig
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader, RandIndicesEvalDataloader
from nerfstudio.utils import comms

from scenetok_ns.bridge.evaluation_scenes import EvaluationScenes, EvaluationViews, EvaluationViewsConfig
from scenetok_ns.bridge.scene_views import SceneViews, StockSceneSource, read_capture, unrefined_note
from scenetok_ns.data.precomputed.latents import LatentScenes, LatentStore
from scenetok_ns.data.precomputed.token_sets import TokenStore
from scenetok_ns.data.scenes import BadScene, DataError, SceneSource
from scenetok_ns.data.sources.held_out import HeldOutTargets
from scenetok_ns.data.training_batches import (
    LatentSamples,
    Sharding,
    TokenSamples,
    TrainingBatch,
    TrainingLoader,
    TrainingSamples,
)
from scenetok_ns.dataparsers.re10k_dataparser import Re10kDataParserConfig
from scenetok_ns.dataparsers.scene_dataparser import SceneDataParser
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.presets import AutoencoderConfig, Preset, load_preset
from scenetok_ns.rendering.ray_outputs import random_rays
from scenetok_ns.tools.printing import print_line


@dataclass
class SceneTokDataManagerConfig(EvaluationViewsConfig, VanillaDataManagerConfig):
    """Scenes from a dataparser. re10k-data and dl3dv-data have many; any other dataparser has one."""

    _target: type = field(default_factory=lambda: SceneTokDataManager)
    dataparser: AnnotatedDataParserUnion = field(default_factory=Re10kDataParserConfig)
    """Dataparser of the scenes."""
    batch_size: int | None = None
    """Number of scenes in one training batch of one process, at least 1; None: the preset's."""
    num_workers: int = 2
    """Number of processes that read and decode training images; 0: none, in the main process."""
    context_latents: Path | None = None
    """Folder that `scenetok latents --role context` wrote; training then reads latents instead of photographs."""
    target_latents: Path | None = None
    """Folder that `scenetok latents --role target` wrote; both are needed, or neither. SceneGen needs none."""
    tokens: Path | None = None
    """SceneGen: folder that `scenetok encode --split train` wrote; training then encodes no context views."""
    pose_scale: float | None = None
    """For a capture of a stock dataparser: factor from capture units to training units. None: match the camera spread
    of the training data."""

    @property
    def trains_from_latents(self) -> bool:
        """Whether no training step needs an autoencoder."""
        return self.context_latents is not None or self.target_latents is not None

    # The configurations of pipeline and trainer fill these in.
    preset: tyro.conf.Suppress[str] = "re10k"
    seed: tyro.conf.Suppress[int] = 42
    fits: tyro.conf.Suppress[bool] = False
    """Whether a command fits the tokens of the scene to its photographs, so that no note advises it."""
    # Options of ray-based methods; they mean nothing here.
    train_num_rays_per_batch: tyro.conf.Suppress[int] = 1024
    train_num_images_to_sample_from: tyro.conf.Suppress[int] = -1
    train_num_times_to_repeat_images: tyro.conf.Suppress[int] = -1
    eval_num_rays_per_batch: tyro.conf.Suppress[int] = 1024
    eval_num_images_to_sample_from: tyro.conf.Suppress[int] = -1
    eval_num_times_to_repeat_images: tyro.conf.Suppress[int] = -1
    eval_image_indices: tyro.conf.Suppress[tuple[int, ...] | None] = None
    camera_res_scale_factor: tyro.conf.Suppress[float] = 1.0
    patch_size: tyro.conf.Suppress[int] = 1
    pixel_sampler: tyro.conf.Suppress[PixelSamplerConfig] = field(default_factory=PixelSamplerConfig)
    masks_on_gpu: tyro.conf.Suppress[bool] = False
    images_on_gpu: tyro.conf.Suppress[bool] = False


@dataclass
class RaysAskedFor:
    """Replaces Nerfstudio's pixel sampler, which training does not need. Exporters set its number of rays."""

    num_rays_per_batch: int | None = None


class SceneTokDataManager(VanillaDataManager[SceneViews]):
    """See the module. `train_dataset` and `eval_dataset` are context and target views of the active scene."""

    config: SceneTokDataManagerConfig

    def __init__(
        self,
        config: SceneTokDataManagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        preset: str | None = None,
        **kwargs: Any,
    ) -> None:
        """preset: Preset of the model. None: that of the configuration, as for ns-render's second data manager."""
        self.config = config
        self.device = device
        self.test_mode = test_mode
        self.world_size, self.local_rank = world_size, local_rank
        self.test_split = "test" if test_mode in ("test", "inference") else "val"
        self.preset: Preset = load_preset(preset or config.preset)
        check_counts(config)
        self.dataparser_config = copy(config.dataparser)  # the configuration stays as it is
        if config.data is not None:
            self.dataparser_config.data = Path(config.data)
        self.dataparser = self.dataparser_config.setup()
        self.includes_time = False
        self.scenes = EvaluationScenes(
            self._source(self.test_split), self.dataparser_config, config, self.preset, self.test_split
        )
        self.train_dataset, self.eval_dataset = self.scenes.context_set, self.scenes.target_set
        self.train_dataparser_outputs = self.train_dataset._dataparser_outputs
        self.exclude_batch_keys_from_device = self.train_dataset.exclude_batch_keys_from_device
        self._training: TrainingLoader | None = None
        self._held_out: TrainingSamples | None = None
        self._rays_asked_for = RaysAskedFor()
        self.train_pixel_sampler = self._rays_asked_for  # type: ignore[assignment]
        self.compressor_sha256: Callable[[], str] | None = None
        """SHA-256 of the model's compressor, which stored tokens must come from; set by the pipeline."""
        # VanillaDataManager.__init__ would build ray samplers over all images.
        DataManager.__init__(self)

    # --- Scenes ---

    def _source(self, split: str) -> SceneSource:
        """All scenes of a split. A stock dataparser has one, the same for all splits."""
        if hasattr(self.dataparser, "scene_source"):
            return self.dataparser.scene_source(split)
        return self._capture

    refines = False
    """Whether scenes are refined on their photographs, so that no note about the bundled model's limits is needed."""

    @cached_property
    def _capture(self) -> StockSceneSource:
        """The one scene of a stock dataparser."""
        spread = self.preset.data.camera_spread
        capture = read_capture(
            self.dataparser, self.test_split, pose_scale=self.config.pose_scale, typical_spread=spread
        )
        print_line(capture.summary())
        if self.preset.is_embedded and not self.refines:
            print_line(unrefined_note(self.preset.name, Path(self.dataparser.config.data), fits=self.config.fits))
        return capture

    # --- What Nerfstudio's trainer and tools call ---

    @property
    def batch_size(self) -> int:
        given = self.config.batch_size
        return self.preset.training.batch_size if given is None else given

    def get_datapath(self) -> Path:
        """Folder or file of the data; the viewer exports camera paths into it."""
        return self.dataparser_config.data

    def setup_train(self) -> None:
        """Do nothing, because tools may skip this call. `next_train` creates its loader on first use."""

    def setup_eval(self) -> None:
        """Do nothing, because tools may skip this call."""

    @cached_property
    def fixed_indices_eval_dataloader(self) -> EvaluationViews:
        """All target views of all evaluation scenes, scene by scene."""
        return EvaluationViews(self.scenes, self.device)

    @cached_property
    def eval_dataloader(self) -> RandIndicesEvalDataloader:
        return RandIndicesEvalDataloader(self.eval_dataset, self.device)

    def next_train(self, step: int) -> tuple[TrainingBatch, dict]:  # type: ignore[override]
        if (count := self._rays_asked_for.num_rays_per_batch) is not None:  # by an exporter
            rays = random_rays(self.train_dataset.cameras, count)
            return rays.to(self.device), {}  # type: ignore[return-value]
        self.train_count += 1
        return self.training_batch(step).to(self.device), {}

    def training_batch(self, step: int) -> TrainingBatch:
        if self._training is None:
            pin_memory = torch.device(self.device).type == "cuda"
            self._training = TrainingLoader(self._samples("train"), self.config.num_workers, pin_memory)
        return self._training.batch(step)

    def next_eval(self, step: int) -> tuple[TrainingBatch, dict]:  # type: ignore[override]
        """A batch of held-out scenes: always the same, so that its loss is comparable between steps."""
        self.eval_count += 1
        if self._held_out is None:
            self._held_out = self._samples(self.test_split)
        return self._held_out[0].to(self.device), {}

    def training_source(self, split: str) -> SceneSource:
        """All scenes of a split, without views that are kept for evaluation."""
        return self._source(split).training_part()

    def _samples(self, split: str) -> TrainingSamples:
        source = self.training_source(split)
        if split == "train" and (self.config.context_latents or self.config.target_latents):
            return self._latent_samples(source)
        layout = latent_space(self.preset.target_autoencoder).layout
        sharding = Sharding(self.batch_size, comms.get_rank(), comms.get_world_size())
        rest = (self.preset.data, layout, sharding, self.config.seed)
        if split == "train" and self.config.tokens is not None:
            store = self._token_store(self.config.tokens, split)
            samples: TrainingSamples = TokenSamples(source, store, *rest)
            print_line(f"{len(samples.keys)} scenes with tokens, {store.encodings} encodings of each")
            return samples
        print_line(f"{len(source.keys)} scenes for the {split} split")
        return TrainingSamples(self._without_targets(source) if split == "train" else source, *rest)

    def _without_targets(self, source: SceneSource) -> SceneSource:
        """The scenes to train on, without the target views of those that are also evaluated."""
        shares = isinstance(self.dataparser, SceneDataParser)
        shares = shares and self.dataparser.split_folder("train") == self.dataparser.split_folder(self.test_split)
        if not shares:
            return source
        print_line(
            f"Training and evaluation share {self.dataparser.split_folder('train')}: the target views of the "
            f"{len(self.scenes.keys)} scenes to evaluate are kept out of training"
        )
        return HeldOutTargets(source, self.scenes.keys, self.scenes.views_by_index)

    def _token_store(self, folder: Path, split: str) -> TokenStore:
        if self.preset.scene_generator is None:
            raise DataError(f"--tokens is for training a scene generator, and preset {self.preset.name} has none")
        assert self.compressor_sha256 is not None, "the pipeline sets it"
        return TokenStore(folder, split, self.compressor_sha256())

    def _latent_samples(self, source: SceneSource) -> LatentSamples:
        context, target = (
            LatentStore(folder, latent_space(autoencoder), autoencoder=autoencoder.name)
            for folder, autoencoder in self._latent_folders()
        )
        scenes = LatentScenes(context, target, source.keys)
        sharding = Sharding(self.batch_size, comms.get_rank(), comms.get_world_size())
        for line in (f"{len(scenes.keys)} scenes with latents", *scenes.summary(self.preset.data.random_flip)):
            print_line(line)
        return LatentSamples(scenes, self.preset.data, target.space.layout, sharding, self.config.seed)

    def _latent_folders(self) -> tuple[tuple[Path, AutoencoderConfig], tuple[Path, AutoencoderConfig]]:
        context, target = self.config.context_latents, self.config.target_latents
        if self.preset.scene_generator is not None and context is not None:
            return ((context, self.preset.context_autoencoder),) * 2  # it has condition views, but no targets
        if context is None or target is None:
            raise DataError("training from latents needs both --context-latents and --target-latents")
        return (context, self.preset.context_autoencoder), (target, self.preset.target_autoencoder)

    def next_eval_image(self, step: int) -> tuple[Cameras, dict]:
        """One target view of the active scene; which one follows from the step. A damaged view does not end the
        training."""
        count = len(self.eval_dataset)
        for place in (*range(step % count, count), *range(step % count)):
            loader = FixedIndicesEvalDataloader(self.eval_dataset, image_indices=(place,), device=self.device)
            try:
                return next(iter(loader))
            except BadScene as error:
                self.scenes.skip(self.scenes.active, error)
        raise DataError(f"scene {self.scenes.keys[self.scenes.active]}: no target view can be decoded")

    def get_train_rays_per_batch(self) -> int:
        """Pixels of the target frames of a batch: Nerfstudio's unit of speed."""
        views = self.preset.data.views
        frames = latent_space(self.preset.target_autoencoder).layout.num_frames(views.num_target_latents)
        return self.batch_size * frames * self.preset.data.image_size**2

    def get_eval_rays_per_batch(self) -> int:
        return self.get_train_rays_per_batch()


def check_counts(config: SceneTokDataManagerConfig) -> None:
    """Raise DataError unless all counts that are given are possible."""
    least = {
        "batch_size": 1,
        "num_context": 1,
        "num_condition": 1,
        "eval_scenes": 1,
        "eval_targets": 1,
        "num_workers": 0,
    }
    for name, minimum in least.items():
        given = getattr(config, name)
        if given is not None and given < minimum:
            option = name.replace("_", "-")
            rest = "; leave it out for the preset's" if name in ("batch_size", "num_context") else ""
            raise DataError(f"--pipeline.datamanager.{option}: expected at least {minimum}, got {given}{rest}")
