"""Recorded runs of the published code (tests/parity) and the networks that repeat them.

The cases are in tests/parity/core, or in the folder that the environment variable SCENETOK_PARITY names. Sizes always
come from the case's own configuration, so any set of cases with the same names works.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.networks.compressor import Compressor
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.pose_embedding import PoseEmbedding
from scenetok_ns.models.networks.scene_generator import SceneGenerator
from scenetok_ns.models.presets import CameraConfig, CompressorConfig, DenoiserConfig, SceneGeneratorConfig
from scenetok_ns.models.temporal import IMAGE_LAYOUT, TemporalLayout

CORE = Path(os.environ.get("SCENETOK_PARITY") or Path(__file__).parents[1] / "parity" / "core")

VIDEO_DCAE = TemporalLayout(4, 1)
WAN = TemporalLayout(17, 5)

FLOAT32_LIMIT = 1e-4
"""Largest difference of tensors before which nothing is rounded to bfloat16 (README of the recordings: c03 to c05)."""


@dataclass(frozen=True)
class Limits:
    """Largest and mean absolute difference, in float64."""

    max_abs: float
    mean_abs: float = float("inf")

    @classmethod
    def of(cls, tolerance: Mapping[str, Any]) -> Limits:
        return cls(tolerance["max_abs"], tolerance.get("mean_abs", float("inf")))


@dataclass(frozen=True)
class Case:
    name: str
    info: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def config(self) -> dict[str, Any]:
        return self.info["ref_config"]

    @property
    def limits(self) -> Limits:
        return Limits.of(self.info["tolerance"])

    @property
    def inputs(self) -> dict[str, Tensor]:
        return self.part("in.")

    @property
    def outputs(self) -> dict[str, Tensor]:
        return self.part("out.")

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose names start with `prefix`, by the rest of their names."""
        return {name[len(prefix) :]: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}

    def state(self, module: str = "") -> dict[str, Tensor]:
        """Weights below `module` ("compressor.", "denoiser.", "scene_generator."), keys relative to it."""
        return self.part(f"state.{module}")

    def cameras(self, prefix: str = "", *, relative: bool = False) -> CameraBatch:
        """Input cameras `in.<prefix>extrinsics`; `relative`: those recorded as relative to the reference view."""
        pose = f"out.{prefix}extrinsics_rel" if relative else f"in.{prefix}extrinsics"
        return CameraBatch(self.tensors[pose], self.tensors[f"in.{prefix}intrinsics"])


def load_case(name: str, folder: Path = CORE) -> Case:
    info = json.loads((folder / f"{name}.json").read_text())
    return Case(name, info, load_file(folder / info.get("file", f"{name}.safetensors")))


def differences(actual: Mapping[str, Tensor], case: Case, limits: Mapping[str, Limits] | None = None) -> list[str]:
    """List the outputs that are missing, unknown, of another shape, or too different; an empty list means parity.

    `limits` overrides the limits of the case for single outputs.
    """
    wrong = [f"{name}: not recorded" for name in actual.keys() - case.outputs.keys()]
    for name, expected in case.outputs.items():
        if name not in actual:
            wrong.append(f"{name}: not computed")
            continue
        limit = limits[name] if limits and name in limits else case.limits
        wrong += [f"{name}: {problem}" for problem in difference(actual[name], expected, limit)]
    return wrong


def difference(actual: Tensor, expected: Tensor, limit: Limits) -> list[str]:
    if actual.shape != expected.shape:
        return [f"shape {list(actual.shape)}, expected {list(expected.shape)}"]
    error = (actual.detach().double() - expected.double()).abs()
    max_abs, mean_abs = error.max().item(), error.mean().item()
    # Written so that NaN fails.
    if max_abs <= limit.max_abs and mean_abs <= limit.mean_abs:
        return []
    return [f"max {max_abs:.3g} (limit {limit.max_abs:.3g}), mean {mean_abs:.3g} (limit {limit.mean_abs:.3g})"]


