"""Figures of the embedded tokenizer on demo rooms outside its training data (`benchmarks/tiny.py`).

Fidelity by numbers of context views, of tokens and of steps; sharpness; steadiness of paths; whether tokens are used.
Pictures of models of other sizes are brought to the size of the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.data.demo.scenes import render_rooms, sample_rooms, sample_walks, scene_seed
from scenetok_ns.models.autoencoders.conv import ConvCodec
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.noise import latent_noise
from scenetok_ns.models.flow.sampling import sample_latents
from scenetok_ns.models.metrics import psnr
from scenetok_ns.models.networks.compressor import Compressor
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.presets import Preset
from scenetok_ns.models.temporal import IMAGE_LAYOUT
from scenetok_ns.models.weight_files import load_weights
from scenetok_ns.training.tiny.tokenizer import middle_views

NUM_FRAMES = 48
WINDOWS = (4, 16, 28, 40)
"""First frames of the windows that are measured."""
VIEW_COUNTS = (1, 2, 4, 8, 12, 16)
PATH_ROOMS = 4
"""Number of rooms in which paths are rendered."""

Frames = Float[Tensor, "b v 3 height width"]


@dataclass
class TinyModel:
    """Codec, compressor and denoiser of a preset, with weights."""

    preset: Preset
    codec: ConvCodec
    compressor: Compressor
    denoiser: Denoiser

    @classmethod
    def load(cls, preset: Preset, weights: Path, device: torch.device) -> TinyModel:
        model = cls(preset, ConvCodec(), Compressor.from_preset(preset), Denoiser.from_preset(preset))
        parts = {"codec": model.codec, "compressor": model.compressor, "denoiser": model.denoiser}
        load_weights(parts, weights)
        for part in parts.values():
            part.to(device).eval()
        return model

    @torch.no_grad()
    def latents(self, images: Frames) -> Tensor:
        size = self.preset.data.image_size
        if images.shape[-1] != size:
            images = F.interpolate(images.flatten(0, 1), size=(size, size), mode="area").unflatten(0, images.shape[:2])
        return torch.stack([self.codec.encode(room * 2 - 1) for room in images])

    @torch.no_grad()
    def frames(self, tokens: Tensor, cameras: CameraBatch, size: int, steps: int | None = None) -> Frames:
        """Frames of a path, from noise of seed 0, in windows as the preset's sampler has them."""
        number, count = cameras.batch_size, cameras.num_views
        sampler = replace(self.preset.sampler, steps=steps or self.preset.sampler.steps)
        noise = latent_noise([0] * number, count, self.denoiser.latent_shape).to(tokens.device)
        latents, _ = sample_latents(self.denoiser, tokens, cameras, noise, IMAGE_LAYOUT, sampler)
        made = torch.stack([self.codec.decode(room) for room in latents]).div(2).add(0.5).clamp(0, 1)
        if made.shape[-1] == size:
            return made
        flat = F.interpolate(made.flatten(0, 1), size=(size, size), mode="bicubic")
        return flat.clamp(0, 1).unflatten(0, made.shape[:2])


