"""What a comparison holds: variants, the tests between them, and what both say in words."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from cnn_jax.evaluation.statistics import mean_interval
from cnn_jax.records.metrics import FIGURES, NOTHING, Figure
from cnn_jax.records.object_record import ObjectRecord
from cnn_jax.records.run_record import RunRecord
from cnn_jax.records.scene_record import SceneRecord
from cnn_jax.reporting.table import averaging, class_figure

_Images = TypeVar("_Images", SceneRecord, ObjectRecord)

LEVEL = 0.05
"""A corrected p value below it stands against chance."""

OF_OBJECTS = {"box_ap": "box", "mask_ap": "mask"}
"""The figures that objects.json gives of any set of images, and what they are of."""

COSTS = {
    "parameters": ("parameters", 1),
    "multiply_adds": ("multiply-adds, G", 1e9),
    "step_memory_bytes": ("memory of a step, MiB", 2**20),
    "train/images_per_second": ("training images/s", 1),
    "wall_time_s": ("training time, s", 1),
}
"""What a variant costs, as it is keyed in a summary: what it is called, and how many of the
record's units make one of the table's."""

_OVER_SEEDS = (
    "Figures are taken from {counted} over the whole test split and are means over seeds"
    " ± the standard deviation between seeds; the interval is Student's, of the mean, at 95%. Costs"
    " are means over seeds: multiply-adds are those of one forward pass of one training example,"
    " memory is what the compiler plans for one training step, training time covers the steps with"
    " their compilation and the validations between them."
)
_ASSUMED = (
    "The p values are of two-sided paired t tests, corrected after Holm (1979) for the number of"
    " pairs in the group, for seeds and images each by itself; a difference is called real where"
    " both are below 0.05. Across seeds the test takes a pair's differences in {score} as"
    " independent draws from a normal distribution, whose variance is drawn towards what the pairs"
    " of the group have in common, as far as they agree (moderated t tests; Smyth, 2004; pairs that"
    " share fewer seeds than others stand by themselves); across images it takes the differences of"
    " each image's {score}, averaged over seeds, as such draws: neighbouring images of one place"
    " are less independent than that, and their p value is too small. Few seeds and many pairs"
    " leave little that can pass: what is not shown here may still be there. Intervals are of each"
    " pair by itself, not corrected; the bootstrap's is of the difference of the set's {score},"
    " with the test images drawn again."
)

_ASSUMED_OF_OBJECTS = (
    "The p values are two-sided and corrected after Holm (1979) for the number of pairs in the"
    " group, for seeds and images each by itself; a difference is called real where both are below"
    " 0.05. Across seeds it takes a pair's differences in {score} as independent draws from a"
    " normal distribution, whose variance is drawn towards what the pairs of the group have in"
    " common, as far as they agree (moderated t tests; Smyth, 2004; pairs that share fewer seeds"
    " than others stand by themselves). Across images it is a permutation test of whether it could"
    " as well be either variant that found what was found in an image: of some images what the two"
    " found changes places, in all ways to choose them where these are at most 2,000, else in 2,000"
    " random ones; the {score} of both is counted anew, averaged over seeds, and p is the share of"
    " ways, the one without changes among them, in which they differ at least as much. With fewer"
    " than six images it can't be below 0.05; neighbouring images of one place are less independent"
    " than it assumes, and their p value is too small. Few seeds and many pairs leave little that"
    " can pass: what is not shown here may still be there. Intervals are of each pair by itself,"
    " not corrected; over images it is a bootstrap's of the difference in {score}, with the test"
    " images drawn again 2,000 times."
)

_CHANCE = "not distinguishable from chance"


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
class Variant:
    """The runs that differ in their seed alone, in the order of their seeds.

    `scores` (by the names of `FIGURES`), `class_scores` (the first figure of classes that the
    records have) and `costs` (in the record's units) are over the runs, as is `time_to_target_s`
    over those that reached the target. `confusion` is summed over seeds, as are `calibration`'s
    arrays `count`, `confidence` and `correct` `[bins]`; both are None where no run holds any, or
    not all of one size. `scenes` and `objects` are by seed. `odd` says whether its records differ
    from others in what makes records comparable.
    """

    name: str
    records: tuple[RunRecord, ...]
    scores: Mapping[str, Spread]
    class_scores: Mapping[str, Spread]
    costs: Mapping[str, Spread]
    time_to_target_s: Spread
    confusion: np.ndarray | None
    calibration: Mapping[str, np.ndarray] | None
    scenes: Mapping[Any, SceneRecord]
    objects: Mapping[Any, ObjectRecord]
    odd: bool = False

    @property
    def by_seed(self) -> dict[Any, RunRecord]:
        """The runs by their seed."""
        return {record.config.get("seed"): record for record in self.records}


def with_images(
    variants: Sequence[Variant], held: Callable[[Variant], Mapping[Any, _Images]]
) -> list[tuple[Variant, _Images]]:
    """The variants that have `scenes` or `objects`, whichever `held` gives, with those of their
    first seed; only those that agree with the best one on what the images are."""
    known = [(variant, next(iter(held(variant).values()))) for variant in variants if held(variant)]
    return [
        (variant, images)
        for variant, images in known
        if images.names == known[0][1].names and images.classes == known[0][1].classes
    ]


@dataclass(frozen=True)
class PairedTest:
    """A paired test: the mean difference, its 95% interval, the p value, also corrected, and the
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
        if self.difference == 0:
            start = f"{self.better} and {self.worse} have the same {self.score}"
        else:
            amount = f"{self.difference:.{3 if self.difference >= 0.01 else 4}f}"
            stands = "better than" if self.verdict == "real" else "ahead of"
            of = f"in {self.score}" if self.score.islower() else self.score
            start = f"{self.better} is {stands} {self.worse} by {amount} {of}"
        seeds = f"{_p_text_over(self.seeds)} seeds" if self.seeds else ""
        images = f"{_p_text_over(self.images)} test images" if self.images else ""
        told = self.images and (self.images.passed or self.verdict == "seeds")
        if self.images and told and self.images.difference < 0:
            images += ", where the mean points the other way"
        if not self.seeds:
            shared = "no seed" if self.shared_seeds == 0 else "one seed"
            says = f"not tested across seeds, for they share {shared} and it takes two"
            return f"{start}: {says} ({images})." if images else f"{start}: {says}."
        if not self.images:
            holds = "survives the choice of seeds" if self.seeds.passed else _CHANCE
            unknown = "not tested across images, for it takes two with figures of their own"
            return f"{start}: {holds} ({seeds}); {unknown}."
        if self.verdict == "seeds":
            says = f"survives the choice of seeds ({seeds}) but not that of test images ({images})"
        elif self.verdict == "images":
            says = f"survives the choice of test images ({images}) but not that of seeds ({seeds})"
        else:
            says = f"{'real' if self.verdict == 'real' else _CHANCE} ({seeds}, {images})"
        return f"{start}: {says}."


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
                f"{best} has the best {score}. No difference was tested across seeds, for no two"
                " variants share two."
            )
        own = [pair for pair in self.pairs if pair.better == best]
        over = [pair.worse for pair in own if pair.verdict == "real"]
        not_over = [pair.worse for pair in own if pair.verdict != "real"]
        says = f"{best} has the best {score}"
        if over:
            says += f", really better than {listed(over)}"
        if not_over:
            says += f"{'; ' if over else ', '}not shown to be better than {listed(not_over)}"
        # The best has the best mean of all its seeds.
        if before := [pair.better for pair in self.pairs if pair.worse == best]:
            are = "is" if len(before) == 1 else "are"
            says += f"; {listed(before)} {are} ahead of it over the seeds that both have"
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
    def figure(self) -> Figure:
        """The leading score, as `FIGURES` describes it."""
        return FIGURES[self.leading]

    @property
    def score(self) -> str:
        """What the leading score is called."""
        return self.figure.label

    @property
    def seeds(self) -> dict[str, tuple[float, ...]]:
        """{variant: its leading score with each seed}, without those that have none."""
        values = {variant.name: variant.scores[self.leading].values for variant in self.variants}
        return {name: seeds for name, seeds in values.items() if seeds}

    @property
    def classes(self) -> list[str]:
        """The classes of the test split."""
        return list(
            dict.fromkeys(name for variant in self.variants for name in variant.class_scores)
        )

    @property
    def class_figure(self) -> Figure | None:
        """The figure of `Variant.class_scores`; None where no record has one."""
        records = [record for variant in self.variants for record in variant.records]
        return next(filter(None, (class_figure(r.summary, "test") for r in records)), None)

    @property
    def shown_scores(self) -> list[Figure]:
        """The figures that any variant has, the leading one first."""
        task = self.variants[0].records[0].config.get("task", "segmentation")
        known = [
            figure
            for figure in FIGURES.values()
            if figure.compared
            and any(v.scores[figure.name].values for v in self.variants)
            and task not in figure.omitted_for
        ]
        return sorted(known, key=lambda figure: figure != self.figure)

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
        counted = "COCO's counts" if self.leading in OF_OBJECTS else "one confusion matrix"
        over = _OVER_SEEDS.format(counted=counted)
        parts = [" ".join(filter(None, (over, averaging(self.shown_scores))))]
        if self.target is not None:
            bound = "least" if self.figure.higher_is_better else "most"
            parts[0] += (
                f" The time to {self.target:.2f} is that of the first validation with at {bound}"
                f" this {self.score} on the validation split, a mean over the seeds that reached"
                " it."
            )
        grouped = {name for group in self.groups for name in group.variants}
        lone = [variant.name for variant in self.variants if variant.name not in grouped]
        if lone:
            parts.append(
                f"No group of the study names {listed(lone)}: they are tested against no other,"
                " unless compared without the rest."
            )
        if len(self.devices) > 1:
            parts.append(
                f"The runs were computed on different devices ({listed(self.devices)}): speeds and"
                " times don't compare."
            )
        records = [record for variant in self.variants for record in variant.records]
        for what, of in (("commits", _commit), ("versions of JAX", _jax)):
            values = sorted({of(record.environment) for record in records} - {""})
            if len(values) > 1:
                parts.append(
                    f"The runs are of different {what} ({listed(values)}): what changed between"
                    " them may have a part in a difference."
                )
        processors = sorted({_processor(record.environment) for record in records} - {""})
        if len(processors) > 1:
            parts.append(
                f"The runs were computed on processors of different kinds ({listed(processors)}),"
                " which round differently: the same run ends elsewhere on another kind."
            )
        return parts

    @property
    def assumed(self) -> str:
        """What the p values assume."""
        assumed = _ASSUMED_OF_OBJECTS if self.leading in OF_OBJECTS else _ASSUMED
        return assumed.format(score=self.score)


