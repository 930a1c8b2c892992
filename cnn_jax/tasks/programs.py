"""Programs that the runs of one process share: another seed needs no new ones.

Tracing, lowering and loading what a run computes takes longer than a small run's steps, and a study
repeats every variant with each of its seeds.
"""

import collections
import dataclasses
import json
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from cnn_jax import tasks
from cnn_jax.configuration import documents
from cnn_jax.training.devices import Devices

T = TypeVar("T")

MOST = 12
"""So many configurations' programs are kept, those used last: no fewer than a study has variants,
which takes its seeds in the outer loop."""

kept: collections.OrderedDict[tuple, dict[Hashable, Any]] = collections.OrderedDict()
"""Learner, seed aside, and what makes its network -> name and devices -> program."""


def shared(learner: Any, name: str, make: Callable[[], T], devices: Devices | None = None) -> T:
    """What `make` returned for an equal learner before, or else returns now.

    Learners are equal that differ in nothing but the seed and the names of their run: `make` may
    use all of a learner but these, and nothing of its data.

    Args:
        learner: made of `config` and `info`.
        name: of the program.
        make: makes it.
        devices: that it is made for, if any in particular.
    """
    if "programs" not in vars(learner):
        names = {"experiment": "", "configuration": "", "variant": ""}
        config = dataclasses.replace(learner.config, seed=0, **names)
        info = json.dumps(learner.info.to_dict(), sort_keys=True, default=str)
        # A notebook defines a network anew, under its old name.
        network = tasks.constructors().get(config.model.name)
        key = type(learner), network, documents.to_json(config), info
        vars(learner)["programs"] = kept.setdefault(key, {})
        kept.move_to_end(key)
        while len(kept) > MOST:
            kept.popitem(last=False)
    programs = vars(learner)["programs"]
    place = name, None if devices is None else (devices.parallelism, devices.mesh)
    if place not in programs:
        programs[place] = make()
    return programs[place]
