"""Computing latents: shards, noise, mirrored scenes, skipped scenes, and continuing after kills."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.forks import LIMIT_S, forked, one_thread
from support.scene_files import example, write_dl3dv, write_re10k

from scenetok_ns.data.poses import reflect
from scenetok_ns.data.precomputed.latent_files import LatentSettings
from scenetok_ns.data.precomputed.latent_jobs import LatentJob, compute_latents, frame_noise, verify_set
from scenetok_ns.data.precomputed.latents import LatentStore
from scenetok_ns.data.precomputed.scene_jobs import Shard
from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.sources.dl3dv import DL3DVSource
from scenetok_ns.data.sources.re10k import RE10KSource
from scenetok_ns.models.autoencoders.base import Autoencoder
from scenetok_ns.models.autoencoders.registry import build_autoencoder
from scenetok_ns.models.autoencoders.vavae import VAVAE, VAVAEConfig, build_network, vavae_latent_space
from scenetok_ns.models.presets import AutoencoderConfig

SETTINGS = LatentSettings("pixel", None, 16, "float32", 0)


@pytest.fixture
def source(tmp_path) -> RE10KSource:
    chunks = [[example("a", 9, (20, 32)), example("b", 8, (20, 32))], [example("c", 3, (20, 32))]]
    return RE10KSource(write_re10k(tmp_path / "data" / "train", chunks))


def pixels(frames: int = 4, latents: int = 1) -> Autoencoder:
    config = AutoencoderConfig("pixel", spatial_factor=8, frames_per_chunk=frames, latents_per_chunk=latents)
    return build_autoencoder(config)


def job(tmp_path: Path, source: RE10KSource, **options) -> LatentJob:
    return LatentJob(
        **{"root": tmp_path / "out", "settings": SETTINGS, "sources": {"train": source}, "min_frames": 4} | options
    )


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_latents_are_those_of_the_photographs(tmp_path, source):
    autoencoder = pixels()
    report = compute_latents(job(tmp_path, source, flip_splits=("train",)), autoencoder)
    assert report.written == 4 and report.present == 0
    assert list(report.skipped.reasons) == ["c"] and "3 frames, fewer than 4" in report.skipped.summary()
    store = LatentStore(tmp_path / "out", autoencoder.space)
    assert store.keys == ["a", "b"]
    loaded = source.scene("a").load_views(range(8), (16, 16))  # 9 frames are cut to two chunks of 4
    for flipped, (images, c2w) in {
        False: (loaded.images, loaded.c2w),
        True: reflect(loaded.images, loaded.c2w),
    }.items():
        views = store.views("a", torch.arange(8), flipped=flipped)
        frames = autoencoder.decode_raw(views.latents.float()[None])[0]
        assert torch.allclose(frames, images / 255, atol=1e-3)
        assert torch.allclose(views.c2w, c2w) and torch.allclose(views.intrinsics, loaded.intrinsics)
        assert len(store.cameras("a", flipped=flipped)[0]) == 8
    assert verify_set(tmp_path / "out") == {}


def test_factors_take_every_nth_frame(tmp_path, source):
    compute_latents(job(tmp_path, source, factors=(1, 2), min_frames=2), pixels(1))
    whole, halved = (LatentStore(tmp_path / "out", pixels(1).space, factor=factor) for factor in (1, 2))
    assert torch.equal(halved.views("a", torch.arange(5)).latents, whole.views("a", torch.arange(0, 9, 2)).latents)


def test_a_second_run_does_nothing_and_a_lost_file_comes_back(tmp_path, source):
    compute_latents(job(tmp_path, source), pixels())
    before = files(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npz")}
    assert compute_latents(job(tmp_path, source), pixels()).present == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npz")} == times
    (tmp_path / "out/train/1/b.npz").unlink()
    assert compute_latents(job(tmp_path, source), pixels()).written == 1
    assert files(tmp_path / "out") == before


def test_shards_together_make_the_same_set(tmp_path, source):
    compute_latents(job(tmp_path, source), pixels())
    for index in (2, 0, 1):
        compute_latents(job(tmp_path, source, root=tmp_path / "sharded", shard=Shard(index, 3)), pixels())
    assert files(tmp_path / "sharded") == files(tmp_path / "out")


def test_other_settings_are_refused(tmp_path, source):
    compute_latents(job(tmp_path, source), pixels())
    with pytest.raises(DataError, match="choose another folder or the same settings"):
        compute_latents(job(tmp_path, source, settings=LatentSettings("pixel", None, 16, "float32", 1)), pixels())


def test_a_broken_photograph_costs_its_scene_only(tmp_path):
    broken = example("b", 8, (20, 32))
    broken["images"][5] = broken["images"][5][:40]
    source = RE10KSource(
        write_re10k(tmp_path / "train", [[example("a", 8, (20, 32)), broken, example("c_flipped", 8)]])
    )
    report = compute_latents(job(tmp_path, source), pixels())
    assert set(report.skipped.reasons) == {"b", "c_flipped"} and "frame_00005" in report.skipped.reasons["b"]
    assert LatentStore(tmp_path / "out", pixels().space).keys == ["a"]


class Exploding(torch.nn.Module):
    """An autoencoder whose latents exceed float16."""

    def __init__(self, inner: Autoencoder) -> None:
        super().__init__()
        self.space, self.inner = inner.space, inner

    def encode_raw(self, frames, *, noise=None):
        return self.inner.encode_raw(frames) * 1e6


def test_latents_that_overflow_are_not_stored(tmp_path, source):
    report = compute_latents(job(tmp_path, source), Exploding(pixels()))
    assert report.written == 0 and "not finite in float16" in report.skipped.reasons["a"]


def test_noise_follows_from_seed_scene_frame_and_mirroring():
    images, video = pixels(1), pixels(4)
    noise = frame_noise(0, "a", range(6), False, images, 16)
    assert noise.shape == (6, 192, 2, 2) and abs(noise.std() - 1) < 0.02
    assert torch.equal(noise[4:], frame_noise(0, "a", [4, 5], False, images, 16))
    assert torch.equal(
        frame_noise(0, "a", range(8), False, video, 16)[1], frame_noise(0, "a", range(4, 8), False, video, 16)[0]
    )
    others = [noise[0], noise[1], frame_noise(1, "a", [0], False, images, 16)[0]]
    others += [frame_noise(0, "b", [0], False, images, 16)[0], frame_noise(0, "a", [0], True, images, 16)[0]]
    assert len({float(other[0, 0, 0]) for other in others}) == 5


@given(st.integers(0, 50), st.integers(1, 12))
def test_shards_are_a_partition(keys, count):
    parts = [Shard(index, count).of(range(keys)) for index in range(count)]
    assert [key for part in parts for key in part] == list(range(keys))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, Shard(0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3"}, Shard(3, 8)),
        ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "10"}, Shard(5, 10)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "7",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            Shard(3, 4),
        ),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}, Shard(1, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Shard(0, 1)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "2",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_PROCID": "1",
                "SLURM_STEP_NUM_TASKS": "4",
            },
            Shard(9, 12),
        ),
        ({"RANK": "5", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, Shard(5, 8)),
    ],
)
def test_shard_of_the_environment(environment, shard):
    assert Shard.from_environment(environment) == shard


def test_shard_text():
    assert Shard.parse("0/4") == Shard(0, 4)
    for bad in ("4/4", "1", "a/b", "-1/2", "1/0"):
        with pytest.raises(ValueError, match="shard"):
            Shard.parse(bad)


def test_an_empty_set_cannot_be_verified(tmp_path):
    with pytest.raises(DataError, match="holds no latents"):
        verify_set(tmp_path)


def test_a_kill_while_writing_leaves_no_torn_file(tmp_path, source, monkeypatch):
    """The kill comes at the worst moment: the file is written, but not yet renamed."""
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        compute_latents(job(tmp_path, source), pixels())
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    left = files(tmp_path / "out")
    assert len(left) == 1 and all(name.endswith(".part") for name in left)
    compute_latents(job(tmp_path, source), pixels())
    compute_latents(job(tmp_path, source, root=tmp_path / "undisturbed"), pixels())
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")


def test_ten_kills_leave_no_trace(tmp_path):
    """Copies of this process, killed at random moments of their work, leave nothing but what the next one continues.

    Each has written at least one file before it is killed, so that a copy that hangs at its start does not count.
    """
    for number in range(6):
        write_dl3dv(tmp_path / "data" / f"scene{number}", frames=5, size=(160, 200))
    torch.manual_seed(0)
    network = build_network(VAVAEConfig((32, 32, 32, 32, 32), 1)).eval()
    model = VAVAE(vavae_latent_space(AutoencoderConfig("vavae")), network)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"

    def run(root: Path) -> None:
        settings = LatentSettings("vavae", None, 32, "float32", 0)
        source = {"train": DL3DVSource(tmp_path / "data")}
        compute_latents(LatentJob(root, settings, source, flip_splits=("train",), min_frames=4), model)

    with one_thread():
        start = time.monotonic()
        run(undisturbed)
        whole, moments, killed = time.monotonic() - start, random.Random(0), 0
        while killed < 10:
            before, deadline = set(disturbed.rglob("*")), time.monotonic() + LIMIT_S
            with forked(run, disturbed) as process:
                while process.poll() is None and set(disturbed.rglob("*")) <= before:
                    assert time.monotonic() < deadline, "the copy does not begin its work"
                    time.sleep(0.001)
                time.sleep(moments.uniform(0, whole / 5))
                process.send_signal(signal.SIGKILL)
                died = process.wait() == -signal.SIGKILL
            killed += died
            if not died:  # all was done: take some away, so that there is work to be killed in
                for path in list(disturbed.glob("train/1/*.npz"))[::2]:
                    path.unlink()
        run(disturbed)
    assert len(files(undisturbed)) == 6 * 2 + 2
    assert files(disturbed) == files(undisturbed)
