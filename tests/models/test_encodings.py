"""When photographs are encoded, VA-VAE's latents are sampled with the given noise, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from support.small_models import vavae_model, views

from scenetok_ns.models.autoencoders.registry import check_encoding
from scenetok_ns.models.cameras import relative_cameras
from scenetok_ns.models.engine.options import EngineOptions
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.quirks import network_cameras
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.tools.seeds import seeded_generator

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def model() -> SceneTok:
    return vavae_model()


@torch.no_grad()
def test_latents_are_mean_and_deviation_times_noise(model: SceneTok) -> None:
    images, cameras = views(3)
    mean, logvar = model.context_autoencoder.moments(images * 2 - 1)
    noise = torch.randn((1, *mean.shape), generator=seeded_generator(5))
    raw = mean + logvar.div(2).exp() * noise
    posed = network_cameras(relative_cameras(cameras, cameras.c2w[:, 1], 1.0), "context", model.preset)
    expected = model.compressor(model.context_autoencoder.space.normalize(raw), posed)
    found = model.encode(images, cameras, noise=seeded_generator(5))
    torch.testing.assert_close(found.mean, expected.mean[0])
    torch.testing.assert_close(found.logvar, expected.logvar[0])
    assert not torch.allclose(found.mean, model.encode(images, cameras).mean, atol=1e-3)


@torch.no_grad()
def test_the_engine_draws_the_same(model: SceneTok) -> None:
    images, cameras = views(3)
    plain = [model.encode(images, cameras, noise=noise).mean for noise in (seeded_generator(5), None)]
    latents = model.encode_images(images[None], None, seeded_generator(5))
    model.engine_options = EngineOptions.for_device(torch.device("cpu"))
    try:
        assert model.rendered_by() == "engine"
        for expected, noise in zip(plain, (seeded_generator(5), None), strict=True):
            torch.testing.assert_close(model.encode(images, cameras, noise=noise).mean, expected, atol=1e-4, rtol=1e-3)
        found = model.encode_images(images[None], model.engine_for(None), seeded_generator(5))
        torch.testing.assert_close(found, latents, atol=1e-4, rtol=1e-3)
    finally:
        model.engine_options = None


def test_encodings_that_would_change_nothing_are_refused() -> None:
    tiny, generator, large = map(load_preset, ("scenetok-tiny", "scenegen-tiny", "scenegen-shift4"))
    for preset in (tiny, generator, large):
        check_encoding(preset, "mean", "--encoding")
    for encoding in ("latents", "published"):
        check_encoding(large, encoding, "--encoding")
    check_encoding(tiny, "published", "--encoding")
    for preset, encoding in ((tiny, "latents"), (generator, "latents"), (generator, "published")):
        with pytest.raises(ValueError, match=rf"^--encoding {encoding} would change nothing: the conv autoencoder of"):
            check_encoding(preset, encoding, "--encoding")
    with pytest.raises(ValueError, match="--encoding: expected mean, latents, published, got 'x'"):
        check_encoding(tiny, "x", "--encoding")
