"""The registered methods. Nerfstudio imports this module at the start of every tool: nothing heavy here."""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification

from scenetok_ns.bridge.tool_compat import allow_numpy_scalars, shorten_errors
from scenetok_ns.dataparsers.dl3dv_dataparser import Dl3dvDataParserConfig
from scenetok_ns.dataparsers.re10k_dataparser import Re10kDataParserConfig
from scenetok_ns.dataparsers.scene_dataparser import SceneDataParserConfig
from scenetok_ns.models.presets import load_preset
from scenetok_ns.plugin.datamanager import SceneTokDataManagerConfig
from scenetok_ns.plugin.depth_training import DepthDataManagerConfig, DepthModelConfig, DepthPipelineConfig
from scenetok_ns.plugin.model import SceneTokModelConfig
from scenetok_ns.plugin.pipeline import SceneTokPipelineConfig
from scenetok_ns.plugin.refinement import RefineDataManagerConfig, RefineModelConfig, RefinePipelineConfig
from scenetok_ns.plugin.splat_datamanager import SplatDataManagerConfig
from scenetok_ns.plugin.splat_model import SplatModelConfig
from scenetok_ns.plugin.splat_trainer import SplatTrainerConfig
from scenetok_ns.plugin.stream_training import StudentModelConfig, StudentPipelineConfig
from scenetok_ns.plugin.trainer import SceneTokTrainerConfig
from scenetok_ns.tools.earlier_modules import register_earlier_modules
from scenetok_ns.tools.ffmpeg import put_ffmpeg_on_path
from scenetok_ns.tools.threads import let_idle_threads_sleep
from scenetok_ns.training.optimizers import AdamWConfig, WarmupMilestonesConfig

allow_numpy_scalars()
shorten_errors()
let_idle_threads_sleep()  # of processes that the tool starts: its own torch is there already
put_ffmpeg_on_path()


REFINING_STEPS = 300
DEPTH_STEPS = 4000
STREAM_STEPS = 6000
SPLAT_STEPS = 2000


