"""Data and fixtures that several tests of the viewer share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.small_runs import randomize, small_pipeline, write_unlike_re10k
from support.viewer_threads import FakeViewer

from scenetok_ns.plugin.pipeline import SceneTokPipeline


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes, each beginning at another frame."""
    return write_unlike_re10k(tmp_path_factory.mktemp("re10k"))


@pytest.fixture
def pipeline_of(data: Path) -> Callable[..., SceneTokPipeline]:
    """Function that creates a pipeline whose viewer renders views alone: in `steps` steps at rest, one in motion."""

    def make(steps: int) -> SceneTokPipeline:
        pipeline = small_pipeline(data).eval()
        randomize(pipeline)
        shown = pipeline.model.viewer_renderer
        rest, moving = (replace(shown.settings.rest, steps=count) for count in (steps, 1))
        shown.settings = replace(shown.settings, rest=rest, moving=moving, previous_views=0)
        return pipeline

    return make


@pytest.fixture
def viewer(pipeline: SceneTokPipeline) -> Iterator[FakeViewer]:
    """Nerfstudio's render threads for the file's own fixture `pipeline`."""
    viewer = FakeViewer(pipeline.model)
    yield viewer
    viewer.close()
