"""Photographs of a capture, and views that a tokenizer renders of places that the photographs do not show."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from scenetok_ns.bridge.cameras import square_cameras
from scenetok_ns.bridge.capture_kinds import fitting_dataparser
from scenetok_ns.data.covering_paths import LEAST_VIEWS, covering_paths, far_apart
from scenetok_ns.data.poses import pose_scale
from scenetok_ns.dataparsers.camera_conversion import camera_batch_to_nerfstudio, nerfstudio_to_camera_batch
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_geometry import DepthMaps
from scenetok_ns.models.metrics import psnr
from scenetok_ns.models.presets import changed
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.plugin.model import ENGINES
from scenetok_ns.rendering.joint_views import JointViews, join_views, photographs_that_show, render_jointly
from scenetok_ns.splats.points import Points, depth_points, surface_points
from scenetok_ns.tools.printing import print_line
from scenetok_ns.tools.seeds import seeded_generator
from scenetok_ns.training.scene_refinement import RefineOptions, refine_scene

FINEST_RENDER = 4
"""Renders are enlarged up to this many times, towards the size of the photographs."""


@dataclass
class SplatDataManagerConfig(FullImageDatamanagerConfig):
    """Photographs and rendered views."""

    _target: type = field(default_factory=lambda: SplatDataManager)
    preset: str = "scenetok-tiny"
    """Tokenizer that renders views: a name from the project's configs folder, or a YAML file of that form. A run folder
    given as `tokenizer` has its own."""
    tokenizer: Path | None = None
    """Run folder or checkpoint of the tokenizer; None: the weights that come with the package."""
    context_weights: Path | None = None
    """Weight file of the autoencoder that encodes photographs. None: the run folder's, if one is given."""
    target_weights: Path | None = None
    """Weight file of the autoencoder that decodes frames. None: the run folder's, if one is given."""
    pose_scale: float | None = None
    """Factor from capture units to training units. None: match the camera spread of the training data."""
    num_renders: int = 96
    """Number of views that are rendered around the photographs, at least 6; 0: none."""
    least_psnr: float = 18.0
    """Least PSNR in dB, of the model's renders of the photographs that it encoded, at which its other renders and its
    depth are used. A model that cannot show what it was given knows less about the rest. 0: always use them."""
    render_steps: int | None = None
    """Denoising steps of these views; None: the preset's."""
    render_share: tuple[float, float] = (0.6, 0.3)
    """Share of training steps on rendered views, at the beginning and from `anneal_steps` on."""
    seen_weight: tuple[float, float] = (0.3, 0.02)
    """Weight of rendered pixels that photographs show too, at the beginning and from `anneal_steps` on. If a pixel's
    surface is shown by n photographs, its weight is at least 1 / 4^n: a single photograph does not tell where along its
    rays a surface is, so rendered views go on to keep clouds of Gaussians away."""
    anneal_steps: int = 1500
    """Number of steps in which shares and weights change."""
    refine_at: int | None = 300
    """Step at which the tokens are refined on the photographs and the views are rendered again; None: never."""
    refine_steps: int = 100
    """Number of steps of that refinement."""
    engine: Literal["auto", "exact", "off"] = "auto"
    """Renderer on a GPU (docs/performance.md). auto: the engine. off: the plain loop, which starts sooner."""
    num_points: int = 60_000
    """Maximum number of points, from predicted depth, that Gaussians start at."""
    render_seed: int = 0
    """Random seed of the rendered views."""


