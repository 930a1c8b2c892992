"""Records compared: what each variant is worth and costs, and which differences between them are
more than chance.

Two sources of chance are looked at. Another seed would have given another network: pairs are tested
across seeds. Another photograph would have been easier or harder: pairs are tested across the test
images. A difference is called real only where both tests, corrected for the number of pairs, find
it.
"""

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.configuration import schema
from cnn_jax.errors import InputError
from cnn_jax.evaluation import metrics
from cnn_jax.evaluation.statistics import (
    blocked_t_test,
    bootstrap_interval,
    holm,
    mean_interval,
    paired_t_test,
)
from cnn_jax.records.checks import MEND, is_confusion
from cnn_jax.records.files import read_object
from cnn_jax.records.run_record import RunRecord as Record
from cnn_jax.reporting import table
from cnn_jax.reporting.style import NOTHING

LEVEL = 0.05
"""A corrected p value below it stands against chance."""

SCORES = {
    "miou": "mIoU",
    "accuracy": "accuracy",
    "pixel_accuracy": "pixel accuracy",
    "mean_dice": "mean Dice",
    "mean_class_accuracy": "mean class accuracy",
    "mean_f1": "mean F1",
    "top5_accuracy": "top-5 accuracy",
    "boundary_miou": "boundary mIoU",
    "image_miou": "image mIoU",
    "expected_calibration_error": "ECE",
}
"""Figures of the test split, as they are keyed in a summary, and what they are called."""

COSTS = {
    "parameters": ("parameters", 1),
    "multiply_adds": ("multiply-adds, G", 1e9),
    "step_memory_bytes": ("memory of a step, MiB", 2**20),
    "train/images_per_second": ("training images/s", 1),
    "wall_time_s": ("training time, s", 1),
}
"""What a variant costs, as it is keyed in a summary: what it is called, and how many of the
record's units make one of the table's."""

_SEGMENTATION = (
    "mIoU, pixel accuracy, mean Dice and the figures of classes are taken from one confusion matrix"
    " over all pixels of the test split that are not ignored; mIoU and mean Dice are means over the"
    " classes that occur in truth or prediction, each class counting the same. Image mIoU is the"
    " mean over the test images of each image's own mIoU. Boundary mIoU (Cheng et al., 2021)"
    " counts, of each class, only pixels near its borders. ECE is the expected calibration error:"
    " the mean distance between confidence and accuracy over bins of confidence, weighted by their"
    " pixels; less is better."
)
_CLASSIFICATION = (
    "Every figure is taken from one confusion matrix over all images of the test split: accuracy is"
    " the share of images that are right, mean class accuracy the mean recall over the classes,"
    " mean F1 the mean over the classes that occur in truth or prediction."
)
_OVER_SEEDS = (
    "All of them are means over seeds ± the standard deviation between seeds; the interval is"
    " Student's, of the mean, at 95%. Costs are means over seeds: multiply-adds are those of one"
    " forward pass of one training example, memory is what the compiler plans for one training"
    " step, training time covers the steps with their compilation and the validations between them."
)
_ASSUMED = (
    "The p values are of two-sided paired t tests, corrected after Holm (1979) for the number of"
    " pairs in the group, for seeds and images each by itself; a difference is called real where"
    " both are below 0.05. Across seeds the test takes what is left of the runs' {score}, when each"
    " variant's and each seed's mean are taken away, as independent draws from one normal"
    " distribution for all variants of the group (a randomised block design; where variants have"
    " different seeds, each pair stands by itself); across images it takes the differences of each"
    " image's {score}, averaged over seeds, as such draws: neighbouring images of one place are"
    " less independent than that, and their p value is too small. Few seeds and many pairs leave"
    " little that can pass: what is not shown here may still be there. Intervals are of each pair"
    " by itself, not corrected; the bootstrap's is of the difference of the set's {score}, with the"
    " test images drawn again."
)
_NOT_COMPARED = {"directory", "memory_budget_gib", "prefetch_batches"}
_OF_THE_VARIANT = ("model", "augmentation", "loss", "optimizer")
_ALSO_OF_THE_VARIANT = (
    ("training", "accumulate"),
    ("training", "patience"),
    ("evaluation", "weights"),
)


