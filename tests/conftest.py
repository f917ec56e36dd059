"""Settings of the whole test suite."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

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

LONGEST = (
    "repository/test_docs.py",
    "repository/test_faults.py",
    "viewer/test_panel.py",
    "plugin/test_tools.py",
    "cli/test_demo.py",
    "plugin/test_pipeline.py",
    "test_tiny_training.py",
    "test_tiny_depth_training.py",
    "test_tiny_generator_training.py",
    "cli/test_evaluate.py",
    "plugin/test_training_options.py",
    "models/ops/test_dispatch.py",
    "models/networks/test_block_execution.py",
    "models/test_embedded_weights.py",
    "repository/test_install.py",
)
"""Test files that take longest, in the order in which they start. They start first, so that short ones end the run."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
