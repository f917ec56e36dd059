"""The table of released files has all files of the presets, and its entries are well formed."""

from __future__ import annotations

import re

from scenetok_ns.models.presets import load_preset, preset_names
from scenetok_ns.models.released_files import RELEASED_FILES, HubFile, Share, files_of


def test_every_file_belongs_to_a_preset_and_every_preset_finds_its_files() -> None:
    assert all(file.presets for file in RELEASED_FILES)
    found = {role: file.name for role, file in files_of(load_preset("scenegen-shift4")).items()}
    assert found == {
        "checkpoint": "scenegen_shift4_re10k.ckpt",
        "tokenizer": "va-videodc_re10k_scene.ckpt",
        "context": "vavae-imagenet256-f16d32-dinov2.pt",
        "target": "F32T4C128_AE.safetensors",
    }
    assert files_of(load_preset("scenetok-tiny")) == {}
    assert set(files_of(load_preset("dl3dv-wan-shift8"))) == {"context", "target"}
    for name in preset_names():
        for file in files_of(load_preset(name)).values():
            assert name in file.presets


def test_entries_are_unique_and_well_formed() -> None:
    assert len({file.name for file in RELEASED_FILES}) == len({file.source for file in RELEASED_FILES}) == 10
    for file in RELEASED_FILES:
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert file.licence and (file.size is None or file.about is None)
        if isinstance(file.source, HubFile):
            assert file.source.revision is None or re.fullmatch("[0-9a-f]{40}", file.source.revision)
        else:
            assert file.source.link.startswith("https://") and file.source.url == file.source.link + "/download"


def test_shares_are_pages_and_files() -> None:
    assert Share("https://host/s/1").url == "https://host/s/1/download"
