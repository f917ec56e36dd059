"""Weight files of autoencoders: published files load, and all others are refused with their name."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from support.recorded_autoencoders import vavae_config, video_dcae_config, wan_config

from scenetok_ns.models.autoencoders import vavae, video_dcae, wan
from scenetok_ns.models.autoencoders.registry import build_autoencoder, latent_space, weights_file
from scenetok_ns.models.presets import AutoencoderConfig

CPU = ("cpu", torch.float32)


@pytest.fixture
def video_file(video_dcae_case, tmp_path):
    path = tmp_path / "F32T4C128_AE.safetensors"
    save_file(video_dcae_case.state, path)
    return path


def load_video(path, case):
    return video_dcae.load_network(path, video_dcae_config(case), *CPU)


def test_truncated_safetensors(video_file, video_dcae_case):
    video_file.write_bytes(video_file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"F32T4C128_AE\.safetensors cannot be read .* truncated"):
        load_video(video_file, video_dcae_case)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.999])
def test_truncated_torch_file(keep, wan_case, tmp_path):
    path = tmp_path / "Wan2.2_VAE.pth"
    torch.save(wan_case.state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"Wan2\.2_VAE\.pth cannot be read .* truncated"):
        wan.load_network(path, wan_config(wan_case), *CPU)


def test_missing_file(wan_case, tmp_path):
    with pytest.raises(ValueError, match=r"gone\.pth do not exist"):
        wan.load_network(tmp_path / "gone.pth", wan_config(wan_case), *CPU)


def test_not_tensors(wan_case, tmp_path):
    torch.save({"state_dict": {"a": 1}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="expected a mapping from names to tensors"):
        wan.load_network(tmp_path / "x.pth", wan_config(wan_case), *CPU)


def test_code_in_a_file_is_not_run(wan_case, tmp_path):
    torch.save({"state_dict": builtins.print}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth cannot be read"):
        wan.load_network(tmp_path / "x.pth", wan_config(wan_case), *CPU)


def test_renamed_key(video_file, video_dcae_case):
    state = dict(video_dcae_case.state)
    state["encoder.project_in.conv.weights"] = state.pop("encoder.project_in.conv.weight")
    save_file(state, video_file)
    with pytest.raises(ValueError) as error:
        load_video(video_file, video_dcae_case)
    assert "1 tensors are missing (encoder.project_in.conv.weight)" in str(error.value)
    assert "1 tensors are not known (encoder.project_in.conv.weights)" in str(error.value)


def test_wrong_shape(video_file, video_dcae_case):
    state = dict(video_dcae_case.state)
    state["encoder.project_in.conv.bias"] = torch.zeros(5)
    save_file(state, video_file)
    with pytest.raises(ValueError, match=r"encoder\.project_in\.conv\.bias has shape \[5\], expected"):
        load_video(video_file, video_dcae_case)


def test_a_missing_key_of_the_training_checkpoint_is_not_hidden(vavae_case, tmp_path):
    state = dict(vavae_case.state)
    del state["quant_conv.bias"]
    torch.save({"state_dict": {**state, "loss.logvar": torch.zeros(())}}, tmp_path / "v.pt")
    with pytest.raises(ValueError, match=r"1 tensors are missing \(quant_conv\.bias\)"):
        vavae.load_network(tmp_path / "v.pt", vavae_config(vavae_case), *CPU)


def test_unknown_extra_keys_are_refused(vavae_case, tmp_path):
    torch.save({**vavae_case.state, "encoder.extra": torch.zeros(1)}, tmp_path / "v.pt")
    with pytest.raises(ValueError, match=r"1 tensors are not known \(encoder\.extra\)"):
        vavae.load_network(tmp_path / "v.pt", vavae_config(vavae_case), *CPU)


def test_another_model_is_named(vavae_case, video_dcae_case, wan_case, tmp_path):
    states = {"VA-VAE": vavae_case.state, "Video DC-AE": video_dcae_case.state, "Wan 2.2 VAE": wan_case.state}
    loads = {
        "VA-VAE": lambda path: vavae.load_network(path, vavae_config(vavae_case), *CPU),
        "Video DC-AE": lambda path: load_video(path, video_dcae_case),
        "Wan 2.2 VAE": lambda path: wan.load_network(path, wan_config(wan_case), *CPU),
    }
    for found, state in states.items():
        torch.save(state, tmp_path / "weights.pt")
        for wanted, load in loads.items():
            if wanted != found:
                with pytest.raises(ValueError, match=rf"is not (the )?{wanted}.*; it looks like {found}"):
                    load(tmp_path / "weights.pt")


@pytest.mark.parametrize("pipeline", [False, True])
def test_diffusers_folders(pipeline, vavae_case, wan_case, tmp_path):
    """A model saved by diffusers, alone or within a pipeline, gives the same network."""
    for name, module, config, case in (
        ("vavae", vavae, vavae_config(vavae_case), vavae_case),
        ("wan", wan, wan_config(wan_case), wan_case),
    ):
        torch.save(case.state, tmp_path / "published.pt")
        network = module.load_network(tmp_path / "published.pt", config, *CPU)
        network.save_pretrained(tmp_path / name / "vae" if pipeline else tmp_path / name)
        again = module.load_network(tmp_path / name, config, *CPU)
        for key, value in network.state_dict().items():
            assert torch.equal(value, again.state_dict()[key])
    with pytest.raises(ValueError, match="holds AutoencoderKLWan, expected AutoencoderKL"):
        vavae.load_network(tmp_path / "wan", vavae_config(vavae_case), *CPU)


def test_folder_without_a_model(wan_case, tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        wan.load_network(tmp_path, wan_config(wan_case), *CPU)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json cannot be read: it is not JSON"):
        wan.load_network(tmp_path, wan_config(wan_case), *CPU)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLWan"}))
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors do not exist"):
        wan.load_network(tmp_path, wan_config(wan_case), *CPU)


def test_dtype_and_a_sealed_copy(video_file, video_dcae_case):
    """Weights have the requested dtype, and do not change when the file that they were mapped from changes."""
    network = video_dcae.load_network(video_file, video_dcae_config(video_dcae_case), "cpu", torch.bfloat16)
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    video = torch.zeros(1, 8, 3, 32, 32)
    model = video_dcae.VideoDCAE(video_dcae_case.space("video_dcae"), network, video_dcae.ONLINE_TILING)
    latents = model.encode_raw(video)
    assert latents.dtype == torch.float32
    video_file.write_bytes(b"\0" * video_file.stat().st_size)
    assert torch.equal(model.encode_raw(video), latents)


@pytest.mark.parametrize("name", ["vavae", "video_dcae", "wan"])
def test_registry_asks_for_weights_by_file_and_address(name):
    config = AutoencoderConfig(name)
    with pytest.raises(ValueError, match=rf"needs its weights: give the path of {weights_file(config)} \(https"):
        build_autoencoder(config)
    with pytest.raises(ValueError, match=r"nowhere\.pt do not exist"):
        build_autoencoder(config, "nowhere.pt")


def test_registry_refuses_a_shrunk_network(vavae_case, tmp_path):
    torch.save(vavae_case.state, tmp_path / "v.pt")
    with pytest.raises(ValueError, match=r"is not VA-VAE f16d32 .* has shape|tensors are missing"):
        build_autoencoder(AutoencoderConfig("vavae"), tmp_path / "v.pt")


def test_latent_spaces():
    vavae_space = latent_space(AutoencoderConfig("vavae"))
    assert (vavae_space.channels, vavae_space.latent_size((256, 256))) == (32, (16, 16))
    video = latent_space(AutoencoderConfig("video_dcae", scale=0.493))
    assert (video.channels, video.latent_size((256, 512)), video.layout.num_latents(32)) == (128, (8, 16), 8)
    assert video.normalize(torch.ones(128, 1, 1)).unique().tolist() == pytest.approx([0.493])
    wan_space = latent_space(AutoencoderConfig("wan"))
    assert (wan_space.channels, wan_space.layout.num_latents(34)) == (48, 10)


def test_spaces_and_imports_need_no_diffusers():
    code = (
        "import sys; sys.modules['diffusers'] = None\n"
        "from scenetok_ns.models.autoencoders import registry, vavae, wan\n"
        "from scenetok_ns.models.presets import AutoencoderConfig\n"
        "[registry.latent_space(AutoencoderConfig(n)) for n in ('vavae', 'video_dcae', 'wan')]\n"
        "for make in (lambda: vavae.build_network(vavae.VAVAEConfig()), lambda: wan.build_network(wan.WanConfig())):\n"
        "    try: make()\n"
        "    except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("needs diffusers: pip install 'scenetok-ns[autoencoders]'") == 2