def load_network(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state strictly. Constant tables in it must equal those that the network computes itself."""
    for name, table in network.named_buffers():
        problems = difference(table, state[name], Limits(1e-5))
        assert not problems, f"{name}: {problems}"
    network.load_state_dict(dict(state))
    network.eval()


def camera_config(camera: Mapping[str, Any]) -> CameraConfig:
    """Convert the published camera configuration."""
    assert tuple(camera["scale"]) == (1.0, 1.0) and not camera["origin_first"], "no released model has these"
    height, width = camera["input_shape"]
    assert height == width
    embedding = camera["embedding"]
    return CameraConfig(
        rays="plucker" if camera["name"] == "plucker" else "ray",
        normalize=camera["normalize"],
        embedding=embedding["name"],
        patch_size=embedding["patch_size"],
        input_size=height,
        dropout=embedding.get("dropout_prob", 0.0),
    )


def build_compressor(case: Case | None = None) -> Compressor:
    case = case or load_case("c02_compressor")
    config, kwargs = case.config, case.config["kwargs"]
    network = Compressor(
        CompressorConfig(
            hidden_size=kwargs["hidden_size"],
            depth=kwargs["depth"],
            num_heads=kwargs["num_heads"],
            patch_size=kwargs["patch_size"],
            num_tokens=config["num_scene_tokens"],
            token_dim=config["token_dim"],
            camera=camera_config(config["camera"]),
            mlp_ratio=kwargs["mlp_ratio"],
        ),
        latent_channels=case.info["construct"]["in_channels"],
        latent_size=_pair(config["input_shape"]),
    )
    load_network(network, case.state("compressor."))
    return network


def build_denoiser(case: Case, *, channels_last: bool = False) -> Denoiser:
    """Build the denoiser of c03_denoiser_vdc or c04_denoiser_wan; `channels_last` is a quirk of the latter."""
    config, kwargs, construct = case.config, case.config["kwargs"], case.info["construct"]
    state = case.state("denoiser.")
    network = Denoiser(
        DenoiserConfig(
            hidden_size=kwargs["hidden_size"],
            depth=kwargs["depth"],
            num_heads=kwargs["num_heads"],
            patch_size=kwargs["patch_size"],
            num_latents=construct["num_views"],
            camera=camera_config(config["camera"]),
            mlp_ratio=kwargs["mlp_ratio"],
            target_splits=config["num_target_split"],
            null_token="null_tokens" in state,
            camera_channels_last=channels_last,
        ),
        latent_channels=kwargs["in_channels"],
        latent_size=_pair(config["input_shape"]),
        layout=WAN if construct["using_wan"] else VIDEO_DCAE,
        token_dim=construct["cond_dim"],
        num_tokens=construct["num_scene_tokens"],
    )
    load_network(network, state)
    return network


def build_scene_generator(case: Case | None = None) -> SceneGenerator:
    case = case or load_case("c05_scene_generator")
    config, kwargs, construct = case.config, case.config["kwargs"], case.info["construct"]
    network = SceneGenerator(
        SceneGeneratorConfig(
            hidden_size=kwargs["hidden_size"],
            depth=kwargs["depth"],
            num_heads=kwargs["num_heads"],
            patch_size=kwargs["patch_size"],
            camera=camera_config(config["camera"]),
            mlp_ratio=kwargs["mlp_ratio"],
            scale=config["scale_factor"],
        ),
        latent_channels=kwargs["in_channels"],
        latent_size=_pair(config["input_shape"]),
        token_dim=construct["cond_dim"],
        num_tokens=construct["num_scene_tokens"],
    )
    load_network(network, case.state("scene_generator."))
    return network


def build_pose_embedding(
    case: Case, state: Mapping[str, Tensor], layout: TemporalLayout = IMAGE_LAYOUT, *, channels_last: bool = False
) -> PoseEmbedding:
    """Build the pose embedding of c01_lvsm or c01_plucker_patch, with one of its sets of weights."""
    config = case.config
    camera = CameraConfig(
        rays=config["camera"],
        normalize=config["normalize"],
        embedding="patch_embed" if "pos_embed_max_size" in config else "lvsm",
        patch_size=config["patch_size"],
        input_size=_pair(config["input_shape"])[0],
    )
    embedding = PoseEmbedding(camera, config["embed_dim"], layout, channels_last=channels_last)
    load_network(embedding, state)
    return embedding


def _pair(shape: list[int]) -> tuple[int, int]:
    height, width = shape
    return height, width
