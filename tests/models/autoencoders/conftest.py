"""Fixtures with the recorded cases."""

from __future__ import annotations

import pytest
from support.recorded_autoencoders import Case


@pytest.fixture(scope="session")
def vavae_case() -> Case:
    return Case.read("vavae")


@pytest.fixture(scope="session")
def video_dcae_case() -> Case:
    return Case.read("videodcae")


@pytest.fixture(scope="session")
def wan_case() -> Case:
    return Case.read("wan22vae")