class TinyFigures:
    """One model on the first test rooms of seed 0."""

    def __init__(self, model: TinyModel, rooms: int, size: int, device: torch.device) -> None:
        self.model, self.size = model, size
        self.rooms = sample_rooms([scene_seed(0, "test", index) for index in range(rooms)], device)
        c2w = sample_walks(self.rooms, NUM_FRAMES)
        self.cameras = self.of_rooms(c2w)
        self.truth = self.render(c2w)
        self.latents = model.latents(self.truth)

    def of_rooms(self, c2w: Float[Tensor, "b v 4 4"]) -> CameraBatch:
        return CameraBatch(c2w, self.rooms.intrinsics[: len(c2w), None].expand(-1, c2w.shape[1], 3, 3))

    def render(self, c2w: Float[Tensor, "b v 4 4"]) -> Frames:
        rooms = self.rooms.select(slice(0, len(c2w)))
        return render_rooms(rooms, c2w, rooms.intrinsics, self.size)

    @torch.no_grad()
    def tokens(self, count: int) -> tuple[Tensor, Tensor]:
        """Tokens of `count` views in the middles of as many parts of the walk, and the reference's pose."""
        shown = middle_views(NUM_FRAMES, count).to(self.latents.device)
        reference = self.cameras.c2w[:, shown[count // 2]]
        cameras = self.cameras.select(shown.tolist()).relative_to(reference)
        rows = [
            self.model.compressor(self.latents[i : i + 1, shown], one(cameras, i)).mean
            for i in range(len(self.latents))
        ]
        return torch.cat(rows), reference

    def windows(
        self, count: int, prefix: int | None = None, other: bool = False, steps: int | None = None
    ) -> tuple[Frames, Frames]:
        """All measured windows and their truth."""
        tokens, reference = self.tokens(count)
        tokens = (tokens.roll(1, 0) if other else tokens)[:, :prefix]
        made, true = [], []
        for start in WINDOWS:
            window = list(range(start, start + self.model.preset.sampler.window))
            made.append(self.model.frames(tokens, self.cameras.select(window).relative_to(reference), self.size, steps))
            true.append(self.truth[:, window])
        return torch.cat(made, dim=1), torch.cat(true, dim=1)

    def fidelity(self) -> dict[str, float]:
        """PSNR by views, tokens and steps, in dB."""
        most = self.model.preset.compressor.num_tokens
        found = {f"views_{count}": mean_psnr(*self.windows(count)) for count in VIEW_COUNTS}
        for name, prefix in (("half", most // 2), ("quarter", most // 4), ("eighth", most // 8)):
            found[f"tokens_{name}"] = mean_psnr(*self.windows(12, prefix))
        found["other_tokens"] = mean_psnr(*self.windows(12, other=True))
        for steps in (1, 2, 10):
            made, true = self.windows(12, steps=steps)
            found[f"steps_{steps}"] = mean_psnr(made, true)
            found[f"edges_steps_{steps}"] = edge_contrast(made) / edge_contrast(true)
        made, true = self.windows(12)
        found["views_12_at_half_size"] = mean_psnr(halved(made), halved(true))
        found["edges"] = edge_contrast(made) / edge_contrast(true)
        with torch.no_grad():
            own = torch.stack([self.model.codec.decode(room) for room in self.latents]) / 2 + 0.5
        if own.shape == self.truth.shape:
            found["codec"] = mean_psnr(own.clamp(0, 1), self.truth)
        return found

    def steadiness(self) -> dict[str, float]:
        """PSNR in dB between successive frames of a frozen camera, of a slow dolly (also the truth's), and between the
        ends of a closed round. All paths are longer than a window."""
        tokens, reference = self.tokens(12)
        number = min(PATH_ROOMS, len(self.truth))
        tokens, reference = tokens[:number], reference[:number]
        still = self.cameras.c2w[:number, 24:25].expand(-1, 24, -1, -1)
        dolly = still.clone()
        dolly[:, :, :3, 3] += still[:, :, :3, 2] * torch.linspace(-0.25, 0.25, 24, device=still.device)[None, :, None]
        turn = closed_round(self.cameras.c2w[:number, 24], 24)
        found = {}
        for name, path in (("frozen", still), ("dolly", dolly), ("round", turn)):
            made = self.model.frames(tokens, self.of_rooms(path).relative_to(reference), self.size)
            if name == "round":
                found["round_ends"] = mean_psnr(made[:, -1:], made[:, :1])
                continue
            found[f"{name}_steps"] = mean_psnr(made[:, 1:], made[:, :-1])
            if name == "dolly":
                true = self.render(path)
                found["dolly_steps_truth"] = mean_psnr(true[:, 1:], true[:, :-1])
        return found


def one(cameras: CameraBatch, index: int) -> CameraBatch:
    return CameraBatch(cameras.c2w[index : index + 1], cameras.intrinsics[index : index + 1])


def closed_round(c2w: Float[Tensor, "b 4 4"], count: int) -> Float[Tensor, "b count 4 4"]:
    """A whole turn about the vertical through the camera; the last pose is the first."""
    angle = torch.linspace(0, 2 * torch.pi, count, device=c2w.device)
    turn = torch.eye(4, device=c2w.device).repeat(count, 1, 1)
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = angle.cos(), -angle.sin(), angle.sin(), angle.cos()
    turned = turn[None] @ c2w[:, None]
    turned[:, :, :3, 3] = c2w[:, None, :3, 3]
    turned[:, -1] = turned[:, 0]
    return turned


def mean_psnr(prediction: Frames, truth: Frames) -> float:
    """Mean over frames, in dB."""
    return float(psnr(pred=prediction.flatten(0, 1), target=truth.flatten(0, 1)).mean())


def halved(frames: Frames) -> Frames:
    return F.avg_pool2d(frames.flatten(0, 1), 2).unflatten(0, frames.shape[:2])


def edge_contrast(frames: Frames) -> float:
    """Mean absolute difference of neighbouring pixels of the grey picture."""
    gray = frames.mean(dim=-3)
    return float(gray.diff(dim=-1).abs().mean() + gray.diff(dim=-2).abs().mean())


def table(names: Sequence[str], columns: Sequence[dict[str, float]]) -> str:
    """Figures of several models side by side."""
    keys = list(dict.fromkeys(key for column in columns for key in column))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for key in keys:
        cells = [f"{column[key]:.2f}" if key in column else "" for column in columns]
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
