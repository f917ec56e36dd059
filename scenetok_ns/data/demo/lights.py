"""Draw the lights of procedural rooms (lamps, windows, sun) and the scenery outside, from bright day to evening."""

from __future__ import annotations

import torch
from torch import Tensor

from scenetok_ns.data.demo.builder import Shell, SmallThings
from scenetok_ns.data.demo.draws import Draws
from scenetok_ns.data.demo.walls import Faces, Window

WARM = torch.tensor([1.0, 0.78, 0.52], dtype=torch.float64)
DAYLIGHT = torch.tensor([0.92, 0.98, 1.1], dtype=torch.float64)
SUNLIGHT = torch.tensor([1.0, 0.86, 0.62], dtype=torch.float64)
DUSK = torch.tensor([0.10, 0.14, 0.28], dtype=torch.float64)


def draw_lights(draws: Draws, shell: Shell, faces: Faces, things: SmallThings) -> dict[str, Tensor]:
    """Draw the light fields of RoomBatch."""
    day = torch.where(draws.chance(0.75), draws.uniform(0.7, 1.0), draws.uniform(0.0, 0.15))[:, None]
    evening = 1 - day
    positions, colors, normals = [], [], []
    for lamp, strength in zip(things.lamps, (2.6, 1.3, 0.7), strict=True):
        positions.append(lamp.center[:, 0])
        power = draws.uniform(0.7, 1.3)[:, None] * strength * (0.15 + evening) * lamp.exists[:, None]
        colors.append(power * WARM)
        normals.append(torch.zeros_like(lamp.center[:, 0]))
    for window in faces.windows:
        center, half = window_in_world(shell, window)
        area = 4 * window.rect[:, 2:3] * window.rect[:, 3:]
        positions.append(center)
        colors.append(draws.uniform(1.5, 2.4)[:, None] * area * day * DAYLIGHT * window.exists[:, None])
        inward = torch.where(half == 0, -center.sign(), 0.0)
        normals.append(inward)
    fill = draws.uniform(0.22, 0.34)[:, None] * (0.5 + 0.5 * day)
    tint = day * DAYLIGHT + evening * WARM
    ambient = torch.stack([fill * tint * (0.4 + 0.6 * faces.floor_color), fill * tint], dim=1)

    sky = draws.color("sky")
    horizon = 0.5 * sky + 0.5
    outside = (
        torch.stack([draws.color("ground"), horizon, sky, draws.color("front")], dim=1) * day[..., None] * 2.2
        + evening[..., None] * DUSK
    )
    skyline = [draws.chance(0.5) * 1.0, draws.uniform(0.05, 0.22), draws.uniform(3, 8).floor(), draws.uniform(0, 6)]
    photo = [
        draws.uniform(0, 1),
        draws.uniform(0, 1),
        draws.chance(0.7) * 1.0,
        day[:, 0] * draws.uniform(1.6, 2.6) + 0.05,
    ]

    large = faces.windows[1]
    center, half = window_in_world(shell, large)
    inward = torch.where(half == 0, -center.sign(), 0.0)
    sideways = torch.where(half == 0, 0.0, draws.uniform(-0.9, 0.9)[:, None])
    flat = -inward + sideways * torch.tensor([1.0, 1.0, 0.0], dtype=inward.dtype)
    sun = torch.cat([flat[:, :2], draws.uniform(0.45, 1.0, 1)], dim=1)
    by_day = (day > 0.5) & large.exists[:, None]
    key = torch.where(by_day, center + 0.3 * inward, things.lamps[0].center[:, 0])
    shines = (draws.chance(0.55) & large.exists)[:, None] * (day > 0.5)
    return {
        "light_position": torch.stack(positions, dim=1),
        "light_color": torch.stack(colors, dim=1),
        "light_normal": torch.stack(normals, dim=1),
        "ambient": ambient,
        "outside": outside,
        "skyline": torch.stack(skyline, dim=1),
        "photo": torch.stack(photo, dim=1),
        "key_light": key,
        "key_shadow": draws.uniform(0.45, 0.7),
        "sun_direction": sun / sun.norm(dim=1, keepdim=True),
        "sun_color": shines * draws.uniform(1.0, 2.2)[:, None] * SUNLIGHT,
        "sun_window": torch.cat([center, half], dim=1),
    }


def window_in_world(shell: Shell, window: Window) -> tuple[Tensor, Tensor]:
    """Middle and half size of a window in world axes; the half size is 0 across the wall."""
    along, middle, half_width, half_height = window.rect.unbind(-1)
    center = shell.place(window.spot, along, torch.zeros_like(along), middle)
    half = shell.turn(window.spot, half_width.abs(), torch.zeros_like(along), half_height.abs())
    return center, half
