"""A small convolutional image autoencoder of our own for the embedded presets.

No pretrained autoencoder can be shipped with the package, so this one replaces VA-VAE and Video DC-AE: it is trained on
the demo scenes (`scenetok train-tiny`), and its weights come with the package. Each frame is encoded alone; in layouts
in which a latent stands for several frames, their codes are joined along the channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.models.autoencoders.base import Autoencoder, LatentSpace, temporal_layout
from scenetok_ns.models.presets import AutoencoderConfig

CHANNELS = 16
SPATIAL_FACTOR = 8
ENCODER_WIDTHS = (24, 48, 96)
DECODER_WIDTHS = (32, 48, 96)


class ResidualBlock(nn.Module):
    """Residual block: norm, SiLU, conv, norm, SiLU, conv, plus the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


class ConvCodec(nn.Module):
    """Encodes images in [-1, 1] to codes of 16 x height / 8 x width / 8, and decodes them.

    The last layer of the encoder is a batch norm without parameters. In training it keeps each channel of the codes at
    unit variance, so that the noise that training adds has a known strength; later its running statistics do the same.
    """

    def __init__(self) -> None:
        super().__init__()
        encoder: list[nn.Module] = [nn.Conv2d(3, ENCODER_WIDTHS[0], 3, padding=1)]
        for before, width in zip(ENCODER_WIDTHS[:1] + ENCODER_WIDTHS[:-1], ENCODER_WIDTHS, strict=True):
            encoder += [nn.PixelUnshuffle(2), nn.Conv2d(before * 4, width, 1), ResidualBlock(width)]
        encoder += [ResidualBlock(ENCODER_WIDTHS[-1]), nn.Conv2d(ENCODER_WIDTHS[-1], CHANNELS, 1)]
        self.encoder = nn.Sequential(*encoder, nn.BatchNorm2d(CHANNELS, affine=False))
        deepest_first = DECODER_WIDTHS[::-1]
        decoder: list[nn.Module] = [nn.Conv2d(CHANNELS, deepest_first[0], 3, padding=1)]
        for width, after in zip(deepest_first, deepest_first[1:] + deepest_first[-1:], strict=True):
            decoder += [ResidualBlock(width), ResidualBlock(width), nn.Conv2d(width, after * 4, 1), nn.PixelShuffle(2)]
        decoder += [nn.GroupNorm(8, DECODER_WIDTHS[0]), nn.SiLU(), nn.Conv2d(DECODER_WIDTHS[0], 3, 3, padding=1)]
        self.decoder = nn.Sequential(*decoder)

    def encode(self, images: Float[Tensor, "*b 3 height width"]) -> Float[Tensor, "*b c h w"]:
        codes: Tensor = self.encoder(images.flatten(0, -4))
        return codes.unflatten(0, images.shape[:-3])

    def decode(self, codes: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b 3 height width"]:
        images: Tensor = self.decoder(codes.flatten(0, -4))
        return images.unflatten(0, codes.shape[:-3])


def conv_latent_space(config: AutoencoderConfig) -> LatentSpace:
    layout = temporal_layout(config)
    return LatentSpace(
        layout=layout,
        spatial_factor=SPATIAL_FACTOR,
        channels=CHANNELS * layout.frames_per_latent,
        std=(1 / config.scale,),
    )


class ConvAutoencoder(Autoencoder):
    """`ConvCodec` as an `Autoencoder`."""

    def __init__(self, space: LatentSpace, codec: ConvCodec) -> None:
        super().__init__(space)
        self.codec = codec

    def _encode(self, frames: Tensor, noise: torch.Generator | Tensor | None) -> Tensor:
        return self.space.layout.pack(self.codec.encode(frames * 2 - 1))

    def _decode(self, latents: Tensor) -> Tensor:
        return self.codec.decode(self.space.layout.unpack(latents)) / 2 + 0.5
