"""Nerfstudio's trainer with atomic checkpoints that resume exactly."""

from __future__ import annotations

import inspect
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, cast

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import comms, writer
from nerfstudio.utils.decorators import check_main_thread

from scenetok_ns.bridge.run_configs import OwnCheckpoints
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.run_checkpoints import CHECKPOINT_NAME, checkpoint_path, read_checkpoint
from scenetok_ns.plugin.model import SceneTokModel
from scenetok_ns.tools.atomic_files import remove_leftovers
from scenetok_ns.tools.cuda_memory import let_segments_grow
from scenetok_ns.tools.errors import INTERRUPTED
from scenetok_ns.tools.printing import command, print_line
from scenetok_ns.tools.run_files import CONFIG
from scenetok_ns.training.checkpoints import random_states, restore_random_states, save_checkpoint
from scenetok_ns.training.optimizers import ClippedAdamW

FILES_OF_A_NEW_RUN, TENSORBOARD = ("config.yml", "dataparser_transforms.json"), "events.out.tfevents."
"""Files that Nerfstudio has written before the first step."""


LEAST_SAVES = 4
"""Minimum number of checkpoints, which even a short run writes."""
COUNTS_ALL_STEPS = "max_num_iterations - self._start_step" in inspect.getsource(Trainer.train)
"""Whether max_num_iterations includes the steps before a resume: as on Nerfstudio's main branch, not as in 1.1.5."""


@dataclass
class SceneTokTrainerConfig(OwnCheckpoints, TrainerConfig):
    """Nerfstudio's configuration, with runs that can resume themselves."""

    _target: type = field(default_factory=lambda: SceneTokTrainer)
    resume: bool = False
    """Continue from the last checkpoint of this run (its folder follows from --output-dir, --experiment-name and
    --timestamp), if it has one, up to --max-num-iterations in total. The same command starts a run and continues it."""

    def set_timestamp(self) -> None:
        """Set the timestamp of the run. With `resume`, it must be fixed, or each start would be a new run."""
        if self.resume and self.timestamp == TrainerConfig.timestamp:
            raise ValueError("--resume True needs a fixed run folder: give --timestamp a name, e.g. --timestamp run1")
        super().set_timestamp()


