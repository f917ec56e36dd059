"""Draw docs/pictures/rooms.png: held-out rooms seen through the shipped scenetok-tiny.

    python scripts/make_pictures.py

Each block: eight of the twelve context views; below, eight other views of the walk as they are, and as rendered
from the scene's 128 tokens. Nothing is picked: the rooms are the first test rooms of seed 0.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from scenetok_ns.data.demo_difficulty import even_split
from scenetok_ns.data.demo_scenes import render_rooms, sample_rooms, sample_walks, scene_seed
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.weights import embedded_weights, load_weights

ROOMS, FRAMES, CONTEXT, SHOWN = 3, 48, 12, 8
ENLARGE = 2
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "rooms.png"


def block(model: SceneTok, seed: int) -> Float[Tensor, "3 height width"]:
    """Context, truth and rendering of one room, one row each."""
    rooms = sample_rooms([seed])
    c2w = sample_walks(rooms, FRAMES)
    frames = render_rooms(rooms, c2w, rooms.intrinsics, model.preset.data.image_size)[0]
    cameras = CameraBatch(c2w, rooms.intrinsics[:, None].expand(-1, FRAMES, -1, -1))
    context, target = even_split(FRAMES, CONTEXT)
    tokens = model.encode(frames[context], cameras.select(context))
    rendered = model.render(tokens, cameras.select(target))
    spread = torch.linspace(0, len(target) - 1, SHOWN).round().long()
    some_context = context[torch.linspace(0, CONTEXT - 1, SHOWN).round().long()]
    rows = [frames[some_context], frames[target][spread], rendered[spread]]
    return torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)


def main() -> None:
    model = SceneTok.from_preset(load_preset("scenetok-tiny")).eval()
    load_weights({"compressor": model.compressor, "denoiser": model.denoiser}, embedded_weights("scenetok-tiny"))
    blocks = [block(model, scene_seed(0, "test", index)) for index in range(ROOMS)]
    gap = torch.ones(3, 4, blocks[0].shape[2])
    sheet = torch.cat([part for made in blocks for part in (made, gap)][:-1], dim=1)
    pixels = (sheet.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((picture.width * ENLARGE, picture.height * ENLARGE), Image.Resampling.NEAREST).save(
        PICTURE, optimize=True
    )


if __name__ == "__main__":
    main()
