"""The registered methods. Nerfstudio imports this module at the start of every tool: nothing heavy here."""

from __future__ import annotations

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.plugins.types import MethodSpecification

from scenetok_ns.models.presets import load_preset
from scenetok_ns.optimizers import AdamWConfig, WarmupMilestonesConfig
from scenetok_ns.scenetok_datamanager import SceneTokDataManagerConfig
from scenetok_ns.scenetok_model import SceneTokModelConfig
from scenetok_ns.scenetok_pipeline import SceneTokPipelineConfig
from scenetok_ns.scenetok_trainer import SceneTokTrainer
from scenetok_ns.tool_compat import allow_numpy_scalars

allow_numpy_scalars()


def method(name: str, preset: str, description: str) -> MethodSpecification:
    """A method whose every default follows from its preset."""
    steps = load_preset(preset).training.max_steps
    return MethodSpecification(
        config=TrainerConfig(
            _target=SceneTokTrainer,
            method_name=name,
            max_num_iterations=steps,
            steps_per_save=max(min(steps // 10, 1000), 1),
            steps_per_eval_batch=500,
            steps_per_eval_image=500,
            steps_per_eval_all_images=max(steps // 4, 1),
            mixed_precision=False,  # the model uses bfloat16 where it should; Nerfstudio's own would be float16
            pipeline=SceneTokPipelineConfig(
                datamanager=SceneTokDataManagerConfig(preset=preset), model=SceneTokModelConfig(preset=preset)
            ),
            optimizers={"networks": {"optimizer": AdamWConfig(), "scheduler": WarmupMilestonesConfig()}},
            viewer=ViewerConfig(quit_on_train_completion=True),  # else ns-train never ends
            vis="tensorboard",
        ),
        description=description,
    )


scenetok = method(
    "scenetok", "re10k", "SceneTok: scenes as tokens, new views by rectified flow (RealEstate10K preset)."
)
scenetok_tiny = method(
    "scenetok-tiny", "scenetok-tiny", "SceneTok small enough to train and render on a CPU; needs no downloads."
)
