"""Synthetic aerial scenes: towns seen from above, drawn from a seed, so that everything runs
without a download.

A scene is planned, built and photographed. The plan is a street grid bent by two sine waves, with a
land use for each block between streets. Ground, buildings, trees and cars are then painted in that
order into three layers: colour, class and height. The photograph adds what has no class: sun and
shadow, haze, a colour cast, blur and sensor noise.

Lengths are pixels whatever the size of the scene; a pixel is about 0.6 m. Colours are sRGB from 0
to 1 until the photograph.
"""

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy
from PIL import Image

from cnn_jax.configuration.schema import DataConfig
from cnn_jax.data import objects
from cnn_jax.data.objects import Annotation
from cnn_jax.data.scenes import SPLITS, Scene, SceneClass, SceneSet
from cnn_jax.errors import InputError

# Raise it with every change that is meant to change a pixel. The fingerprint also digests a few
# drawn pixels, for the changes that aren't meant.
GENERATOR_VERSION = "1"

DATA_SEED = 20_150_518
"""Where all scenes come from. Not a setting: the data is the same whatever the seed of a training
run."""

SMALLEST_PX = 32

# Evenly spaced in luma (33, 71, 109, 150, 188, 236), so that pictures can be read in grey and with
# any colour vision.
CLASSES = (
    SceneClass("road", (150, 150, 155)),
    SceneClass("building", (204, 80, 10)),
    SceneClass("vegetation", (0, 110, 60)),
    SceneClass("water", (8, 29, 120)),
    SceneClass("land", (255, 236, 190)),
    SceneClass("grass", (170, 215, 90)),
)
"""road: streets, footpaths, paved yards and the cars on them; vegetation: trees and shrubs; land:
bare ground; grass: lawns and meadows. A pixel has the class of what is seen from above: a crown
over a path is vegetation, a shadow is what it falls on."""

ROAD, BUILDING, VEGETATION, WATER, LAND, GRASS = range(len(CLASSES))

OBJECTS = ("building", "car")
"""What is known one by one."""

OBJECT_COLORS = ((204, 80, 10), (0, 114, 178))

LEAST_SEEN = 0.25
LEAST_PX = 12
"""An object of which less than this share of what lies in the scene, or fewer pixels, are seen
counts nowhere: it is annotated as a crowd."""

RESIDENTIAL, COMMERCIAL, PARK, FOREST, BARE, LAKE = range(6)
# Land uses are dealt from this deck, reshuffled when it runs out, largest block first: every scene
# gets a bit of everything.
DECK = (RESIDENTIAL, RESIDENTIAL, RESIDENTIAL, COMMERCIAL, PARK, FOREST, BARE, LAKE)

ASPHALT = np.array([[0.34, 0.34, 0.36], [0.40, 0.40, 0.41], [0.47, 0.46, 0.46]], np.float32)
PAVING = np.array([0.57, 0.56, 0.55], np.float32)
PAINT = np.array([0.76, 0.76, 0.73], np.float32)
TREES = np.array(
    [
        [0.17, 0.29, 0.13],
        [0.22, 0.34, 0.16],
        [0.27, 0.37, 0.17],
        [0.19, 0.29, 0.19],
        [0.38, 0.34, 0.16],
    ],
    np.float32,
)
LUSH, DRY = np.array([0.42, 0.53, 0.27], np.float32), np.array([0.57, 0.57, 0.33], np.float32)
UNDERGROWTH = np.array([0.17, 0.25, 0.12], np.float32)
SOILS = np.array(
    [
        [0.66, 0.55, 0.40],
        [0.60, 0.51, 0.38],
        [0.62, 0.47, 0.33],
        [0.49, 0.39, 0.28],
        [0.70, 0.61, 0.46],
    ],
    np.float32,
)
WATERS = np.array(
    [[0.15, 0.25, 0.31], [0.20, 0.30, 0.27], [0.29, 0.33, 0.28], [0.11, 0.18, 0.21]], np.float32
)
ROOFS = np.array(
    [
        [0.67, 0.34, 0.22],  # terracotta
        [0.54, 0.27, 0.21],  # brick
        [0.38, 0.27, 0.24],  # brown tile
        [0.33, 0.35, 0.38],  # slate
        [0.50, 0.49, 0.49],  # as grey as a road
        [0.74, 0.64, 0.51],  # as beige as bare ground
        [0.66, 0.66, 0.65],  # light metal
        [0.79, 0.78, 0.75],  # white membrane
        [0.39, 0.45, 0.38],  # copper green
        [0.33, 0.41, 0.50],  # blue metal
    ],
    np.float32,
)
CARS = np.array(
    [
        [0.85, 0.85, 0.85],
        [0.15, 0.15, 0.17],
        [0.55, 0.56, 0.58],
        [0.55, 0.12, 0.10],
        [0.18, 0.27, 0.45],
    ],
    np.float32,
)


def draw_scene(
    seed: int | Sequence[int], height_px: int, width_px: int
) -> tuple[np.ndarray, np.ndarray]:
    """One scene: its photograph, uint8 [height_px, width_px, 3] in sRGB, and its mask, uint8
    [height_px, width_px] from 0 to 5.

    `seed` is a non-negative integer or a sequence of them; the same seed and size give the same
    bytes. On another processor, or with other versions of NumPy, SciPy or Pillow, rounding may
    differ and with it a few values. Any size from 32x32 upwards; a smaller one is an `InputError`.
    """
    image, layers = _drawn(seed, height_px, width_px)
    return image, layers.mask


