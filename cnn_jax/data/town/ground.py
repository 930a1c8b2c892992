"""The ground of a town: grass and soil, water, paths, streets and yards."""

from dataclasses import dataclass

import numpy as np

from cnn_jax.data.town.layers import GRASS, LAND, ROAD, WATER, Layers, noise
from cnn_jax.data.town.plan import BARE, COMMERCIAL, LAKE, PARK, RESIDENTIAL, Plan, near

ASPHALT = np.array([[0.34, 0.34, 0.36], [0.40, 0.40, 0.41], [0.47, 0.46, 0.46]], np.float32)
PAVING = np.array([0.57, 0.56, 0.55], np.float32)
PAINT = np.array([0.76, 0.76, 0.73], np.float32)
LUSH, DRY = np.array([0.42, 0.53, 0.27], np.float32), np.array([0.57, 0.57, 0.33], np.float32)
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


@dataclass(frozen=True)
class Terrain:
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


def _phase(along, period):
    """How far into its period each position is, in periods: `along / period % 1`, but several times
    faster."""
    turns = along * np.float32(1 / period)
    return turns - np.floor(turns)


def _smooth_minimum(first, second, radius):
    overlap = np.maximum(radius - np.abs(first - second), 0) / radius
    return np.minimum(first, second) - overlap * overlap * radius / 4


def draw_terrain(rng: np.random.Generator, plan: Plan) -> Terrain:
    shape = plan.shape
    fine, middle, coarse = noise(rng, shape, 1.6), noise(rng, shape, 7), noise(rng, shape, 28)
    grain, tones = rng.standard_normal(shape, np.float32), rng.random((64, 64), np.float32)
    use = plan.uses[plan.cell_u, plan.cell_v]
    plot = np.where(use == RESIDENTIAL, np.float32(21), np.float32(47))
    tone = tones[
        np.floor(plan.u / plot).astype(np.int32) % 64,
        np.floor(plan.v / plot / 1.3).astype(np.int32) % 64,
    ]
    rows = np.where(tone > 0.5, plan.u, plan.v)
    return Terrain(
        use, tone, rows, fine, middle, coarse, grain, tones, SOILS[rng.permutation(len(SOILS))[:3]]
    )


def lay_ground(plan: Plan, terrain: Terrain) -> Layers:
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
    layers = Layers(color, mask, height, owner, [], nothing, nothing.copy())

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


def flood(rng: np.random.Generator, plan: Plan, terrain: Terrain, layers: Layers) -> np.ndarray:
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
    ripple, glint = noise(rng, shape, 2.2, 6), noise(rng, shape, 40, 60)
    shine = (
        0.05 * ripple + np.clip(0.12 * glint, 0, 0.2) * (1 + 0.6 * ripple) + 0.03 * terrain.grain
    )
    wet = depth > 0
    shallow = np.exp(-depth[wet] / 5)[:, None] * (terrain.soils[0] - water) * 0.35
    layers.paint(wet, water + shallow, 1 + shine, WATER)
    layers.wet[wet] = True
    layers.taken[depth > -3] = True
    return depth


def lay_paths(
    rng: np.random.Generator, plan: Plan, terrain: Terrain, layers: Layers, depth: np.ndarray
) -> None:
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


def pave(
    rng: np.random.Generator, plan: Plan, terrain: Terrain, layers: Layers, depth: np.ndarray
) -> None:
    """Streets with pavements, markings and bridges, and yards with parking bays.

    A kerb is a signed distance, negative on the street; corners are round, and a street that ends
    has a place to turn.
    """
    u, v, tone, tones = plan.u, plan.v, terrain.tone, terrain.tones
    fine, middle, grain = terrain.fine, terrain.middle, terrain.grain
    line_u, distance_u = near(plan.lines[0], plan.cell_u, u)
    line_v, distance_v = near(plan.lines[1], plan.cell_v, v)
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
