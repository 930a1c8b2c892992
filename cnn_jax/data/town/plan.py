"""The plan of a town: where its streets run, what lies between them, and where the sun stands."""

import math
from dataclasses import dataclass

import numpy as np
import scipy

RESIDENTIAL, COMMERCIAL, PARK, FOREST, BARE, LAKE = range(6)
# Land uses are dealt from this deck, reshuffled when it runs out, largest block first: every scene
# gets a bit of everything.
DECK = (RESIDENTIAL, RESIDENTIAL, RESIDENTIAL, COMMERCIAL, PARK, FOREST, BARE, LAKE)


@dataclass(frozen=True)
class Warp:
    """Street coordinates (u, v) of a scene: turned by an angle, then each bent by a sine of the
    other. Both can be undone."""

    angle: float
    amplitudes: tuple[float, float]  # Python's numbers, here and below, keep float32 arrays float32
    wavelengths: tuple[float, float]
    phases: tuple[float, float]

    def _bend(self, axis, along):
        turns = along / self.wavelengths[axis]
        return self.amplitudes[axis] * np.sin(2 * np.pi * turns + self.phases[axis])

    def to_street(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels from the centre of the scene -> street coordinates."""
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        u, v = x * cosine + y * sine, y * cosine - x * sine
        return u + self._bend(0, v), v + self._bend(1, u)

    def to_scene(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Street coordinates -> pixels from the centre of the scene."""
        straight_u, straight_v = u, v
        # The slopes of the two bends multiply to less than 0.2: this converges fast.
        for _ in range(8):
            straight_u, straight_v = u - self._bend(0, straight_v), v - self._bend(1, straight_u)
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return straight_u * cosine - straight_v * sine, straight_u * sine + straight_v * cosine


@dataclass(frozen=True)
class Plan:
    """Streets, blocks and light of one scene. Axis 0 holds the streets of constant u, axis 1 those
    of constant v."""

    shape: tuple[int, int]
    warp: Warp
    lines: tuple[
        np.ndarray, np.ndarray
    ]  # where streets run, ascending; cell i lies between lines i and i + 1
    widths: tuple[np.ndarray, np.ndarray]  # [line, cell along it], 0 where there is no street
    uses: np.ndarray  # land use [cell of u, cell of v]
    river: int | None  # the line of constant v that is a river instead of a street
    bridges: np.ndarray  # [line of u] whether it crosses the river
    u: np.ndarray  # street coordinates of every pixel
    v: np.ndarray
    cell_u: np.ndarray  # cell of every pixel
    cell_v: np.ndarray
    sun: tuple[float, float]  # unit vector (x, y) that points to the sun
    shadow_length: float  # of a thing one pixel high
    dryness: float  # 0 to 1

    def to_pixels(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel positions (x, y) of street coordinates."""
        x, y = self.warp.to_scene(u, v)
        return x + (self.shape[1] - 1) / 2, y + (self.shape[0] - 1) / 2

    def frames(self, u: np.ndarray, v: np.ndarray, axis: np.ndarray) -> tuple[np.ndarray, ...]:
        """Pixel positions (x, y) of street coordinates, and the unit vectors (x, y) along `axis`
        there: four arrays."""
        x, y = self.to_pixels(np.stack([u, u + (axis == 0)]), np.stack([v, v + (axis == 1)]))
        along_x, along_y = x[1] - x[0], y[1] - y[0]
        norm = np.hypot(along_x, along_y)
        return x[0], y[0], along_x / norm, along_y / norm


def draw_plan(rng: np.random.Generator, height_px: int, width_px: int) -> Plan:
    wavelengths = rng.uniform(260, 520, 2)
    amplitudes = rng.uniform(0.15, 0.42, 2) * wavelengths / (2 * np.pi)
    bends = (
        tuple(part.tolist()) for part in (amplitudes, wavelengths, rng.uniform(0, 2 * np.pi, 2))
    )
    warp = Warp(rng.uniform(0, np.pi), *bends)
    y, x = np.mgrid[:height_px, :width_px].astype(np.float32)
    u, v = warp.to_street(x - (width_px - 1) / 2, y - (height_px - 1) / 2)

    lines = []
    for along, spacing in ((u, (80, 135)), (v, (62, 95))):
        steps = rng.uniform(*spacing, int((np.ptp(along) + 300) / spacing[0]) + 2)
        lines.append(np.float32(along.min() - 150 - rng.uniform(0, spacing[1]) + np.cumsum(steps)))
    cell_u, cell_v = (
        np.searchsorted(line, along, side="right") - 1
        for line, along in zip(lines, (u, v), strict=True)
    )

    # A street is an avenue, a street or a lane over its whole length, and is missing between some
    # blocks.
    counts = len(lines[0]), len(lines[1])
    widths = []
    for axis in (0, 1):
        kinds = rng.choice(
            [17.0, 11.0, 9.5, 6.0], counts[axis], p=[0.2, 0.35, 0.2, 0.25]
        ) + rng.uniform(-0.7, 0.7, counts[axis])
        widths.append(
            np.float32(kinds[:, None]) * (rng.random((counts[axis], counts[1 - axis])) < 0.86)
        )
    river = None
    if rng.random() < 0.5:
        river = int(np.argmin(np.abs(lines[1] - rng.uniform(*np.quantile(v, [0.25, 0.75])))))
        widths[1][river] = 0
    bridges = rng.random(counts[0]) < 0.5

    # Cells with no street between them are one block. Walls between cells get rows and columns of
    # their own to label the blocks.
    rooms = np.zeros((2 * counts[0], 2 * counts[1]), bool)
    rooms[1::2, 1::2] = True
    rooms[::2, 1::2] = widths[0] == 0
    rooms[1::2, ::2] = widths[1].T == 0
    if river is not None:
        rooms[:, 2 * river] = False
    blocks = scipy.ndimage.label(rooms)[0][1::2, 1::2]
    areas = np.bincount(blocks[cell_u, cell_v].ravel(), minlength=blocks.max() + 1)
    use_of_block = np.zeros(len(areas), int)
    dealt = np.concatenate([rng.permutation(DECK) for _ in range(len(areas) // len(DECK) + 1)])
    if river is not None:
        dealt[: len(DECK)][dealt[: len(DECK)] == LAKE] = (
            RESIDENTIAL  # the river is water enough for the large blocks
        )
    use_of_block[np.argsort(-areas, kind="stable")] = dealt[: len(areas)]

    heading, elevation = rng.uniform(0, 2 * np.pi), math.radians(rng.uniform(38, 58))
    sun = math.cos(heading), math.sin(heading)
    plan = (u, v, cell_u, cell_v, sun, 1 / math.tan(elevation), rng.beta(1.2, 1.6))
    return Plan(
        (height_px, width_px),
        warp,
        tuple(lines),
        tuple(widths),
        use_of_block[blocks],
        river,
        bridges,
        *plan,
    )


def near(lines: np.ndarray, cell: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The index of the nearest line, and the distance to it, for positions that lie in cells."""
    before, after = along - lines[cell], lines[cell + 1] - along
    return cell + (after < before), np.minimum(before, after)
