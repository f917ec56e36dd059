"""Preset files are read completely, and wrong values are refused by name."""

from __future__ import annotations

import pytest
import yaml

from scenetok_ns.models import presets
from scenetok_ns.models.networks.scene_generator import SceneGenerator
from scenetok_ns.models.presets import Preset, build, config_folder, load_preset, preset_names

PUBLISHED = {
    "re10k": "va-videodc_re10k.ckpt",
    "re10k-scratch": None,
    "re10k-scene": "va-videodc_re10k_scene.ckpt",
    "dl3dv-shift8": "va-videodc_dl3dv.ckpt",
    "dl3dv-shift4": None,
    "dl3dv-shift8-fixed": None,
    "dl3dv-shift4-fixed": None,
    "dl3dv-shift4-scratch": None,
    "dl3dv-wan-shift4": "va-wan_dl3dv.ckpt",
    "dl3dv-wan-shift8": None,
    "scenegen-shift1": "scenegen_shift1_re10k.ckpt",
    "scenegen-shift4": "scenegen_shift4_re10k.ckpt",
    "scenegen-shift12": "scenegen_shift12_re10k.ckpt",
}


def values_of(name: str) -> dict:
    return {"name": name, **yaml.safe_load((config_folder() / f"{name}.yaml").read_text())}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_presets_name_their_checkpoint(name: str) -> None:
    assert load_preset(name).checkpoint == PUBLISHED[name]


def test_quirks_are_on_only_where_released_weights_need_them() -> None:
    with_quirks = {name: load_preset(name).quirks for name in preset_names() if load_preset(name).quirks}
    focal_all = ("data.scale_focal_by_256: all",)
    wan = ("data.scale_focal_by_256: context", "denoiser.camera_channels_last: true")
    assert with_quirks == {
        "dl3dv-shift4": focal_all,
        "dl3dv-shift8": focal_all,
        "dl3dv-wan-shift4": wan,
        "dl3dv-wan-shift8": wan,
        "scenegen-dl3dv": focal_all,  # because its tokenizer has the quirk
    }


def test_yaml_numbers_become_the_declared_types() -> None:
    preset = load_preset("re10k")
    assert preset.training.kl_weights == (1e-10, 1e-10)
    assert preset.training.milestones == (20_000, 150_000, 500_000)
    assert isinstance(preset.training.gamma, float) and isinstance(preset.compressor.depth, int)
    assert preset.sampler.timestep_shift is None
    assert hash(preset) == hash(load_preset("re10k"))


@pytest.mark.parametrize("name", ["scenetok_wan-wan_shift4_dl3dv_scratch", "dl3dv-wan-wan-shift4"])
def test_wan_wan_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ValueError, match="cannot encode photographs"):
        load_preset(name)


def test_unknown_names_list_the_known_and_published_names_are_translated() -> None:
    with pytest.raises(ValueError, match=r"unknown preset 'nonsense'; known presets: .*re10k-scene"):
        load_preset("nonsense")
    with pytest.raises(ValueError, match=r"'tiny' \(did you mean scenegen-tiny or scenetok-tiny\?\); known presets"):
        load_preset("tiny")
    with pytest.raises(ValueError, match="that experiment is the preset 'dl3dv-wan-shift4'"):
        load_preset("scenetok_va-wan_shift4_dl3dv_finetuned")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("compressor", "wdth"), 3, r"x\.yaml: compressor: CompressorConfig has unknown fields \['wdth'\]"),
        (("compressor", "depth"), "12", r"x\.yaml: compressor: depth: expected int, got '12'"),
        (("compressor", "depth"), 12.5, "depth: expected int, got 12.5"),
        (("compressor", "depth"), True, "depth: expected int, got True"),
        (("training", "milestones"), [1, "2"], "milestones: expected int, got '2'"),
        (("training", "milestones"), 5, "milestones: expected a list"),
        (("training", "kl_weights"), [0.0], "kl_weights: expected a list of 2"),
        (("training", "freeze_compressor"), 1, "freeze_compressor: expected bool, got 1"),
        (("target_autoencoder", "name"), "dcae", r"name: expected one of .*'video_dcae'.*, got 'dcae'"),
        (("denoiser", "camera"), None, "camera: expected the fields of CameraConfig, got None"),
        (("sampler", "steps"), None, "steps: expected int, got None"),
        (("sampler", "steps"), 0, "sampler: steps must be at least 1, got 0"),
        (("denoiser", "num_heads"), 15, "hidden_size 1024 is not a multiple of num_heads 15"),
        (("denoiser", "target_splits"), 3, "num_latents 8 is not a multiple of target_splits 3"),
        (("denoiser", "num_latents"), 4, "sampler.window 8 exceeds denoiser.num_latents 4"),
        (("sampler", "clean_targets"), 8, "clean_targets 8 must be below window 8"),
        (("scene_generator",), None, None),
    ],
)
def test_wrong_values_are_named(path: tuple[str, ...], value: object, message: str | None) -> None:
    values = values_of("re10k")
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    if message is None:
        assert isinstance(build(Preset, values, where="x.yaml"), Preset)
        return
    with pytest.raises(ValueError, match=message):
        build(Preset, values, where="x.yaml")


def test_missing_field_and_half_a_generator_are_named() -> None:
    values = values_of("scenegen-shift4")
    del values["sampler"]["steps"]
    with pytest.raises(ValueError, match=r"SamplerConfig has unknown fields \[\] and lacks \['steps'\]"):
        build(Preset, values, where="x.yaml")
    values = values_of("scenegen-shift4")
    del values["scene_sampler"]
    with pytest.raises(ValueError, match="scene_generator and scene_sampler must be given together"):
        build(Preset, values, where="x.yaml")


def test_own_preset_file(tmp_path) -> None:
    text = (config_folder() / "dl3dv-wan-shift8.yaml").read_text()
    own = tmp_path / "mine.yaml"
    own.write_text(text.replace("camera_channels_last: true", "camera_channels_last: false"))
    preset = load_preset(str(own))
    assert preset.name == "mine" and not preset.denoiser.camera_channels_last
    with pytest.raises(ValueError, match="does not exist"):
        load_preset(str(tmp_path / "other.yaml"))


def test_missing_config_folder_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(presets, "__file__", str(tmp_path / "a" / "b" / "presets.py"))
    with pytest.raises(FileNotFoundError, match="reinstall scenetok-ns"):
        config_folder()


@pytest.mark.parametrize("name", [name for name in preset_names() if load_preset(name).scene_generator])
def test_a_scene_generator_repeats_its_tokenizer(name: str) -> None:
    """If this fails, copy the changed sections of the tokenizer's preset into the generator's preset."""
    preset = load_preset(name)
    assert preset.tokenizer_preset is not None
    tokenizer = load_preset(preset.tokenizer_preset)
    for part in ("compressor", "denoiser", "context_autoencoder", "target_autoencoder", "sampler"):
        assert getattr(preset, part) == getattr(tokenizer, part), part
    assert preset.data.image_size == tokenizer.data.image_size
    assert preset.data.views.num_context == tokenizer.data.views.num_context
    assert preset.training.freeze_compressor and preset.training.freeze_denoiser


def test_the_embedded_generator_fits_into_the_package() -> None:
    """The generator's weights, which are shipped in eight bits, take at most 15 MiB."""
    state = SceneGenerator.from_preset(load_preset("scenegen-tiny")).state_dict()
    assert sum(value.numel() for value in state.values()) < 15 * 2**20