def draw_objects(
    seed: int | Sequence[int], height_px: int, width_px: int
) -> tuple[np.ndarray, tuple[Annotation, ...]]:
    """The scene of `draw_scene` with its buildings and cars one by one: the photograph, and the
    objects, whose labels are indices of `OBJECTS` and whose masks are the pixels that are seen."""
    image, layers = _drawn(seed, height_px, width_px)
    known = {number: label for number, (label, _) in enumerate(layers.objects, 1)}
    whole = [pixels for _, pixels in layers.objects]
    seen = np.bincount(layers.owner.ravel(), minlength=len(whole) + 1)
    found = []
    for one in objects.of_map(layers.owner, known):
        assert one.id is not None
        hidden = seen[one.id] < max(LEAST_PX, LEAST_SEEN * whole[one.id - 1])
        found.append(replace(one, crowd=bool(hidden)))
    return image, tuple(found)


def _drawn(seed, height_px, width_px):
    _check_size(height_px, width_px)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    plan = _draw_plan(rng, height_px, width_px)
    terrain = _draw_terrain(rng, plan)
    layers = _lay_ground(plan, terrain)
    depth = _flood(rng, plan, terrain, layers)
    _lay_paths(rng, plan, terrain, layers, depth)
    _pave(rng, plan, terrain, layers, depth)
    _build(rng, plan, layers)
    _plant(rng, plan, layers)
    _park_cars(rng, plan, layers)
    return _photograph(rng, plan, layers), layers


def generate(config: DataConfig) -> SceneSet:
    """The synthetic scene set: `config.scene_counts` scenes for training, validation and test, each
    of `config.scene_px`.

    A scene is drawn when it is read, each time anew and each time the same. Its seed is its split
    and its number in it, so splits share nothing, and more scenes leave the first ones as they
    were. Sizes under 32, counts under 0 and groups, which there are none of, are an `InputError`.
    """
    height_px, width_px = config.scene_px
    _check_size(height_px, width_px)
    if len(config.scene_counts) != len(SPLITS) or min(config.scene_counts) < 0:
        raise InputError(
            f"data.scene_counts is {config.scene_counts}: give three counts of 0 or more, as in"
            " 24,4,8."
        )
    for name in ("test_groups", "validation_groups"):
        if groups := getattr(config, name):
            raise InputError(
                f"data.{name} names group {groups[0]!r}, and synthetic scenes have no groups: leave"
                " it empty, or name your own scenes in data.source."
            )
    splits = {
        split: tuple(
            Scene(
                f"{split}_{number:03d}",
                height_px,
                width_px,
                functools.partial(draw_scene, (DATA_SEED, index, number), height_px, width_px),
            )
            for number in range(count)
        )
        for index, (split, count) in enumerate(zip(SPLITS, config.scene_counts, strict=True))
    }
    identity = [
        GENERATOR_VERSION,
        DATA_SEED,
        _probe(),
        list(config.scene_px),
        list(config.scene_counts),
    ]
    identity.append([(known.name, known.color) for known in CLASSES])
    fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    notes = (
        f"scenes are drawn, and {config.directory} in data.directory is not read: for what lies"
        " there, name its description in data.source.",
    )
    return SceneSet(CLASSES, splits, fingerprint, notes=notes if config.directory else ())


def _check_size(height_px, width_px):
    if min(height_px, width_px) < SMALLEST_PX:
        raise InputError(
            f"data.scene_px is {height_px}x{width_px}: a scene is at least"
            f" {SMALLEST_PX}x{SMALLEST_PX}."
        )


@functools.cache
def _probe():
    """A digest of the pixels of four small scenes: it changes if the generator, or a library under
    it, draws differently."""
    digest = hashlib.sha256()
    for number in range(4):
        for layer in draw_scene((DATA_SEED, len(SPLITS), number), 160, 160):
            digest.update(layer.tobytes())
    return digest.hexdigest()


# The plan: where streets run and what lies between them.


@dataclass(frozen=True)
class _Warp:
    """Street coordinates (u, v) of a scene: turned by an angle, then each bent by a sine of the
    other. Both can be undone."""

    angle: float
    amplitudes: tuple[float, float]  # Python's numbers, here and below, keep float32 arrays float32
    wavelengths: tuple[float, float]
    phases: tuple[float, float]

    def _bend(self, axis, along):
        turns = along / self.wavelengths[axis]
        return self.amplitudes[axis] * np.sin(2 * np.pi * turns + self.phases[axis])

    def to_street(self, x, y):
        """Pixels from the centre of the scene -> street coordinates."""
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        u, v = x * cosine + y * sine, y * cosine - x * sine
        return u + self._bend(0, v), v + self._bend(1, u)

    def to_scene(self, u, v):
        """Street coordinates -> pixels from the centre of the scene."""
        straight_u, straight_v = u, v
        for _ in range(
            8
        ):  # the slopes of the two bends multiply to less than 0.2: this converges fast
            straight_u, straight_v = u - self._bend(0, straight_v), v - self._bend(1, straight_u)
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return straight_u * cosine - straight_v * sine, straight_u * sine + straight_v * cosine


