"""What a task is: a learner, which is made from a record alone, and a data set, which knows files.

Training joins the two; predicting needs the learner alone. A new task is one file that fulfils
these protocols, and one line in `cnn_jax.tasks.TASKS` that names its `Task`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from cnn_jax.configuration.schema import Config
from cnn_jax.data.dataset_info import DatasetInfo


@dataclass(frozen=True)
class Fitted:
    """What fitting a learner comes to.

    Attributes:
        variables: what predictions are made with: a network's, or a fitted estimator.
        figures: for the summary: cost (parameters, steps, seconds) and what was chosen on the way.
        best_step: that of the best validation, where training may stop early.
    """

    variables: Any
    figures: Mapping[str, Any]
    best_step: int | None = None


@dataclass(frozen=True)
class Report:
    """What a split's predictions are worth.

    Attributes:
        figures: for the summary, keyed `split/name` and `split/name/class`; None: there is none.
        evaluation: what they were counted from, as the task's pictures take it.
    """

    figures: Mapping[str, Any]
    evaluation: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class Session:
    """What a run works with besides its learner and its data.

    Attributes:
        record: the run's folder.
        stop: asks whether a signal came.
        devices: that it computes on.
        digest: of its configuration.
        initial: weights to begin with, a `training.initial.Initial`; None: those that the seed
            draws.
    """

    record: Any
    stop: Any
    devices: Any
    digest: str
    initial: Any = None


class Evaluator(Protocol):
    """Evaluates one split of a data set, again and again."""

    def scores(
        self, variables: Any, check: Callable[[], None], last: bool = False
    ) -> dict[str, Any]:
        """Figures of a validation, keyed `split/name`. `check` is called between batches and may
        raise to stop. `last`: a `report` of the same weights is to follow, and what that needs may
        be counted on the way."""
        ...

    def report(self, variables: Any, check: Callable[[], None]) -> Report:
        """All figures, as at the end of a run."""
        ...

    def draw(self, folder: Path, lines: list[dict], report: Report, variables: Any) -> None:
        """Pictures of the run into `folder`; `lines` are those of metrics.jsonl."""
        ...

    def keep(self, record: Any, report: Report) -> None:
        """Writes into the run's record what comparisons need of each example, if anything."""
        ...


class Dataset(Protocol):
    """Files: splits, sources and a fingerprint. It is opened from a configuration."""

    info: DatasetInfo

    def training_source(self, learner: Any) -> Any:
        """Random access to training examples, which are dicts of arrays."""
        ...

    def resident(self, learner: Any) -> dict[str, Any]:
        """The whole training set as arrays for each device, where examples say their number."""
        ...

    def evaluator(self, learner: Any, split: str, devices: Any) -> Evaluator:
        """Evaluates "train", "validation" or "test" on the devices."""
        ...


class Learner(Protocol):
    """A network (or another method): everything that a record is enough for.

    Attributes:
        config: of the run.
        info: of its data.
        example: what its examples are called, in the plural.
        monitor: the figure that validation is watched by, a name in `records.metrics.FIGURES`.
        evaluated: the splits that are reported at the end, in this order; the last is pictured.
    """

    config: Any
    info: DatasetInfo
    example: str
    monitor: str
    evaluated: tuple[str, ...]

    def fit(self, dataset: Any, session: Session) -> Fitted:
        """Learns from the training split; Networks that JAX trains say
        `fit = train_network` and fulfil `tasks.network.Network` too."""
        ...


class Task(Protocol):
    """A kind of question: its configuration, the models that can answer it, learner and data.

    Attributes:
        configuration: the dataclass of its runs' configurations.
        models: what `model.name` may be: name -> constructor.
    """

    configuration: ClassVar[type[Config]]
    models: ClassVar[Mapping[str, Callable]]

    def learner(self, config: Any, info: DatasetInfo) -> Learner:
        """Raises InputError where configuration and data don't fit each other."""
        ...

    def dataset(self, config: Any, description: Mapping[str, Any] | None = None) -> Dataset:
        """Opens the data of a configuration. Raises InputError where they can't be used.

        `description` is `DatasetInfo.description` of a finished run, which stands for the file that
        the configuration names.
        """
        ...
