"""Batches from many scenes for training; one active scene, and a set of evaluation scenes, for the tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from jaxtyping import Int64
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.datamanagers.base_datamanager import DataManager, VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.pixel_samplers import PixelSamplerConfig
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader, RandIndicesEvalDataloader
from nerfstudio.utils import comms
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from scenetok_ns.data.anchors import anchors_along
from scenetok_ns.data.condition_views import condition_of, path_of
from scenetok_ns.data.evaluation_index import EvaluationIndex
from scenetok_ns.data.held_out import HeldOutTargets
from scenetok_ns.data.latents import LatentScenes, LatentStore
from scenetok_ns.data.photograph_scene import Conditions, PhotographSource
from scenetok_ns.data.scenes import BadScene, DataError, Scene, SceneSource, SkippedScenes, Views
from scenetok_ns.data.token_scene import TokenSource
from scenetok_ns.data.token_sets import TokenStore
from scenetok_ns.data.training_batches import (
    LatentSamples,
    Sharding,
    TokenSamples,
    TrainingBatch,
    TrainingLoader,
    TrainingSamples,
)
from scenetok_ns.data.view_sampling import ViewIndices, default_views
from scenetok_ns.dataparsers.re10k_dataparser import Re10kDataParserConfig
from scenetok_ns.dataparsers.scene_dataparser import SceneDataParser
from scenetok_ns.evaluation_views import EvaluationScene, EvaluationViews, views_by_index
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.presets import AutoencoderConfig, Preset, load_preset
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.nerfstudio_scenes import SceneViews, StockSceneSource, read_capture


@dataclass
class SceneTokDataManagerConfig(VanillaDataManagerConfig):
    """Scenes from a dataparser. re10k-data and dl3dv-data have many; any other dataparser has one."""

    _target: type = field(default_factory=lambda: SceneTokDataManager)
    dataparser: AnnotatedDataParserUnion = field(default_factory=Re10kDataParserConfig)
    """Where the scenes come from."""
    batch_size: int | None = None
    """Scenes in one training batch of one process, at least 1; None: the preset's."""
    num_workers: int = 2
    """Processes that read and decode training images; 0: none, in the main process."""
    context_latents: Path | None = None
    """Folder that `scenetok latents --role context` wrote; training then reads latents in the place of photographs."""
    target_latents: Path | None = None
    """Folder that `scenetok latents --role target` wrote; both are needed, or neither. SceneGen needs none."""
    tokens: Path | None = None
    """SceneGen: folder that `scenetok encode --split train` wrote; training then encodes no context views."""
    num_context: int | None = None
    """Context views of a scene in evaluation, rendering and viewing; None: as many as the dataparser's evaluation index
    names, or without one as the preset says. SceneGen: number of anchor poses."""
    num_condition: int | None = None
    """SceneGen: photographs that a scene is generated from; None: those that the evaluation index names if the model
    takes as many, else one."""
    pose_scale: float | None = None
    """A capture of a stock dataparser: what its positions are multiplied by to be in units of the training data; None:
    so that its cameras spread as those of the training scenes do."""
    eval_scenes: int = 16
    """Evaluation scenes taken where no evaluation index says which."""
    eval_targets: int | None = None
    """Target views taken of each evaluation scene, from its beginning; None: all."""

    @property
    def trains_from_latents(self) -> bool:
        """Whether no training step needs an autoencoder."""
        return self.context_latents is not None or self.target_latents is not None

    # Set by pipeline and trainer, which know them.
    preset: tyro.conf.Suppress[str] = "re10k"
    seed: tyro.conf.Suppress[int] = 42
    # Of ray-based methods; they mean nothing here.
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
        **kwargs: Any,
    ) -> None:
        self.config = config
        self.device = device
        self.test_mode = test_mode
        self.world_size, self.local_rank = world_size, local_rank
        self.test_split = "test" if test_mode in ("test", "inference") else "val"
        self.preset: Preset = load_preset(config.preset)
        check_counts(config)
        self.dataparser_config = config.dataparser
        if config.data is not None:
            config.dataparser.data = Path(config.data)
        else:
            config.data = config.dataparser.data
        self.dataparser = config.dataparser.setup()
        self.includes_time = False
        self.evaluation_source = self._source(self.test_split)
        index_file = getattr(config.dataparser, "eval_index", None)
        self.index = None if index_file is None else EvaluationIndex.load(index_file)
        self._indexed = frozenset() if self.index is None else frozenset(self.index.keys_in(self.evaluation_source))
        self.evaluation_keys = self._evaluation_keys()
        self.active_scene, self.train_dataset, self.eval_dataset = self._shown()
        self.train_dataparser_outputs = self.train_dataset._dataparser_outputs
        self.exclude_batch_keys_from_device = self.train_dataset.exclude_batch_keys_from_device
        self._training: TrainingLoader | None = None
        self._held_out: TrainingSamples | None = None
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

    @cached_property
    def _capture(self) -> StockSceneSource:
        """The one scene of a stock dataparser."""
        spread = self.preset.data.camera_spread
        capture = read_capture(
            self.dataparser, self.test_split, pose_scale=self.config.pose_scale, typical_spread=spread
        )
        CONSOLE.print(capture.summary(), soft_wrap=True)
        return capture

    def _evaluation_keys(self) -> list[str]:
        """Scenes to evaluate, which may yet turn out to be unusable."""
        if self.index is not None:
            return list(self.index.keys_in(self.evaluation_source))
        return list(self.evaluation_source.keys)[: self.config.eval_scenes]

    def _shown(self) -> tuple[int, SceneViews, SceneViews]:
        """Number of the scene to show, its context views and its target views. Raises DataError."""
        if getattr(self.config.dataparser, "scene", None) is not None:
            number = self.number_of(self.config.dataparser.scene)  # type: ignore[attr-defined]
            return number, self._views(number, "context"), self._views(number, "target")
        for scene in self.usable_evaluation_scenes():
            try:
                return scene.number, self._views(scene.number, "context"), self._views(scene.number, "target")
            except BadScene as error:  # of a target view
                self.skip(scene.number, error)
        raise DataError(f"no evaluation scene is usable; {self.evaluation_source.skipped.summary(3)}")

    def number_of(self, key: str) -> int:
        """Number of an evaluation scene by its name; it joins the scenes to evaluate. Raises DataError."""
        if key not in self.evaluation_keys:
            if key not in self.evaluation_source.keys:
                some = ", ".join(list(self.evaluation_source.keys)[:5])
                raise DataError(f"there is no scene {key!r} in this split; it has {some}, ...")
            self.evaluation_keys = [*self.evaluation_keys, key]
        return self.evaluation_keys.index(key)

    def usable_evaluation_scenes(self) -> Iterator[EvaluationScene]:
        """All evaluation scenes whose context views can be read; the others are skipped.

        Raises DataError if there is none.
        """
        found = False
        for number in range(len(self.evaluation_keys)):
            try:
                self.context_views(number)
            except BadScene as error:
                self.skip(number, error)
                continue
            found = True
            yield self.evaluation_scene(number)
        if not found:
            raise DataError(f"no evaluation scene is usable; {self.evaluation_source.skipped.summary(3)}")

    def skip(self, number: int, error: BadScene) -> None:
        """Log, count and name an evaluation scene as unusable, once."""
        key = self.evaluation_keys[number]
        self.evaluation_source.skipped.add(error if error.key else BadScene(error.reason, key))

    def evaluation_scene(self, number: int) -> EvaluationScene:
        """Scene `number` of the evaluation with its views. Raises BadScene."""
        scene = self.evaluation_source.scene(self.evaluation_keys[number])
        views = self._evaluation_views(scene)
        given, anchors = views.context, None
        if self.preset.scene_generator is not None:
            given = condition_of(views, self.preset, self.config.num_condition)
            if isinstance(self.evaluation_source, PhotographSource):
                path = self.evaluation_source.path
            else:
                path = scene.c2w[path_of(views, self._num_context)]
            anchors = anchors_along(path, self._num_context)
        return EvaluationScene(number, scene, given, views.target[: self.config.eval_targets], anchors)

    def _evaluation_views(self, scene: Scene) -> ViewIndices:
        count = self._num_context
        if isinstance(self.evaluation_source, StockSceneSource) and self.config.num_context is None:
            count = min(count, max(self.evaluation_source.num_train, 1))  # fewer are worse, and better than none
        if isinstance(self.evaluation_source, (StockSceneSource, TokenSource, PhotographSource)):
            return self.evaluation_source.views(count)
        return self._views_by_index(scene)

    @property
    def _views_by_index(self) -> Callable[[Scene], ViewIndices]:
        return partial(views_by_index, self.index, self._indexed, self.config.num_context, self._num_context)

    def spread_views(self, number: int, count: int) -> Int64[Tensor, " count"]:
        """`count` views spread over an evaluation scene, whatever its index says. Raises BadScene."""
        if isinstance(self.evaluation_source, StockSceneSource):
            return self.evaluation_source.views(count).context
        return default_views(self.evaluation_source.scene(self.evaluation_keys[number]).c2w, count).context

    def condition_views(self, number: int, count: int) -> Int64[Tensor, " count"]:
        """SceneGen: `count` photographs of an evaluation scene to generate from. Raises BadScene and DataError."""
        views = self._evaluation_views(self.evaluation_source.scene(self.evaluation_keys[number]))
        return condition_of(views, self.preset, count)

    def context_views(self, number: int) -> Views:
        """Images and cameras that an evaluation scene is encoded, or generated, from."""
        scene = self.evaluation_scene(number)
        return scene.scene.load_views(scene.context, (self.preset.data.image_size,) * 2)

    def context_indices(self, number: int) -> Int64[Tensor, " context"]:
        """Views that an evaluation scene is encoded from, also where a generator is given fewer. Raises BadScene."""
        return self._evaluation_views(self.evaluation_source.scene(self.evaluation_keys[number])).context

    def conditions(self, number: int) -> Conditions | None:
        """What an evaluation scene is generated from; None where scenes are encoded from their context views."""
        scene = self.evaluation_scene(number)
        if scene.anchors is None:
            return None
        return Conditions(self.context_views(number), scene.anchors, self.pose_scale(number))

    def pose_scale(self, number: int) -> float:
        """What positions of an evaluation scene are multiplied by to be in units of the training data."""
        source = self.evaluation_source
        return source.pose_scale if isinstance(source, (PhotographSource, StockSceneSource)) else 1.0

    def stored_tokens(self, number: int) -> SceneTokens | None:
        """Tokens of an evaluation scene that comes as tokens; None where photographs are to be encoded."""
        return self.evaluation_source.tokens if isinstance(self.evaluation_source, TokenSource) else None

    def target_views(self, number: int) -> Views:
        """Images and cameras that an evaluation scene is compared with."""
        scene = self.evaluation_scene(number)
        return scene.scene.load_views(scene.target, (self.preset.data.image_size,) * 2)

    def _views(self, number: int, role: Literal["context", "target"]) -> SceneViews:
        scene = self.evaluation_scene(number)
        downscale = getattr(self.config.dataparser, "downscale_factor", None) or 1
        side = max(1, round(self.preset.data.image_size / downscale))
        return SceneViews(scene.scene, scene.context if role == "context" else scene.target, side, number)

    @property
    def _num_context(self) -> int:
        given = self.config.num_context
        return self.preset.data.views.num_context if given is None else given

    # --- What Nerfstudio's trainer and tools call ---

    @property
    def batch_size(self) -> int:
        given = self.config.batch_size
        return self.preset.training.batch_size if given is None else given

    def setup_train(self) -> None:
        """Nothing: tools may skip it; `next_train` makes its loader when first called."""

    def setup_eval(self) -> None:
        """Nothing: tools may skip it."""

    @cached_property
    def fixed_indices_eval_dataloader(self) -> EvaluationViews:
        """All target views of all evaluation scenes, scene by scene."""
        return EvaluationViews(self)

    @cached_property
    def eval_dataloader(self) -> RandIndicesEvalDataloader:
        return RandIndicesEvalDataloader(self.eval_dataset, self.device)

    def next_train(self, step: int) -> tuple[TrainingBatch, dict]:  # type: ignore[override]
        self.train_count += 1
        if self._training is None:
            pin_memory = torch.device(self.device).type == "cuda"
            self._training = TrainingLoader(self._samples("train"), self.config.num_workers, pin_memory)
        return self._training.batch(step).to(self.device), {}

    def next_eval(self, step: int) -> tuple[TrainingBatch, dict]:  # type: ignore[override]
        """A batch of held-out scenes: always the same, so that its loss is comparable between steps."""
        self.eval_count += 1
        if self._held_out is None:
            self._held_out = self._samples(self.test_split)
        return self._held_out[0].to(self.device), {}

    @property
    def training_skipped(self) -> SkippedScenes:
        """Scenes that training has met and could not use."""
        return SkippedScenes() if self._training is None else self._training.samples.source.skipped

    def training_source(self, split: str) -> SceneSource:
        """All scenes of a split, without views that are kept for evaluation."""
        source = self._source(split)
        return source.training_part() if isinstance(source, StockSceneSource) else source

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
            CONSOLE.print(f"{len(samples.keys)} scenes with tokens, {store.encodings} encodings of each")
            return samples
        CONSOLE.print(f"{len(source.keys)} scenes for the {split} split")
        return TrainingSamples(self._without_targets(source) if split == "train" else source, *rest)

    def _without_targets(self, source: SceneSource) -> SceneSource:
        """The scenes to train on, without the target views of those that are also evaluated."""
        shares = isinstance(self.dataparser, SceneDataParser)
        shares = shares and self.dataparser.split_folder("train") == self.dataparser.split_folder(self.test_split)
        if not shares:
            return source
        CONSOLE.print(
            f"Training and evaluation share {self.dataparser.split_folder('train')}: the target views of the "
            f"{len(self.evaluation_keys)} scenes to evaluate are kept out of training",
            soft_wrap=True,
        )
        return HeldOutTargets(source, self.evaluation_keys, self._views_by_index)

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
            CONSOLE.print(line)
        return LatentSamples(scenes, self.preset.data, target.space.layout, sharding, self.config.seed)

    def _latent_folders(self) -> tuple[tuple[Path, AutoencoderConfig], tuple[Path, AutoencoderConfig]]:
        context, target = self.config.context_latents, self.config.target_latents
        if self.preset.scene_generator is not None and context is not None:
            return ((context, self.preset.context_autoencoder),) * 2  # it has condition views, but no targets
        if context is None or target is None:
            raise DataError("training from latents needs both --context-latents and --target-latents")
        return (context, self.preset.context_autoencoder), (target, self.preset.target_autoencoder)

    def next_eval_image(self, step: int) -> tuple[Cameras, dict]:
        """One target view of the active scene; which one follows from the step. Training goes on past a damaged one."""
        count = len(self.eval_dataset)
        for place in (*range(step % count, count), *range(step % count)):
            loader = FixedIndicesEvalDataloader(self.eval_dataset, image_indices=(place,), device=self.device)
            try:
                return next(iter(loader))
            except BadScene as error:
                self.skip(self.active_scene, error)
        raise DataError(f"scene {self.evaluation_keys[self.active_scene]}: no target view can be decoded")

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