@dataclass(frozen=True)
class _Plan:
    """Streets, blocks and light of one scene. Axis 0 holds the streets of constant u, axis 1 those
    of constant v."""

    shape: tuple[int, int]
    warp: _Warp
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

    def to_pixels(self, u, v):
        """Pixel positions (x, y) of street coordinates."""
        x, y = self.warp.to_scene(u, v)
        return x + (self.shape[1] - 1) / 2, y + (self.shape[0] - 1) / 2

    def frames(self, u, v, axis):
        """Pixel positions (x, y) of street coordinates, and the unit vectors (x, y) along `axis`
        there: four arrays."""
        x, y = self.to_pixels(np.stack([u, u + (axis == 0)]), np.stack([v, v + (axis == 1)]))
        along_x, along_y = x[1] - x[0], y[1] - y[0]
        norm = np.hypot(along_x, along_y)
        return x[0], y[0], along_x / norm, along_y / norm


def _draw_plan(rng, height_px, width_px):
    wavelengths = rng.uniform(260, 520, 2)
    amplitudes = rng.uniform(0.15, 0.42, 2) * wavelengths / (2 * np.pi)
    bends = (
        tuple(part.tolist()) for part in (amplitudes, wavelengths, rng.uniform(0, 2 * np.pi, 2))
    )
    warp = _Warp(rng.uniform(0, np.pi), *bends)
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
    return _Plan(
        (height_px, width_px),
        warp,
        tuple(lines),
        tuple(widths),
        use_of_block[blocks],
        river,
        bridges,
        *plan,
    )


# The ground, and what stands on it.


@dataclass(frozen=True)
class _Layers:
    """What is seen at each pixel, painted over as the scene is built: arrays [height, width], and
    three channels of colour."""

    color: np.ndarray
    mask: np.ndarray
    height: np.ndarray
    owner: np.ndarray  # the building or car that is seen, by its number from 1; 0: none
    objects: list[tuple[int, int]]  # of each, its class and the pixels that it covers unhidden
    taken: np.ndarray  # streets, paths, water and buildings: nothing is built here
    wet: np.ndarray  # water, streets, paths, and close to buildings: nothing grows here

    def paint(self, where, base, light, label):
        """Paint some pixels in a colour, or in one each, times how light each pixel of the scene
        is."""
        self.color[where] = base * light[where, None]
        self.mask[where] = label

    def own(self, slices, where, label):
        """Give pixels to a new object; those before it lose them."""
        self.objects.append((label, int(where.sum())))
        self.owner[slices][where] = len(self.objects)


@dataclass(frozen=True)
class _Terrain:
    """What the painters of the ground share: land use, tones and texture of each pixel, [height,
    width]."""

    use: np.ndarray
    tone: np.ndarray  # one value from 0 to 1 over a garden or a field
    rows: np.ndarray  # the coordinate across which a lawn is mown or a field ploughed
    fine: np.ndarray
    middle: np.ndarray
    coarse: np.ndarray
    grain: np.ndarray
    tones: np.ndarray  # [64, 64] more tones, to look up
    soils: np.ndarray  # the three soils of the scene


def _noise(rng, shape, scale_y, scale_x=None):
    """Smooth noise, float32 of mean 0 and standard deviation about 0.8, whose bumps are `scale`
    pixels apart."""
    scale_x = scale_x or scale_y
    (height, width), steps = shape, (scale_y, scale_x)
    coarse = rng.standard_normal((int(height / scale_y) + 4, int(width / scale_x) + 4), np.float32)
    box = (1, 1, 1 + width / steps[1], 1 + height / steps[0])
    return np.asarray(
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC, box)
    )


def _near(lines, cell, along):
    """The index of the nearest line, and the distance to it, for positions that lie in cells."""
    before, after = along - lines[cell], lines[cell + 1] - along
    return cell + (after < before), np.minimum(before, after)


def _phase(along, period):
    """How far into its period each position is, in periods: `along / period % 1`, but several times
    faster."""
    turns = along * np.float32(1 / period)
    return turns - np.floor(turns)


def _smooth_minimum(first, second, radius):
    overlap = np.maximum(radius - np.abs(first - second), 0) / radius
    return np.minimum(first, second) - overlap * overlap * radius / 4


def _draw_terrain(rng, plan):
    shape = plan.shape
    fine, middle, coarse = _noise(rng, shape, 1.6), _noise(rng, shape, 7), _noise(rng, shape, 28)
    grain, tones = rng.standard_normal(shape, np.float32), rng.random((64, 64), np.float32)
    use = plan.uses[plan.cell_u, plan.cell_v]
    plot = np.where(use == RESIDENTIAL, np.float32(21), np.float32(47))
    tone = tones[
        np.floor(plan.u / plot).astype(np.int32) % 64,
        np.floor(plan.v / plot / 1.3).astype(np.int32) % 64,
    ]
    rows = np.where(tone > 0.5, plan.u, plan.v)
    return _Terrain(
        use, tone, rows, fine, middle, coarse, grain, tones, SOILS[rng.permutation(len(SOILS))[:3]]
    )


