"""Our three autoencoders, with weights loaded from files as published, reproduce every recorded tensor.

`SCENETOK_PARITY_AE` names another folder of recorded cases than the one in the repository.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.recorded_autoencoders import (
    CASES,
    SHIPPED,
    Case,
    vavae_config,
    video_dcae_config,
    video_dcae_tiling,
    wan_config,
)
from torch import Tensor, nn

from scenetok_ns.models.autoencoders import vavae, video_dcae, wan
from scenetok_ns.models.autoencoders.vavae import VAVAE
from scenetok_ns.models.autoencoders.video_dcae import Tiling, VideoDCAE
from scenetok_ns.models.autoencoders.video_dcae_layers import VideoDCAEConfig, VideoDCAENetwork
from scenetok_ns.models.autoencoders.wan import WanVAE

KEYS = SHIPPED.parent / "keys"


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def make_vavae(case: Case, folder: Path) -> VAVAE:
    """Load VA-VAE from a training checkpoint like the published one: nested, with keys that are dropped on purpose."""
    path = folder / "vavae.pt"
    extra = {"loss.logvar": torch.zeros(()), "foundation_model.x": torch.zeros(1), "linear_proj.weight": torch.zeros(1)}
    torch.save({"state_dict": {**case.state, **extra}}, path)
    return VAVAE(case.space("vavae"), vavae.load_network(path, vavae_config(case), "cpu", torch.float32))


def vavae_outputs(case: Case, folder: Path) -> dict[str, Tensor]:
    model = make_vavae(case, folder)
    images, noise = case.inputs["images01"], case.inputs["eps"]
    pixels = images[0] * 2 - 1
    return {
        "encoder_h": model.network.encoder(pixels),
        "moments": torch.cat(model.moments(pixels), dim=1),
        "sample": model.encode_raw(images, noise=noise[None])[0],
        "first_stage_latents": model.encode(images, noise=noise[None]),
        "decode": model.decode_pixels(case.inputs["z"][0]),
        "last_stage_images01": model.decode(case.inputs["z"]),
    }


def make_video_dcae(case: Case, folder: Path) -> VideoDCAE:
    path = folder / "videodcae.safetensors"
    save_file(case.state, path)
    network = video_dcae.load_network(path, video_dcae_config(case), "cpu", torch.float32)
    scale = case.settings["wrapper"]["scaling_factor_for_stage_functions"]
    return VideoDCAE(case.space("video_dcae", scale), network, video_dcae_tiling(case))


def video_dcae_outputs(case: Case, folder: Path) -> dict[str, Tensor]:
    model = make_video_dcae(case, folder)
    short = case.inputs["video8"]
    long = next(tensor for name, tensor in case.inputs.items() if name.startswith("video") and name != "video8")
    wide = next(tensor for name, tensor in case.inputs.items() if name.startswith("wide"))
    with recorded_modules(model.network) as seen:
        outputs = {"z_t8": model.encode_video(short), "dec_t8": model.decode_video(case.outputs["z_t8"])}
        outputs |= {name: seen[name] for name in case.outputs if name.startswith("inter.")}
    for name in set(case.outputs) - set(outputs):
        if match := re.fullmatch(r"(z|dec)_t(\d+)(?:_tile(\d+)_ov(\d+))?", name):
            way, frames, tile, overlap = match[1], int(match[2]), match[3], match[4]
            tiling = replace(model.tiling, frames=int(tile), overlap=int(overlap) / 100) if tile else model.tiling
            video = short if frames <= 8 else long
            outputs[name] = (
                model.encode_video(video[:, :frames], tiling)
                if way == "z"
                else model.decode_video(case.outputs[name.replace("dec", "z")], tiling)
            )
    return outputs | {
        "z_wide": model.encode_video(wide),
        "dec_wide": model.decode_video(case.outputs["z_wide"]),
        "first_stage_latents": model.encode((short + 1) / 2),
        "last_stage_images01": model.decode(case.outputs["first_stage_latents"]),
    }


class recorded_modules:  # noqa: N801 - reads as a function
    """Collects the outputs of named submodules, under the names of the recorded tensors."""

    def __init__(self, network: VideoDCAENetwork) -> None:
        self.network, self.seen, self.hooks = network, {}, []

    def __enter__(self) -> dict[str, Tensor]:
        for part, module in (("enc", self.network.encoder), ("dec", self.network.decoder)):
            for name, child in module.named_modules():
                hook = partial(self._keep, f"inter.t8.{part}.{name}")
                self.hooks.append(child.register_forward_hook(hook))
        return self.seen

    def _keep(self, name: str, module: nn.Module, args: tuple, output: Tensor) -> None:
        self.seen[name] = output

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


def make_wan(case: Case, folder: Path) -> WanVAE:
    path = folder / "wan.pth"
    torch.save(case.state, path)
    return WanVAE(case.space("wan"), wan.load_network(path, wan_config(case), "cpu", torch.float32))


def wan_outputs(case: Case, folder: Path) -> dict[str, Tensor]:
    model = make_wan(case, folder)
    space, video = model.space, case.inputs["video34"]
    outputs = {
        "moments_t17": model.network.encode(video[:, :17].transpose(1, 2)).latent_dist.parameters.transpose(1, 2),
        "mu_t17": model.encode_video(video[:, :17]),
        "z_t34_two_chunks": model.encode((video + 1) / 2),
        "z_t34_unchunked": space.normalize(model.encode_video(video)),
        "dec_z": model.decode_video(space.denormalize(case.inputs["z"])),
        "last_stage_images01_t34": model.decode(case.outputs["z_t34_two_chunks"]),
        "first_stage_latents_t17": model.encode((video[:, :17] + 1) / 2),
    }
    for frames in (1, 5, 17):
        outputs[f"z_t{frames}"] = space.normalize(model.encode_video(video[:, :frames]))
        outputs[f"dec_t{frames}"] = model.decode_video(space.denormalize(case.outputs[f"z_t{frames}"]))
    return outputs


def failures(case: Case, outputs: dict[str, Tensor]) -> list[str]:
    """List the recorded tensors that are not reproduced, with the largest difference."""
    wrong = []
    for name, expected in case.outputs.items():
        if name.startswith("dec_") and "latents_mean" in case.settings:
            expected = expected.clamp(-1, 1)  # diffusers clamps what Wan decodes; the recording does not
        if name not in outputs or outputs[name].shape != expected.shape:
            wrong.append(f"{name}: {'missing' if name not in outputs else list(outputs[name].shape)}")
        elif not (error := (outputs[name] - expected).abs().max()) <= case.tolerance(name):
            wrong.append(f"{name}: differs by {error:.2e}")
    return wrong


RUNS: dict[str, tuple[str, Callable[[Case, Path], dict[str, Tensor]]]] = {
    "vavae": ("vavae_case", vavae_outputs),
    "video_dcae": ("video_dcae_case", video_dcae_outputs),
    "wan": ("wan_case", wan_outputs),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_recorded_output_is_met(name, request, tmp_path):
    case: Case = request.getfixturevalue(RUNS[name][0])
    outputs = RUNS[name][1](case, tmp_path)
    assert set(outputs) >= set(case.outputs), "a recorded output is not compared"
    assert not failures(case, outputs)


PERTURBED = {
    "vavae": ["encoder.down.4.attn.0.q.bias", "decoder.up.0.block.1.norm2.bias", "quant_conv.weight"],
    "video_dcae": [
        "encoder.stages.5.op_list.0.context_module.main.aggreg.0.1.weight",
        "decoder.stages.4.op_list.1.local_module.main.depth_conv.conv.bias",
        "encoder.stages.0.op_list.0.main.conv2.norm.bias",
        "decoder.project_out.op_list.0.weight",
    ],
    "wan": [
        "encoder.middle.1.norm.gamma",
        "encoder.downsamples.2.downsamples.{down}.time_conv.bias",
        "decoder.upsamples.3.upsamples.1.residual.3.gamma",
    ],
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in PERTURBED.items() for key in keys])
def test_one_changed_weight_is_noticed(name, key, request, tmp_path):
    case: Case = request.getfixturevalue(RUNS[name][0])
    key = key.format(down=case.config.get("num_res_blocks"))
    changed = case.state[key].clone()
    changed.view(-1)[0] += 0.1
    broken = replace(case, state={**case.state, key: changed})
    assert failures(case, RUNS[name][1](broken, tmp_path))


def inventory(name: str) -> dict[str, tuple[int, ...]]:
    """Key -> shape of a full-size published file."""
    plain = CASES / f"{name}.keys.txt"
    text = (
        plain.read_text() if plain.is_file() else gzip.decompress((KEYS / f"{name}.keys.txt.gz").read_bytes()).decode()
    )
    rows = [line.split("\t") for line in text.splitlines() if line]
    return {key: tuple(int(n) for n in shape.split("x")) for key, shape, _ in rows}


def linear_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape without trailing ones: a 1x1 convolution and a linear layer have the same weights."""
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape


@pytest.mark.parametrize(
    ("name", "make", "file_key", "parameters"),
    [
        ("vavae", lambda: vavae.build_network(vavae.VAVAEConfig()), vavae.published_key, 69_836_067),
        ("videodcae", lambda: VideoDCAENetwork(VideoDCAEConfig()), str, 459_462_147),
        ("wan22vae", lambda: wan.build_network(wan.WanConfig()), wan.published_key, 704_688_668),
    ],
)
def test_full_size_inventory(name, make, file_key, parameters):
    with torch.device("meta"):
        network = make()
    found = {file_key(key): linear_shape(tuple(tensor.shape)) for key, tensor in network.state_dict().items()}
    assert found == {key: linear_shape(shape) for key, shape in inventory(name).items()}
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_lengths_of_video_dcae(video_dcae_case, tmp_path):
    """The published network loses frames at some lengths, as recorded; `decode_raw` never does."""
    model = make_video_dcae(video_dcae_case, tmp_path)
    for frames, expected in video_dcae_case.settings["frames_to_latents_to_frames"].items():
        video = torch.rand(1, int(frames), 3, 32, 32) * 2 - 1
        if isinstance(expected, str):
            with pytest.raises(Exception):  # noqa: B017 - whatever the network raises, it must not give latents
                model.encode_video(video)
            continue
        latents = model.encode_video(video)
        assert latents.shape[1] == expected[0]
        if len(expected) > 1:
            assert model.decode_video(latents).shape[1] == expected[1]
        assert model.decode_raw(latents).shape[1] == 4 * latents.shape[1]


