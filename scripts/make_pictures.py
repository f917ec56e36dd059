"""Draw docs/pictures/rooms.png and generated.png: held-out rooms seen through the shipped models.

    python scripts/make_pictures.py

rooms.png (scenetok-tiny): each block has eight of the twelve context views; below, eight other views of the walk as
they are, and as rendered from the scene's 128 tokens. generated.png (scenegen-tiny): each block has a photograph and
seven views along the walk as they are; below, eight views along the walk through a scene that was generated from the
photograph alone, the first at its own pose; below that, the same with another seed. Nothing is picked: the rooms are
the first test rooms of seed 0.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from scenetok_ns.data.demo.difficulty import even_split
from scenetok_ns.data.demo.scenes import render_rooms, sample_rooms, sample_walks, scene_seed
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.scenegen import generate
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.rendering.picture_files import sheet, to_bytes

ROOMS, FRAMES, CONTEXT, SHOWN = 3, 48, 12, 8
SEEDS = 2
ENLARGE = 2
PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"


def walk(model: SceneTok, seed: int) -> tuple[Float[Tensor, "f 3 height width"], CameraBatch]:
    """Frames and cameras of a room."""
    rooms = sample_rooms([seed])
    c2w = sample_walks(rooms, FRAMES)
    frames = render_rooms(rooms, c2w, rooms.intrinsics, model.preset.data.image_size)[0]
    return frames, CameraBatch(c2w, rooms.intrinsics[:, None].expand(-1, FRAMES, -1, -1))


def encoded_block(model: SceneTok, seed: int) -> Float[Tensor, "3 height width"]:
    """Context, truth and rendering of one room, one row each."""
    frames, cameras = walk(model, seed)
    context, target = even_split(FRAMES, CONTEXT)
    tokens = model.encode(frames[context], cameras.select(context))
    rendered = model.render(tokens, cameras.select(target))
    spread = spread_over(len(target))
    return sheet([frames[context[spread_over(CONTEXT)]], frames[target][spread], rendered[spread]])


def generated_block(model: SceneTok, seed: int) -> Float[Tensor, "3 height width"]:
    """A room as it is, and as it is generated from its first frame with each of some seeds, one row each."""
    frames, cameras = walk(model, seed)
    shown = spread_over(FRAMES)
    anchors = cameras.select(torch.linspace(0, FRAMES - 1, CONTEXT).round().long())
    rows = [frames[shown]]
    for drawn in range(SEEDS):
        tokens = generate(model, frames[:1], cameras.select([0]), anchors, seed=drawn)
        rows.append(model.render(tokens, cameras)[shown])
    return sheet(rows)


def spread_over(count: int) -> Int[Tensor, " shown"]:
    return torch.linspace(0, count - 1, SHOWN).round().long()


def draw(preset: str, block: Callable[[SceneTok, int], Tensor], path: Path) -> None:
    model = SceneTok.from_preset(load_preset(preset)).eval()
    model.load_embedded()
    blocks = [block(model, scene_seed(0, "test", index)) for index in range(ROOMS)]
    gap = torch.ones(3, 4, blocks[0].shape[2])
    whole = sheet([[part] for made in blocks for part in (made, gap)][:-1])
    picture = Image.fromarray(to_bytes(whole).permute(1, 2, 0).numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (picture.width * ENLARGE, picture.height * ENLARGE)
    picture.resize(size, Image.Resampling.NEAREST).save(path, optimize=True)


if __name__ == "__main__":
    draw("scenetok-tiny", encoded_block, PICTURES / "rooms.png")
    draw("scenegen-tiny", generated_block, PICTURES / "generated.png")