def _lay_ground(plan, terrain):
    """Grass or bare ground everywhere: worn patches, some gardens, all of a bare block but its
    overgrown corners."""
    use, tone, rows = terrain.use, terrain.tone, terrain.rows
    fine, middle, coarse = terrain.fine, terrain.middle, terrain.coarse
    dry = np.clip(plan.dryness + 0.5 * (tone - 0.5) + 0.22 * coarse, 0, 1)
    stripe = np.where(_phase(rows, 11) < 0.5, np.float32(0.045), np.float32(-0.045))
    mown = ((use == PARK) | (use == LAKE)) & (tone > 0.3)
    color = LUSH + (DRY - LUSH) * dry[..., None]
    color *= (1 + mown * stripe + 0.09 * fine + 0.06 * middle + 0.05 * terrain.grain)[..., None]
    nothing = np.zeros(plan.shape, bool)
    mask, height = np.full(plan.shape, GRASS, np.uint8), np.zeros(plan.shape, np.float32)
    owner = np.zeros(plan.shape, np.int32)
    layers = _Layers(color, mask, height, owner, [], nothing, nothing.copy())

    bare = np.where(use == BARE, coarse + 0.4 * middle > -0.75, coarse + 0.2 * middle > 1.1)
    bare |= (use == RESIDENTIAL) & (tone > 0.93)
    soil = terrain.soils[(tone[bare] * 7919).astype(int) % 3]
    ploughed = (use == BARE) & (_phase(tone, 1 / 613) > 0.6)
    furrow = np.where(ploughed, 0.07 * np.sin(rows * np.float32(2 * np.pi / 5)), 0)
    layers.paint(
        bare,
        soil,
        1 + furrow + 0.08 * middle + 0.07 * coarse + 0.07 * fine + 0.05 * terrain.grain,
        LAND,
    )
    return layers


def _flood(rng, plan, terrain, layers):
    """Lakes, which fill their cells but for a margin, and a river, which meanders along its line.

    Returns depth: pixels from the shore, negative on land.
    """
    u, v, shape, coarse = plan.u, plan.v, plan.shape, terrain.coarse
    margin_u, middle_u = _halves(plan.lines[0], plan.cell_u)
    margin_v, middle_v = _halves(plan.lines[1], plan.cell_v)
    radius_u, radius_v = np.maximum(margin_u - 12, 9), np.maximum(margin_v - 12, 9)
    ellipse = 1 - np.hypot((u - middle_u) / radius_u, (v - middle_v) / radius_v)
    shore = np.minimum(margin_u - np.abs(u - middle_u), margin_v - np.abs(v - middle_v)) - 10
    lake = _smooth_minimum(
        (ellipse + 0.28 * coarse + 0.06) * np.minimum(radius_u, radius_v), shore, 8
    )
    depth = np.where(terrain.use == LAKE, lake, np.float32(-99))
    if plan.river is not None:
        meander = 9 * np.sin(u / rng.uniform(28, 45) + rng.uniform(0, 6.28))
        river = rng.uniform(14, 23) + 4 * coarse - np.abs(v - plan.lines[1][plan.river] - meander)
        depth = np.maximum(depth, river)
    beach = (depth > -1 - 5 * np.clip(coarse + 0.4, 0, 1)) & (depth > -20)
    layers.paint(beach, terrain.soils[0], 1.04 + 0.06 * terrain.fine + 0.035 * terrain.grain, LAND)
    water = WATERS[rng.integers(len(WATERS))] + rng.uniform(-0.03, 0.03, 3).astype(np.float32)
    ripple, glint = _noise(rng, shape, 2.2, 6), _noise(rng, shape, 40, 60)
    shine = (
        0.05 * ripple + np.clip(0.12 * glint, 0, 0.2) * (1 + 0.6 * ripple) + 0.03 * terrain.grain
    )
    wet = depth > 0
    shallow = np.exp(-depth[wet] / 5)[:, None] * (terrain.soils[0] - water) * 0.35
    layers.paint(wet, water + shallow, 1 + shine, WATER)
    layers.wet[wet] = True
    layers.taken[depth > -3] = True
    return depth


def _lay_paths(rng, plan, terrain, layers, depth):
    """Footpaths that wander through parks and around lakes."""
    margin_u, middle_u = _halves(plan.lines[0], plan.cell_u)
    margin_v, middle_v = _halves(plan.lines[1], plan.cell_v)
    sway = terrain.tones[plan.cell_u % 64, plan.cell_v % 64] * 6.28
    east = np.abs(plan.v - middle_v - 0.35 * margin_v * np.sin((plan.u - middle_u) / 17 + sway))
    north = np.abs(plan.u - middle_u - 0.3 * margin_u * np.sin((plan.v - middle_v) / 14 + 2 * sway))
    path = (terrain.use == PARK) & (np.minimum(east, north) < 1.9) & (depth < -1)
    path |= (terrain.use == LAKE) & (np.abs(depth + 9) < 2)
    warmth = np.array([1, 0, -1], np.float32)
    gravel = (
        PAVING * np.float32(rng.uniform(0.92, 1.12)) + np.float32(rng.uniform(-0.01, 0.02)) * warmth
    )
    layers.paint(path, gravel, 1 + 0.04 * terrain.fine + 0.03 * terrain.grain, ROAD)
    layers.taken[path] = layers.wet[path] = True


