"""Changes that commands make to the configuration of a run, as one value that is checked early and applied once.

This module does not import Nerfstudio, which takes seconds: `--help` and the report of bad options do not need it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scenetok_ns.cli.photograph_options import PhotographOptions, given
from scenetok_ns.models.presets import Encoding, Solver, preset_names
from scenetok_ns.tools.errors import UsageError

if TYPE_CHECKING:
    from scenetok_ns.data.sources.photograph import PhotographSource
    from scenetok_ns.plugin.run_folder import RunFolderConfig

MOST = 1_000_000
"""Maximum value of options that are counts."""
EMBEDDED = "scenetok-tiny"
"""Preset whose weights come with the package, used where no run is given."""
EMBEDDED_GENERATOR = "scenegen-tiny"
"""Default preset of commands that generate scenes."""
MOST_STREAM_STEPS = 8
"""Largest number of denoising steps of a stream (`models.flow.streaming.MOST_STEPS`)."""
SMALLEST_SIDE = 512
"""Minimum side in pixels of videos and pictures without a chosen size: frames of smaller models are enlarged."""


@dataclass(frozen=True)
class GenerationOptions:
    """Settings of scene generation."""

    scene_seed: int | None = None
    """Random seed of a scenegen run's generation. Each seed gives another scene that fits the photographs."""
    scene_steps: int | None = None
    """Number of denoising steps of a scenegen run's generation."""
    scene_guidance: float | None = None
    """Classifier-free guidance scale of a scenegen run's generation, 1 is off."""
    scene_solver: Solver | None = None
    """Solver of a scenegen run's generation: euler, or multistep, which needs fewer steps for the same error."""
    scene_fit_steps: int | None = None
    """Number of steps in which a scenegen run fits the generated tokens to the photographs; 0 is off."""