def _commit(environment: Mapping[str, Any]) -> str:
    """Of cnn_jax, marked where the working tree differed; "" where it isn't known."""
    commit = environment.get("commit")
    changed = " with changes" if environment.get("dirty") else ""
    return f"{commit[:7]}{changed}" if isinstance(commit, str) else ""


def _jax(environment: Mapping[str, Any]) -> str:
    versions = environment.get("versions")
    return str(versions.get("jax", "")) if isinstance(versions, Mapping) else ""


def _processor(environment: Mapping[str, Any]) -> str:
    """Of a run that a CPU computed; "" where it isn't known."""
    name = environment.get("processor")
    return name if environment.get("device_kind") == "cpu" and isinstance(name, str) else ""


def _given(config: Mapping[str, Any]) -> tuple[str, str]:
    """The steps of a run and what each of them sees, in words; "" where its record doesn't say."""
    training, crop = config.get("training") or {}, (config.get("data") or {}).get("crop_px")
    of = f"crops of {crop[0]}x{crop[1]} px" if crop else "images"
    steps, batch = training.get("steps"), training.get("batch_size")
    return f"{steps:,} steps" if steps else "", f"{batch} {of} a step" if batch else ""


def _p_text_over(test: PairedTest) -> str:
    return f"{p_text(test.corrected)} across {test.pairs}"


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


def _counted(count: int, one: str, many: str) -> str:
    """A number with its verb: `none is`, `1 is`, `2 are`."""
    return f"{count or 'none'} {one if count < 2 else many}"
