"""Several seeds of one network trained in one program, beside the same seeds one after another.

Both sides are ours, in one process: the training step of `cnn_jax.training.step` mapped by
`jax.vmap` over states, batches and seeds, against the step itself called for each seed in turn.
Every seed has weights and batches of its own. After three steps the two are
compared: the record holds the largest difference of a loss and of a weight. Compilation is left
out, and so is reading data.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cnn_jax.benchmarks import measuring, networks, train_step
from cnn_jax.configuration.schema import nearest, setting
from cnn_jax.errors import InputError

NEEDS = ()
SIDES = ("together", "one_after_another")
COMPARED_STEPS = 3


@dataclass
class Options(measuring.Options):
    """Which network, and how many seeds."""

    model: str = setting("unet16", "the network")
    size: str = setting("144x256", "height and width of an image", unit="px")
    batch: int = setting(4, "images a step and seed", at_least=1)
    seeds: tuple[int, ...] = setting((2, 4, 8), "numbers of seeds", at_least=1)
    dtype: str = setting(
        "",
        "of the computation; empty: float32 on a CPU, else bfloat16",
        choices=("", "float32", "bfloat16"),
    )


def measure(options: Options) -> Iterator[dict]:
    """A row a number of seeds."""
    if options.model not in networks.NETWORKS:
        raise InputError(
            f"--model is {options.model!r}: {nearest(options.model, networks.NETWORKS)}."
        )
    size = train_step.size_px("--size", options.size)
    dtype = options.dtype or ("float32" if options.platform == "cpu" else "bfloat16")
    for count in options.seeds:
        case = measuring.Case(
            f"{count} seeds of {options.model} {options.size} batch {options.batch}",
            {
                "model": options.model,
                "size_px": size,
                "batch": options.batch,
                "dtype": dtype,
                "seeds": count,
            },
            work=count * options.batch,
            unit="images",
        )
        yield measuring.compare(__name__, case, SIDES, options, note=_note, where=measuring.Here)


def _note(facts):
    known = facts.get("together")
    if known is None:
        return ""
    return (
        f"after {COMPARED_STEPS} steps losses differ by at most {known['loss_difference']:.1e},"
        f" weights by {known['weight_difference']:.1e} (of at most {known['largest_weight']:.2g})"
    )


def prepare(side: str, settings: dict) -> tuple[Callable, dict]:
    """(run, facts) of a side, as the package asks for."""
    import jax

    seeds = Seeds(**settings)
    take = getattr(seeds, side)
    states = seeds.states(stacked=side == "together")

    def run(times):
        nonlocal states
        for _ in range(times):
            states, metrics = take(states)
        jax.block_until_ready((states, metrics))

    return run, seeds.differences() if side == "together" else {}


class Seeds:
    """The seeds' states and batches, and a step of all of them in two ways."""

    def __init__(
        self, model: str, size_px: Sequence[int], batch: int, dtype: str, seeds: int
    ) -> None:
        import jax
        import numpy as np

        self.step, self._initial_state = _compiled(model, tuple(size_px), dtype)
        self.numbers = np.arange(seeds, dtype=np.uint32)
        self._batches = []
        for number in self.numbers:
            images, labels = train_step.example(model, size_px, batch, seed=int(number))
            self._batches.append(
                {"image": images, "label": labels, "position": np.arange(batch, dtype=np.uint32)}
            )
        self._batches = jax.device_put(self._batches)
        self._stacked_batches = _stacked(self._batches)

    def states(self, stacked: bool) -> Any:
        """The states before step 0: one with another axis in front, or a list."""
        states = [self._initial_state(int(number)) for number in self.numbers]
        return _stacked(states) if stacked else states

    def together(self, states: Any) -> Any:
        """One step of all seeds in one program: `(states, metrics)`, both with another axis in
        front."""
        return self.step[1](states, self._stacked_batches, self.numbers)

    def one_after_another(self, states: Any) -> Any:
        """One step of each seed by itself: `(states, metrics)`, both lists."""
        done = [
            self.step[0](*case) for case in zip(states, self._batches, self.numbers, strict=True)
        ]
        return [state for state, _ in done], [metrics for _, metrics in done]

    def differences(self) -> dict:
        """How far the two ways lie apart after a few steps, at most: of a loss, and of a weight."""
        import jax
        import jax.numpy as jnp

        one, many = self.states(stacked=False), self.states(stacked=True)
        losses = []
        for _ in range(COMPARED_STEPS):
            one, of_one = self.one_after_another(one)
            many, of_many = self.together(many)
            losses.append(jnp.abs(_stacked(of_one)["loss"] - of_many["loss"]).max())
        one = jax.tree.leaves(_stacked([state.variables["params"] for state in one]))
        many = jax.tree.leaves(many.variables["params"])
        return {
            "loss_difference": float(max(losses)),
            "weight_difference": float(
                max(jnp.abs(a - b).max() for a, b in zip(one, many, strict=True))
            ),
            "largest_weight": float(max(jnp.abs(a).max() for a in one)),
        }


@functools.cache  # both sides, and all numbers of seeds, share the programs
def _compiled(model, size_px, dtype):
    import jax

    _, step, initial_state = train_step.our_step(model, size_px, dtype)
    return (
        jax.jit(step, donate_argnums=0),
        jax.jit(jax.vmap(step), donate_argnums=0),
    ), initial_state


def _stacked(trees):
    import jax
    import jax.numpy as jnp

    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