class SplatDataManager(FullImageDatamanager[InputDataset]):
    """Stock photographs with depth, and rendered views with depth and weights, drawn in turn."""

    config: SplatDataManagerConfig

    def __init__(
        self,
        config: SplatDataManagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **kwargs: Any,
    ) -> None:
        """Create the data manager. If training follows ("val"), also render views and find the start points."""
        if 0 < config.num_renders < LEAST_VIEWS:
            raise ValueError(
                f"--pipeline.datamanager.num-renders must be 0 or at least {LEAST_VIEWS}, got {config.num_renders}"
            )
        dataparser: Any = config.dataparser
        fitting_dataparser(replace(dataparser, data=Path(config.data or dataparser.data)).setup())  # raises with advice
        super().__init__(config, device, test_mode, world_size, local_rank, **kwargs)
        self._draws = seeded_generator(config.render_seed + local_rank)
        self._own_side = 0  # of the model's pictures
        self._views: RenderedBatches | None = None
        self._scene: _Scene | None = None
        self._depths: list[Tensor] = []
        if test_mode == "val":
            self._prepare()

    def _prepare(self) -> None:
        config = self.config
        model = load_networks(config, self.device)
        self._own_side = model.preset.data.image_size
        scene = _Scene(config, model, self._photographs(self._own_side), self._units())
        if scene.psnr < config.least_psnr:
            print_line(
                f"the model renders the photographs at {scene.psnr:.1f} dB only, so what it renders of other places "
                "cannot be right either: the splats are fitted to the photographs alone, without rendered views and "
                "depth. To use them all the same: --pipeline.datamanager.least-psnr 0"
            )
            self._add_points(scene.swept_points(config.num_points))
            return
        scene.render_around()
        self._depths = [self._over_picture(depth, i) for i, depth in enumerate(scene.depth_of_photographs())]
        self._add_points(scene.start_points(config.num_points))
        if config.num_renders:
            self._views = scene.batches(self._render_side())
            unseen = float((self._views.shown == 0).float().mean())
            print_line(
                f"{len(self._views.images)} views rendered; photographs did not show {unseen:.0%} of their pixels"
            )
        if config.refine_at is not None and config.num_renders:
            self._scene = scene

    def _add_points(self, points: Points | None) -> None:
        """Let Gaussians start at `points` too. Without any points, splatfacto places them at random."""
        if points is None:
            return
        metadata = self.train_dataparser_outputs.metadata
        xyz, rgb = points.means.cpu(), (points.colours * 255).round().byte().cpu()
        if "points3D_xyz" in metadata:
            xyz, rgb = torch.cat([metadata["points3D_xyz"], xyz]), torch.cat([metadata["points3D_rgb"], rgb])
        metadata["points3D_xyz"], metadata["points3D_rgb"] = xyz, rgb

    # --- Photographs ---

    def _photographs(self, side: int) -> tuple[Float[Tensor, "v 3 h w"], CameraBatch]:
        """Return the middle squares of the training photographs, resized to `side` pixels, and their cameras."""
        pictures = []
        for data in self.cached_train:
            image = data["image"][..., :3].permute(2, 0, 1)
            image = image.float() / 255 if image.dtype == torch.uint8 else image
            length = min(image.shape[1:])
            top, left = ((size - length) // 2 for size in image.shape[1:])
            square = image[None, :, top : top + length, left : left + length]
            pictures.append(F.interpolate(square, size=(side, side), mode="bicubic", antialias=True)[0].clamp(0, 1))
        cameras = nerfstudio_to_camera_batch(square_cameras(self.train_dataset.cameras))
        return torch.stack(pictures), cameras

    def _units(self) -> float | None:
        """Return the factor of `--pose-scale`, for poses as the dataparser returns them."""
        scale = self.config.pose_scale
        return None if scale is None else scale / self.train_dataparser_outputs.dataparser_scale

    def _over_picture(self, depth: Float[Tensor, "1 s s"], index: int) -> Float[Tensor, "h w 1"]:
        """Place the depth of a photograph's middle square in the whole photograph; the rest is 0."""
        height, width = self.cached_train[index]["image"].shape[:2]
        length = min(height, width)
        top, left = (height - length) // 2, (width - length) // 2
        whole = depth.new_zeros(height, width, 1)
        whole[top : top + length, left : left + length, 0] = F.interpolate(depth[None], size=(length, length))[0, 0]
        return whole

    def _render_side(self) -> int:
        sides = [min(data["image"].shape[:2]) for data in self.cached_train]
        own = self._own_side
        return max(own, min(*sides, FINEST_RENDER * own) if len(sides) > 1 else min(sides[0], FINEST_RENDER * own))

    # --- Training ---

    def next_train(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """Return a photograph or a rendered view. Batches have "depth", 0 where it is unknown, if depth is used.

        Batches of rendered views also have "weight" [h, w, 1].
        """
        config = self.config
        done = min(step / max(config.anneal_steps, 1), 1.0)
        if self._scene is not None and config.refine_at is not None and step >= config.refine_at:
            self._refine(self._scene)
        if self._views is not None and float(torch.rand((), generator=self._draws)) < _between(
            config.render_share, done
        ):
            number = int(torch.randint(len(self._views.images), (), generator=self._draws))
            return self._views.batch(number, _between(config.seen_weight, done))
        camera, data = super().next_train(step)
        assert camera.metadata is not None
        index = int(camera.metadata["cam_idx"])
        return camera, {**data, "depth": self._depths[index]} if self._depths else data

    def _refine(self, scene: _Scene) -> None:
        self._scene = None
        scene.refine()
        self._views = scene.batches(self._render_side())
        print_line(f"{len(self._views.images)} views rendered again, with tokens refined on the photographs")


def _between(ends: tuple[float, float], done: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * done


@dataclass(frozen=True)
class RenderedBatches:
    """Rendered views as batches for Nerfstudio."""

    cameras: Cameras
    images: Float[Tensor, "n h w 3"]
    depths: Float[Tensor, "n h w 1"]
    certainty: Float[Tensor, "n h w 1"]
    shown: Float[Tensor, "n h w 1"]
    """Number of photographs that show the surface of a pixel."""

    def batch(self, number: int, seen_weight: float) -> tuple[Cameras, dict[str, Any]]:
        """Return one view.

        The weight of pixels that n photographs show too is multiplied by the larger one of `seen_weight` and 1 / 4^n.
        """
        weight = self.certainty[number] * (0.25 ** self.shown[number]).clamp(min=seen_weight)
        data = {"image": self.images[number], "depth": self.depths[number], "weight": weight, "image_idx": number}
        return self.cameras[number : number + 1], data


def load_networks(config: SplatDataManagerConfig, device: torch.device | str) -> SceneTok:
    """Load the networks that render views. A run folder brings its own preset and files.

    They are read only for training, because a run can be viewed after they are gone.

    Raises:
        OSError: A file is missing.
        ValueError: The source is not a model, or does not fit the preset.
    """
    source: Path | str = config.preset if config.tokenizer is None else config.tokenizer
    is_run = config.tokenizer is not None and (config.tokenizer.is_dir() or config.tokenizer.suffix == ".yml")
    model = SceneTok.from_pretrained(
        source,
        preset=None if is_run else config.preset,
        context_weights=config.context_weights,
        target_weights=config.target_weights,
        device=device,
    )
    model.engine_options = ENGINES[config.engine]
    return model


class _Scene:
    """The tokenizer with the tokens of the photographs."""

    def __init__(
        self,
        config: SplatDataManagerConfig,
        model: SceneTok,
        photographs: tuple[Float[Tensor, "v 3 s s"], CameraBatch],
        scale: float | None,
    ) -> None:
        self.config = config
        self.model, preset = model, model.preset
        self.frames = photographs[0].to(model.device)
        self.cameras = photographs[1].to(model.device)
        poses = self.cameras.c2w[0]
        scale = pose_scale(poses, preset.data.camera_spread) if scale is None else scale
        count = min(preset.data.views.num_context, len(self.frames))
        chosen = torch.tensor(sorted(far_apart(poses, count)))
        self.tokens: SceneTokens = self.model.encode(
            self.frames[chosen], self.cameras.select(chosen), scene="capture", pose_scale=scale
        )
        self.unit = (preset.data.camera_spread or 1.0) / scale
        self.sampler = changed(preset.sampler, steps=config.render_steps)
        self.photographs = self._views(self.cameras)
        self.psnr = float(psnr(pred=self.photographs.frames[chosen], target=self.frames[chosen]).mean())
        self.views: JointViews | None = None

    def render_around(self) -> None:
        """Render the views around the photographs."""
        if self.config.num_renders:
            paths = covering_paths(self.cameras.c2w[0], self.unit, self.config.num_renders)
            self.views = self._render(paths)

    def _render(self, paths: list[Float[Tensor, "n 4 4"]]) -> JointViews:
        """Return views along some paths, with the lens of the first photograph."""
        lens = self.cameras.intrinsics[:, :1]
        return join_views([self._views(CameraBatch(p[None], lens.expand(1, len(p), 3, 3))) for p in paths])

    def _views(self, cameras: CameraBatch, depth: DepthMaps | None = None) -> JointViews:
        options = {"seed": self.config.render_seed, "sampler": self.sampler, "depth": depth}
        return render_jointly(self.model, self.tokens, cameras, **options)  # type: ignore[arg-type]

    def _shown(self, views: JointViews) -> Int[Tensor, "n h w"]:
        return photographs_that_show(views.depth.depth, views.cameras, self.cameras, self.photographs.depth.depth)

    def depth_of_photographs(self) -> Float[Tensor, "v 1 s s"]:
        return self.photographs.depth.depth

    def start_points(self, limit: int) -> Points:
        """Return the points of all photographs, and of surfaces that only rendered views show."""
        points = [depth_points(self.frames, self.cameras, self.photographs.depth.depth)]
        if self.views is not None:
            views = self.views
            points.append(depth_points(views.frames, views.cameras, views.depth.depth, self._shown(views) == 0))
        return self._drawn(Points(*(torch.cat(part) for part in zip(*points, strict=True))), limit)

    def swept_points(self, limit: int) -> Points | None:
        """Return surface points that a plane sweep over the photographs finds. None: the photographs have no
        parallax."""
        positions = self.cameras.c2w[0, :, :3, 3]
        if (positions - positions[0]).norm(dim=1).max() == 0:
            return None
        return self._drawn(surface_points(self.frames, self.cameras), limit)

    def _drawn(self, points: Points, limit: int) -> Points:
        order = torch.randperm(len(points.means), generator=seeded_generator(self.config.render_seed))[:limit]
        return Points(*(values[order.to(values.device)] for values in points))

    def refine(self) -> None:
        """Refine tokens and denoiser on the photographs, and render the same views again.

        Their depth stays: a depth head belongs to the weights that it was trained for.
        """
        options = RefineOptions(steps=self.config.refine_steps, seed=self.config.render_seed)
        images = (self.frames * 255).round().byte()
        with torch.enable_grad():
            self.model, self.tokens = refine_scene(self.model, self.tokens, images, self.cameras, options)
        if self.views is not None:
            self.views = self._views(self.views.cameras, self.views.depth)

    def batches(self, side: int) -> RenderedBatches:
        """Return the rendered views at side x side pixels."""
        assert self.views is not None
        views, shown = self.views, self._shown(self.views)[:, None].float()

        def sized(maps: Tensor, mode: str) -> Tensor:
            smooth = {"antialias": True} if mode == "bicubic" else {}
            maps = F.interpolate(maps.float(), size=(side, side), mode=mode, **smooth)
            return maps.permute(0, 2, 3, 1).contiguous()

        return RenderedBatches(
            camera_batch_to_nerfstudio(views.cameras, side, side),
            sized(views.frames, "bicubic").clamp(0, 1),
            sized(views.depth.depth, "nearest"),
            sized(views.certainty, "bilinear"),
            sized(shown, "nearest"),
        )