@dataclass(frozen=True)
class Spread:
    """A figure over the runs of a variant: the finite values, and how many runs there are."""

    values: tuple[float, ...]
    runs: int

    @property
    def mean(self) -> float:
        """NaN without a value."""
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def deviation(self) -> float:
        """The standard deviation between seeds (with n - 1); NaN for fewer than two values."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else math.nan

    @property
    def half(self) -> float:
        """Half the width of the mean's 95% Student t interval; NaN for fewer than two values."""
        return mean_interval(self.values)[1] if len(self.values) > 1 else math.nan

    def text(self, form: str = ".4f") -> str:
        """`mean ± standard deviation`, as far as they exist; with how many runs it stands for where
        some lack the figure."""
        if not self.values:
            return NOTHING
        deviation = f" ± {self.deviation:{form}}" if len(self.values) > 1 else ""
        missing = f" ({len(self.values)} of {self.runs})" if len(self.values) < self.runs else ""
        return f"{self.mean:{form}}{deviation}{missing}"

    def interval_text(self, form: str = ".4f") -> str:
        """`low to high`, the mean's 95% interval."""
        return interval_text((self.mean - self.half, self.mean + self.half), form)


@dataclass(frozen=True)
class Scenes:
    """What a record says of each test scene: confusion matrices int64 `[scenes, classes, classes]`,
    rows truth."""

    classes: tuple[str, ...]
    colors: tuple[str, ...]
    names: tuple[str, ...]
    confusions: np.ndarray

    @cached_property
    def mious(self) -> np.ndarray:
        """Each scene's own mIoU, float64 `[scenes]`; NaN where all of it is ignored."""
        return np.array([metrics.miou(matrix) for matrix in self.confusions])


@dataclass(frozen=True)
class Variant:
    """The runs that differ in their seed alone, in the order of their seeds.

    `scores`, `class_scores` (IoU of each class, of images its recall) and `costs` (in the record's
    units) are over the runs, as is `time_to_target_s` over those that reached the target.
    `confusion` is summed over seeds, as are `calibration`'s arrays `count`, `confidence` and
    `correct` `[bins]`; both are None where no run holds any. `scenes` are by seed. `odd` says
    whether its records differ from others in what makes records comparable.
    """

    name: str
    records: tuple[Record, ...]
    scores: Mapping[str, Spread]
    class_scores: Mapping[str, Spread]
    costs: Mapping[str, Spread]
    time_to_target_s: Spread
    confusion: np.ndarray | None
    calibration: Mapping[str, np.ndarray] | None
    scenes: Mapping[Any, Scenes]
    odd: bool = False

    @property
    def by_seed(self) -> dict[Any, Record]:
        """The runs by their seed."""
        return {record.config.get("seed"): record for record in self.records}


@dataclass(frozen=True)
class PairedTest:
    """A paired t test: the mean difference, its 95% interval, the p value, also corrected, and the
    number of pairs."""

    difference: float
    interval: tuple[float, float]
    p: float
    pairs: int
    corrected: float = math.nan

    @property
    def passed(self) -> bool:
        """Whether the corrected p value stands against chance."""
        return self.corrected < LEVEL


@dataclass(frozen=True)
class Pair:
    """Two variants, the better one first: the difference of their leading scores over the seeds
    that both have.

    `seeds` and `images` are None where they could not be tested, `bootstrap` is the interval over
    scenes of the difference of the set's score.
    """

    better: str
    worse: str
    score: str
    difference: float
    shared_seeds: int
    seeds: PairedTest | None
    images: PairedTest | None
    bootstrap: tuple[float, float]

    @property
    def verdict(self) -> str:
        """`real`, `seeds` or `images` (it survives this source of chance alone), `chance`, or
        `untested`."""
        if self.seeds is None:
            return "untested"
        # Images that say the opposite don't support it, however sure they are.
        agreed = self.images is not None and self.images.passed and self.images.difference > 0
        if self.seeds.passed:
            return "real" if agreed else "seeds"
        return "images" if agreed else "chance"

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        amount = f"{self.difference:.3f}" if self.difference >= 0.01 else f"{self.difference:.4f}"
        stands = "better than" if self.verdict == "real" else "ahead of"
        start = (
            f"{self.better} is {stands} {self.worse} by {amount}"
            f" {'' if self.score == 'mIoU' else 'in '}{self.score}"
        )
        if self.difference == 0:
            start = f"{self.better} and {self.worse} have the same {self.score}"
        seeds = (
            ""
            if self.seeds is None
            else f"{p_text(self.seeds.corrected)} across {self.seeds.pairs} seeds"
        )
        images = (
            ""
            if self.images is None
            else f"{p_text(self.images.corrected)} across {self.images.pairs} test images"
        )
        opposite = self.images is not None and self.images.difference < 0
        if self.verdict == "untested":
            shared = "no seed" if self.shared_seeds == 0 else "one seed"
            alone = f" ({images})" if images else ""
            return (
                f"{start}: not tested across seeds, for they share {shared} and it takes"
                f" two{alone}."
            )
        if self.verdict == "real":
            return f"{start}: real ({seeds}, {images})."
        if self.images is None:
            holds = (
                "survives the choice of seeds"
                if self.seeds.passed
                else "not distinguishable from chance"
            )
            return (
                f"{start}: {holds} ({seeds}); not tested across images, whose own figures are"
                " missing."
            )
        if self.verdict == "seeds":
            but = "there the mean points the other way, " if opposite else ""
            return (
                f"{start}: survives the choice of seeds ({seeds}) but not that of test images"
                f" ({but}{images})."
            )
        if self.verdict == "images":
            return (
                f"{start}: survives the choice of test images ({images}) but not that of seeds"
                f" ({seeds})."
            )
        return f"{start}: not distinguishable from chance ({seeds}, {images})."


