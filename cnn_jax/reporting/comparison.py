"""Records compared: what each variant is worth and costs, and which differences between them are
more than chance.

Two sources of chance are looked at. Another seed would have given another network: pairs are tested
across seeds. Another photograph would have been easier or harder: pairs are tested across the test
images. A difference is called real only where both tests, corrected for the number of pairs, find
it.
"""

import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.errors import InputError
from cnn_jax.evaluation.drawn_ap import swapped_differences
from cnn_jax.evaluation.statistics import (
    bootstrap_interval,
    holm,
    moderated_t_tests,
    paired_bootstrap,
    paired_t_test,
    swap_test,
    swaps,
)
from cnn_jax.records import formats, object_record
from cnn_jax.records.files import pictures_can_be_written, write_text
from cnn_jax.records.metrics import FIGURES, Figure
from cnn_jax.records.run_record import RunRecord, variants
from cnn_jax.reporting import table
from cnn_jax.reporting.verdicts import (
    COSTS,
    OF_OBJECTS,
    Comparison,
    Group,
    Pair,
    PairedTest,
    Spread,
    Variant,
    listed,
)

_OF_EVERY_RECORD = (
    "task",
    "evaluation.window_px",
    "evaluation.context_px",
    "evaluation.overlap_px",
    "evaluation.most_objects",
    "evaluation.least_score",
    "training.steps",
    "training.batch_size",
)
_OF_THE_VARIANT = (
    "model.",
    "data.mean",  # given weights bring the normalisation that they were trained with
    "data.std",
    "augmentation.",
    "loss.",
    "optimizer.",
    "training.accumulate",
    "training.patience",
    "evaluation.weights",
)

_Tested = tuple[PairedTest | None, tuple[float, float]]
"""A test over images, and the interval of a bootstrap over them."""

_UNTESTED: _Tested = None, (math.nan, math.nan)

OF_SCENES = "miou"
"""The figure that scenes.json gives of each scene: pairs that it ranks are tested across images."""


def compare(
    records: Sequence[RunRecord],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    target: float | None = None,
    force: bool = False,
) -> Comparison:
    """Compare records of finished runs.

    Args:
        records: those that differ in their seed alone are a variant, called by their
            `RunRecord.variant`.
        groups: title -> names of the variants between which all pairs are tested; a variant may
            stand in several. Names without a record are passed over, and so is a group of which one
            variant is left that another group compares. None makes one group of all, and so do
            groups of which none has two of the variants.
        target: the validation score that the time to it is measured for; None is 90% of the best
            variant's mean last validation, rounded down to 0.01 (where less is better, 110%,
            rounded up).
        force: compare also what isn't comparable, and say so.

    Raises:
        InputError: there is no record; a variant has a seed twice; records differ in task, data,
            evaluation, steps or batch size, or those of one variant in its model or training, and
            `force` is False; a summary.json, scenes.json or objects.json can't be used;
            the target is outside of the score's range.
    """
    records = list(records)
    if not records:
        raise InputError("there is no record to compare: give the folders of finished runs.")
    for record in records:
        if record.objects is not None:
            object_record.verify(record.folder, record.objects, record.summary)
    by_variant = _by_variant(records)
    differing, odd = _differences(by_variant)
    if differing and not force:
        raise InputError(
            f"these records can't be compared: {'; '.join(differing)}; use --force of"
            " cnn_jax.commands.compare to compare them nevertheless."
        )
    leading = next((record.leading for record in records if record.leading), "miou")
    figure = FIGURES[leading]
    if target is not None and not figure.least <= target <= figure.most:
        raise InputError(
            f"--target is {target:g}; {figure.label} lies between {figure.least:g} and"
            f" {figure.most:g}."
        )
    histories = {
        name: [_validation(record, leading) for record in group]
        for name, group in by_variant.items()
    }
    default = _default_target(histories, figure)
    target = default if target is None or default is None else target
    variants = [
        _variant(name, group, _times_to(target, histories[name], figure), name in odd)
        for name, group in by_variant.items()
    ]

    def rank(variant):
        mean = variant.scores[leading].mean
        return math.isnan(mean), -figure.sign * mean if math.isfinite(mean) else 0, variant.name

    variants = {variant.name: variant for variant in sorted(variants, key=rank)}
    return Comparison(
        variants=tuple(variants.values()),
        groups=tuple(
            _group(title, [variants[name] for name in names], figure)
            for title, names in _members(groups or {}, list(variants)).items()
        ),
        leading=leading,
        target=target,
        differences=tuple(differing),
    )


