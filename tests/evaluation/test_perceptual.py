"""LPIPS and ST-LPIPS are equal to those of the libraries that publish them, with the same weights."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from torchmetrics.functional.image import lpips as library

from scenetok_ns.data.scenes import DataError
from scenetok_ns.evaluation.perceptual import lpips, lpips_of, stlpips
from scenetok_ns.evaluation.weights import (
    I3D_FILE,
    MissingWeightsError,
    WeightFile,
    inception_file,
    lpips_file,
    lpips_heads,
    stlpips_file,
)


def pictures(count: int, side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(count, 3, side, side, generator=generator)
    return first, (first + 0.3 * torch.rand(count, 3, side, side, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("network", ["alex", "squeeze", "vgg"])
def test_lpips_is_the_librarys(network: str) -> None:
    torch.manual_seed(0)
    reference = library._LPIPS(pretrained=True, net=network, pnet_rand=True)
    trunk = {}
    for key, value in reference.net.state_dict().items():  # slice1.0.weight, or slices.0.0.weight
        trunk["features." + ".".join(key.split(".")[-3 if "fire" in key else -2 :])] = value
    if network == "squeeze":
        trunk = {f"features.{k.split('.', 2)[2]}": v for k, v in reference.net.state_dict().items()}
    own = lpips_of(network, trunk, torch.load(lpips_heads(network), map_location="cpu", weights_only=True))
    first, second = pictures(3)
    with torch.no_grad():
        expected = reference(first, second, normalize=True).flatten()
        found = own(first, second)
    assert (expected > 1e-3).all()  # random trunks still tell the pictures apart
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(own(first, first), torch.zeros(3))


@pytest.fixture
def stlpips_library(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The package's own code, with stand-ins for the modules that only its training needs."""
    for name, attribute in (("torchsummary", "summary"), ("IPython", "embed")):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**{attribute: None}))
    for name in ("cv2", "skimage", "matplotlib"):
        pytest.importorskip(name)
    return pytest.importorskip("stlpips_pytorch.stlpips")


def test_stlpips_is_the_packages(stlpips_library: types.ModuleType) -> None:
    reference = stlpips_library.LPIPS(net="alex", variant="shift_tolerant", verbose=False)
    own = stlpips(stlpips_file())
    for side in (32, 64, 75):
        first, second = pictures(2, side)
        with torch.no_grad():
            expected = reference(first, second, normalize=True).flatten()
            torch.testing.assert_close(own(first, second), expected, rtol=1e-4, atol=1e-6)


# --- Weight files ---


def test_published_names_are_the_libraries() -> None:
    assert lpips_file("vgg").name == "vgg16-397923af.pth" and lpips_file("vgg").sha256_prefix == "397923af"
    assert inception_file().name == "weights-inception-2015-12-05-6726825d.pth"


def test_a_file_of_another_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vgg16-397923af.pth"
    path.write_bytes(b"something else")
    with pytest.raises(MissingWeightsError, match=r"not the published vgg16-397923af.pth: its SHA-256 begins with"):
        lpips_file("vgg").find(path, download=False)


@pytest.mark.parametrize("option", ["lpips_weights", "i3d_weights"])
def test_a_missing_file_is_named_with_what_to_do(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = lpips_file("alex") if option == "lpips_weights" else I3D_FILE
    with pytest.raises(MissingWeightsError) as caught:
        file.find(None, download=False)
    message = str(caught.value)
    assert file.name in message and str(tmp_path) in message and "--" + option.replace("_", "-") in message
    assert ("--download" in message) == (option == "lpips_weights") and "\n" not in message
    with pytest.raises(DataError, match=f"--{option.replace('_', '-')}: there is no file"):
        file.find(tmp_path / "none.pth", download=False)


def test_downloads_land_in_the_hub_folder_if_they_are_the_published_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    (tmp_path / "source.bin").write_bytes(b"weights")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub-home"))
    digest = hashlib.sha256(b"weights").hexdigest()
    url = (tmp_path / "source.bin").as_uri()
    found = WeightFile("lpips_weights", "good.bin", url, digest[:8]).find(None, download=True)
    assert found.read_bytes() == b"weights" and found.is_relative_to(tmp_path / "hub-home")
    with pytest.raises(MissingWeightsError, match=r"bad\.bin cannot be downloaded"):
        WeightFile("lpips_weights", "bad.bin", url, "00000000").find(None, download=True)
    assert not list((tmp_path / "hub-home").rglob("bad*"))
    with pytest.raises(MissingWeightsError, match="cannot be downloaded"):
        WeightFile("lpips_weights", "none.bin", (tmp_path / "none").as_uri(), "00").find(None, download=True)


def test_lpips_reads_files(tmp_path: Path) -> None:
    from torchvision.models import alexnet

    torch.manual_seed(0)
    torch.save(alexnet(weights=None).state_dict(), tmp_path / "alex.pth")  # a whole classifier, as published
    own = lpips("alex", tmp_path / "alex.pth", lpips_heads("alex"))
    assert own(*pictures(1)) > 0
