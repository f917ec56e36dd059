"""Training of the embedded codec: frames of rooms and of panoramas, coded, disturbed and decoded."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.models.weight_files import save_weights
from scenetok_ns.training.picture_losses import codec_loss, contrast_loss
from scenetok_ns.training.tiny.optimizer import Group, TinyOptimizer
from scenetok_ns.training.tiny.run import TinyRun, averaged_copy

MOST_SCENES = 2048
LARGEST_NOISE = 0.3
"""Maximum noise in training. With noise and blur, the decoder learns to tolerate the denoiser's inexact codes."""
BLURRED = 0.2


class CodecTask:
    """Trains the codec alone, on single frames."""

    name = "codec"

    def __init__(self, run: TinyRun, batch_size: int) -> None:
        self.run, self.batch_size = run, batch_size
        self.trained = nn.ModuleDict({"codec": run.codec})
        self.averaged = averaged_copy(self.trained)
        self.pool = run.training_pool(min(run.options.num_scenes, MOST_SCENES), encoded=False)
        held_out = run.held_out_pool(16, encoded=False)
        scenes = torch.arange(16, device=run.device)
        views = torch.arange(0, held_out.num_frames, 6, device=run.device)
        self.frames = held_out.take(scenes, views.expand(16, -1)).frames.flatten(0, 1)
        run.codec.train()

    def kinds(self, along: float) -> Sequence[tuple[Hashable, float]]:
        return (("frames", 1.0),)

    def loss(self, kind: Hashable) -> Float[Tensor, ""]:
        run, pool = self.run, self.pool
        scenes = torch.randint(pool.capacity, (self.batch_size,), generator=run.generator, device=run.device)
        views = torch.randint(pool.num_frames, (len(scenes), 1), generator=run.generator, device=run.device)
        images = pool.take(scenes, views).frames[:, 0].float() / 127.5 - 1

        def draw(sample: type(torch.rand) = torch.rand, shape: tuple[int, ...] = (len(scenes), 1, 1, 1)) -> Tensor:
            return sample(shape, generator=run.generator, device=run.device)

        with run.autocast():
            codes = run.codec.encode(images.to(memory_format=torch.channels_last))
            blurred = F.avg_pool2d(F.pad(codes, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
            codes = torch.where(draw() < BLURRED, torch.lerp(codes, blurred, 0.5), codes)
            noise = draw(torch.randn, tuple(codes.shape)) * draw().square() * LARGEST_NOISE
            decoded = run.codec.decode(codes + noise).float()
        return codec_loss(decoded, images) + 0.3 * contrast_loss(decoded, images)

    def optimizer(self) -> TinyOptimizer:
        return TinyOptimizer([Group(list(self.run.codec.parameters()))], self.run.options.learning_rate, 0.0)

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """PSNR of decoded held-out frames, by the current weights in inference mode."""
        codec = self.run.codec.eval()
        images = self.frames.float() / 255
        codes = self.run.encode(self.frames)
        found = {}
        for name, noise in (("psnr", 0.0), ("psnr_noisy", 0.2)):
            decoded = self.run.decode(codes + noise * torch.randn(codes.shape, device=codes.device))
            error = (decoded.clamp(0, 1) - images).square().mean(dim=(1, 2, 3))
            found[name] = (-10 * error.log10()).mean().item()
        codec.train()
        return found

    def between_steps(self) -> None:
        return

    def save(self, folder: Path) -> None:
        save_weights({"codec": self.run.codec}, folder / "codec.safetensors")

    def finish(self) -> None:
        """Averaged weights, with running statistics of the codes that belong to them."""
        codec = self.run.codec
        with torch.no_grad():
            for ours, average in zip(codec.parameters(), self.averaged.parameters(), strict=True):
                ours.copy_(average)
            norm = codec.encoder[-1]
            assert isinstance(norm, nn.BatchNorm2d)
            norm.reset_running_stats()
            norm.momentum = None
            codec.train()
            for _ in range(64):
                scenes = torch.randint(self.pool.capacity, (self.batch_size,), device=self.run.device)
                views = torch.randint(self.pool.num_frames, (len(scenes), 1), device=self.run.device)
                with self.run.autocast():
                    codec.encode(self.pool.take(scenes, views).frames[:, 0].float() / 127.5 - 1)
        norm.momentum = 0.1
        codec.eval()