def _members(groups: Mapping[str, Sequence[str]], variants: Sequence[str]) -> dict[str, list[str]]:
    """Title -> the variants there are of a group, best first; as `compare` says of `groups`."""
    members = {title: [n for n in variants if n in names] for title, names in groups.items()}
    compared = {name for names in members.values() if len(names) > 1 for name in names}
    if not compared:
        return {"": list(variants)}
    # What is left of a group, where one of its variants was run, says nothing that another group
    # doesn't say of it.
    return {
        title: names
        for title, names in members.items()
        if len(names) > 1 or (names and (len(groups[title]) == 1 or names[0] not in compared))
    }


def write(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write comparison.csv, comparison.png, comparison.md and index.html into a folder, made if
    missing; the same records give the same bytes. Without a score there is no picture.

    Returns their paths.

    Raises:
        InputError: files of these names are there, and no comparison's, or the disk is full.
    """
    from cnn_jax.reporting import page, study_figures
    from cnn_jax.reporting.comparison_tables import as_csv, as_markdown

    folder, values = Path(folder), as_csv(comparison)
    _check_ours(folder, values)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "comparison.csv": values,
        "comparison.png": comparison.seeds,
        "comparison.md": as_markdown(comparison),
        "index.html": page.page(comparison),
    }
    written = [folder / name for name, content in contents.items() if content]
    for path in written:
        if isinstance(content := contents[path.name], str):
            write_text(path, content)
            continue
        partial = path.with_name(f"{path.name}.partial")
        with pictures_can_be_written(folder):
            study_figures.seeds(content, partial, f"{comparison.score} on the test split")
            partial.replace(path)
    return written


def _check_ours(folder: Path, values: str) -> None:
    """Raises InputError where a comparison would replace what none wrote: beside each page lies a
    table whose first columns are always the same."""
    table = folder / "comparison.csv"
    first = ",".join(values.split(",")[:3]).encode()
    if table.is_file() and table.read_bytes().startswith(first):
        return
    for name in ("comparison.csv", "comparison.png", "comparison.md", "index.html"):
        if (folder / name).exists():
            raise InputError(
                f"{folder / name} is of no comparison: give another --output (of a study, another"
                " --workdir), or move it."
            )


def _by_variant(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    groups: dict[str, list[RunRecord]] = {}
    # Runs without a variant that differ in their seed alone are one, whatever their folders' names;
    # where these are the same, the folders above tell them apart.
    unnamed = variants([record for record in records if not record.config.get("variant")])
    often = Counter(group[0].variant for group in unnamed)
    often.update({record.variant for record in records if record.config.get("variant")})
    names = {}
    for first, *others in unnamed:
        above = f"{first.experiment}/" if often[first.variant] > 1 else ""
        names |= {record.folder: f"{above}{first.variant}" for record in (first, *others)}
    for record in records:
        groups.setdefault(names.get(record.folder, record.variant), []).append(record)
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


def _differences(by_variant: Mapping[str, Sequence[RunRecord]]) -> tuple[list[str], set[str]]:
    """(what differs between records that should not, in words; the variants whose records are in
    the minority with any of it)."""
    found, odd = [], set()

    def look(held, of=""):
        """`held` are (variant, location, conditions) of records that must share these."""
        for field in dict.fromkeys(field for _, _, conditions in held for field in conditions):
            holders: dict[str, list[tuple[str, str]]] = {}
            for name, location, conditions in held:
                value = json.dumps(conditions.get(field), sort_keys=True, ensure_ascii=False)
                holders.setdefault(value, []).append((name, location))
            if len(holders) > 1:
                each = [
                    f"{value} in {_few([location for _, location in runs])}"
                    for value, runs in holders.items()
                ]
                found.append(f"{field}{of} is {', '.join(each)}")
                most = max(holders.values(), key=len)
                odd.update(n for runs in holders.values() if runs is not most for n, _ in runs)

    everyone = [(name, record) for name, group in by_variant.items() for record in group]
    look([(name, record.location, _conditions(record)) for name, record in everyone])
    for name, group in by_variant.items():
        own = [(name, record.location, _own_conditions(record)) for record in group]
        look(own, f" of {name}")
    return found, odd


def _few(names: Sequence[str]) -> str:
    return listed(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def is_shared(path: str) -> bool:
    """Whether records are compared only where they have the same in this field, a dotted path."""
    of_data = path.startswith("data.") and not path.startswith(_OF_THE_VARIANT)
    return of_data or path in _OF_EVERY_RECORD


def _conditions(record: RunRecord) -> dict[str, Any]:
    """What records must share to be compared."""
    return {
        "task": record.config.get("task", "segmentation"),
        "data fingerprint": record.environment.get("data_fingerprint"),
        "data.source": record.source,
        **{path: value for path, value in _fields(record).items() if is_shared(path)},
    }


def _own_conditions(record: RunRecord) -> dict[str, Any]:
    """What the records of one variant must share besides."""
    return {
        path: value for path, value in _fields(record).items() if path.startswith(_OF_THE_VARIANT)
    }


def _fields(record: RunRecord) -> dict[str, Any]:
    """The fields of a configuration, as dotted paths, that can change a result; but for those that
    other records are too old to have, at the value that means what runs did then."""
    outside = {*formats.outside_digest(record.config, record.environment), "data.source"}
    return {p: value for p, value in formats.fields(record.config) if p not in outside}


def _validation(record: RunRecord, leading: str) -> list[tuple[float, float]]:
    """(elapsed seconds, score) of each validation."""
    lines = [line for line in record.metrics if line.get(f"validation/{leading}") is not None]
    return [(line.get("elapsed_s", math.nan), line[f"validation/{leading}"]) for line in lines]


def _default_target(
    histories: Mapping[str, Sequence[Sequence[tuple[float, float]]]], figure: Figure
) -> float | None:
    """90% of the best variant's mean last validation, rounded down to 0.01, or 110% of the least,
    rounded up."""
    last = [[history[-1][1] for history in group if history] for group in histories.values()]
    means = [float(np.mean(values)) for values in last if values]
    if not means:
        return None
    if figure.higher_is_better is False:
        return math.ceil(110 * min(means) - 1e-9) / 100
    return math.floor(90 * max(means) + 1e-9) / 100


def _times_to(
    target: float | None, histories: Sequence[Sequence[tuple[float, float]]], figure: Figure
) -> list[float | None]:
    """When each run first had the score on validation; None for one that never had it."""
    if target is None:
        return [None] * len(histories)
    least = figure.sign * target
    return [
        next((elapsed for elapsed, value in history if figure.sign * value >= least), None)
        for history in histories
    ]


def _variant(
    name: str, records: Sequence[RunRecord], times_to_target: Sequence[float | None], odd: bool
) -> Variant:
    summaries = [record.summary for record in records]
    figure = table.class_figure(summaries[0], "test")
    classes = dict.fromkeys(c for s in summaries for c in table.scored_classes(s, "test"))
    arrays = [_arrays(record) for record in records]
    confusions = [confusion for confusion, _ in arrays if confusion is not None]
    calibrations = [calibration for _, calibration in arrays if calibration is not None]
    return Variant(
        name=name,
        records=tuple(records),
        scores={
            key: _spread([s.get(f"test/{key}") for s in summaries])
            for key, figure in FIGURES.items()
            if figure.compared
        },
        class_scores={
            c: _spread([s.get(f"test/{figure.name}/{c}") for s in summaries])
            for c in classes
            if figure
        },
        costs={key: _spread([s.get(key) for s in summaries]) for key in COSTS},
        time_to_target_s=_spread(times_to_target),
        confusion=(np.sum(confusions, axis=0) if len({c.shape for c in confusions}) == 1 else None),
        calibration=(
            {key: np.sum([c[key] for c in calibrations], axis=0) for key in calibrations[0]}
            if len({len(c["count"]) for c in calibrations}) == 1
            else None
        ),
        scenes={r.config.get("seed"): r.scenes for r in records if r.scenes is not None},
        objects={r.config.get("seed"): r.objects for r in records if r.objects is not None},
        odd=odd,
    )


def _arrays(record: RunRecord) -> tuple[np.ndarray | None, dict[str, np.ndarray] | None]:
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


def _spread(values: Sequence[float | None]) -> Spread:
    return Spread(
        tuple(float(v) for v in values if v is not None and math.isfinite(v)), len(values)
    )


def _group(title: str, variants: Sequence[Variant], figure: Figure) -> Group:
    pairs = [_pair(one, other, figure) for one, other in itertools.combinations(variants, 2)]
    pairs = [pair for pair in pairs if pair is not None]
    by_seed = {variant.name: _worth_by_seed(variant, figure) for variant in variants}
    pairs = [
        replace(pair, seeds=test)
        for pair, test in zip(pairs, _across_seeds(pairs, by_seed), strict=True)
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


def _pair(one: Variant, other: Variant, figure: Figure) -> Pair | None:
    """None where one of the two has no score."""
    means = one.scores[figure.name].mean, other.scores[figure.name].mean
    if not all(map(math.isfinite, means)):
        return None
    ours, theirs = _worth_by_seed(one, figure), _worth_by_seed(other, figure)
    values = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
    difference = (
        float(np.mean([a - b for a, b in values]))
        if values
        else figure.sign * (means[0] - means[1])
    )
    if difference < 0:
        return _pair(other, one, figure)
    images, bootstrap = _UNTESTED
    if figure.name in OF_OBJECTS:
        images, bootstrap = _across_objects(one, other, OF_OBJECTS[figure.name])
    elif figure.name == OF_SCENES:
        images, bootstrap = _across_scenes(one, other)
    return Pair(
        one.name, other.name, figure.label, difference, len(values), None, images, bootstrap
    )


def _worth_by_seed(variant: Variant, figure: Figure) -> dict[Any, float]:
    """The scores that exist by seed, with the sign that makes more better."""
    values = {
        seed: record.summary.get(f"test/{figure.name}") for seed, record in variant.by_seed.items()
    }
    return {
        seed: figure.sign * value
        for seed, value in values.items()
        if value is not None and math.isfinite(value)
    }


def _across_seeds(
    pairs: Sequence[Pair], by_seed: Mapping[str, Mapping[Any, float]]
) -> list[PairedTest | None]:
    """A test of each pair over the seeds that both have, None where these are fewer than two.

    Pairs that share fewer seeds than others stand by themselves: few values that lie far apart
    would be drawn too far towards many that don't.
    """
    values = []
    for pair in pairs:
        ours, theirs = by_seed[pair.better], by_seed[pair.worse]
        both = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
        values.append(np.array(both, np.float64).reshape(-1, 2).T)
    tests = [_test(*of) for of in values]
    most = max((of.shape[1] for of in values), default=0)
    together = [at for at, of in enumerate(values) if of.shape[1] == most]
    if most > 1:
        # Of what is left of scores when each variant's and each seed's mean are taken away.
        freedom = sum(len(part) - 1 for part in _parts([pairs[at] for at in together])) * (most - 1)
        moderated = moderated_t_tests([values[at][0] - values[at][1] for at in together], freedom)
        for at, test in zip(together, moderated, strict=True):
            tests[at] = _paired(test, most)
    return tests


def _parts(pairs: Sequence[Pair]) -> list[set[str]]:
    """The variants of pairs, those together that pairs link: no two parts have a pair between
    them, and each is a table of its own."""
    parts: list[set[str]] = []
    for pair in pairs:
        ends = {pair.better, pair.worse}
        linked = ends.union(*(part for part in parts if part & ends))
        parts = [*(part for part in parts if not part & ends), linked]
    return parts


def _test(a: Sequence[float], b: Sequence[float]) -> PairedTest | None:
    if len(a) < 2:
        return None
    return _paired(paired_t_test(a, b), len(a))


def _paired(test: tuple[float, float, tuple[float, float]], pairs: int) -> PairedTest:
    difference, p, interval = test
    return PairedTest(difference, interval, p, pairs)


def _across_scenes(one: Variant, other: Variant) -> _Tested:
    """Of the seeds that both have scenes of, where these are the same."""
    both = [(held, other.scenes[s]) for s, held in one.scenes.items() if s in other.scenes]
    if not both or len({scenes.names for pair in both for scenes in pair}) > 1:
        return _UNTESTED
    # Names alone don't make scenes the same: those of other data that were compared by force may
    # share them.
    truths = [scenes.confusions.sum(2) for pair in both for scenes in pair]
    if not all(np.array_equal(truth, truths[0]) for truth in truths):
        return _UNTESTED
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

    return _test(ours[seen], theirs[seen]), bootstrap_interval(confusions[seen], difference)


def _across_objects(one: Variant, other: Variant, kind: str) -> _Tested:
    """Of the seeds that both have images of, where these are the same with the same objects; the
    test of AP is by swaps."""
    both = [(held, other.objects[s]) for s, held in one.objects.items() if s in other.objects]
    held = [record for pair in both for record in pair]
    if not held or len(held[0].names) < 2 or not all(kind in record.counted for record in held):
        return _UNTESTED
    wanted = [[of_image.wanted.tolist() for of_image in record.counted[kind]] for record in held]
    if len({record.names for record in held}) > 1 or any(of != wanted[0] for of in wanted):
        return _UNTESTED
    ours, theirs = ([record.drawn_ap[kind] for record in side] for side in zip(*both, strict=True))
    difference, interval = paired_bootstrap(ours, theirs)
    # An image's detections change places in all seeds at once: seeds share its difficulty.
    ways = swaps(len(held[0].names))
    swapped = [swapped_differences(a.counted[kind], b.counted[kind], ways) for a, b in both]
    p = swap_test(np.mean(swapped, 0))
    return PairedTest(difference, interval, p, len(held[0].names)), interval


def _mious(matrices: np.ndarray) -> np.ndarray:
    """`metrics.miou` of many matrices [..., classes, classes] at once: thousands are drawn."""
    hits = np.diagonal(matrices, axis1=-2, axis2=-1)
    union = matrices.sum(-1) + matrices.sum(-2) - hits
    present = union > 0
    ious = np.divide(hits, union, out=np.zeros(hits.shape), where=present)
    classes = present.sum(-1)
    return np.divide(ious.sum(-1), classes, out=np.full(classes.shape, np.nan), where=classes > 0)