def test_a_latent_left_over_gives_its_four_frames(video_dcae_case, tmp_path):
    """A latent left over for the last tile gives four frames. The frames before them are as published. (The only
    published frame of that latent is the last of the four.)"""
    model = make_video_dcae(video_dcae_case, tmp_path)
    left_over = 2 * (model.tiling.frames // 4 * 3 // 4) + 1
    latents = torch.randn(1, left_over, model.space.channels, 1, 1)
    plain = (model.decode_video(latents) / 2 + 0.5).clamp(0, 1)
    ours = model.decode_raw(latents)
    assert plain.shape[1] == 4 * left_over - 3 and ours.shape[1] == 4 * left_over
    assert torch.equal(ours[:, :-4], plain[:, :-1])
    assert not torch.allclose(ours[:, -1], ours[:, -4], atol=1e-3)


def test_one_latent_gives_four_frames(video_dcae_case, tmp_path):
    model = make_video_dcae(video_dcae_case, tmp_path)
    latent = torch.randn(1, 1, model.space.channels, 2, 1)
    twice = (model.decode_video(latent.expand(-1, 2, -1, -1, -1)) / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(model.decode_raw(latent), twice[:, :4], atol=1e-6)


@pytest.mark.parametrize("bad", [{"frames": 6}, {"frames": 4}, {"pixels": 48}, {"overlap": 1.0}, {"overlap": 0.8}])
def test_impossible_tilings_are_refused(bad):
    with pytest.raises(ValueError, match="Tiling"):
        Tiling(**bad)