def specification(
    name: str,
    description: str,
    steps: int,
    pipeline: SceneTokPipelineConfig,
    optimizers: dict[str, AdamWConfig],
    schedule: WarmupMilestonesConfig,
) -> MethodSpecification:
    return MethodSpecification(
        config=SceneTokTrainerConfig(
            method_name=name,
            max_num_iterations=steps,
            steps_per_save=max(min(steps // 10, 1000), 1),
            steps_per_eval_batch=500,
            steps_per_eval_image=500,
            steps_per_eval_all_images=max(steps // 4, 1),
            machine=MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
            mixed_precision=False,  # the model uses bfloat16 where it should; Nerfstudio's own would be float16
            pipeline=pipeline,
            optimizers={group: {"optimizer": one, "scheduler": schedule} for group, one in optimizers.items()},
            viewer=ViewerConfig(websocket_host="127.0.0.1"),  # anybody who reaches the page can press its buttons
            vis="tensorboard",
        ),
        description=description,
    )


def method(name: str, preset: str, description: str, dataparser: SceneDataParserConfig) -> MethodSpecification:
    """Create a method whose defaults all follow from its preset."""
    pipeline = SceneTokPipelineConfig(
        datamanager=SceneTokDataManagerConfig(preset=preset, dataparser=dataparser),
        model=SceneTokModelConfig(preset=preset),
    )
    steps = load_preset(preset).training.max_steps
    return specification(name, description, steps, pipeline, {"networks": AdamWConfig()}, WarmupMilestonesConfig())


def refining_method(name: str, preset: str, description: str) -> MethodSpecification:
    """Create a method that trains on one capture, for few steps at a high learning rate."""
    pipeline = RefinePipelineConfig(
        datamanager=RefineDataManagerConfig(preset=preset, dataparser=NerfstudioDataParserConfig(), batch_size=4),
        model=RefineModelConfig(preset=preset),
    )
    # Measured on photographs with the embedded model (docs/captures.md). Tokens are not weights: they do not decay.
    optimizers = {
        "tokens": AdamWConfig(lr=0.03, weight_decay=0.0, clip_norm=1.0),
        "adapters": AdamWConfig(lr=2e-3, weight_decay=0.0, clip_norm=1.0),
    }
    schedule = WarmupMilestonesConfig(warmup_steps=10, milestones=(REFINING_STEPS * 2 // 3,), gamma=0.2)
    return specification(name, description, REFINING_STEPS, pipeline, optimizers, schedule)


def depth_method(name: str, preset: str, description: str) -> MethodSpecification:
    """Create a method that trains a small head for some minutes."""
    pipeline = DepthPipelineConfig(
        datamanager=DepthDataManagerConfig(preset=preset, dataparser=Re10kDataParserConfig()),
        model=DepthModelConfig(preset=preset),
    )
    optimizers = {"depth_head": AdamWConfig(lr=1e-3, weight_decay=0.02, clip_norm=1.0)}
    schedule = WarmupMilestonesConfig(warmup_steps=100, milestones=(DEPTH_STEPS // 2, DEPTH_STEPS * 4 // 5), gamma=0.3)
    return specification(name, description, DEPTH_STEPS, pipeline, optimizers, schedule)


def stream_method(name: str, preset: str, description: str) -> MethodSpecification:
    """Create a method that trains a copy of a trained denoiser, at a learning rate that changes it little."""
    pipeline = StudentPipelineConfig(
        datamanager=SceneTokDataManagerConfig(preset=preset, dataparser=Re10kDataParserConfig()),
        model=StudentModelConfig(preset=preset),
    )
    optimizers = {"networks": AdamWConfig(lr=1e-4, weight_decay=0.02, clip_norm=1.0)}
    schedule = WarmupMilestonesConfig(
        warmup_steps=100, milestones=(STREAM_STEPS // 2, STREAM_STEPS * 4 // 5), gamma=0.3
    )
    return specification(name, description, STREAM_STEPS, pipeline, optimizers, schedule)


def splat_method(name: str, preset: str, description: str) -> MethodSpecification:
    """Create a method with splatfacto's learning rates, for few steps."""
    rates = {"features_dc": 2.5e-3, "features_rest": 1.25e-4, "opacities": 0.05, "scales": 5e-3, "quats": 1e-3}
    optimizers: dict[str, dict[str, Any]] = {
        group: {"optimizer": AdamOptimizerConfig(lr=rate, eps=1e-15), "scheduler": None}
        for group, rate in {"means": 1.6e-4, **rates, "camera_opt": 1e-4}.items()
    }
    optimizers["means"]["scheduler"] = ExponentialDecaySchedulerConfig(lr_final=1.6e-6, max_steps=SPLAT_STEPS)
    return MethodSpecification(
        config=SplatTrainerConfig(
            method_name=name,
            max_num_iterations=SPLAT_STEPS,
            steps_per_save=SPLAT_STEPS,
            steps_per_eval_batch=0,
            steps_per_eval_image=500,
            steps_per_eval_all_images=SPLAT_STEPS,
            machine=MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
            mixed_precision=False,
            pipeline=VanillaPipelineConfig(
                datamanager=SplatDataManagerConfig(
                    preset=preset,
                    dataparser=NerfstudioDataParserConfig(load_3D_points=True),
                    cache_images_type="uint8",
                ),
                model=SplatModelConfig(),
            ),
            optimizers=optimizers,
            viewer=ViewerConfig(quit_on_train_completion=True),
            vis="tensorboard",
        ),
        description=description,
    )


scenetok = method(
    "scenetok",
    "re10k",
    "SceneTok: scenes as tokens, new views by rectified flow (RealEstate10K preset).",
    Re10kDataParserConfig(),
)
scenetok_dl3dv = method(
    "scenetok-dl3dv",
    "dl3dv-shift8-fixed",
    "SceneTok for DL3DV, VA-VAE and Video DC-AE; trains without the released weights' focal quirk.",
    Dl3dvDataParserConfig(),
)
scenetok_dl3dv_wan = method(
    "scenetok-dl3dv-wan",
    "dl3dv-wan-shift4",
    "SceneTok for DL3DV, VA-VAE and Wan 2.2, as released.",
    Dl3dvDataParserConfig(),
)
scenetok_tiny = method(
    "scenetok-tiny",
    "scenetok-tiny",
    "SceneTok small enough to train and render on a CPU; needs no downloads.",
    Re10kDataParserConfig(),
)
scenegen = method(
    "scenegen",
    "scenegen-shift4",
    "SceneGen: scenes from one to three photographs (RealEstate10K; presets scenegen-shift1, -shift4, -shift12).",
    Re10kDataParserConfig(),
)
scenegen_dl3dv = method(
    "scenegen-dl3dv",
    "scenegen-dl3dv",
    "SceneGen for DL3DV, on the tokens of the released dl3dv-shift8; no weights of it are published.",
    Dl3dvDataParserConfig(),
)
scenegen_tiny = method(
    "scenegen-tiny",
    "scenegen-tiny",
    "SceneGen on the tokenizer of scenetok-tiny, small enough to train and generate on a CPU.",
    Re10kDataParserConfig(),
)

scenetok_refine = refining_method(
    "scenetok-refine",
    "scenetok-tiny",
    "SceneTok on one capture: its encoded tokens are optimised on its photographs; other presets by --pipeline.model.",
)

scenetok_depth = depth_method(
    "scenetok-depth",
    "scenetok-tiny",
    "Depth head of a frozen SceneTok (--pipeline.model.tokenizer); other presets by --pipeline.model.preset.",
)

scenetok_stream = stream_method(
    "scenetok-stream",
    "scenetok-tiny",
    "Few-step student of a trained SceneTok (--pipeline.model.tokenizer) that streams; other presets by "
    "--pipeline.model.preset.",
)

scenetok_splat = splat_method(
    "scenetok-splat",
    "scenetok-tiny",
    "Gaussian splats of a capture with few photographs: SceneTok renders what they do not show (needs an NVIDIA GPU).",
)

METHODS = (
    scenetok,
    scenetok_dl3dv,
    scenetok_dl3dv_wan,
    scenetok_tiny,
    scenegen,
    scenegen_dl3dv,
    scenegen_tiny,
    scenetok_refine,
    scenetok_depth,
    scenetok_stream,
    scenetok_splat,
)


def method_config(name: str) -> TrainerConfig:
    """Configuration of one of our methods, by the name that presets give it."""
    for specification in METHODS:
        if specification.config.method_name == name:
            return specification.config
    raise ValueError(f"there is no scenetok method {name!r}")


register_earlier_modules()  # Nerfstudio's tools have imported this module before they read a config.yml.
