"""Benchmarks: how fast we are beside others on the same work. One file a benchmark; `python -m
cnn_jax.commands.benchmark NAME` runs it.

A benchmark is a module of this package, named in `BENCHMARKS` and cheap to import (JAX, PyTorch and
their like only inside its functions). It has

    a docstring             its first line is what the command lists, the whole is --help and goes
                            into the record: say what is measured, what both sides do, where one
                            does more, and what is left out
    NEEDS                   what its peers import, such as ("torch", "torchvision"); found missing,
                            the command says which extra to install ("peers", or the module's
                            EXTRA), unless --without-peers is given
    Options                 a dataclass of its own flags, a `measuring.Options`
    measure(options)        yields a row a case, as `measuring.row` makes them; the record is
                            written after each, so that a case that fails doesn't lose the others

Most have two sides, "cnn_jax" and a peer, that do one case again and again, each in a process of
its own: `measure` is then

    for case in cases: yield measuring.compare(__name__, case, ("cnn_jax", "pytorch"), options)

with each case a `measuring.Case`, and the module has

    prepare(side, settings) -> (run, facts)     called once in that side's process with the case's
                                                settings. `run(times)` does the work so many times
                                                and returns when it is done (`block_until_ready`,
                                                `cuda.synchronize`); `facts` are for the record
                                                (parameters, dtype, ...).

`measuring` then warms up, alternates, takes the medians and prints the ratio. One whose repetitions
must each begin in a fresh process, or that has more sides than two, makes its rows with the parts:
`measuring.order`, `measuring.apart`, `measuring.row`.
"""

BENCHMARKS = (
    "train_step",
    "evaluate",
    "predict",
    "objects",
    "seeds",
    "neighbours",
    "scaling",
    "input_pipeline",
    "first_step",
)
"""In the order in which they are listed."""