@dataclass(frozen=True)
class Group:
    """Variants that are compared with each other, best first, and their pairs, the greatest
    difference first."""

    title: str
    variants: tuple[str, ...]
    pairs: tuple[Pair, ...]

    @property
    def verdict(self) -> str:
        """In two sentences what the pairs say."""
        if len(self.variants) < 2:
            return "There are no two variants to compare."
        if not self.pairs:
            return "No two variants have a score on the test split: nothing can be compared."
        best = self.variants[0]
        counts = {
            kind: sum(pair.verdict == kind for pair in self.pairs)
            for kind in ("real", "seeds", "images", "chance")
        }
        tested = sum(counts.values())
        score = self.pairs[0].score
        if not tested:
            return (
                f"{best} has the best {score}. No difference was tested, for no two variants share"
                " two seeds."
            )
        own = [pair for pair in self.pairs if pair.better == best]
        over = [pair.worse for pair in own if pair.verdict == "real"]
        not_over = [pair.worse for pair in own if pair.verdict != "real"]
        says = f"{best} has the best {score}"
        if over:
            says += f", really better than {listed(over)}"
        if not_over:
            says += f"{'; ' if over else ', '}not shown to be better than {listed(not_over)}"
        some = counts["seeds"] + counts["images"]
        of = f"Of {tested} tested {'difference' if tested == 1 else 'differences'}"
        if not any(pair.images for pair in self.pairs):  # none can be real
            return (
                f"{says}. {of} {_counted(some, 'survives', 'survive')} the choice of seeds; none"
                " was tested across test images."
            )
        partly = (
            f", {_counted(some, 'is', 'are')} found by one of the two tests alone" if some else ""
        )
        return f"{says}. {of} {_counted(counts['real'], 'is', 'are')} real{partly}."


@dataclass(frozen=True)
class Comparison:
    """What records say together, in numbers and words; see `compare`.

    `variants` stand best first. `leading` is the key of the score that ranks them. `target` is the
    value of it on validation that `time_to_target_s` is for, None where there was no validation.
    `differences` say what makes the records incomparable; there are none unless they were compared
    by force.
    """

    variants: tuple[Variant, ...]
    groups: tuple[Group, ...]
    leading: str
    target: float | None
    differences: tuple[str, ...]

    @property
    def score(self) -> str:
        """What the leading score is called."""
        return SCORES.get(self.leading, "score")

    @property
    def classes(self) -> list[str]:
        """The classes of the test split."""
        return list(
            dict.fromkeys(name for variant in self.variants for name in variant.class_scores)
        )

    @property
    def shown_scores(self) -> dict[str, str]:
        """Key and name of the scores that any variant has, the leading one first."""
        known = {
            key: name
            for key, name in SCORES.items()
            if any(variant.scores[key].values for variant in self.variants)
        }
        if self.leading == "miou":
            known.pop("mean_class_accuracy", None)  # mean Dice is close to it, and the table wide
        return {key: known[key] for key in sorted(known, key=lambda key: key != self.leading)}

    @property
    def shown_costs(self) -> dict[str, tuple[str, float]]:
        """Of `COSTS` those that any variant has."""
        return {
            key: cost
            for key, cost in COSTS.items()
            if any(variant.costs[key].values for variant in self.variants)
        }

    @property
    def title(self) -> str:
        """How many variants on which data."""
        count = len(self.variants)
        sources = dict.fromkeys(
            record.source for variant in self.variants for record in variant.records
        )
        return f"{count} {'variant' if count == 1 else 'variants'} on {listed(list(sources))}"

    @property
    def budget(self) -> str:
        """What each run was given."""
        given = [_given(record.config) for variant in self.variants for record in variant.records]
        # More than one of either is what was compared by force.
        parts = [
            " or ".join(dict.fromkeys(filter(None, part))) for part in zip(*given, strict=True)
        ]
        parts = [part for part in parts if part]
        counts = sorted({len(variant.records) for variant in self.variants})
        seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        parts.append(f"{seeds} {'seed' if counts == [1] else 'seeds'} a variant")
        return ", ".join([*parts, f"on {listed(self.devices)}"])

    @property
    def devices(self) -> list[str]:
        """What the runs were computed on, each once."""
        return list(
            dict.fromkeys(record.device for variant in self.variants for record in variant.records)
        )

    @property
    def notes(self) -> list[str]:
        """Paragraphs: how figures are averaged, and what holds them back."""
        kinds = _SEGMENTATION if self.leading == "miou" else _CLASSIFICATION
        parts = [f"{kinds} {_OVER_SEEDS}"]
        if self.target is not None:
            parts[0] += (
                f" The time to {self.target:.2f} is that of the first validation with at least this"
                f" {self.score} on the validation split, a mean over the seeds that reached it."
            )
        if len(self.devices) > 1:
            parts.append(
                f"The runs were computed on different devices ({listed(self.devices)}): speeds and"
                " times don't compare."
            )
        return parts

    @property
    def assumed(self) -> str:
        """What the p values assume."""
        return _ASSUMED.format(score=self.score)


