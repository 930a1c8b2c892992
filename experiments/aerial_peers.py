"""The comparison's measure from outside: networks of segmentation_models_pytorch on the same crops.

python -m experiments.aerial_peers [--config NAME] [--variants smp_unet] [--seeds 0 1 2]
    [--FIELD VALUE ...] [--workdir DIR]

Given the --workdir of `experiments.aerial_compare`, the records lie beside the others, and are
compared with them when that command is run again.
"""

import sys
from collections.abc import Callable

from cnn_jax.study import Study, main
from cnn_jax.tasks import model_config
from experiments import aerial_compare


def _beside(name: str) -> Callable[[], Study]:
    """The study in which the peers take the place of the networks of their size."""

    def study() -> Study:
        ours = aerial_compare.STUDIES[name]()
        variants = {}
        for peer in ("smp_unet", "smp_deeplabv3plus"):
            config = aerial_compare.STUDIES[name]().variants["unet"]
            config.model = model_config(peer)
            variants[peer] = config
        return Study(variants, ours.seeds, ours.groups)

    study.__doc__ = f"Data, budget and seeds of experiments.aerial_compare's study {name!r}."
    return study


STUDIES = {name: _beside(name) for name in ("default", "smoke", "dubai", "dubai_long")}
"""Those studies whose networks are of the peers' size."""

if __name__ == "__main__":
    sys.exit(main("experiments.aerial_peers", STUDIES))