def _pave(rng, plan, terrain, layers, depth):
    """Streets with pavements, markings and bridges, and yards with parking bays.

    A kerb is a signed distance, negative on the street; corners are round, and a street that ends
    has a place to turn.
    """
    u, v, tone, tones = plan.u, plan.v, terrain.tone, terrain.tones
    fine, middle, grain = terrain.fine, terrain.middle, terrain.grain
    line_u, distance_u = _near(plan.lines[0], plan.cell_u, u)
    line_v, distance_v = _near(plan.lines[1], plan.cell_v, v)
    width_u, width_v = plan.widths[0][line_u, plan.cell_v], plan.widths[1][line_v, plan.cell_u]
    kerb_u = np.where(width_u > 0, distance_u - width_u / 2, np.float32(99))
    kerb_v = np.where(width_v > 0, distance_v - width_v / 2, np.float32(99))
    corner = np.hypot(distance_u, distance_v) - _turning_radius(plan)[line_u, line_v]
    kerb = np.minimum(_smooth_minimum(kerb_u, kerb_v, 7), corner)
    street = kerb < 0
    if plan.river is not None:
        crosses = (
            plan.bridges
            & (plan.widths[0][:, plan.river - 1] > 0)
            & (plan.widths[0][:, plan.river] > 0)
        )
        street &= (depth < -3) | crosses[line_u] & (kerb_u < 0)
    layers.height[street & (depth > 0)] = 4  # bridges

    # A strip of green lies between most yards and the street.
    yard = (
        (terrain.use == COMMERCIAL)
        & ~street
        & (depth < -6)
        & (kerb > np.where(tone > 0.35, 5, 0))
        & (terrain.coarse > -1.1)
    )
    asphalt = ASPHALT[rng.integers(len(ASPHALT), size=2)] * rng.uniform(0.9, 1.1)
    layers.paint(yard, asphalt[0], 1 + 0.05 * middle + 0.04 * fine + 0.03 * grain, ROAD)
    row = 26 * _phase(v, 26)
    bay = (row < 16) & ((_phase(u, 5) < 0.18) | (np.abs(row - 8) < 0.5)) & (tone > 0.4)
    layers.color[yard & bay & (kerb > 8)] += 0.16

    wear = tones[line_u % 64, 3] * (kerb_u < kerb_v) + tones[5, line_v % 64] * (kerb_u >= kerb_v)
    layers.paint(
        street, asphalt[1], 0.9 + 0.25 * wear + 0.03 * middle + 0.03 * fine + 0.03 * grain, ROAD
    )
    wide = np.where(kerb_u < kerb_v, width_u, width_v) > 8
    pavement = street & (kerb > -2.2) & wide
    layers.paint(pavement, PAVING, 1 + 0.03 * grain + 0.03 * fine, ROAD)
    for distance, along, width, clear in (
        (distance_u, v, width_u, kerb_v),
        (distance_v, u, width_v, kerb_u),
    ):
        avenue, dash = width > 14, _phase(along, 12) < 0.5
        line = (distance < 0.6) & (avenue | (dash & (width > 8))) | avenue & dash & (
            np.abs(distance - width / 4) < 0.5
        )
        line &= clear > 7
        line |= (
            (clear > 2.5)
            & (clear < 6)
            & (distance < width / 2 - 3)
            & (_phase(distance, 3) < 0.5)
            & (width > 8)
        )
        layers.color[line & street & ~pavement] = PAINT
    layers.taken[street] = layers.wet[street] = True


def _halves(lines, cell):
    """Half the extent of the cell of each pixel, and its middle."""
    return (lines[cell + 1] - lines[cell]) / 2, (lines[cell + 1] + lines[cell]) / 2


def _turning_radius(plan):
    """The radius of the round place where lines meet, [line of u, line of v]; negative where none
    is."""
    (across, along), (lines_u, lines_v) = plan.widths, map(len, plan.lines)
    arms = np.zeros((4, lines_u, lines_v))
    arms[0], arms[1, :, 1:] = across, across[:, :-1]
    arms[2], arms[3, 1:] = along.T, along.T[:-1]
    count, widest = (arms > 0).sum(0), arms.max(0)
    radius = np.select([count > 1, count == 1], [widest / 2, np.minimum(widest, 11)], -99).astype(
        np.float32
    )
    if plan.river is not None:
        radius[:, plan.river] = -99
    return radius


def _window(shape, x, y, reach):
    """The slices around a position that fit in the scene, and the pixels' offsets from it; None
    where nothing fits."""
    top, left = max(int(y - reach), 0), max(int(x - reach), 0)
    bottom, right = min(int(y + reach) + 2, shape[0]), min(int(x + reach) + 2, shape[1])
    if top >= bottom or left >= right:
        return None
    rows, columns = (
        np.arange(top, bottom, dtype=np.float32)[:, None] - y,
        np.arange(left, right, dtype=np.float32) - x,
    )
    return (slice(top, bottom), slice(left, right)), columns, rows


def _build(rng, plan, layers):
    """Houses along the streets of residential cells, large flat roofs in commercial ones, barns on
    bare ground."""
    seen = np.bincount(
        (plan.cell_u * plan.uses.shape[1] + plan.cell_v).ravel(), minlength=plan.uses.size
    )
    favourites = rng.permutation(len(ROOFS))[:5]  # a town has its materials
    buildings = []
    for i, j in np.argwhere(seen.reshape(plan.uses.shape)):
        if plan.uses[i, j] == RESIDENTIAL:
            buildings += _houses(rng, plan, i, j, favourites)
        elif plan.uses[i, j] in (COMMERCIAL, BARE):
            buildings += _halls(rng, plan, i, j)
    if buildings:
        u, v = np.array([building.place for building in buildings]).T
        frames = plan.frames(u, v, np.array([building.axis for building in buildings]))
        for building, *frame in zip(buildings, *frames, strict=True):
            _erect(rng, plan, layers, building, *frame)


@dataclass(frozen=True)
class _Building:
    place: tuple[float, float]  # the middle, in street coordinates
    size: tuple[float, float]  # along its axis, and across
    axis: int  # 0: it lies along u, 1: along v
    kind: str  # of roof: flat, gable or hip
    roof: int
    wing: bool  # L-shaped