def _given(config: Mapping[str, Any]) -> tuple[str, str]:
    """The steps of a run and what each of them sees, in words; "" where its record doesn't say."""
    training, crop = config.get("training") or {}, (config.get("data") or {}).get("crop_px")
    of = f"crops of {crop[0]}x{crop[1]} px" if crop else "images"
    steps, batch = training.get("steps"), training.get("batch_size")
    return f"{steps:,} steps" if steps else "", f"{batch} {of} a step" if batch else ""


def compare(
    records: Sequence[Record],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    target: float | None = None,
    force: bool = False,
) -> Comparison:
    """Compare records of finished runs.

    Args:
        records: those that differ in their seed alone are a variant, called by their
            `Record.variant`.
        groups: title -> names of the variants between which all pairs are tested; a variant may
            stand in several, and names without a record are passed over. None makes one group of
            all.
        target: the validation score that the time to it is measured for; None is 90% of the best
            variant's mean last validation, rounded down to 0.01.
        force: compare also what isn't comparable, and say so.

    Raises:
        InputError: there is no record; a variant has a seed twice; records differ in task, data,
            evaluation, steps or batch size, or those of one variant in its model or training, and
            `force` is False; a summary.json or scenes.json can't be used.
    """
    records = list(records)
    if not records:
        raise InputError("there is no record to compare: give the folders of finished runs.")
    by_variant = _by_variant(records)
    differing, odd = _differences(by_variant)
    if differing and not force:
        raise InputError(
            f"these records can't be compared: {'; '.join(differing)}; use --force of"
            " cnn_jax.commands.compare to compare them nevertheless."
        )
    leading = next((record.leading for record in records if record.leading), "miou")
    histories = {
        name: [_validation(record, leading) for record in group]
        for name, group in by_variant.items()
    }
    default = _default_target(histories)
    target = default if target is None or default is None else target
    variants = [
        _variant(name, group, histories[name], target, name in odd)
        for name, group in by_variant.items()
    ]

    def rank(variant):
        mean = variant.scores[leading].mean
        return math.isnan(mean), -mean if math.isfinite(mean) else 0, variant.name

    variants = {variant.name: variant for variant in sorted(variants, key=rank)}
    titled = {"": list(variants)} if groups is None else groups
    members = {
        title: [name for name in variants if name in names] for title, names in titled.items()
    }
    return Comparison(
        variants=tuple(variants.values()),
        groups=tuple(
            _group(title, [variants[name] for name in names], leading)
            for title, names in members.items()
            if names
        ),
        leading=leading,
        target=target,
        differences=tuple(differing),
    )


