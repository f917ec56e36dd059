"""A message as a picture, for viewers that can show nothing else."""

from __future__ import annotations

import textwrap

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

LETTER_WIDTH, LINE_HEIGHT, MARGIN = 6, 12, 8
"""Size of Pillow's built-in font in pixels."""
SMALLEST_WIDTH = 240
CAPTION_SHARE = 0.09
"""Height of a caption, relative to the picture."""
BAR_PART = 8
"""Height of a caption, relative to its progress bar."""
ERROR, NOTE, BAR = (70, 10, 10), (24, 32, 48), (255, 211, 105)
"""Dark red, dark blue, and the yellow of the page."""


def message_picture(
    message: str, height: int, width: int, background: tuple[int, int, int] = ERROR
) -> Float[Tensor, "height width 3"]:
    """White text, wrapped. Small pictures are drawn larger and then shrunk, so that one can at least see that there is
    text."""
    scale = max(1.0, SMALLEST_WIDTH / width)
    size = (round(width * scale), round(height * scale))
    picture = Image.new("RGB", size, background)
    columns = max((size[0] - 2 * MARGIN) // LETTER_WIDTH, 10)
    lines = [line for part in message.splitlines() for line in textwrap.wrap(part, columns)]
    fitting = max((size[1] - 2 * MARGIN) // LINE_HEIGHT, 1)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines[:fitting]):
        draw.text((MARGIN, MARGIN + number * LINE_HEIGHT), line, fill=(255, 255, 255))
    return torch.from_numpy(np.array(picture.resize((width, height))).astype(np.float32) / 255)


def with_caption(
    picture: Float[Tensor, "height width 3"], message: str, share: float | None = None
) -> Float[Tensor, "height width 3"]:
    """Put a line of white text on a dark strip at the bottom of a picture, and a progress bar if `share` (0 to 1) is
    given."""
    height, width = picture.shape[:2]
    strip = max(min(max(round(height * CAPTION_SHARE), 3 * LINE_HEIGHT), height // 3), 1)
    text = message_picture(message, strip, width, NOTE)
    if share is not None:
        line = max(strip // BAR_PART, 1)
        text[-line:, : round(width * min(max(share, 0.0), 1.0))] = torch.tensor(BAR) / 255
    return torch.cat([picture[: height - strip].cpu().float(), text])