def _houses(rng, plan, i, j, favourites):
    """Rows of houses on those sides of a cell that have a street, and sheds in the gardens
    behind."""
    low, high = _corners(plan, i, j)
    terraced = rng.random() < 0.3
    streets = (
        plan.widths[1][j, i],
        plan.widths[1][j + 1, i],
        plan.widths[0][i, j],
        plan.widths[0][i + 1, j],
    )
    for side, width in enumerate(streets):
        axis, far = divmod(side, 2)  # the two sides that run along u, then the two along v
        at, setback = low[axis] + streets[2 - 2 * axis] / 2 + rng.uniform(4, 10), rng.uniform(4, 8)
        while width > 0 and at < high[axis] - 8:
            length = rng.uniform(34, 60) if terraced else rng.uniform(13, 22)
            deep = rng.uniform(10.5, 16)
            behind_kerb = width / 2 + setback + rng.uniform(0, 2) + deep / 2
            across = high[1 - axis] - behind_kerb if far else low[1 - axis] + behind_kerb
            place = (at + length / 2, across) if axis == 0 else (across, at + length / 2)
            kind = "hip" if not terraced and rng.random() < 0.4 else "gable"
            roof = favourites[min(int(rng.exponential(1.3)), 4)]
            yield _Building(
                place, (length, deep), axis, kind, roof, not terraced and rng.random() < 0.35
            )
            at += length + rng.uniform(3.5, 7)
    for _ in range(4):
        yield _Building(
            rng.uniform(low + 12, high - 12),
            rng.uniform(7, 11, 2),
            0,
            "flat",
            rng.integers(len(ROOFS)),
            False,
        )


def _halls(rng, plan, i, j):
    """Tries at placing large buildings anywhere in a cell."""
    low, high = _corners(plan, i, j)
    commercial = plan.uses[i, j] == COMMERCIAL
    for _ in range(30 if commercial else 3):
        size = (
            (rng.uniform(18, 62), rng.uniform(16, 40))
            if commercial
            else (rng.uniform(14, 30), rng.uniform(10, 14))
        )
        roof = rng.choice([0, 3, 4, 5, 6, 6, 7, 7, 8, 9])
        kind, axis = "flat" if commercial else "gable", int(rng.random() < 0.4)
        yield _Building(
            rng.uniform(low + 14, np.maximum(high - 14, low + 15)),
            size,
            axis,
            kind,
            roof,
            rng.random() < 0.35,
        )


def _corners(plan, i, j):
    return np.array([plan.lines[0][i], plan.lines[1][j]]), np.array(
        [plan.lines[0][i + 1], plan.lines[1][j + 1]]
    )


def _erect(rng, plan, layers, building, x, y, along_x, along_y):
    """One building, if nothing is in its way: its middle at pixel (x, y), its axis along a unit
    vector."""
    if 0 <= x < plan.shape[1] and 0 <= y < plan.shape[0] and layers.taken[int(y), int(x)]:
        return
    kind, wing = building.kind, building.wing
    length, deep = building.size
    side = rng.choice([-1, 1])
    wing_length, wing_deep = (
        (rng.uniform(0.35, 0.5) * length, deep / 2 + rng.uniform(0.4, 0.8) * deep)
        if wing
        else (0, 0)
    )
    wing_at = rng.choice([-1, 1]) * (length - wing_length) / 2
    window = _window(plan.shape, x, y, np.hypot(length, deep) / 2 + wing_deep + 3)
    if window is None:
        return
    slices, columns, rows = window
    a, b = columns * along_x + rows * along_y, rows * along_x - columns * along_y
    inset_main = np.minimum(length / 2 - np.abs(a), deep / 2 - np.abs(b))
    inset_wing = np.minimum(
        wing_length / 2 - np.abs(a - wing_at), np.minimum(b * side, wing_deep - b * side)
    )
    inset = np.maximum(inset_main, inset_wing) if wing else inset_main
    if layers.taken[slices][inset > -3].any():
        return
    inside = inset > 0
    sun_a, sun_b = (
        plan.sun[0] * along_x + plan.sun[1] * along_y,
        plan.sun[1] * along_x - plan.sun[0] * along_y,
    )

    # The height of each roof, and how much its face is turned to the sun.
    if kind == "flat":
        storeys = rng.uniform(4.5, 6.5) if length < 11.5 else rng.uniform(7, 15)
        height = np.full(inset.shape, storeys, np.float32)
        light = np.where(
            inset < 1.4, 1.15, 1 + 0.02 * rng.standard_normal(inset.shape)
        )  # a parapet around it
        for _ in range(int(length * deep / 160)):
            unit_a, unit_b = rng.uniform(-0.4, 0.4, 2) * (length, deep)
            unit = (
                (np.abs(a - unit_a) < rng.uniform(1, 3))
                & (np.abs(b - unit_b) < rng.uniform(1, 3))
                & (inset > 2)
            )
            height[unit] += 2.5
            light[unit] = rng.choice([0.7, 1.15])
    else:
        eaves, pitch, steep = rng.uniform(5.5, 8), rng.uniform(0.5, 0.8), rng.uniform(0.28, 0.42)
        rise, light = deep / 2 - np.abs(b), 1 + steep * np.sign(b) * sun_b
        if kind == "hip":
            end = length / 2 - np.abs(a)
            light = np.where(end < rise, 1 + steep * np.sign(a) * sun_a, light)
            rise = np.minimum(rise, end)
        if wing:
            rise_wing = np.where(inset_wing > 0, wing_length / 2 - np.abs(a - wing_at), -1)
            over = (rise_wing > np.where(inset_main > 0, rise, -1)) & (inset_wing > 0)
            light = np.where(over, 1 + steep * np.sign(a - wing_at) * sun_a, light)
            rise = np.where(over, rise_wing, rise)
        light = (
            light
            * (1 + 0.03 * np.sign(np.sin(b * 2.4)))
            * (1 + 0.03 * rng.standard_normal(inset.shape))
        )
        light = np.where(
            (np.abs(b) < 0.6) & (inset_main > 0) & (rise > deep / 2 - 1.2), light * 1.1, light
        )
        height = eaves + pitch * rise
    shade = (light * rng.uniform(0.88, 1.1))[..., None]
    color = ROOFS[building.roof] * shade
    if kind == "gable" and length > 10 and rng.random() < 0.18:  # solar panels on the sunny side
        panel = (np.abs(a) < length * 0.3) & (b * np.sign(sun_b) > 1.2) & (inset_main > 1.2)
        color = np.where(
            panel[..., None], np.array([0.13, 0.16, 0.26]) + 0.05 * (a % 3 < 0.8)[..., None], color
        )
    layers.color[slices][inside] = color[inside]
    layers.mask[slices][inside] = BUILDING
    layers.height[slices][inside] = height[inside]
    layers.own(slices, inside, OBJECTS.index("building"))
    layers.taken[slices][inside] = True
    layers.wet[slices][inset > -1.5] = True