def write(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write comparison.csv, comparison.md and index.html into a folder, made if missing; the same
    records give the same bytes.

    Returns their paths.
    """
    from cnn_jax.reporting import page  # which is made from what stands here

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "comparison.csv": as_csv(comparison),
        "comparison.md": as_markdown(comparison),
        "index.html": page.page(comparison),
    }
    for name, text in contents.items():
        partial = folder / f"{name}.partial"  # another command may be writing the same comparison
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(folder / name)
    return [folder / name for name in contents]


# ---- from records to numbers


def _by_variant(records: Sequence[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.variant, []).append(record)
    for name, group in groups.items():
        group.sort(
            key=lambda record: (
                str(type(record.config.get("seed"))),
                record.config.get("seed") or 0,
            )
        )
        for one, other in itertools.pairwise(group):
            if one.config.get("seed") == other.config.get("seed"):
                raise InputError(
                    f"{one.folder} and {other.folder} are both {name} with seed"
                    f" {one.config.get('seed')}: leave one of them out."
                )
    return groups


def _differences(by_variant: Mapping[str, Sequence[Record]]) -> tuple[list[str], set[str]]:
    """(what differs between records that should not, in words; the variants whose records are in
    the minority with any of it)."""
    found, odd = [], set()
    everyone = [(name, record) for name, group in by_variant.items() for record in group]

    def look(named, conditions, of=""):
        fields = list(dict.fromkeys(field for _, record in named for field in conditions(record)))
        for field in fields:
            holders: dict[str, list[tuple[str, Record]]] = {}
            for name, record in named:
                value = json.dumps(
                    conditions(record).get(field), sort_keys=True, ensure_ascii=False
                )
                holders.setdefault(value, []).append((name, record))
            if len(holders) > 1:
                each = [
                    f"{value} in {_few([record.location for _, record in held])}"
                    for value, held in holders.items()
                ]
                found.append(f"{field}{of} is {', '.join(each)}")
                most = max(holders.values(), key=len)
                odd.update(
                    name for held in holders.values() if held is not most for name, _ in held
                )

    look(everyone, _conditions)
    for name, group in by_variant.items():
        look([(name, record) for record in group], _own_conditions, f" of {name}")
    return found, odd


def _conditions(record: Record) -> dict[str, Any]:
    """What records must share to be compared."""
    config = record.config
    task = config.get("task", "segmentation")
    shared = {
        "task": task,
        "data fingerprint": record.environment.get("data_fingerprint"),
        "data.source": record.source,
    }
    data = _filled(task, "data", config)
    shared |= {
        f"data.{key}": value for key, value in data.items() if key not in _NOT_COMPARED | {"source"}
    }
    for section, keys in (
        ("evaluation", ("window_px", "context_px")),
        ("training", ("steps", "batch_size")),
    ):
        shared |= {f"{section}.{key}": (config.get(section) or {}).get(key) for key in keys}
    return shared


def _own_conditions(record: Record) -> dict[str, Any]:
    """What the records of one variant must share besides."""
    task = record.config.get("task", "segmentation")
    filled = {
        section: _filled(task, section, record.config)
        for section in (*_OF_THE_VARIANT, "training", "evaluation")
    }
    own = {
        f"{section}.{key}": value
        for section in _OF_THE_VARIANT
        for key, value in filled[section].items()
    }
    return own | {
        f"{section}.{key}": filled[section].get(key) for section, key in _ALSO_OF_THE_VARIANT
    }


def _filled(task: str, section: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A section of a configuration, with what fields that its record is too old to have are taken
    to be."""
    known = {}
    if task in schema.CONFIG_TYPES:
        for path, option, _ in schema.leaves(schema.CONFIG_TYPES[task]()):
            absent = option.metadata["absent"]
            if path.startswith(f"{section}.") and absent is not MISSING:
                known[path.removeprefix(f"{section}.")] = (
                    list(absent) if isinstance(absent, tuple) else absent
                )
    own = config.get(section)
    return known | dict(own) if isinstance(own, Mapping) else known


def _validation(record: Record, leading: str) -> list[tuple[float, float]]:
    """(elapsed seconds, score) of each validation."""
    lines = [line for line in record.metrics if line.get(f"validation/{leading}") is not None]
    return [(line.get("elapsed_s", math.nan), line[f"validation/{leading}"]) for line in lines]


def _default_target(
    histories: Mapping[str, Sequence[Sequence[tuple[float, float]]]],
) -> float | None:
    """90% of the best variant's mean last validation, rounded down to 0.01."""
    last = [[history[-1][1] for history in group if history] for group in histories.values()]
    means = [float(np.mean(values)) for values in last if values]
    return math.floor(90 * max(means) + 1e-9) / 100 if means else None


def _variant(name, records, histories, target, odd) -> Variant:
    summaries = [record.summary for record in records]
    classes = list(
        dict.fromkeys(c for summary in summaries for c in table.scored_classes(summary, "test"))
    )
    kind = table.class_key(summaries[0], "test")
    reached = [
        next((elapsed for elapsed, value in history if value >= target), None)
        for history in histories
    ]
    arrays = [_arrays(record) for record in records]
    confusions = [confusion for confusion, _ in arrays if confusion is not None]
    calibrations = [calibration for _, calibration in arrays if calibration is not None]
    scenes = {record.config.get("seed"): _scenes(record) for record in records}
    return Variant(
        name=name,
        records=tuple(records),
        scores={key: _spread([s.get(f"test/{key}") for s in summaries]) for key in SCORES},
        class_scores={c: _spread([s.get(f"test/{kind}/{c}") for s in summaries]) for c in classes},
        costs={key: _spread([s.get(key) for s in summaries]) for key in COSTS},
        time_to_target_s=_spread(reached),
        confusion=(
            sum(confusions) if confusions and len({c.shape for c in confusions}) == 1 else None
        ),
        calibration=(
            {key: sum(c[key] for c in calibrations) for key in calibrations[0]}
            if calibrations
            else None
        ),
        scenes={seed: of_seed for seed, of_seed in scenes.items() if of_seed is not None},
        odd=odd,
    )


def _arrays(record: Record) -> tuple[np.ndarray | None, dict[str, np.ndarray] | None]:
    """(confusion matrix, calibration) of the test split, None where the record has none."""
    summary = record.summary  # checked when it was read
    confusion = (
        np.array(summary["test/confusion"], np.int64) if summary.get("test/confusion") else None
    )
    bins = summary.get("test/calibration")
    calibration = (
        {key: np.array(bins[key], np.float64) for key in ("count", "confidence", "correct")}
        if bins
        else None
    )
    return confusion, calibration


def _spread(values) -> Spread:
    return Spread(
        tuple(float(v) for v in values if v is not None and math.isfinite(v)), len(values)
    )


def _scenes(record: Record) -> Scenes | None:
    path = record.folder / "scenes.json"
    if not path.is_file():
        return None
    content = read_object(path)
    classes, colors, scenes = (content.get(key) for key in ("classes", "colors", "scenes"))
    named = all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for names in (classes, colors)
    )
    whole = (
        named
        and len(classes) == len(colors) == len({*classes})
        and all(re.fullmatch("#[0-9A-Fa-f]{6}", color) for color in colors)
        and isinstance(scenes, list)
        and all(isinstance(scene, dict) and isinstance(scene.get("name"), str) for scene in scenes)
        and all(is_confusion(scene.get("confusion"), len(classes)) for scene in scenes)
    )
    if not whole:
        raise InputError(f"{path} doesn't hold what a run writes there: {MEND}")
    confusions = np.array([scene["confusion"] for scene in scenes], np.int64).reshape(
        len(scenes), len(classes), len(classes)
    )
    total = record.summary.get("test/confusion")
    if total is not None and confusions.sum(0).tolist() != total:
        raise InputError(f"{path} and summary.json beside it are not of the same scenes: {MEND}")
    return Scenes(
        tuple(classes), tuple(colors), tuple(scene["name"] for scene in scenes), confusions
    )


