"""Settings of the whole test suite."""

from __future__ import annotations

import os
import sys
import tempfile
from inspect import FrameInfo
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings
from nerfstudio.configs import external_methods

from scenetok_ns.tools.threads import let_idle_threads_sleep

let_idle_threads_sleep()  # before torch is imported

# Time depends on the machine and its load, so no test may fail because of it.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Matplotlib's list of fonts, which takes ten seconds to build, may come from the user's cache.
CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
os.environ.setdefault("MPLCONFIGDIR", os.path.join(CACHE, "matplotlib"))
# Otherwise, tests neither read nor write the user's cache folder: no interrupted evaluations, no weights.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="scenetok-tests-")
for variable in ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE"):
    os.environ.pop(variable, None)


def quick_stack() -> list[FrameInfo]:
    """The names of the callers, as `inspect.stack` gives them, without their source.

    Nerfstudio asks 26 times for them while it is imported. The lines of source of all frames of pytest, which it does
    not use, would take ten seconds.
    """
    frame, found = sys._getframe(1), []
    while frame is not None:
        code = frame.f_code
        found.append(FrameInfo(frame, code.co_filename, frame.f_lineno, code.co_name, None, None))
        frame = frame.f_back  # type: ignore[assignment]
    return found


external_methods.inspect = SimpleNamespace(stack=quick_stack)  # type: ignore[attr-defined]

LONGEST = (
    "repository/test_docs.py",
    "viewer/test_panel.py",
    "plugin/test_tools.py",
    "cli/test_render.py",
    "cli/test_demo.py",
    "models/networks/test_block_execution.py",
    "repository/test_faults.py",
    "test_tiny_student_training.py",
    "cli/test_score.py",
    "test_tiny_depth_training.py",
    "plugin/test_pipeline.py",
    "evaluation/test_evaluation_runs.py",
    "repository/test_examples.py",
    "viewer/test_compare.py",
    "evaluation/test_measures.py",
    "tools/test_safe_config.py",
    "benchmarks/test_splatfacto_benchmark.py",
    "data/capture/test_capture_folder.py",
    "plugin/test_training_options.py",
    "models/test_interpreted_kernels.py",
    "test_tiny_training.py",
    "models/autoencoders/test_video_dcae_fast.py",
    "cli/test_evaluate.py",
    "cli/test_generate.py",
    "models/test_embedded_weights.py",
    "repository/test_install.py",
)
"""Test files that take longest, in the order in which they start. They start first, so that short ones end the run."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
