"""Rendering token files with a preset of the package, without Nerfstudio, whose import takes longer than rendering."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scenetok_ns.cli.run_options import RunChanges, run_for
from scenetok_ns.models.presets import Preset, changed, load_preset, preset_names

if TYPE_CHECKING:
    from rich.console import Console

    from scenetok_ns.rendering.token_renderer import TokenRenderer


def package_preset(run: Path | None, tokens: tuple[Path, ...]) -> Preset | None:
    """The package's preset that renders the token files; None if the run is a folder, or without token files."""
    if not tokens:
        return None
    chosen = run or run_for(tokens)
    return None if chosen.exists() or str(chosen) not in preset_names() else load_preset(str(chosen))


def load_package_renderer(preset: Preset, changes: RunChanges, console: Console, device: str | None) -> TokenRenderer:
    """Check the token files and settings of `changes`, then load the preset's networks.

    Raises DataError or ValueError, in one line, for tokens or settings that do not fit the preset.
    """
    from scenetok_ns.data.sources.token_file import TokenSource
    from scenetok_ns.models.student_weights import StudentSource
    from scenetok_ns.rendering.token_renderer import RenderSettings, TokenRenderer

    preset.check_guidance(changes.guidance)
    sampler = changed(preset.sampler, steps=changes.steps, guidance=changes.guidance, solver=changes.solver)
    for file in changes.tokens[::-1]:  # in the order of `RunChanges.apply`
        TokenSource(file).check_preset(preset)
    with console.status("loading the model"):
        settings = RenderSettings(sampler, seed=changes.seed or 0, stream=changes.stream, stream_steps=changes.steps)
        renderer = TokenRenderer.of_package(preset, settings, device)
        if changes.student_weights is not None:
            renderer.scenetok.students = StudentSource(changes.student_weights)
        return renderer
