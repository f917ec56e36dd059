"""Training batches: dependence on seed and step alone, passes over all scenes, ranks, bad scenes, workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.scene_files import example, write_re10k

from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.sources.re10k import RE10KSource
from scenetok_ns.data.training_batches import Sharding, TrainingBatch, TrainingLoader, TrainingSamples
from scenetok_ns.models.recipes import DataConfig, ViewSamplingConfig
from scenetok_ns.models.temporal import TemporalLayout
from scenetok_ns.tools.seeds import mix

VIEWS = ViewSamplingConfig(mode="unbounded", num_context=3, num_target_latents=2, target_split_prob=0.5)
DATA = DataConfig(image_size=32, views=VIEWS)
LAYOUT = TemporalLayout(2, 1)
FRAMES = 8
TWO = Sharding(batch_size=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scenes = [example(f"scene{i}", FRAMES) for i in range(5)]
    return write_re10k(tmp_path / "train", [scenes[:3], scenes[3:]])


def samples(folder: Path, sharding: Sharding = TWO, data: DataConfig = DATA, seed: int = 0) -> TrainingSamples:
    return TrainingSamples(RE10KSource(folder), data, LAYOUT, sharding, seed)


def assert_same(first: TrainingBatch, second: TrainingBatch) -> None:
    assert (first.step, first.scenes) == (second.step, second.scenes)
    for a, b in ((first.context, second.context), (first.target, second.target)):
        assert torch.equal(a.images, b.images) and torch.equal(a.c2w, b.c2w) and torch.equal(a.intrinsics, b.intrinsics)


def test_shapes_and_that_images_belong_to_their_cameras(folder: Path) -> None:
    batch = samples(folder)[3]
    assert batch.context.images.shape == (2, 3, 3, 32, 32) and batch.target.images.shape == (2, 4, 3, 32, 32)
    assert batch.context.images.dtype == torch.uint8
    source = RE10KSource(folder)
    for clip in (batch.context, batch.target):
        for b, key in enumerate(batch.scenes):
            scene = source.scene(key)
            for v in range(clip.images.shape[1]):
                # The reader's test pictures have red = 4 * frame.
                frame = round(float(clip.images[b, v, 0].float().mean()) / 4)
                torch.testing.assert_close(clip.c2w[b, v], scene.c2w[frame])


def test_same_seed_and_step_same_batch_whatever_was_read_before(folder: Path) -> None:
    read_on = samples(folder)
    for step in range(4):
        last = read_on[step]
    assert_same(last, samples(folder)[3])
    other = samples(folder, seed=1)[3]
    assert other.scenes != last.scenes or not torch.equal(other.target.c2w, last.target.c2w)


def test_a_scene_gives_other_views_each_time(folder: Path) -> None:
    drawn = samples(folder)
    batches = [drawn[step] for step in range(20)]
    targets = [batch.target.c2w[batch.scenes.index("scene0")] for batch in batches if "scene0" in batch.scenes]
    assert len({tuple(target.flatten().tolist()) for target in targets}) > len(targets) / 2


def test_every_scene_once_a_pass_over_all_ranks(folder: Path) -> None:
    ranks = [samples(folder, Sharding(1, rank, 5)) for rank in range(5)]
    orders = [[r[step].scenes[0] for r in ranks] for step in range(4)]
    assert all(sorted(order) == [f"scene{i}" for i in range(5)] for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_flip_mirrors_pictures_and_cameras_of_half_the_samples(folder: Path) -> None:
    plain, flipped = samples(folder), samples(folder, data=replace(DATA, random_flip=True))
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    mirrored = 0
    for step in range(10):
        a, b = plain[step], flipped[step]
        for element in range(2):
            if torch.equal(a.target.c2w[element], b.target.c2w[element]):
                assert torch.equal(a.target.images[element], b.target.images[element])
            else:
                mirrored += 1
                torch.testing.assert_close(mirror @ a.target.c2w[element] @ mirror, b.target.c2w[element])
                assert torch.equal(a.target.images[element].flip(-1), b.target.images[element])
    assert 4 <= mirrored <= 16


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_scenes_are_replaced_counted_and_named(tmp_path: Path, num_workers: int) -> None:
    scenes = [example(f"scene{i}", FRAMES) for i in range(4)]
    scenes[1]["cameras"][0, 0] = float("nan")
    scenes[2]["images"] = [image[:50] for image in scenes[2]["images"]]
    folder = write_re10k(tmp_path / "train", [scenes])
    loader = TrainingLoader(samples(folder), num_workers, pin_memory=False)
    seen = {key for step in range(8) for key in loader.batch(step).scenes}
    assert seen == {"scene0", "scene3"}
    skipped = loader.samples.source.skipped
    assert set(skipped.reasons) == {"scene1", "scene2"}
    assert "NaN" in skipped.reasons["scene1"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_usable_scene_is_one_line(tmp_path: Path, num_workers: int) -> None:
    folder = write_re10k(tmp_path / "train", [[example("short", frames=2)]])
    loader = TrainingLoader(samples(folder), num_workers, pin_memory=False)
    with pytest.raises(DataError, match=r"short.*2 frames") as caught:
        loader.batch(0)
    assert "\n" not in str(caught.value)


def test_loader_continues_at_any_step_and_leaves_the_global_generator_alone(folder: Path) -> None:
    loader = TrainingLoader(samples(folder), num_workers=2, pin_memory=False)
    state = torch.get_rng_state()
    for step in (0, 1, 2, 7, 8):
        assert_same(loader.batch(step), samples(folder)[step])
    assert torch.equal(state, torch.get_rng_state())


def test_mix_tells_numbers_apart() -> None:
    seeds = {mix(a, b, c) for a in range(8) for b in range(8) for c in range(8)}
    assert len(seeds) == 512 and all(0 <= seed < 1 << 63 for seed in seeds)