def _group(title: str, variants: Sequence[Variant], leading: str) -> Group:
    pairs = [_pair(one, other, leading) for one, other in itertools.combinations(variants, 2)]
    pairs = [pair for pair in pairs if pair is not None]
    by_seed = {variant.name: _by_seed(variant, leading) for variant in variants}
    by_seed = {name: values for name, values in by_seed.items() if values}
    if len({frozenset(values) for values in by_seed.values()}) == 1 and all(
        pair.seeds for pair in pairs
    ):
        # All have the same seeds: what chance does is known better from all of them than from two.
        names, seeds = list(by_seed), list(next(iter(by_seed.values())))
        values = np.array([[by_seed[name][seed] for seed in seeds] for name in names])
        pairs = [
            replace(pair, seeds=_blocked(values, names.index(pair.better), names.index(pair.worse)))
            for pair in pairs
        ]
    for kind in ("seeds", "images"):
        corrected = holm([test.p if (test := getattr(pair, kind)) else math.nan for pair in pairs])
        pairs = [
            (
                replace(pair, **{kind: replace(test, corrected=float(p))})
                if (test := getattr(pair, kind))
                else pair
            )
            for pair, p in zip(pairs, corrected, strict=True)
        ]
    pairs.sort(key=lambda pair: (-pair.difference, pair.better, pair.worse))
    return Group(title, tuple(variant.name for variant in variants), tuple(pairs))


def _pair(one: Variant, other: Variant, leading: str) -> Pair | None:
    """None where one of the two has no score."""
    if not (one.scores[leading].values and other.scores[leading].values):
        return None
    shared = [seed for seed in one.by_seed if seed in other.by_seed]
    ours, theirs = _by_seed(one, leading), _by_seed(other, leading)
    values = [(ours[seed], theirs[seed]) for seed in shared if seed in ours and seed in theirs]
    difference = (
        float(np.mean([a - b for a, b in values]))
        if values
        else one.scores[leading].mean - other.scores[leading].mean
    )
    if difference < 0:
        return _pair(other, one, leading)
    seeds = _test(*zip(*values, strict=True)) if values else None
    images, bootstrap = _across_images(one, other, shared)
    return Pair(
        one.name, other.name, SCORES[leading], difference, len(values), seeds, images, bootstrap
    )


def _by_seed(variant: Variant, leading: str) -> dict[Any, float]:
    """The scores that exist, by seed."""
    values = {
        seed: record.summary.get(f"test/{leading}") for seed, record in variant.by_seed.items()
    }
    return {
        seed: value for seed, value in values.items() if value is not None and math.isfinite(value)
    }


def _blocked(scores, one: int, other: int) -> PairedTest:
    difference, p, interval = blocked_t_test(scores, one, other)
    return PairedTest(difference, interval, p, scores.shape[1])