def _plant(rng, plan, layers):
    """Trees: dense in woods, in groups in parks and gardens and on shores, in rows along some
    streets."""
    spacing = 6.5
    rows, columns = np.mgrid[-1 : plan.shape[0] / spacing + 1, -1 : plan.shape[1] / spacing + 1]
    x, y = (
        spacing * (part + rng.uniform(-0.45, 0.45, part.shape)).ravel() for part in (columns, rows)
    )
    column = np.clip(np.rint(x), 0, plan.shape[1] - 1).astype(int)
    row = np.clip(np.rint(y), 0, plan.shape[0] - 1).astype(int)
    use, groups = plan.uses[plan.cell_u, plan.cell_v], _noise(rng, plan.shape, 22)
    grown = (
        np.array([9, 9, 0.75, -1.3, 9, 0.75], np.float32)[use] < groups
    )  # over undergrowth that leaves no gaps
    clumps, leaves = (
        0.24 * _noise(rng, plan.shape, 2.6),
        rng.standard_normal(plan.shape, np.float32),
    )
    thicket = grown & ~layers.wet
    layers.color[thicket] = UNDERGROWTH * (1 + 0.5 * clumps + 0.1 * leaves)[thicket, None]
    layers.mask[thicket] = VEGETATION
    layers.height[thicket] = 2

    use, crowded = use[row, column], groups[row, column] > 0.75
    chance = (
        np.array([0.09, 0.03, 0.06, 0.1, 0.02, 0.1])[use]
        + np.array([0.2, 0.1, 0.3, 0.1, 0.25, 0.3])[use] * crowded
    )
    grows = (rng.random(len(x)) < np.where(grown[row, column], 0.9, chance)) & ~layers.wet[
        row, column
    ]
    radius = np.where(
        use == FOREST, rng.uniform(4, 6.5, len(x)), rng.gamma(7, 0.7, len(x)).clip(3.2, 8.5)
    )
    x, y, radius = x[grows], y[grows], radius[grows]

    avenue_x, avenue_y = _rows_of_trees(rng, plan)
    inside = (
        (avenue_x > -5)
        & (avenue_x < plan.shape[1] + 5)
        & (avenue_y > -5)
        & (avenue_y < plan.shape[0] + 5)
    )
    avenue_x, avenue_y = avenue_x[inside], avenue_y[inside]
    column = np.clip(np.rint(avenue_x), 0, plan.shape[1] - 1).astype(int)
    row = np.clip(np.rint(avenue_y), 0, plan.shape[0] - 1).astype(int)
    free = ~layers.wet[row, column]
    x, y = np.append(x, avenue_x[free]), np.append(y, avenue_y[free])
    radius = np.append(radius, rng.uniform(2.8, 4.5, free.sum()))

    texture = 0.88 + 0.12 * leaves + 0.55 * clumps
    sun_x, sun_y = plan.sun
    kinds = TREES[rng.integers(len(TREES) - 1, size=3)]
    if rng.random() < 0.25:
        kinds[2] = TREES[-1]  # a species that has turned
    colors = kinds[rng.choice(3, len(x), p=[0.5, 0.35, 0.15])] * rng.uniform(
        0.85, 1.15, (len(x), 1)
    ).astype(np.float32)
    for x_px, y_px, crown, color in zip(
        x.tolist(), y.tolist(), radius.tolist(), colors, strict=True
    ):
        window = _window(plan.shape, x_px, y_px, crown * 1.35)
        if window is None:
            continue
        slices, columns, rows = window
        round_ = (columns * columns + rows * rows) / (crown * crown)
        dome = 1 - round_ + clumps[slices]
        height = 2 + crown * (0.5 + 0.9 * np.sqrt(np.maximum(dome, 0)))
        seen = (dome > 0) & (round_ < 1.7) & (height > layers.height[slices])
        light = texture[slices] + columns * (0.28 / crown * sun_x) + rows * (0.28 / crown * sun_y)
        layers.color[slices][seen] = light[seen, None] * color
        layers.mask[slices][seen] = VEGETATION
        layers.owner[slices][seen] = 0
        layers.height[slices][seen] = height[seen]


