"""Recorded runs of the published autoencoders: shrunk networks, their weights, inputs and outputs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from scenetok_ns.models.autoencoders.base import LatentSpace
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.autoencoders.vavae import VAVAEConfig
from scenetok_ns.models.autoencoders.video_dcae import Tiling
from scenetok_ns.models.autoencoders.video_dcae_layers import VideoDCAEConfig
from scenetok_ns.models.autoencoders.wan import WanConfig
from scenetok_ns.models.presets import AutoencoderConfig

SHIPPED = Path(__file__).parents[1] / "parity" / "autoencoders"
CASES = Path(os.environ.get("SCENETOK_PARITY_AE", SHIPPED))


@dataclass(frozen=True)
class Case:
    """One recorded run: settings, the published state dict, and inputs and outputs, whose names lack their prefixes."""

    settings: dict[str, Any]
    state: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    @classmethod
    def read(cls, name: str) -> Case:
        tensors = load_file(CASES / f"{name}.safetensors")
        parts: dict[str, dict[str, Tensor]] = {"state": {}, "in": {}, "out": {}}
        for key, tensor in tensors.items():
            part, _, rest = key.partition(".")
            parts[part][rest] = tensor.float()  # the committed files store exact float16 values
        return cls(json.loads((CASES / f"{name}.json").read_text()), parts["state"], parts["in"], parts["out"])

    @property
    def config(self) -> dict[str, Any]:
        return self.settings["config"]

    def tolerance(self, output: str) -> float:
        limits = self.settings.get("tolerance", {})
        if output == "decode":
            return limits.get("max_abs_decode", 1e-4)
        return limits.get("max_abs", 5e-5)

    def space(self, name: str, scale: float = 1.0) -> LatentSpace:
        """The published latent space, with the number of channels of the shrunk network."""
        space = latent_space(AutoencoderConfig(name, scale=scale))
        channels = self.config.get("latent_channels") or self.config.get("embed_dim") or self.config["z_dim"]
        return replace(space, channels=channels)


def vavae_config(case: Case) -> VAVAEConfig:
    c = case.config
    widths = tuple(c["ch"] * factor for factor in c["ch_mult"])
    return VAVAEConfig(widths, c["num_res_blocks"], c["embed_dim"], c["norm_groups"])


def wan_config(case: Case) -> WanConfig:
    c = case.config
    return WanConfig(
        c["dim"], c["dec_dim"], tuple(c["dim_mult"]), c["num_res_blocks"], c["z_dim"], tuple(c["temperal_downsample"])
    )


def video_dcae_config(case: Case) -> VideoDCAEConfig:
    encoder, decoder = case.config["encoder"], case.config["decoder"]
    return VideoDCAEConfig(
        latent_channels=case.config["latent_channels"],
        widths=tuple(encoder["width_list"]),
        encoder_depths=tuple(encoder["depth_list"]),
        decoder_depths=tuple(decoder["depth_list"]),
        first_attention_stage=encoder["block_type"].index("EViTS5_GLU"),
        time_halving_stages=tuple(i for i, halves in enumerate(encoder["temporal_downsample"]) if halves),
    )


def video_dcae_tiling(case: Case) -> Tiling:
    w = case.settings["wrapper"]
    return Tiling(w["temporal_tile_size"], w["spatial_tile_size"], w["tile_overlap_factor"])
