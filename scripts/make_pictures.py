"""Draw docs/pictures/walk.webp, rooms.png and generated.png: held-out rooms seen through the bundled models.

    python scripts/make_pictures.py

walk.webp (scenetok-tiny): a walk through a room that moves: the room as it is, and rendered from the room's 128 tokens,
which were encoded from 12 of 48 frames of the same walk.

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
from PIL import Image, ImageDraw, ImageFont
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
WALK_SIZE, WALK_MILLISECONDS = 256, 120
"""Side of a square in pixels, and time of a frame."""
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


def draw_walk(path: Path) -> None:
    """An animation of two squares side by side: the room, and its rendering."""
    model = SceneTok.from_preset(load_preset("scenetok-tiny")).eval()
    model.load_embedded()
    frames, cameras = walk(model, scene_seed(0, "test", 0))
    context, _ = even_split(FRAMES, CONTEXT)
    tokens = model.encode(frames[context], cameras.select(context))
    rendered = model.render(tokens, cameras)
    font = ImageFont.load_default(size=16)
    pictures = []
    for number, pair in enumerate(zip(frames, rendered, strict=True)):
        whole = Image.new("RGB", (2 * WALK_SIZE, WALK_SIZE + 28), "white")
        captions = (f"the room (frame {number + 1})", "rendered from 128 tokens")
        for column, (frame, caption) in enumerate(zip(pair, captions, strict=True)):
            square = Image.fromarray(to_bytes(frame).permute(1, 2, 0).numpy())
            whole.paste(square.resize((WALK_SIZE, WALK_SIZE), Image.Resampling.BICUBIC), (column * WALK_SIZE, 0))
            ImageDraw.Draw(whole).text((column * WALK_SIZE + 6, WALK_SIZE + 4), caption, "black", font)
        pictures.append(whole)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=WALK_MILLISECONDS, loop=0, quality=70)


if __name__ == "__main__":
    draw_walk(PICTURES / "walk.webp")
    draw("scenetok-tiny", encoded_block, PICTURES / "rooms.png")
    draw("scenegen-tiny", generated_block, PICTURES / "generated.png")