class SceneTokTrainer(Trainer):
    """Trains like the stock trainer, but writes and reads other checkpoints.

    Checkpoints appear whole or not at all (`save_checkpoint`), and hold the states of the random generators and the
    count of skipped steps beside the stock entries. Data and noise of a step follow from the seed and the step, so a
    resumed run continues as if it had not been interrupted. With several processes, one evaluates.
    """

    _has_trained = False
    _has_ended = False
    _save_is_due = False

    def __init__(self, config: TrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Nerfstudio uses an old name of torch's GradScaler
            super().__init__(config, local_rank, world_size)

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        config = self.config
        pipeline = cast(Any, config.pipeline)
        pipeline.datamanager.seed = config.machine.seed
        pipeline.num_steps = config.max_num_iterations
        pipeline.accumulates = any(count > 1 for count in config.gradient_accumulation_steps.values())
        if str(self.device).startswith("cuda"):
            let_segments_grow()
            torch.set_float32_matmul_precision("high")  # of camera embeddings, whose result is rounded further anyway
        if getattr(config, "resume", False) and any(config.get_checkpoint_dir().glob("step-*.ckpt")):
            config.load_dir = config.get_checkpoint_dir()
        config.steps_per_save = min(config.steps_per_save, max(config.max_num_iterations // LEAST_SAVES, 1))
        try:
            super().setup(test_mode)
        except KeyboardInterrupt:
            self._stop()
        except Exception:
            self._remove_unused_folder()
            raise
        remove_leftovers(self.base_dir, nested=False)
        if getattr(config, "resume", False) and not COUNTS_ALL_STEPS:
            config.max_num_iterations = max(config.max_num_iterations - self._start_step, 0)

    def train(self) -> None:
        if self.config.max_num_iterations <= (self._start_step if COUNTS_ALL_STEPS else 0):
            print_line(f"This run is complete: {self._start_step} steps in {self.checkpoint_dir}")
            return
        cast(SceneTokModel, self.pipeline.model).begin_training()
        self.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self._name_viewer))
        try:
            super().train()
        except KeyboardInterrupt:
            self._stop()
        except Exception:
            if not self._has_trained:
                self._remove_unused_folder()
            raise

    def _stop(self) -> NoReturn:
        """End after Ctrl-C with one line; Nerfstudio would print a traceback. Called while the interrupt is handled."""
        if self.world_size > 1:  # Nerfstudio then ends all processes itself
            raise
        saved = max(self.checkpoint_dir.glob("step-*.ckpt"), default=None)
        if self._has_ended and self.viewer_state is not None:
            print_line("viewer closed")
            raise SystemExit(0) from None
        if saved is None:
            self._remove_unused_folder()
            removed = "" if self.base_dir.exists() else f", and {self.base_dir} was removed"
            print_line(f"Stopped before the first checkpoint: no step is saved{removed}.")
        else:
            looking = command("ns-viewer", "--load-config", self.base_dir / CONFIG)
            again = command("--timestamp", self.base_dir.name, "--resume", "True")
            step = int(saved.stem.removeprefix("step-"))
            print_line(
                f"Stopped; step {step} is saved. Look: {looking}; continue: the same command with {again} (before the "
                "name of a dataparser)"
            )
        raise SystemExit(INTERRUPTED) from None

    def _name_viewer(self, step: int) -> None:
        """Print the command that displays the run; the stock trainer then keeps an open viewer until Ctrl-C."""
        self._has_ended = True
        if comms.is_main_process():
            print_line(f"Look at it: {command('ns-viewer', '--load-config', self.base_dir / CONFIG)}")

    @check_main_thread
    def _remove_unused_folder(self) -> None:
        """A run that could not begin leaves no folder that looks like one: what ns-train has put into it goes."""
        if not self.base_dir.is_dir():
            return
        for event_writer in list(writer.EVENT_WRITERS):  # its thread would go on writing, and fail aloud
            if isinstance(event_writer, writer.TensorboardWriter):
                event_writer.tb_writer.close()
                writer.EVENT_WRITERS.remove(event_writer)
        with suppress(OSError):  # the first folder that holds anything else ends it
            if self.checkpoint_dir.is_dir():
                self.checkpoint_dir.rmdir()
            files = list(self.base_dir.iterdir())
            if all(file.name in FILES_OF_A_NEW_RUN or file.name.startswith(TENSORBOARD) for file in files):
                for file in files:
                    file.unlink()
            for folder in (self.base_dir, *self.base_dir.parents[:3]):
                folder.rmdir()

    def setup_optimizers(self) -> Optimizers:
        recipe = load_preset(self.config.pipeline.model.preset).training  # type: ignore[attr-defined]
        batch = self.pipeline.datamanager.batch_size * self.world_size  # type: ignore[operator]
        resolved = {
            name: {
                role: part and part.resolved(recipe, batch * self.gradient_accumulation_steps[name])
                for role, part in parts.items()
            }
            for name, parts in self.config.optimizers.items()
        }
        optimizers = Optimizers(resolved, self.pipeline.get_param_groups())
        for name, optimizer in optimizers.optimizers.items():
            optimizer.accumulation_steps = self.gradient_accumulation_steps[name]
        self.pipeline.accumulation_steps = self._accumulation_steps  # type: ignore[assignment]
        return optimizers

    @property
    def _accumulation_steps(self) -> int:
        return self.gradient_accumulation_steps["networks"]

    def _ends_cycle(self, step: int) -> bool:
        """Whether the optimizer has used all gradients up to this step."""
        return step % self._accumulation_steps == self._accumulation_steps - 1

    def train_iteration(self, step: int) -> tuple[torch.Tensor, dict[str, Any], dict[str, Any]]:
        loss, losses, metrics = super().train_iteration(step)
        self._has_trained = True
        if self._ends_cycle(step):
            average = cast(SceneTokModel, self.pipeline.model).average
            if average is not None:
                average.update()
            if self._save_is_due:
                self._save_is_due = False
                self.save_checkpoint(step)
        for optimizer in self.optimizers.optimizers.values():
            if isinstance(optimizer, ClippedAdamW) and optimizer.last_norm is not None:
                assert optimizer.skipped_steps is not None
                metrics = {**metrics, "gradient_norm": optimizer.last_norm, "skipped_steps": optimizer.skipped_steps}
        # Stock code logs them as numbers, and torch warns of tensors that still have a graph.
        losses = {name: value.detach() for name, value in losses.items()}
        return loss.detach(), losses, metrics

    @check_main_thread
    def eval_iteration(self, step: int) -> None:
        """With several processes, the first evaluates; the others wait for it in the next step.

        Without an autoencoder (training from latents, no weights given) there is nothing to compare pictures with.
        """
        if self.pipeline.model.has_autoencoders:
            super().eval_iteration(step)

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write a checkpoint; while gradients are being summed up, it waits for the optimizer's step."""
        if not self._ends_cycle(step) and self.training_state != "completed":
            self._save_is_due = True
            return
        self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        path = self.checkpoint_dir / CHECKPOINT_NAME.format(step)
        save_checkpoint(self._state(step), path, scratch=self.base_dir)
        if self.config.save_only_latest_checkpoint:
            for other in self.checkpoint_dir.glob("*.ckpt"):
                if other != path:
                    other.unlink()

    def _state(self, step: int) -> dict[str, Any]:
        optimizers, schedulers = self.optimizers.optimizers, self.optimizers.schedulers
        return {
            "step": step,
            "pipeline": self.pipeline.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
            "schedulers": {name: scheduler.state_dict() for name, scheduler in schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
            "skipped_steps": {
                name: getattr(optimizer, "skipped_steps", None) for name, optimizer in optimizers.items()
            },
            "random_states": random_states(),
        }

    def _load_checkpoint(self) -> None:
        path = self.config.load_checkpoint
        if self.config.load_dir is not None:
            path = checkpoint_path(self.config.load_dir, self.config.load_step)
        if path is None:
            self._begin_without_checkpoint()
            return
        state = read_checkpoint(path)
        self.pipeline.load_pipeline(state["pipeline"], state["step"])
        self.optimizers.load_optimizers(state["optimizers"])
        if self.config.load_scheduler:
            self.optimizers.load_schedulers(state["schedulers"])
        self.grad_scaler.load_state_dict(state["scalers"])
        for name, skipped in state.get("skipped_steps", {}).items():
            self.optimizers.optimizers[name].skipped_steps = skipped
        if "random_states" in state and comms.is_main_process():  # the file holds rank 0's; the others keep their seeds
            restore_random_states(state["random_states"])
        self._start_step = state["step"] + 1
        print_line(f"Resuming after step {state['step']} of {path}")

    def _begin_without_checkpoint(self) -> None:
        """Load initial weights and what stays frozen; print what training starts from, and what speaks against it."""
        config = cast(Any, self.config.pipeline).model
        preset, given = load_preset(config.preset), config.initial_weights is not None
        model = cast(Any, self.pipeline.model)
        print_line(model.start_line or f"No checkpoint: training from {'initial weights' if given else 'scratch'}.")
        for line in model.initialize_training_state():
            print_line(line)
        if given:
            return
        if preset.initial_checkpoint is not None:
            print_line(
                f"Note: the published training of preset {preset.name} starts from {preset.initial_checkpoint} "
                "(--pipeline.model.initial-weights FILE)."
            )
        for quirk in preset.quirks if preset.scene_generator is None else ():  # its tokenizer may need it
            print_line(
                f"Warning: preset {preset.name} has the quirk {quirk}, which only released weights "
                "need; to train from scratch, use a preset that has none (docs/quirks.md).",
                style="bold yellow",
            )
