"""The order of training examples: shuffled anew each epoch, and known at once for a whole epoch.

It is the order of `grain.MapDataset.range(length).seed(seed).shuffle().repeat()`. Grain computes it
number by number, which takes as long as a small network's step of as many images; here an epoch's
is a few operations of NumPy, many times as fast.
"""

import functools

import numpy as np

ROUNDS = 4
"""Of the cipher, as Grain's shuffles have."""

LEAST_BITS = 16
"""Of what the cipher takes: it mixes fewer badly."""


class Order:
    """`order(positions) -> numbers` of an endless stream: each epoch holds 0 to `length` - 1 once,
    in an order of its own. Threads may share it.

    Args:
        length: of an epoch, at least 1.
        seed: of the order.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        # As Grain derives the seed of a shuffle from its set's.
        [self._first] = np.random.SeedSequence([seed, 1]).generate_state(1).tolist()
        self._epoch = functools.lru_cache(maxsize=2)(self._shuffled)

    def __call__(self, positions: range) -> np.ndarray:
        """int64 `[len(positions)]`: the numbers at these places of the stream, one after another
        and at least one."""
        parts, position = [], positions.start
        while position < positions.stop:
            epoch, place = divmod(position, self.length)
            parts.append(self._epoch(epoch)[place : place + positions.stop - position])
            position += len(parts[-1])
        return np.concatenate(parts)

    def _shuffled(self, epoch):
        return permutation(self.length, (self._first + epoch) % 2**32)


def permutation(length: int, seed: int) -> np.ndarray:
    """int64 `[length]`: `grain.experimental.index_shuffle(index, length - 1, seed, 4)` of each
    index.

    The cipher Simon (Beaulieu et al., 2013) permutes the numbers of so many bits; what it leads
    out of 0 to `length` - 1 is led on until it comes back (Black and Rogaway, 2002). Where `length`
    is one more than a power of four (65,537, 262,145, ...), Grain's has one number twice and
    another never; this has not.
    """
    bits = max((length - 1).bit_length(), LEAST_BITS)
    half = (bits + 1) // 2
    word = (1 << half) - 1
    numbers = np.arange(1 << 2 * half, dtype=np.uint32)
    left, right = numbers >> half, numbers & word
    keys = [key & word for key in _keys(seed)]
    for one, other in zip(keys[::2], keys[1::2], strict=True):
        left ^= _mixed(right, half) ^ one
        right ^= _mixed(left, half) ^ other
    leads_to = left << half | right
    outside = np.flatnonzero(leads_to >= length)
    while (leads_to[:length] >= length).any():
        # Twice as far at a time: what leads outside leads where that leads.
        leads_to[outside] = leads_to[leads_to[outside]]
        outside = outside[leads_to[outside] >= length]
    return leads_to[:length].astype(np.int64)


def _mixed(word, bits):
    """Simon's round function of words of so many bits."""

    def rotated(by):
        return (word << by | word >> bits - by) & (1 << bits) - 1

    return rotated(1) & rotated(8) ^ rotated(2)


def _keys(seed):
    """What `std::seed_seq{seed}` of C++ generates, `ROUNDS` numbers of 32 bits."""
    word = 2**32 - 1
    state = [0x8B8B8B8B] * ROUNDS
    for step in range(2 * ROUNDS):
        here, near, far = step % ROUNDS, (step + 1) % ROUNDS, (step + 2) % ROUNDS
        if step < ROUNDS:
            mixed = state[here] ^ state[near] ^ state[step - 1]
            mixed = 1664525 * (mixed ^ mixed >> 27) & word
            state[near] = state[near] + mixed & word
            mixed = mixed + (1, 1 + seed, 2, 3)[step] & word
            state[far] = state[far] + mixed & word
        else:
            mixed = state[here] + state[near] + state[(step - 1) % ROUNDS] & word
            mixed = 1566083941 * (mixed ^ mixed >> 27) & word
            state[near] ^= mixed
            mixed = mixed - here & word
            state[far] ^= mixed
        state[here] = mixed
    return state
