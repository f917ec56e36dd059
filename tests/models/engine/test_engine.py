"""A model that renders through the engine, on the CPU in float32: frames of the plain twin, whoever calls and how."""

from __future__ import annotations

import copy
import gc
import threading
import time
import weakref
from dataclasses import replace

import pytest
import torch
from support.oracle import LAYOUTS, path
from support.small_models import small_model, views
from support.small_networks import randomized, small_denoiser

from scenetok_ns.models.engine.copies import fingerprint
from scenetok_ns.models.engine.options import EngineOptions
from scenetok_ns.models.flow.windows import CleanViews
from scenetok_ns.models.networks.adapters import LowRankAdapters
from scenetok_ns.models.scenetok import SceneTok

CPU_OPTIONS = EngineOptions.for_device(torch.device("cpu"), autoencoders=True)


def pair(layout: str = "4:1") -> tuple[SceneTok, SceneTok]:
    """The same model, plain and with the engine."""
    plain, fast = small_model(layout), small_model(layout)
    fast.engine_options = CPU_OPTIONS
    return plain, fast


def check_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("length", [1, 18, 52])
def test_frames_are_those_of_the_plain_twin(layout: str, length: int) -> None:
    plain, fast = pair(layout)
    tokens = plain.encode(*views(3))
    expected = list(plain.render_windows(tokens, path(length), seed=3))
    found = list(fast.render_windows(tokens, path(length), seed=3))
    assert [w.first_frame for w in found] == [w.first_frame for w in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.frames.dtype == torch.float32 and not ours.frames.requires_grad
        check_equal(ours.frames, theirs.frames)


def test_a_path_goes_on_from_views_that_are_there() -> None:
    plain, fast = pair()
    tokens = plain.encode(*views(3))
    sampler = fast.preset.sampler
    (window,) = plain.render_windows(tokens, path(4 * sampler.window))
    last = torch.cat([part.latents for part in window.denoised], dim=1)[:, -sampler.clean_targets :]
    clean = CleanViews(last, path(4 * sampler.window).select(slice(-4 * sampler.clean_targets, None)))
    (expected,), (found,) = (list(m.render_windows(tokens, path(7), clean=clean)) for m in (plain, fast))
    check_equal(found.frames, expected.frames)
    assert [part.first for part in found.denoised] == [part.first for part in expected.denoised] == [0]
    check_equal(found.denoised[0].latents, expected.denoised[0].latents)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_streams_of_frames_are_those_of_the_plain_twin(layout: str) -> None:
    """Two streams are open at once, and a path is rendered in windows between their chunks."""
    plain, fast = pair(layout)
    tokens = plain.encode(*views(3))
    count = fast.target_autoencoder.space.layout.frames_per_chunk
    streams = [[model.open_stream(tokens, seed=seed) for seed in (0, 1)] for model in (plain, fast)]
    for index in range(6):
        cameras = path(6 * count).select(slice(index * count, (index + 1) * count))
        for expected, found in zip(*streams, strict=True):
            theirs, ours = expected.next(cameras), found.next(cameras)
            assert ours.first_frame == theirs.first_frame == index * count
            check_equal(ours.frames, theirs.frames)
            check_equal(ours.denoised[0].uncertainty, theirs.denoised[0].uncertainty)
        check_equal(fast.render(tokens, cameras), plain.render(tokens, cameras))


def test_several_scenes_at_once() -> None:
    plain, fast = pair()
    tokens = [plain.encode(*views(3)), replace(plain.encode(*views(4)), pose_scale=2.0)]
    paths = [path(40), path(40)]
    both = torch.cat([w.frames for w in fast.render_many(tokens, paths, seeds=[1, 2])], dim=1)
    for frames, scene, seed in zip(both, tokens, (1, 2), strict=True):
        check_equal(frames, plain.render(scene, path(40), seed=seed))


def test_scenes_are_encoded_by_it_too() -> None:
    plain, fast = pair()
    expected, found = (model.encode(*views(5)) for model in (plain, fast))
    check_equal(found.mean, expected.mean)
    check_equal(found.logvar, expected.logvar)
    assert fast._engine is not None and fast._engine.copies.compressing


def test_new_weights_are_noticed() -> None:
    plain, fast = pair()
    tokens = plain.encode(*views(3))
    before = fast.render(tokens, path(4))
    for model in (plain, fast):
        with torch.no_grad():
            model.denoiser.model.blocks[0].attn.qkv.weight.add_(0.2)
    after = fast.render(tokens, path(4))
    assert not torch.allclose(after, before, atol=1e-2)
    check_equal(after, plain.render(tokens, path(4)))


def test_threads_get_their_own_frames() -> None:
    plain, fast = pair()
    tokens = plain.encode(*views(3))
    found: dict[int, torch.Tensor] = {}
    threads = [
        threading.Thread(target=lambda s=seed: found.update({s: fast.render(tokens, path(40), seed=s)}))
        for seed in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for seed in range(3):
        check_equal(found[seed], plain.render(tokens, path(40), seed=seed))


def test_an_interrupt_ends_a_path_and_the_next_one_is_right() -> None:
    plain, fast = pair()
    tokens = plain.encode(*views(3))

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fast.render(tokens, path(60), on_step=stop)
    check_equal(fast.render(tokens, path(9), seed=4), plain.render(tokens, path(9), seed=4))


def test_errors_are_raised_at_once() -> None:
    _, fast = pair()
    tokens = fast.encode(*views(3))
    with pytest.raises(ValueError, match="the camera path is empty"):
        fast.render_windows(tokens, path(0))
    with pytest.raises(ValueError, match="guidance must be at least 1"):
        fast.render_windows(tokens, path(4), sampler=replace(fast.preset.sampler, guidance=0.5))


def test_when_the_engine_is_used() -> None:
    _, fast = pair()
    assert fast.engine_for(None) is fast.engine_for(True) is not None
    assert fast.engine_for(False) is None
    assert fast.train().engine_for(None) is None
    plain = small_model()
    assert plain.engine_options == "auto" and plain.engine_for(None) is None  # no CUDA
    copied = copy.deepcopy(fast.eval())
    assert fast.engine_for(None) is not None
    assert copied.engine_for(None) is not fast.engine_for(None)


def test_networks_are_away_while_the_engine_works_for_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []

    def watched(network: torch.nn.Module) -> None:
        monkeypatch.setattr(network, "to", lambda device: (moved.append(str(device)), network)[1])

    _, fast = pair()
    fast.low_vram = True
    watched(fast.compressor)
    watched(fast.denoiser)
    assert fast.engine_for(None) is fast.engine_for(None) is not None and fast.device.type == "cpu"
    assert moved == ["cpu"] * 2 and fast._away_from is not None
    assert fast.engine_for(False) is None and len(moved) == 4 and fast._away_from is None
    fast.engine_for(None)
    fast.to(torch.float32)
    assert fast._away_from is None
    with torch.enable_grad():
        fast.engine_for(None)
        fast.encode_views(views(3)[0][None], views(3)[1])  # the networks' own work
    assert fast._away_from is None
    fast.engine_for(None)
    fast.begin_training()
    assert fast._away_from is None and fast.eval().engine_for(None) is None  # what trains stays


def test_little_memory_holds_one_piece_of_work_at_a_time() -> None:
    """Copies of compressor, generator and encoder are dropped before frames are rendered; the frames do not change."""
    plain, fast = pair()
    fast.engine_options = replace(CPU_OPTIONS, low_vram=True)
    roomy = pair()[1]
    expected = plain.render(plain.encode(*views(3)), path(6))
    for _ in range(2):
        tokens = fast.encode(*views(3))
        engine = fast._engine
        assert engine is not None and engine.copies.compressing
        check_equal(fast.render(tokens, path(6)), expected)
        assert not engine.copies.compressing and engine.copies.denoising
        assert [own is fast.target_autoencoder for own, _ in engine.copies.autoencoders.values()] == [True]
        engine.copies.generating = dict(engine.copies.denoising)  # type: ignore[arg-type]  any of its kind
        fast.encode(*views(3))
        assert not engine.copies.generating and engine.copies.denoising
    roomy.render(roomy.encode(*views(3)), path(6))
    assert roomy._engine is not None and roomy._engine.copies.compressing
    assert len(roomy._engine.copies.autoencoders) == 2


def test_copies_that_make_room_are_gone_at_once() -> None:
    """No circle of references keeps their weights until Python collects garbage."""
    _, fast = pair()
    fast.engine_options = replace(CPU_OPTIONS, low_vram=True)
    tokens = fast.encode(*views(3))
    engine = fast._engine
    assert engine is not None
    gc.collect()
    gc.disable()
    try:
        copies = engine.copies
        dropped = [weakref.ref(*(own for _, own in copies.compressing.values()))]
        fast.render(tokens, path(6))
        stream = fast.open_stream(tokens)
        stream.next(path(4))
        del stream
        streaming = next(own for _, own in copies.denoising.values())
        dropped += [weakref.ref(streaming), weakref.ref(streaming.denoising)]
        dropped += [weakref.ref(each) for each in streaming.denoising._windows.values()]
        del streaming
        assert dropped[0]() is None
        copies.make_room("denoising", autoencoders=[])
        assert [each() for each in dropped] == [None] * 4 and not copies.autoencoders
    finally:
        gc.enable()


def test_training_mode_behind_each_picture_changes_nothing() -> None:
    """Nerfstudio's viewer does that, also where nothing trains."""
    _, fast = pair()
    fast.low_vram = True
    engine = fast.engine_for(None)
    fast.train().eval()
    assert fast.engine_for(None) is engine and fast._away_from is not None


def test_training_has_the_engines_memory_at_once() -> None:
    _, fast = pair()
    fast.render(fast.encode(*views(3)), path(4))
    engine = weakref.ref(fast._engine)
    fast.begin_training()
    for _ in range(50):  # the worker's thread is just letting go of its last job
        gc.collect()
        if engine() is None:
            return
        time.sleep(0.02)
    pytest.fail("something still holds the engine")


def test_on_another_device_the_engine_is_another() -> None:
    _, fast = pair()
    assert fast.engine_for(None) is not None
    fast.to(torch.float32)
    assert fast._engine is not None
    fast.to("meta")
    assert fast._engine is None


def test_autoencoders_that_were_copied_go_to_main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fast = pair()
    original, copied = fast.target_autoencoder, copy.deepcopy(fast.target_autoencoder)
    monkeypatch.setattr(original, "for_inference", lambda *_, **__: copied)
    monkeypatch.setattr(original, "decode", None)  # never used again
    sent: list[str] = []
    monkeypatch.setattr(original, "to", lambda device: (sent.append(str(device)), original)[1])
    check_equal(fast.render(plain.encode(*views(3)), path(9)), plain.render(plain.encode(*views(3)), path(9)))
    assert sent == ["cpu"]


def test_the_fingerprint_of_a_network_changes_with_its_weights_and_adapters() -> None:
    denoiser = randomized(small_denoiser(num_latents=4))
    seen = [fingerprint(denoiser)]
    assert fingerprint(denoiser) == seen[0]

    def changed() -> bool:
        seen.append(fingerprint(denoiser))
        return seen[-1] not in seen[:-1]

    with torch.no_grad():
        next(denoiser.parameters()).add_(1)
        assert changed()
        denoiser.cnd_proj.weight = torch.nn.Parameter(denoiser.cnd_proj.weight.clone())
        assert changed()
        adapters = LowRankAdapters(denoiser, rank=2)
        adapters.enabled = True
        assert changed()
        next(iter(adapters.up.values())).add_(1)
        assert changed()
