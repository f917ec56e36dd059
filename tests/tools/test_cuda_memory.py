"""The allocator's settings: ours where the user has none."""

from __future__ import annotations

import sys

import pytest
import torch

from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.tools.cuda_memory import VARIABLES, let_segments_grow


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Settings that the allocator is given."""
    found: list[str] = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", found.append, raising=False)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return found


def test_segments_may_grow(given: list[str]) -> None:
    let_segments_grow()
    assert given == ["expandable_segments:True"]


def test_low_vram_lets_them_grow(given: list[str]) -> None:
    preset = load_preset("scenetok-tiny")
    SceneTok.from_preset(preset, deferred=True)
    assert not given
    SceneTok.from_preset(preset, low_vram=True, deferred=True)
    assert given == ["expandable_segments:True"]


def test_older_torch_is_told_in_its_own_way(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C, "_accelerator_setAllocatorSettings")
    monkeypatch.setattr(torch.cuda.memory, "_set_allocator_settings", given.append, raising=False)
    let_segments_grow()
    assert given == ["expandable_segments:True"]


@pytest.mark.parametrize("name", VARIABLES)
def test_what_the_user_has_set_stays(given: list[str], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "max_split_size_mb:512")
    let_segments_grow()
    assert not given


def test_other_systems_keep_their_allocator(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    let_segments_grow()
    assert not given
