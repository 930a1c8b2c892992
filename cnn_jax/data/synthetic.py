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
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cnn_jax.configuration.schema import DataConfig
from cnn_jax.data import objects
from cnn_jax.data.objects import Annotation
from cnn_jax.data.scenes import SPLITS, Scene, SceneSet
from cnn_jax.data.town.buildings import build
from cnn_jax.data.town.cars import park_cars
from cnn_jax.data.town.ground import draw_terrain, flood, lay_ground, lay_paths, pave
from cnn_jax.data.town.layers import CLASSES
from cnn_jax.data.town.photograph import photograph
from cnn_jax.data.town.plan import draw_plan
from cnn_jax.data.town.trees import plant
from cnn_jax.errors import InputError

# Raise it with every change that is meant to change a pixel. The fingerprint also digests a few
# drawn pixels, for the changes that aren't meant.
GENERATOR_VERSION = "1"

DATA_SEED = 20_150_518
"""Where all scenes come from. Not a setting: the data is the same whatever the seed of a training
run."""

SMALLEST_PX = 32

LEAST_SEEN = 0.25
LEAST_PX = 12
"""An object of which less than this share of what lies in the scene, or fewer pixels, are seen
counts nowhere: it is annotated as a crowd."""


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
    plan = draw_plan(rng, height_px, width_px)
    terrain = draw_terrain(rng, plan)
    layers = lay_ground(plan, terrain)
    depth = flood(rng, plan, terrain, layers)
    lay_paths(rng, plan, terrain, layers, depth)
    pave(rng, plan, terrain, layers, depth)
    build(rng, plan, layers)
    plant(rng, plan, layers)
    park_cars(rng, plan, layers)
    return photograph(rng, plan, layers), layers


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