def _rows_of_trees(rng, plan):
    """Pixel positions of trees on both sides of some streets."""
    places = []
    for axis in (0, 1):
        for line, widths in zip(plan.lines[axis], plan.widths[axis], strict=True):
            if rng.random() < 0.4 and widths.max() > 8:
                along = np.arange(
                    plan.lines[1 - axis][0], plan.lines[1 - axis][-1], rng.uniform(13, 20)
                )
                for side in (-1, 1):
                    places.append(
                        np.stack(
                            [np.full_like(along, line + side * (widths.max() / 2 + 2.5)), along][
                                :: 1 - 2 * axis
                            ]
                        )
                    )
    return plan.to_pixels(*np.concatenate(places, axis=1)) if places else (np.zeros(0), np.zeros(0))


def _park_cars(rng, plan, layers):
    """Cars in their lanes and in parking bays; they keep the class of what they stand on."""
    count = int(np.clip(plan.u.size / 1500, 4, 3000))
    columns, rows = rng.integers(plan.shape[1], size=count), rng.integers(plan.shape[0], size=count)
    u, v = plan.u[rows, columns], plan.v[rows, columns]
    axis = rng.integers(2, size=count)  # along u or along v
    side, bay = rng.choice([-1, 1], count), rng.choice([4, 12], count)
    parks = (plan.uses[plan.cell_u[rows, columns], plan.cell_v[rows, columns]] == COMMERCIAL) & (
        rng.random(count) < 0.6
    )
    lanes = []
    for across, cells, position in zip((0, 1), (plan.cell_u, plan.cell_v), (u, v), strict=True):
        line, _ = _near(plan.lines[across], cells[rows, columns], position)
        width = plan.widths[across].max(axis=1)[line]
        lanes.append(
            plan.lines[across][line]
            + side * width * np.where(width > 14, rng.choice([0.12, 0.3], count), 0.2)
        )
    u, v = np.where(axis == 0, u, lanes[0]), np.where(axis == 1, v, lanes[1])
    u = np.where(parks, np.floor(u / 5) * 5 + 2.9, u)
    v = np.where(parks, np.floor(v / 26) * 26 + bay, v)
    paints = CARS[rng.choice(len(CARS), count, p=[0.35, 0.25, 0.2, 0.08, 0.12])]
    for x, y, along_x, along_y, paint in zip(
        *plan.frames(u, v, np.where(parks, 1, axis)), paints, strict=True
    ):
        window = _window(plan.shape, x, y, 5)
        if window is None:
            continue
        slices, right, down = window
        a, b = right * along_x + down * along_y, down * along_x - right * along_y
        body = (np.abs(a) < 3.6) & (np.abs(b) < 1.6)
        if not body.any() or (layers.mask[slices][body] != ROAD).any():
            continue
        layers.color[slices][body] = paint
        layers.color[slices][body & (np.abs(a - 0.6) < 1) & (np.abs(b) < 1.3)] = (
            paint * 0.45
        )  # the windscreen
        layers.height[slices][body] += 2
        layers.own(slices, body, OBJECTS.index("car"))


# The photograph.


def _photograph(rng, plan, layers):
    """The scene as a camera sees it, uint8: shadows, uneven light, haze, colour cast, blur and
    noise, different in each scene."""
    sunlit = 1 - _shadow(plan, layers.height)[..., None]
    sky = np.array([0.45, 0.48, 0.54], np.float32) * rng.uniform(0.85, 1.15)
    direct = np.array([0.58, 0.55, 0.49], np.float32) * rng.uniform(0.92, 1.1)
    picture = layers.color * (sky + direct * sunlit)
    picture *= 1 + 0.05 * _noise(rng, plan.shape, 160)[..., None]
    haze, cast = rng.uniform(0, 0.12), np.float32(rng.uniform(0.965, 1.035, 3))
    picture = (picture * (1 - haze) + haze * np.array([0.66, 0.71, 0.78], np.float32)) * cast
    contrast, gain = rng.uniform(0.95, 1.15), rng.uniform(0.94, 1.08)
    picture = ((picture - 0.4) * contrast + 0.4) * gain
    picture = scipy.ndimage.gaussian_filter(
        picture, (rng.uniform(0.35, 0.5),) * 2 + (0,), truncate=3
    )
    picture += rng.uniform(0.012, 0.026) * rng.standard_normal(picture.shape, np.float32)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _shadow(plan, height):
    """How much of the sun each pixel is cut off from, 0 to 1: by walking towards it and looking for
    something higher."""
    highest = np.full_like(height, -99)
    rows, columns = height.shape
    for step in range(1, int(height.max(initial=0) * plan.shadow_length) + 2):
        right, down = (round(step * part) for part in plan.sun)
        to = (
            slice(max(-down, 0), rows - max(down, 0)),
            slice(max(-right, 0), columns - max(right, 0)),
        )
        source = (
            slice(max(down, 0), rows - max(-down, 0)),
            slice(max(right, 0), columns - max(-right, 0)),
        )
        if height[source].size:
            highest[to] = np.maximum(
                highest[to], height[source] - np.float32(step / plan.shadow_length)
            )
    return np.clip(highest - height - 0.3, 0, 1.2) / 1.2