@dataclass(frozen=True)
class RunChanges:
    """Changes to the configuration of a run. None, an empty tuple and False keep the values of the run.

    Raises ValueError, which names the command-line option, for values that no run can have, and for changes that
    exclude each other.
    """

    data: Path | None = None
    """Another data set, or a capture."""
    index: Path | None = None
    """Evaluation index: which scenes are evaluated, and which of their views."""
    scene: str | None = None
    """Name of the evaluation scene to display."""
    tokens: tuple[Path, ...] = ()
    """Token files to display instead of data. The run displays the first; the others are checked."""
    photograph: PhotographOptions = field(default_factory=PhotographOptions)
    """A photograph to generate the scene from, instead of data."""
    num_context: int | None = None
    """Number of context views to encode; for scenegen runs, number of anchor poses."""
    num_condition: int | None = None
    """Number of photographs from which a scenegen run generates a scene."""
    pose_scale: float | None = None
    """Factor from capture units to training units."""
    seed: int | None = None
    """Random seed for rendering."""
    steps: int | None = None
    """Denoising steps of a render."""
    guidance: float | None = None
    """Classifier-free guidance scale of a render, 1 is off."""
    solver: Solver | None = None
    """Solver of a render."""
    wide: Literal["border", "fill"] | None = None
    """How pictures that are not square are rendered."""
    protocol: Literal["default", "published", "notebook"] | None = None
    """How scenes are evaluated (`EvaluationViewsConfig.eval_protocol`)."""
    engine: Literal["auto", "exact", "off"] | None = None
    """Renderer on a GPU."""
    encoding: Encoding | None = None
    """Gaussians that are sampled when photographs are encoded."""
    low_vram: bool = False
    """Keep idle networks in CPU memory."""
    stream: bool = False
    """Render paths with the few-step student."""
    student_weights: Path | None = None
    """Weight file of a student."""
    baselines: bool = False
    """Let ns-eval compare with the baselines."""
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    """Settings of scene generation."""

    def __post_init__(self) -> None:
        self._check_one_scene()
        if self.data is not None:
            from scenetok_ns.data.capture.unposed import check_posed

            check_posed(self.data)
        self.photograph.check()
        if self.num_context is not None:
            positive("--num-context", self.num_context)
        if self.pose_scale is not None and not 0 < self.pose_scale < math.inf:
            raise UsageError(f"--pose-scale must be above 0, got {self.pose_scale:g}")
        if self.steps is not None:
            positive("--steps", self.steps)
        if self.guidance is not None:
            guidance_scale("--guidance", self.guidance)
        self._check_stream()
        if self.generation.scene_steps is not None:
            positive("--scene-steps", self.generation.scene_steps)
        if self.generation.scene_guidance is not None:
            guidance_scale("--scene-guidance", self.generation.scene_guidance)
        if self.generation.scene_fit_steps:
            positive("--scene-fit-steps", self.generation.scene_fit_steps)

    def _check_stream(self) -> None:
        """Raise ValueError for settings that a student does not have."""
        if self.student_weights is not None and not self.student_weights.is_file():
            raise UsageError(f"--student: there is no file {self.student_weights}")
        if not self.stream:
            return
        for name in ("guidance", "solver"):
            if getattr(self, name) is not None:
                raise UsageError(f"--stream renders with a student, which takes no --{name}: leave one of them out")
        if self.steps is not None and self.steps > MOST_STREAM_STEPS:
            raise UsageError(f"--stream takes at most {MOST_STREAM_STEPS} --steps, got {self.steps}")

    def _check_one_scene(self) -> None:
        """Raise UsageError for options of data beside a token file or photograph, which already gives the scene."""
        only = "--tokens" if self.tokens else "--image"
        others = {
            "--image": self.photograph.image if self.tokens else None,
            "--data": self.data,
            "--scene": self.scene,
            "--index": self.index,
            "--num-context": self.num_context,
            "--num-condition": self.num_condition,
            "--pose-scale": self.pose_scale,
        }
        surplus = [name for name, value in others.items() if value is not None]
        if surplus and (self.tokens or self.photograph.image is not None):
            raise UsageError(f"{only} already gives the scene: leave out {', '.join(surplus)}")

    def apply(self, config: RunFolderConfig) -> PhotographSource | None:
        """Change the configuration of a run. Returns the source of the photograph, or None without one.

        Raises DataError, ValueError or OSError, in one line, for changes that do not fit the run or its data.
        """
        from scenetok_ns.cli import change_run  # imports Nerfstudio

        change_run.change_rendering(config, self._rendering())
        if self.encoding is not None:
            change_run.change_encoding(config, self.encoding)
        change_run.change_generation(config, given(self.generation))
        config.pipeline.baselines = config.pipeline.baselines or self.baselines
        if self.num_condition is not None:
            change_run.change_num_condition(config, self.num_condition)
        if self.data is not None:
            change_run.change_data(config, self.data)
        # These options refer to the data, so the data is changed first.
        if self.num_context is not None:
            change_run.change_num_context(config, self.num_context)
        if self.index is not None:
            change_run.change_index(config, self.index)
        if self.pose_scale is not None:
            change_run.change_pose_scale(config, self.pose_scale)
        if self.scene is not None:
            change_run.change_scene(config, self.scene)
        for file in self.tokens[::-1]:  # the first one stays
            change_run.change_tokens(config, file)
        return None if self.photograph.image is None else change_run.change_photograph(config, self.photograph)

    def _rendering(self) -> dict[str, Any]:
        """Render settings of the model, by name."""
        values = given(self)
        names = ["seed", "steps", "guidance", "solver", "wide", "engine", "student_weights"]
        names += [name for name in ("low_vram", "stream") if getattr(self, name)]
        return {name: values[name] for name in names if name in values}


def positive(option: str, value: int, most: int = MOST) -> int:
    """Check the value of a count. Raises UsageError if it is below 1 or above `most`."""
    if value < 1:
        raise UsageError(f"{option} must be at least 1, got {value}")
    if value > most:
        raise UsageError(f"{option} must be at most {most:,}, got {value}")
    return value


def guidance_scale(option: str, value: float) -> float:
    """Check the value of an option for classifier-free guidance. Raises UsageError if it is below 1, infinite or
    NaN."""
    if not 1 <= value < math.inf:
        raise UsageError(f"{option} must be at least 1 (1 is off), got {value:g}")
    return value


def run_for(tokens: tuple[Path, ...]) -> Path:
    """Name of the package's preset that renders these token files, as a run. Raises UsageError if there is none."""
    if not tokens:
        return Path(EMBEDDED)
    from scenetok_ns.models.tokens import SceneTokens  # imports torch

    preset = SceneTokens.load(tokens[0]).preset
    if preset not in preset_names():
        raise UsageError(f"{tokens[0]} was made by preset {preset}, which is not in this package: give --run")
    return Path(preset)
