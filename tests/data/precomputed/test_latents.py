"""Files of latents, the store that training reads, and verification."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch

from scenetok_ns.data.precomputed.latent_files import (
    LatentFile,
    LatentSettings,
    MappedLatents,
    latent_path,
    verify_file,
    write_map,
)
from scenetok_ns.data.precomputed.latents import LatentStore
from scenetok_ns.data.scenes import BadScene, DataError
from scenetok_ns.models.autoencoders.base import LatentSpace
from scenetok_ns.models.temporal import TemporalLayout

IMAGES = LatentSpace(TemporalLayout(1, 1), 4, 3)
VIDEO = LatentSpace(TemporalLayout(4, 1), 4, 3)
WAN = LatentSpace(TemporalLayout(17, 5), 4, 3)


def a_file(space: LatentSpace, chunks: int, seed: int = 0) -> LatentFile:
    generator = torch.Generator().manual_seed(seed)
    latents = chunks * space.layout.latents_per_chunk
    frames = space.layout.num_frames(latents)
    c2w = torch.eye(4).repeat(frames, 1, 1)
    c2w[:, 0, 3] = torch.arange(frames) / 3
    intrinsics = torch.eye(3).repeat(frames, 1, 1) * torch.arange(1, frames + 1)[:, None, None]
    return LatentFile(torch.randn(latents, 3, 2, 2, generator=generator).half(), c2w, intrinsics)


def store(tmp_path, space=IMAGES, chunks=6, names=("a", "b"), flipped=("a",)) -> LatentStore:
    for name in names:
        a_file(space, chunks).save(latent_path(tmp_path, "train", 1, name, False))
    for name in flipped:
        a_file(space, chunks, seed=1).save(latent_path(tmp_path, "train", 1, name, True))
    return LatentStore(tmp_path, space)


def test_the_published_loader_would_read_our_files(tmp_path):
    """The published loader reads three arrays by name with np.load, without pickle."""
    file = a_file(VIDEO, 5)
    file.save(tmp_path / "x.npz")
    arrays = np.load(tmp_path / "x.npz", allow_pickle=False)
    assert sorted(arrays) == ["extrinsics", "intrinsics", "latent"]
    assert arrays["latent"].dtype == np.float16 and np.array_equal(arrays["latent"], file.latents.numpy())
    assert np.array_equal(arrays["extrinsics"], file.c2w.numpy())
    assert np.array_equal(arrays["intrinsics"], file.intrinsics.numpy())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_we_read_files_of_the_published_scripts(tmp_path, save):
    """These files hold float16 cameras and, if an older NumPy wrote them, a fourth array named allow_pickle."""
    file = a_file(VIDEO, 5)
    halves = {"extrinsics": file.c2w.half().numpy(), "intrinsics": file.intrinsics.half().numpy()}
    path = latent_path(tmp_path, "train", 1, "x", False)
    path.parent.mkdir(parents=True)
    with path.open("wb") as stream:
        save(stream, latent=file.latents.numpy(), **halves, **{"allow_pickle.": np.array(False)})
    assert verify_file(path) is None
    views = LatentStore(tmp_path, VIDEO).views("x", torch.arange(4, 12))
    assert torch.equal(views.latents, file.latents[1:3])
    assert views.c2w.dtype == torch.float32 and torch.equal(views.c2w, file.c2w.half().float()[4:12])


def test_equal_content_gives_equal_bytes(tmp_path, monkeypatch):
    a_file(IMAGES, 4).save(tmp_path / "a.npz")
    monkeypatch.setattr(time, "time", lambda: 1.7e9)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(1.7e9))
    a_file(IMAGES, 4).save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("frames", [[0], [5, 2, 2], [3, 4, 5]])
def test_views_of_images(tmp_path, frames):
    views = store(tmp_path).views("a", torch.tensor(frames))
    whole = a_file(IMAGES, 6)
    assert torch.equal(views.latents, whole.latents[frames])
    assert torch.equal(views.c2w, whole.c2w[frames]) and torch.equal(views.intrinsics, whole.intrinsics[frames])


def test_views_of_two_clips(tmp_path):
    views = store(tmp_path, VIDEO).views("a", torch.cat([torch.arange(12, 20), torch.arange(0, 4)]), flipped=True)
    assert torch.equal(views.latents, a_file(VIDEO, 6, seed=1).latents[[3, 4, 0]])
    assert views.c2w[:, 0, 3].mul(3).round().tolist() == [*range(12, 20), *range(4)]


def test_views_where_the_first_frame_is_alone(tmp_path):
    views = store(tmp_path, WAN, chunks=3).views("a", torch.arange(17, 34))
    assert torch.equal(views.latents, a_file(WAN, 3).latents[5:10])


@pytest.mark.parametrize("frames", [[0, 1, 2], [1, 2, 3, 4], [0, 1, 3, 2], [0, 1, 2, 3, 5]])
def test_parts_of_latents_are_refused(tmp_path, frames):
    with pytest.raises(ValueError, match="are not all frames of some latents"):
        store(tmp_path, VIDEO).views("a", torch.tensor(frames))


def test_only_the_picked_latents_are_read(tmp_path):
    path = tmp_path / "x.npz"
    a_file(IMAGES, 6).save(path)
    mapped = MappedLatents(path, "x")
    assert isinstance(mapped.latents, np.memmap) and mapped.latents.flags.writeable is False
    picked = mapped.pick(torch.tensor([2]))
    picked.zero_()
    assert torch.equal(mapped.pick(torch.tensor([2])), a_file(IMAGES, 6).latents[2:3])


def test_mixed_state_is_reported(tmp_path):
    latents = store(tmp_path)
    assert latents.keys == ["a", "b"]
    assert latents.has("a", flipped=True) and not latents.has("b", flipped=True)
    coverage = latents.coverage(["x", "b", "y", "a"])
    assert coverage.present == ("b", "a") and coverage.missing == ("x", "y")
    assert coverage.summary().startswith("2 of 4 scenes have no latents in") and "(x, y)" in coverage.summary()
    assert latents.coverage(["a"]).summary().startswith("all 1 scenes")


def test_unfinished_files_are_not_scenes(tmp_path):
    latents = store(tmp_path)
    (latents.folder / ".c.npz.1@host.part").touch()
    (latents.folder / ".hidden.npz").touch()
    assert LatentStore(tmp_path, IMAGES).keys == ["a", "b"]
    assert list(write_map(tmp_path)["train"]["1"]) == ["a", "b"]


def test_another_autoencoder_is_refused(tmp_path):
    latents = store(tmp_path)
    with pytest.raises(BadScene, match="latents have 3 channels, those of its autoencoder 32"):
        LatentStore(tmp_path, LatentSpace(TemporalLayout(1, 1), 4, 32)).cameras("a")
    with pytest.raises(BadScene, match="6 latents do not fit 6 cameras"):
        LatentStore(tmp_path, VIDEO).cameras("a")
    LatentSettings("vavae", None, 256, "float32", 0).claim(tmp_path / "new")
    (tmp_path / "new" / "train").symlink_to(tmp_path / "train")
    with pytest.raises(DataError, match="holds latents of vavae, expected wan"):
        LatentStore(tmp_path / "new", IMAGES, autoencoder="wan")
    with pytest.raises(BadScene, match="frame 6 was asked for, but latents are of 6 frames"):
        latents.views("a", torch.tensor([6]))


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match=r"no latents in .*train/1; make them with `scenetok latents`"):
        LatentStore(tmp_path, IMAGES)
    with pytest.raises(BadScene, match=r"z\.npz cannot be read"):
        store(tmp_path).views("z", torch.tensor([0]))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "nan", "cameras", "array"])
def test_damage_is_found(tmp_path, damage):
    path = tmp_path / "x.npz"
    file = a_file(IMAGES, 6)
    if damage == "nan":
        file.latents[1, 2, 0, 1] = torch.nan
    if damage == "cameras":
        file = LatentFile(file.latents, file.c2w, file.intrinsics[:-1])
    file.save(path)
    assert (verify_file(path) is None) == (damage not in ("nan", "cameras"))
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    if damage == "flip":
        data[300] ^= 1
        path.write_bytes(data)
    if damage == "empty":
        path.write_bytes(b"")
    if damage == "array":
        np.savez(path, latent=file.latents.numpy())
    assert verify_file(path)


def test_pickled_arrays_are_refused(tmp_path):
    path = latent_path(tmp_path, "train", 1, "x", False)
    path.parent.mkdir(parents=True)
    np.savez(path, latent=np.array([print], dtype=object), extrinsics=np.eye(4), intrinsics=np.eye(3))
    assert "not a plain array" in (verify_file(path) or "")


def test_settings_are_kept_apart(tmp_path):
    settings = LatentSettings("vavae", "abc", 256, "float32", 0)
    settings.claim(tmp_path)
    settings.claim(tmp_path)
    with pytest.raises(DataError, match=r"was made with weights_sha256 abc \(now def\), seed 0 \(now 1\); choose"):
        LatentSettings("vavae", "def", 256, "float32", 1).claim(tmp_path)
    (tmp_path / "latents.json").write_text("{}")
    with pytest.raises(DataError, match="is damaged"):
        settings.claim(tmp_path)


def test_sets_of_other_origin_are_not_added_to(tmp_path):
    store(tmp_path)
    with pytest.raises(DataError, match="holds latents from another program"):
        LatentSettings("vavae", None, 256, "float32", 0).claim(tmp_path)


def test_map_has_the_published_form(tmp_path):
    store(tmp_path)
    a_file(IMAGES, 2).save(latent_path(tmp_path, "test", 3, "c.d", False))
    write_map(tmp_path)
    assert json.loads((tmp_path / "map_dict.json").read_text()) == {
        "train": {"1": {"a": ["a.npz", "a_flipped.npz"], "b": ["b.npz", "b_flipped.npz"]}},
        "test": {"3": {"c.d": ["c.d.npz", "c.d_flipped.npz"]}},
    }
