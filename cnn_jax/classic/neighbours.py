"""k nearest neighbours (Fix and Hodges, 1951; Cover and Hart, 1967), exact, by blocks that fit any
memory."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from cnn_jax.errors import InputError

DISTANCES = ("l1", "l2")
QUERIES_AT_ONCE = 1024
# Training examples a tile: 4,096 make the matrix product of L2 large enough; for L1 sixteen rows of
# a tile lie in the first cache, and 960 is no power of two, which would put the rows on top of each
# other there.
TILE = {"l1": 960, "l2": 4096}
# summed in one pass for L1: int16 holds sixteen differences of bytes, and sixteen registers their
# rows
VALUES_AT_ONCE = 16
SPARE = 8  # candidates beyond k, so that rounding among the candidates can't lose a neighbour


def nearest(
    train: ArrayLike, queries: ArrayLike, k: int, distance: str = "l2"
) -> tuple[np.ndarray, np.ndarray]:
    """The k training examples nearest to each query, as brute force finds them.

    A block of queries meets one tile of training examples after another and keeps its k + 8
    smallest distances, so the matrix of all distances never exists. Those candidates' distances are
    then computed again in float64, which decides their order and orders equal ones by training
    index. The candidates are chosen in float32 (L1 of bytes is exact there below 2^24): where more
    than eight others are as near as the k-th to within its rounding, which of those are kept may
    differ from brute force.

    Args:
        train: uint8 or float `[examples, ...]`; what follows the first axis is flattened.
        queries: the same kind, `[queries, ...]`.
        k: how many neighbours, 1 to the number of training examples.
        distance: "l1" (sum of absolute differences, Manhattan) or "l2" (Euclidean).

    Returns:
        (int32 `[queries, k]` indices into `train`, float32 `[queries, k]` distances), nearest
        first, ties by index.

    Raises:
        InputError: an unknown distance, a k without as many examples, shapes that differ, or values
            that aren't finite.
    """
    train, queries = _rows("train", train), _rows("queries", queries)
    if distance not in DISTANCES:
        raise InputError(f"distance is {distance!r}; it must be one of {', '.join(DISTANCES)}.")
    if not 1 <= k <= len(train):
        raise InputError(
            f"k is {k} and there are {len(train)} training examples; k must lie between 1 and their"
            " number."
        )
    if train.shape[1] != queries.shape[1]:
        raise InputError(
            f"queries have {queries.shape[1]} values and train has {train.shape[1]}; they must be"
            " equal."
        )
    if train.dtype != queries.dtype:
        train, queries = train.astype(np.float32), queries.astype(np.float32)

    width = min(
        TILE[distance], -(-len(train) // 64) * 64
    )  # sets of almost one size share a compiled program
    centre = train.mean(0, dtype=np.float64)
    if train.dtype == np.uint8:
        centre = np.rint(centre)  # then sums of whole numbers below 2^24 aren't rounded at all
    tiles, centre = _tiles(train, width), jnp.asarray(centre, jnp.float32)
    kept = min(k + SPARE, len(train))
    block = min(QUERIES_AT_ONCE, -(-len(queries) // 64) * 64)
    indices, distances = (
        np.empty((len(queries), k), np.int32),
        np.empty((len(queries), k), np.float32),
    )
    for start in range(0, len(queries), block):
        asked = queries[start : start + block]
        padded = np.pad(asked, ((0, block - len(asked)), (0, 0)))
        candidates = np.asarray(_candidates(tiles, centre, padded, len(train), kept, distance))
        for part in range(0, len(asked), 64):  # differences of 64 queries at once stay small
            there = slice(start + part, min(start + part + 64, start + len(asked)))
            found = candidates[part : part + there.stop - there.start]
            indices[there], distances[there] = _exact(train, queries[there], found, k, distance)
    return indices, distances


def votes(labels: ArrayLike, indices: np.ndarray, num_classes: int) -> np.ndarray:
    """How many of each query's neighbours carry each label.

    Args:
        labels: int `[examples]`, 0 to num_classes - 1.
        indices: int `[queries, k]` from `nearest`.
        num_classes: classes to count.

    Returns:
        int64 `[queries, num_classes]`. Its argmax is the majority, ties going to the smallest label
        (as in scikit-learn).
    """
    cells = np.asarray(labels, np.int64)[indices] + num_classes * np.arange(len(indices))[:, None]
    return np.bincount(cells.ravel(), minlength=len(indices) * num_classes).reshape(
        len(indices), num_classes
    )


def classify(labels: ArrayLike, indices: np.ndarray) -> np.ndarray:
    """The label that most neighbours carry, int32 `[queries]`; ties go to the smallest label."""
    return votes(labels, indices, int(np.max(labels)) + 1).argmax(1).astype(np.int32)


def _rows(name, examples):
    examples = np.asarray(examples)
    if examples.ndim < 2 or 0 in examples.shape:
        raise InputError(
            f"{name} has the shape {list(examples.shape)}; it must be [examples, ...] with at least"
            " one value."
        )
    examples = examples.reshape(len(examples), -1)
    if examples.dtype == np.uint8:
        return examples
    examples = examples.astype(np.float32)
    if not np.isfinite(examples).all():
        raise InputError(f"{name} holds values that are not finite; replace them.")
    return examples


def _tiles(train, width):
    """`[examples, values]` as `[tiles, values, width]`, zeros after the last example; values first,
    so that a loop runs over neighbouring examples."""
    padded = np.pad(train, ((0, -len(train) % width), (0, 0)))
    return jnp.asarray(
        np.ascontiguousarray(padded.reshape(-1, width, train.shape[1]).transpose(0, 2, 1))
    )


@functools.partial(jax.jit, static_argnames=("kept", "distance"))
def _candidates(tiles, centre, queries, count, kept, distance):
    """int32 `[queries, kept]`: the nearest of the first `count` examples by distances rounded to
    float32."""
    width = tiles.shape[2]
    prepared = _l1_queries(queries) if distance == "l1" else queries.astype(jnp.float32) - centre

    def merge(best, numbered):
        number, tile = numbered
        index = number * width + jnp.arange(width, dtype=jnp.int32)
        found = _l1(tile, prepared) if distance == "l1" else _l2(tile, prepared, centre)
        found = jnp.where(index < count, found, jnp.inf)
        # Of equal values top_k takes the first, and what is kept comes before the tile: ties stay
        # in the order of `train`.
        distances = jnp.concatenate([best[0], found], axis=1)
        indices = jnp.concatenate([best[1], jnp.broadcast_to(index, found.shape)], axis=1)
        negative, place = lax.top_k(-distances, kept)
        return (-negative, jnp.take_along_axis(indices, place, axis=1)), None

    none = (jnp.full((len(queries), kept), jnp.inf), jnp.zeros((len(queries), kept), jnp.int32))
    return lax.scan(merge, none, (jnp.arange(len(tiles), dtype=jnp.int32), tiles))[0][1]


def _l2(tile, queries, centre):
    """Squared Euclidean distance less |query|^2, by one matrix product; centred, so that little
    cancels."""
    tile = tile.astype(jnp.float32) - centre[:, None]
    return (tile**2).sum(0) - 2 * lax.dot(queries, tile, precision=lax.Precision.HIGHEST)


def _l1_queries(queries):
    """`[queries, values]` as `[values, queries]`, padded to whole passes."""
    return jnp.pad(queries, ((0, 0), (0, -queries.shape[1] % VALUES_AT_ONCE))).T


def _l1(tile, queries):
    """Sums of absolute differences, float32 `[queries, width]`: each pass adds sixteen values,
    unrolled so that XLA fuses them.

    Bytes are subtracted and added as int16, twice as many at once as int32 or float32.
    """
    narrow, wide = (jnp.int16, jnp.int32) if tile.dtype == jnp.uint8 else (jnp.float32, jnp.float32)
    tile = jnp.pad(tile, ((0, len(queries) - len(tile)), (0, 0))).astype(narrow)
    queries = queries.astype(narrow)

    def add(number, total):
        rows = lax.dynamic_slice_in_dim(tile, number * VALUES_AT_ONCE, VALUES_AT_ONCE)
        asked = lax.dynamic_slice_in_dim(queries, number * VALUES_AT_ONCE, VALUES_AT_ONCE)
        differences = [jnp.abs(rows[i][None, :] - asked[i][:, None]) for i in range(VALUES_AT_ONCE)]
        return total + functools.reduce(operator.add, differences).astype(wide)

    total = jnp.zeros((queries.shape[1], tile.shape[1]), wide)
    return lax.fori_loop(0, len(queries) // VALUES_AT_ONCE, add, total).astype(jnp.float32)


def _exact(train, queries, candidates, k, distance):
    """The k nearest of each query's candidates by distances in float64, and those distances."""
    difference = train[candidates].astype(np.float64) - queries[:, None]
    if distance == "l1":
        exact = np.abs(difference, out=difference).sum(-1)
    else:
        exact = np.sqrt(np.einsum("qcv,qcv->qc", difference, difference))
    order = np.lexsort((candidates, exact))[:, :k]
    return np.take_along_axis(candidates, order, 1), np.take_along_axis(exact, order, 1)