def _test(a: Sequence[float], b: Sequence[float]) -> PairedTest | None:
    if len(a) < 2:
        return None
    difference, p, interval = paired_t_test(a, b)
    return PairedTest(difference, interval, p, len(a))


def _across_images(
    one: Variant, other: Variant, shared: Sequence
) -> tuple[PairedTest | None, tuple[float, float]]:
    """The test over images, and the bootstrap interval; of the seeds that both have scenes of, the
    same scenes."""
    both = [
        (one.scenes[s], other.scenes[s]) for s in shared if s in one.scenes and s in other.scenes
    ]
    if not both or len({scenes.names for pair in both for scenes in pair}) > 1:
        return None, (math.nan, math.nan)
    # Names alone don't make scenes the same: those of other data that were compared by force may
    # share them.
    truths = [scenes.confusions.sum(2) for pair in both for scenes in pair]
    if not all(np.array_equal(truth, truths[0]) for truth in truths):
        return None, (math.nan, math.nan)
    ours, theirs = (
        np.mean([scenes.mious for scenes in side], axis=0) for side in zip(*both, strict=True)
    )
    seen = np.isfinite(ours) & np.isfinite(theirs)
    # [scenes, 2, seeds, classes, classes]: the same scenes are drawn for both variants and all
    # seeds.
    confusions = np.stack(
        [np.stack([scenes.confusions for scenes in side], 1) for side in zip(*both, strict=True)], 1
    )

    def difference(matrices):
        values = _mious(matrices).mean(1)
        return values[0] - values[1]

    return _test(ours[seen], theirs[seen]), bootstrap_interval(confusions, difference)


def _mious(matrices: np.ndarray) -> np.ndarray:
    """`metrics.miou` of many matrices [..., classes, classes] at once: thousands are drawn."""
    hits = np.diagonal(matrices, axis1=-2, axis2=-1)
    union = matrices.sum(-1) + matrices.sum(-2) - hits
    present = union > 0
    ious = np.divide(hits, union, out=np.zeros(hits.shape), where=present)
    classes = present.sum(-1)
    return np.divide(ious.sum(-1), classes, out=np.full(classes.shape, np.nan), where=classes > 0)


# ---- words and tables


def p_text(p: float) -> str:
    """`p = 0.012`, `p < 0.001`; on which side of the level it lies can be seen."""
    if p < 0.001:
        return "p < 0.001"
    if 0.9 * LEVEL < p < 1.1 * LEVEL:
        return f"p = {p:.4f}"
    return f"p = {p:.2f}" if p >= 0.1 else f"p = {p:.2g}"


