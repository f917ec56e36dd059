"""Networks of the published presets at full size have the recorded keys (parity c12)."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.released_checkpoints import expected_tensors

RE10K = "scenetok_va-vdc_lognorm_re10k_scratch"
DL3DV = "scenetok_va-vdc_shift8_dl3dv_finetuned"
WAN = "scenetok_va-wan_shift4_dl3dv_finetuned"
INVENTORIES = {
    **dict.fromkeys(["re10k", "re10k-scratch", "re10k-scene"], RE10K),
    **dict.fromkeys(["dl3dv-shift8", "dl3dv-shift4", "dl3dv-shift8-fixed", "dl3dv-shift4-fixed"], DL3DV),
    "dl3dv-shift4-scratch": DL3DV,
    **dict.fromkeys(["dl3dv-wan-shift4", "dl3dv-wan-shift8"], WAN),
    **dict.fromkeys(["scenegen-shift1", "scenegen-shift4", "scenegen-shift12"], "scenegen_shift4_re10k"),
}
"""Preset -> published experiment whose full-size keys were recorded (parity c12), with equal networks."""

PARAMETERS = {
    RE10K: {"compressor": 238_013_824, "denoiser": 564_188_256},
    DL3DV: {"compressor": 238_407_040, "denoiser": 564_188_256},
    WAN: {"compressor": 238_407_040, "denoiser": 559_305_744},
    "scenegen_shift4_re10k": {
        "compressor": 238_013_824,
        "denoiser": 564_188_256,
        "scene_generator": 1_256_236_096,
    },
}


def inventory(experiment: str) -> dict[str, tuple[list[int], bool]]:
    """Key of a state dict -> shape, and whether it is a parameter."""
    path = Path(__file__).parents[2] / "parity" / "keys" / f"keys_{experiment}.txt.gz"
    entries = {}
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        key, shape, _, kind, kept = line.replace(", ", ",").split()
        if kept == "persistent":
            entries[key] = ([int(size) for size in shape.strip("[]").split(",") if size], kind == "param")
    return entries


@pytest.mark.parametrize("name", INVENTORIES)
def test_networks_have_the_recorded_keys_shapes_and_sizes(name: str) -> None:
    tensors = expected_tensors(load_preset(name))
    assert all(tensor.is_meta and tensor.dtype == torch.float32 for tensor in tensors.values())
    recorded = inventory(INVENTORIES[name])
    assert {key: list(tensor.shape) for key, tensor in tensors.items()} == {
        key: shape for key, (shape, _) in recorded.items()
    }
    sizes: dict[str, int] = {}
    for key, tensor in tensors.items():
        if recorded[key][1]:
            module = key.split(".")[0]
            sizes[module] = sizes.get(module, 0) + tensor.numel()
    assert sizes == PARAMETERS[INVENTORIES[name]]
