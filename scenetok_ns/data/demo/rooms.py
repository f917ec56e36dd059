"""The numbers that describe a batch of procedural rooms, and the layout of one material.

World: metres, z up, origin at the middle of the floor. A room is the inside of a box; its furniture are axis-aligned
boxes, upright elliptic cylinders and ellipsoids in a fixed number of slots, so that rooms batch. Flat things on a wall,
floor or ceiling (windows, doors, pictures, rugs, skirting) are rectangles in that face's own coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

NUM_BOXES = 18
NUM_CYLINDERS = 6
NUM_ELLIPSOIDS = 4
NUM_OBJECTS = NUM_BOXES + NUM_CYLINDERS + NUM_ELLIPSOIDS
NUM_FACES = 6
"""Number of faces, in the order -x, +x, -y, +y, floor, ceiling."""
DECALS_PER_FACE = 4
"""Number of decals on a face. Surfaces are numbered: objects, then faces, then decals in the order of their faces."""

MATERIAL_FIELDS = {
    "color_a": 3,  # linear RGB albedo; mixed with color_b by the three amounts below
    "color_b": 3,
    "color_gap": 3,  # albedo of the lines between cells: panel edges, mullions, picture frames, rug borders
    "cell_u": 1,  # cell size in metres along the surface's horizontal (u) and other (v) direction
    "cell_v": 1,
    "shift_u": 1,  # number of cells by which the count along u is shifted from the middle; v starts at the lower edge
    "gap": 1,  # width of the lines in metres; 0: none
    "tone": 1,  # maximum share of color_b in a cell; it varies from cell to cell
    "gradient": 1,  # increase of the share of color_b from the lower to the upper edge of a cell
    "disc": 1,  # share of color_b in an ellipse in each cell
    "sides_only": 1,  # 1: no pattern on horizontal faces
    "grain": 1,  # relative amplitude of a fine pattern of waves in the brightness: wood, fabric, wallpaper
    "grain_u": 1,  # waves in a metre along u ...
    "grain_v": 1,  # ... and along v
    "grain_bend": 1,  # radians by which the wave along v shifts the phase of the wave along u
    "grain_product": 1,  # 0: the wave along u alone (streaks); 1: the product of both waves (checks)
    "emission": 1,  # radiance is color * emission, whatever the light
    "sky": 1,  # 1: shows the scenery outside, which depends on the direction of the ray alone
    "photo": 1,  # above 0: shows a part of the room's photograph, if `render_rooms` gets any: where, in full turns
}
_offsets = [0]
for _width in MATERIAL_FIELDS.values():
    _offsets.append(_offsets[-1] + _width)
MATERIAL_SLICES = {
    name: slice(start, end) for name, start, end in zip(MATERIAL_FIELDS, _offsets[:-1], _offsets[1:], strict=True)
}


def material(color: Float[Tensor, "*batch 3"], **values: Tensor | float) -> Float[Tensor, "*batch material"]:
    """Create a material. It has the plain colour `color`, unless `values` set other fields of MATERIAL_FIELDS."""
    unknown = sorted(set(values) - set(MATERIAL_FIELDS))
    if unknown:
        raise ValueError(f"material: unknown fields {unknown}; known are {list(MATERIAL_FIELDS)}")
    filled: dict[str, Tensor | float] = {"color_a": color, "color_b": color, "color_gap": color * 0.5}
    filled |= {"cell_u": 1.0, "cell_v": 1.0} | values
    batch = color.shape[:-1]
    parts = []
    for name, width in MATERIAL_FIELDS.items():
        value = torch.as_tensor(filled.get(name, 0.0), dtype=color.dtype, device=color.device)
        parts.append((value if width == 3 else value.unsqueeze(-1)).expand(*batch, width))
    return torch.cat(parts, dim=-1)


@dataclass(frozen=True)
class RoomBatch:
    """b rooms. All tensors are float32 on one device; lengths in metres, colours linear RGB."""

    extent: Float[Tensor, "b 3"]
    """Width (x), depth (y), height (z)."""
    center: Float[Tensor, "b objects 3"]
    half: Float[Tensor, "b objects 3"]
    """Half sizes of boxes, half axes of cylinders and ellipsoids. Unused slots lie far below the floor."""
    decal_rect: Float[Tensor, "b faces decals 4"]
    """Middle (u, v) and half size (u, v); later decals cover earlier ones. On walls, u is x or y and v is z; on floor
    and ceiling, u is x and v is y."""
    materials: Float[Tensor, "b surfaces material"]
    occluder: Float[Tensor, "b groups 6"]
    """Middle and half size of the boxes that cast shadows: one for each piece of furniture."""
    object_group: Float[Tensor, "b objects"]
    """Number of the occluder that an object belongs to, which casts no shadow on the object itself; -1: none."""
    light_position: Float[Tensor, "b lights 3"]
    light_color: Float[Tensor, "b lights 3"]
    light_normal: Float[Tensor, "b lights 3"]
    """Unit normal of an area light (a window); zero for a lamp, which shines in all directions."""
    ambient: Float[Tensor, "b 2 3"]
    """Ambient light from below and from above."""
    outside: Float[Tensor, "b 4 3"]
    """Colours seen through windows: ground, horizon, sky, and the hills or buildings in front of the horizon."""
    skyline: Float[Tensor, "b 4"]
    """Shapes in front of the horizon: 0 for hills or 1 for buildings; height as a slope; number of waves in a full
    turn (a third of the number of blocks); phase."""
    key_light: Float[Tensor, "b 3"]
    """Position of the light that casts shadows: the large window by day, else the lamp under the ceiling."""
    key_shadow: Float[Tensor, " b"]
    """Maximum share of the light from lamps and windows that these shadows take away."""
    photo: Float[Tensor, "b 4"]
    """Photograph that `render_rooms` shows if it gets photographs: which one (0 to 1 over all), its rotation in full
    turns, 1 if it is seen through the windows, and its brightness there."""
    sun_direction: Float[Tensor, "b 3"]
    """Unit vector towards the sun, which shines through one window."""
    sun_color: Float[Tensor, "b 3"]
    sun_window: Float[Tensor, "b 6"]
    """Middle and half size of that window; the half size is 0 along the wall's axis."""
    walk: Float[Tensor, "b walk"]
    """Parameters of the room's walk, in the order of `scenes.WALK_FIELDS`."""
    intrinsics: Float[Tensor, "b 3 3"]
    """Intrinsics divided by the image size."""

    def __len__(self) -> int:
        return self.extent.shape[0]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for f in fields(self):
            yield f.name, getattr(self, f.name)

    def to(self, device: torch.device | str) -> RoomBatch:
        return RoomBatch(**{name: value.to(device) for name, value in self.tensors()})

    def select(self, index: slice | Tensor) -> RoomBatch:
        return RoomBatch(**{name: value[index] for name, value in self.tensors()})