def interval_text(interval: tuple[float, float], form: str = ".4f") -> str:
    """`low to high`, or a dash."""
    low, high = interval
    return (
        f"{low:{form}} to {high:{form}}" if math.isfinite(low) and math.isfinite(high) else NOTHING
    )


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _few(names: Sequence[str]) -> str:
    return listed(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def _counted(count: int, one: str, many: str) -> str:
    """A number with its verb: `none is`, `1 is`, `2 are`."""
    return f"{count or 'none'} {one if count < 2 else many}"


def as_csv(comparison: Comparison) -> str:
    """A row a variant: mean, standard deviation and number of values of each figure, in the
    records' units, with full digits."""
    rows = []
    for variant in comparison.variants:
        row = {
            "variant": variant.name,
            "runs": len(variant.records),
            "seeds": " ".join(str(record.config.get("seed")) for record in variant.records),
        }
        spreads = {f"test/{key}": variant.scores[key] for key in comparison.shown_scores}
        kind = table.class_key(variant.records[0].summary, "test")
        spreads |= {
            f"test/{kind}/{name}": variant.class_scores.get(name, Spread((), 0))
            for name in comparison.classes
        }
        spreads |= {key: variant.costs[key] for key in comparison.shown_costs}
        if comparison.target is not None:
            spreads[f"time_to_{comparison.target:.2f}_s"] = variant.time_to_target_s
        for key, spread in spreads.items():
            row |= {
                f"{key} mean": spread.mean,
                f"{key} sd": spread.deviation,
                f"{key} values": len(spread.values),
            }
        lead = variant.scores[comparison.leading]
        row |= {
            f"test/{comparison.leading} low": lead.mean - lead.half,
            f"test/{comparison.leading} high": lead.mean + lead.half,
        }
        if comparison.differences:
            row["not comparable"] = "; ".join(comparison.differences) if variant.odd else ""
        rows.append(
            {
                key: "" if isinstance(value, float) and math.isnan(value) else value
                for key, value in row.items()
            }
        )
    text = io.StringIO()
    writer = csv.DictWriter(
        text,
        list(dict.fromkeys(key for row in rows for key in row)),
        lineterminator="\n",
        restval="",
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(comparison: Comparison) -> str:
    """The page in Markdown: the verdict in words, then the tables."""
    clean = table.escaped
    parts = [f"# {clean(comparison.title)}", clean(comparison.budget) + "."]
    if comparison.differences:
        parts.append(
            "> **Not comparable**, and compared by force:"
            f" {clean('; '.join(comparison.differences))}. †: of the minority."
        )
    for group in comparison.groups:
        parts.append(f"## {clean(group.title or 'Verdict')}")
        parts.append(f"**{clean(group.verdict)}**")
        if group.pairs:
            parts.append("\n".join(f"- {clean(pair.sentence)}" for pair in group.pairs))
    if any(group.pairs for group in comparison.groups):
        parts.append(comparison.assumed)
    header, rows = score_rows(comparison)
    parts += ["## Scores on the test split", markdown(header, rows)]
    header, rows = cost_rows(comparison)
    parts += ["## Costs", markdown(header, rows), *comparison.notes]
    if 0 < len(comparison.classes) <= table.MOST_CLASSES:
        kind = "IoU" if comparison.leading == "miou" else "Recall"
        rows = [
            [
                named(v),
                *(
                    v.class_scores[c].text() if c in v.class_scores else NOTHING
                    for c in comparison.classes
                ),
            ]
            for v in comparison.variants
        ]
        parts += [f"## {kind} of each class", markdown(["variant", *comparison.classes], rows)]
    for group in comparison.groups:
        if group.pairs:
            parts.append(f"## Pairs{f' of {clean(group.title)}' if group.title else ''}")
            header, rows = pair_rows(group)
            parts.append(markdown(header, rows, text_columns={0, 1}))
    return "\n\n".join(parts) + "\n"


def named(variant: Variant) -> str:
    """The variant's name, marked where its records are not comparable."""
    return f"{variant.name} †" if variant.odd else variant.name


def score_rows(comparison: Comparison, form: str = ".4f") -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the scores, best variant first."""
    scores = comparison.shown_scores
    header = ["variant", "seeds"]
    for key, name in scores.items():
        header += [name, "95% interval"] if key == comparison.leading else [name]
    rows = []
    for variant in comparison.variants:
        row = [named(variant), str(len(variant.records))]
        for key in scores:
            spread = variant.scores[key]
            row += (
                [spread.text(form), spread.interval_text(form)]
                if key == comparison.leading
                else [spread.text(form)]
            )
        rows.append(row)
    return header, rows


def cost_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the costs."""
    costs = comparison.shown_costs
    header = ["variant", *(name for name, _ in costs.values())]
    if comparison.target is not None:
        header.append(f"time to {comparison.target:.2f} {comparison.score}, s")
    rows = []
    for variant in comparison.variants:
        row = [
            named(variant),
            *(cost_text(variant.costs[key], unit) for key, (_, unit) in costs.items()),
        ]
        if comparison.target is not None:
            row.append(time_text(variant))
        rows.append(row)
    return header, rows


def cost_text(spread: Spread, unit: float) -> str:
    """The mean in a unit, with as many digits as it takes."""
    value = spread.mean / unit
    if math.isnan(value):
        return NOTHING
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"


def time_text(variant: Variant) -> str:
    """The mean time to the target, and how many runs reached it where not all did."""
    reached, runs = len(variant.time_to_target_s.values), len(variant.records)
    share = "" if reached == runs else f" ({reached} of {runs})"
    return (
        f"{variant.time_to_target_s.mean:,.0f}{share}" if reached else f"not reached (0 of {runs})"
    )


def pair_rows(group: Group) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the pairs of a group."""
    score = group.pairs[0].score if group.pairs else ""
    header = [
        "better",
        "worse",
        f"difference in {score}",
        "95%, seeds",
        "p, seeds",
        "95%, images",
        "p, images",
        "95%, bootstrap",
    ]
    rows = []
    for pair in group.pairs:
        row = [pair.better, pair.worse, f"{pair.difference:.4f}"]
        for test in (pair.seeds, pair.images):
            row += (
                [
                    interval_text(test.interval),
                    p_text(test.corrected).removeprefix("p = ").removeprefix("p "),
                ]
                if test
                else [NOTHING] * 2
            )
        rows.append([*row, interval_text(pair.bootstrap), WORDS[pair.verdict]])
    return [*header, "verdict"], rows


WORDS = {
    "real": "real",
    "seeds": "seeds only",
    "images": "images only",
    "chance": "not shown",
    "untested": "not tested",
}
"""Each verdict of a pair in a word or two."""


def markdown(
    header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: set[int] = frozenset({0})
) -> str:
    escaped = [[table.escaped(cell) for cell in row] for row in (header, *rows)]
    return table.markdown(escaped[0], escaped[1:], text_columns=set(text_columns))
