"""The comparison says what its records say: held to NumPy, SciPy and cases worked by hand."""

import csv
import io
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from cnn_jax.errors import InputError
from cnn_jax.evaluation import metrics
from cnn_jax.records.run_record import read
from cnn_jax.reporting.comparison import compare, write
from cnn_jax.reporting.comparison_tables import as_csv, as_markdown
from cnn_jax.reporting.verdicts import Pair, PairedTest
from tests.reporting.fake_records import CONFIG, DATA, write_run, write_scenes, write_study

SCORES = {"a": (0.61, 0.64, 0.62), "b": (0.50, 0.54, 0.51), "c": (0.55, 0.50, 0.57)}


def write_scores(folder, scores=SCORES, **options):
    """A run for each variant and seed that has this test mIoU."""
    return [
        write_run(
            folder / "study" / f"{name}-seed{seed}", name, seed, {"test/miou": value}, **options
        )
        for name, values in scores.items()
        for seed, value in enumerate(values)
    ]


def pair_of(comparison, *names):
    (pair,) = [
        pair
        for group in comparison.groups
        for pair in group.pairs
        if {pair.better, pair.worse} == set(names)
    ]
    return pair


def test_means_deviations_and_intervals_over_seeds_are_scipys(tmp_path):
    best, *others = compare(write_scores(tmp_path)).variants
    assert [best.name, *(variant.name for variant in others)] == ["a", "c", "b"]
    spread = best.scores["miou"]
    interval = stats.t.interval(0.95, 2, loc=np.mean(SCORES["a"]), scale=stats.sem(SCORES["a"]))
    assert (spread.mean - spread.half, spread.mean + spread.half) == pytest.approx(interval)
    assert spread.deviation == pytest.approx(np.std(SCORES["a"], ddof=1))
    assert spread.text() == "0.6233 ± 0.0153"


def test_a_value_that_is_null_is_left_out_and_told(tmp_path):
    spread = compare(write_scores(tmp_path, {"a": (0.4, None, 0.6)})).variants[0].scores["miou"]
    assert spread.text(".2f") == "0.50 ± 0.14 (2 of 3)"
    assert (
        compare(write_scores(tmp_path / "none", {"a": (None,)})).variants[0].scores["miou"].text()
        == "\N{EN DASH}"
    )


def test_pairs_are_tested_across_seeds_and_corrected_after_holm(tmp_path):
    """Of variants that scatter alike the error is what an analysis of variance leaves: 9 values,
    less 3 means of variants and 2 of seeds, leave 4 degrees."""
    scores = {"a": (0.61, 0.64, 0.62), "b": (0.50, 0.52, 0.53), "c": (0.55, 0.54, 0.57)}
    compared = compare(write_scores(tmp_path, scores))
    table = np.array([scores[name] for name in "abc"])
    squares = table.var() * 9 - 3 * 3 * (table.mean(1).var() + table.mean(0).var())
    error = np.sqrt(squares / 4 * 2 / 3)
    raw = {
        frozenset(pair): (
            2 * stats.t.sf(abs(np.mean(scores[pair[0]]) - np.mean(scores[pair[1]])) / error, 4)
        )
        for pair in itertools.combinations("abc", 2)
    }
    for pair in compared.groups[0].pairs:
        assert pair.seeds.p == pytest.approx(raw[frozenset((pair.better, pair.worse))])
        assert pair.images is None
        assert pair.difference == pytest.approx(
            np.mean(scores[pair.better]) - np.mean(scores[pair.worse])
        )
    # Holm by hand: the least of three p times 3, the next times 2, the last as it is, none less
    # than one before it.
    least, middle, greatest = sorted(raw.values())
    by_hand = [3 * least, max(3 * least, 2 * middle), max(3 * least, 2 * middle, greatest)]
    assert sorted(pair.seeds.corrected for pair in compared.groups[0].pairs) == pytest.approx(
        np.minimum(by_hand, 1)
    )
    assert [pair.difference for pair in compared.groups[0].pairs] == sorted(
        (pair.difference for pair in compared.groups[0].pairs), reverse=True
    )


def test_a_variant_that_scatters_is_not_what_chance_is_for_the_others(tmp_path):
    """The differences of a and b lie within 0.01: c's, within 0.12, hardly count for them."""
    compared = compare(write_scores(tmp_path))
    alone, among = stats.ttest_rel(SCORES["a"], SCORES["b"]).pvalue, pair_of(compared, "a", "b")
    assert among.seeds.p < 2 * alone < 0.002
    wide = stats.ttest_rel(SCORES["b"], SCORES["c"]).pvalue
    assert pair_of(compared, "b", "c").seeds.p == pytest.approx(wide, rel=0.2)


def test_pairs_that_share_fewer_seeds_stand_by_themselves(tmp_path):
    few = {"d": (0.5, 0.52), "e": (0.4,)}
    compared, without = (
        compare(write_scores(tmp_path / "few", SCORES | few)),
        compare(write_scores(tmp_path / "without")),
    )
    for one, other in itertools.combinations("abc", 2):
        assert pair_of(compared, one, other).seeds.p == pair_of(without, one, other).seeds.p
    for name in "abc":
        pair = pair_of(compared, name, "d")
        expected = stats.ttest_rel(SCORES[name][:2], few["d"]).pvalue
        assert (pair.seeds.pairs, pair.seeds.p) == (2, pytest.approx(expected))
        assert pair_of(compared, name, "e").seeds is None


def test_pairs_that_no_pair_links_do_not_add_to_each_others_degrees(tmp_path):
    """Two pairs of three seeds each: 2 degrees and 2, where four variants of the same three seeds
    would have 6."""
    scores = {"a": (0.61, 0.64, 0.62), "b": (0.50, 0.52, 0.53)}
    others = {"c": (0.41, 0.44, 0.42), "d": (0.30, 0.35, 0.30)}
    records = write_scores(tmp_path, scores)
    records += [
        write_run(tmp_path / "study" / f"{name}{seed}", name, seed, {"test/miou": values[seed - 3]})
        for name, values in others.items()
        for seed in (3, 4, 5)
    ]
    compared = compare(records)
    differences = [np.subtract(*of.values()) for of in (scores, others)]
    error = math.sqrt(np.mean([of.var(ddof=1) for of in differences]) / 3)  # they agree
    for names, difference in zip(("ab", "cd"), differences, strict=True):
        expected = 2 * stats.t.sf(difference.mean() / error, 4)
        assert pair_of(compared, *names).seeds.p == pytest.approx(expected)
    assert pair_of(compared, "a", "c").seeds is None


def test_pairs_are_made_and_corrected_within_groups_alone(tmp_path):
    groups = {"One": ("b", "a", "nobody"), "Two": ("a", "c"), "None": ("nobody",)}
    compared = compare(write_scores(tmp_path), groups=groups)
    assert [(group.title, group.variants, len(group.pairs)) for group in compared.groups] == [
        ("One", ("a", "b"), 1),
        ("Two", ("a", "c"), 1),
    ]
    for group in compared.groups:
        assert group.pairs[0].seeds.corrected == group.pairs[0].seeds.p
    assert len(compared.variants) == 3


def test_only_seeds_that_both_have_are_paired(tmp_path):
    compared = compare(write_scores(tmp_path, {"a": (0.6, 0.7, 0.1), "b": (0.5, 0.5)}))
    pair = pair_of(compared, "a", "b")
    assert (pair.better, pair.shared_seeds, pair.seeds.pairs) == ("a", 2, 2)
    assert pair.difference == pytest.approx(0.15)


def test_the_verdict_says_who_is_ahead_of_the_best_over_the_seeds_of_both(tmp_path):
    scores = {"a": (0.50, 0.51, 0.505, 0.9, 0.9), "b": (0.60, 0.612, 0.607), "c": (0.61, 0.60)}
    compared = compare(write_scores(tmp_path, scores | {"d": (0.3, 0.3)}))
    assert pair_of(compared, "a", "b").better == "b"
    assert compared.groups[0].verdict.startswith(
        "a has the best mIoU, not shown to be better than d; b and c are ahead of it over the seeds"
        " that both have. Of 6 tested differences "
    )


def test_one_shared_seed_is_no_test(tmp_path):
    compared = compare(write_scores(tmp_path, {"a": (0.6,), "b": (0.5,)}))
    pair = pair_of(compared, "a", "b")
    assert pair.verdict == "untested"
    assert (
        pair.sentence
        == "a is ahead of b by 0.100 mIoU: not tested across seeds, for they share one seed and it"
        " takes two."
    )
    assert "No difference was tested across seeds, for no two" in compared.groups[0].verdict


def scenes_of(rng, noise, scenes=7, classes=3):
    """Confusion matrices of one truth, in which a class is right more often, the less noise there
    is; scene 0 has no class 2."""
    shares = np.eye(classes) * (1 - 0.125 * noise * classes) + 0.125 * noise
    matrices = np.array([[rng.multinomial(300, share) for share in shares] for _ in range(scenes)])
    matrices[0, 2] = 0
    matrices[0, :, 0] += matrices[0, :, 2]
    matrices[0, :, 2] = 0
    return matrices


@pytest.fixture
def with_scenes(tmp_path):
    """(records, confusions by variant and seed), two variants with two seeds."""
    rng = np.random.default_rng(3)
    records, confusions = [], {}
    for name, noise in (("a", 1.0), ("b", 1.6)):
        for seed in (0, 1):
            matrices = confusions[name, seed] = scenes_of(rng, noise)
            folder = tmp_path / "study" / f"{name}-seed{seed}"
            write_run(folder, name, seed, {"test/miou": metrics.miou(matrices.sum(0))})
            write_scenes(
                folder, matrices, classes=("x", "y", "z"), colors=("#000000", "#111111", "#222222")
            )
            records.append(read(folder))
    return records, confusions


def miou_by_hand(matrix):
    ious = []
    for c in range(len(matrix)):
        union = sum(matrix[c][k] + matrix[k][c] for k in range(len(matrix))) - matrix[c][c]
        if union:
            ious.append(matrix[c][c] / union)
    return sum(ious) / len(ious)


def test_pairs_are_tested_across_images_after_averaging_over_seeds(with_scenes):
    records, confusions = with_scenes
    pair = pair_of(compare(records), "a", "b")
    images = {
        name: np.mean(
            [[miou_by_hand(m) for m in confusions[name, seed]] for seed in (0, 1)], axis=0
        )
        for name in "ab"
    }
    expected = stats.ttest_rel(images["a"], images["b"])
    assert pair.images.pairs == 7
    assert pair.images.p == pytest.approx(expected.pvalue)
    assert pair.images.interval == pytest.approx(expected.confidence_interval(0.95))
    assert "7 test images" in pair.sentence


def test_images_without_a_label_are_none_to_draw_from(tmp_path):
    """One labelled image has no interval, however many empty ones lie beside it."""
    records = []
    for name, hits in (("a", 6), ("b", 5)):
        folder = tmp_path / "study" / f"{name}-seed0"
        matrices = np.array([[[hits, 8 - hits], [1, 7]], *np.zeros((3, 2, 2), int)])
        write_run(folder, name, 0, {"test/miou": metrics.miou(matrices.sum(0))})
        write_scenes(folder, matrices, classes=("x", "y"), colors=("#000000", "#111111"))
        records.append(read(folder))
    pair = pair_of(compare(records), "a", "b")
    assert pair.images is None
    assert np.isnan(pair.bootstrap).all()
    sentence = replace(pair, seeds=paired(0.01)).sentence
    assert sentence.endswith(
        "not tested across images, for it takes two with figures of their own."
    )


def test_bootstrap_draws_the_same_scenes_for_both_variants(with_scenes):
    records, confusions = with_scenes
    pair = pair_of(compare(records), "a", "b")
    rng = np.random.default_rng(11)  # draws of its own
    differences = []
    for _ in range(1500):
        drawn = rng.integers(0, 7, 7)
        a, b = (
            np.mean([miou_by_hand(confusions[name, seed][drawn].sum(0)) for seed in (0, 1)])
            for name in "ab"
        )
        differences.append(a - b)
    assert pair.bootstrap == pytest.approx(np.quantile(differences, (0.025, 0.975)), abs=0.004)


def test_images_are_not_tested_where_scenes_differ_or_are_missing(with_scenes):
    records, confusions = with_scenes

    def compared():
        return compare([read(record.folder) for record in records])

    for record in records[2:]:
        write_scenes(
            record.folder,
            confusions["b", 0],
            names=list("gfedcba"),
            classes=("x", "y", "z"),
            colors=("#000000",) * 3,
        )
    pair = pair_of(compared(), "a", "b")
    assert pair.images is None
    assert "not tested across images" in pair.sentence
    for record in records[2:]:  # scenes of other data, but of the same names
        other = confusions["b", 0].swapaxes(1, 2)
        write_scenes(record.folder, other, classes=("x", "y", "z"), colors=("#000000",) * 3)
    assert pair_of(compared(), "a", "b").images is None
    (records[0].folder / "scenes.json").write_text('{"scenes": 1}')
    with pytest.raises(InputError, match=r"scenes\.json doesn't hold"):
        compared()


def paired(p, difference=0.043, pairs=3):
    return PairedTest(difference, (0.0, 0.1), p, pairs, p)


PAIR = Pair("unet", "fcn8s", "mIoU", 0.043, 3, None, None, (0.0, 0.1))


@pytest.mark.parametrize(
    ("seeds", "images", "verdict", "sentence"),
    [
        (
            paired(0.012),
            paired(0.0004, pairs=9),
            "real",
            (
                "unet is better than fcn8s by 0.043 mIoU: real (p = 0.012 across 3 seeds, p < 0.001"
                " across 9 test images)."
            ),
        ),
        (
            paired(0.0496),
            paired(0.0504),
            "seeds",
            (
                "survives the choice of seeds (p = 0.0496 across 3 seeds) but not that of test"
                " images (p = 0.0504"
            ),
        ),
        (
            paired(0.2),
            paired(0.03, pairs=9),
            "images",
            "survives the choice of test images (p = 0.03 across 9 test images) but not",
        ),
        (paired(0.2), paired(0.3), "chance", "not distinguishable from chance"),
        (paired(0.01), paired(0.001, -0.02), "seeds", "the mean points the other way"),
        (paired(0.01), paired(0.3, -0.02), "seeds", "images, where the mean points the other way"),
        (
            paired(0.2),
            paired(0.001, -0.02),
            "chance",
            "(p = 0.20 across 3 seeds, p = 0.001 across 3 test images, where the mean points the",
        ),
        (None, paired(0.001, -0.02), "untested", "test images, where the mean points the other"),
        (
            paired(0.01),
            None,
            "seeds",
            "survives the choice of seeds (p = 0.01 across 3 seeds); not tested across images",
        ),
        (paired(0.05), paired(0.01), "images", "but not that of seeds"),
        (None, paired(0.001), "untested", "not tested"),
    ],
)
def test_real_takes_both_sources_of_chance(seeds, images, verdict, sentence):
    pair = replace(PAIR, seeds=seeds, images=images)
    assert pair.verdict == verdict
    assert sentence in pair.sentence
    assert ("better than" in pair.sentence) == (verdict == "real")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"environment": {"data_fingerprint": "other"}},
            'data fingerprint is "089b95" in study/a-seed0, "other" in study/b-seed0',
        ),
        (
            {"config": {"training": {"steps": 3000, "batch_size": 8}}},
            "training.steps is 1500 in study/a-seed0, 3000 in study/b-seed0",
        ),
        ({"config": {"training": {"steps": 1500, "batch_size": 4}}}, "training.batch_size is 8"),
        (
            {"config": {"data": DATA | {"crop_px": [64, 64]}}},
            "data.crop_px is [144, 256] in study/a-seed0, [64, 64]",
        ),
        (
            {"config": {"evaluation": {"window_px": [256, 256], "context_px": 64}}},
            "evaluation.window_px is",
        ),
        (
            {"config": {"evaluation": {"window_px": [512, 512], "context_px": 0}}},
            "evaluation.context_px is 64",
        ),
        ({"config": {"task": "classification"}}, 'task is "segmentation"'),
    ],
)
def test_what_cannot_be_compared_is_refused_and_marked_when_forced(tmp_path, changes, says):
    records = write_scores(tmp_path, {"a": (0.5, 0.6)})
    records.append(write_run(tmp_path / "study" / "b-seed0", "b", 0, {"test/miou": 0.4}, **changes))
    with pytest.raises(InputError) as caught:
        compare(records)
    text = str(caught.value)
    assert says.replace("study/a-seed0,", "study/a-seed0 and study/a-seed1,") in text
    assert text.endswith("; use --force of cnn_jax.commands.compare to compare them nevertheless.")
    compared = compare(records, force=True)
    assert [variant.odd for variant in compared.variants] == [False, True]
    page = as_markdown(compared)
    assert "**Not comparable**" in page
    assert "| b † |" in page
    rows = list(csv.DictReader(io.StringIO(as_csv(compared))))
    assert [bool(row["not comparable"]) for row in rows] == [False, True]


def test_the_normalisation_is_the_variants_own(tmp_path):
    """Given weights bring the one that they were trained with."""
    records = write_scores(tmp_path, {"a": (0.5, 0.6)})
    other = {"config": {"data": DATA | {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}}}
    records.append(write_run(tmp_path / "study" / "b-seed0", "b", 0, {"test/miou": 0.4}, **other))
    assert compare(records).differences == ()
    records.append(write_run(tmp_path / "study" / "a-seed2", "a", 2, {"test/miou": 0.4}, **other))
    with pytest.raises(InputError, match=r"data\.mean of a is"):
        compare(records)


def test_where_data_lie_and_how_they_are_held_may_differ(tmp_path):
    records = write_scores(tmp_path, {"a": (0.5,)})
    config = {
        "data": DATA | {"directory": "elsewhere", "memory_budget_gib": 1.0, "prefetch_batches": 1}
    }
    records.append(
        write_run(tmp_path / "study" / "b-seed0", "b", 0, {"test/miou": 0.4}, config=config)
    )
    old = {key: value for key, value in CONFIG.items() if key != "task"}  # records of old have none
    folder = tmp_path / "study" / "c-seed0"
    records.append(
        replace(
            write_run(folder, "c", 0, {"test/miou": 0.3}), config=old | {"variant": "c", "seed": 0}
        )
    )
    assert compare(records).differences == ()


def test_runs_of_one_variant_share_their_model(tmp_path):
    for seed, width in enumerate((16, 32)):
        write_run(
            tmp_path / "study" / f"a{seed}",
            "a",
            seed,
            {"test/miou": 0.5},
            config={"model": {"name": "unet", "base_width": width}},
        )
    records = [read(tmp_path / "study" / f"a{seed}", tmp_path) for seed in (0, 1)]
    with pytest.raises(
        InputError, match=r"model\.base_width of a is 16 in study/a0, 32 in study/a1"
    ):
        compare(records)


@pytest.mark.parametrize(
    ("section", "key", "value"), [("evaluation", "weights", "best"), ("training", "patience", 3)]
)
def test_runs_of_one_variant_are_ended_and_evaluated_alike(tmp_path, section, key, value):
    records = write_scores(tmp_path, {"a": (0.5,)})
    changed = {section: CONFIG[section] | {key: value}}
    records.append(
        write_run(tmp_path / "study" / "b-seed0", "b", 0, {"test/miou": 0.4}, config=changed)
    )
    assert compare(records).differences == (), (
        "of two variants they may differ: that is what is compared"
    )
    records.append(
        write_run(tmp_path / "study" / "a-seed1", "a", 1, {"test/miou": 0.4}, config=changed)
    )
    with pytest.raises(InputError, match=rf"{section}\.{key} of a is"):
        compare(records)


@pytest.mark.parametrize(
    "damage",
    [
        {"test/confusion": "x"},
        {"test/confusion": [[1, 2], [3]]},
        {"test/calibration": {"count": [1]}},
        {"test/calibration": {"count": [1], "confidence": [0.5, 0.5], "correct": [1]}},
        {"test/boundary_miou": "high"},
        {"multiply_adds": []},
    ],
)
def test_a_damaged_summary_is_named(tmp_path, damage):
    with pytest.raises(InputError, match=r"a-seed0/summary\.json has .* as .*, which must be "):
        compare([write_run(tmp_path / "study" / "a-seed0", "a", 0, {"test/miou": 0.5} | damage)])


def test_the_budgets_of_what_was_forced_are_all_told(tmp_path):
    records = write_scores(tmp_path, {"a": (0.5,)})
    config = {"training": {"steps": 3000, "batch_size": 8}}
    records.append(
        write_run(tmp_path / "study" / "b-seed0", "b", 0, {"test/miou": 0.6}, config=config)
    )
    budget = compare(records, force=True).budget
    assert (
        budget
        == "3,000 steps or 1,500 steps, 8 crops of 144x256 px a step, 1 seed a variant, on CPU"
    )


def test_records_without_a_test_split_have_nothing_to_compare(tmp_path):
    records = [write_run(tmp_path / "study" / name, name, 0, {}) for name in ("a", "b")]
    assert compare(records).groups[0].verdict.startswith("No two variants have a score")


def test_runs_that_differ_in_their_seed_are_one_variant_whatever_their_folders(tmp_path):
    records = [
        write_run(tmp_path / "study" / name, None, seed, {"test/miou": worth})
        for seed, (name, worth) in enumerate({"monday": 0.5, "a_try": 0.75}.items())
    ]
    other = {"training": {"steps": 1500, "batch_size": 8}, "model": {"name": "unet"}}
    records.append(write_run(tmp_path / "study/z", None, 0, {"test/miou": 0.1}, config=other))
    first, second = compare(records).variants
    assert (first.name, first.scores["miou"].mean, len(first.records)) == ("monday", 0.625, 2)
    assert (second.name, len(second.records)) == ("z", 1)


def test_a_seed_twice_and_no_record_are_refused(tmp_path):
    one = write_run(tmp_path / "study" / "one", "a", 0, {"test/miou": 0.5})
    two = write_run(tmp_path / "study" / "two", "a", 0, {"test/miou": 0.6})
    with pytest.raises(InputError, match="are both a with seed 0"):
        compare([one, two])
    with pytest.raises(InputError, match="no record"):
        compare([])


def test_records_without_variant_are_called_by_their_name(tmp_path):
    records = [
        write_run(tmp_path / "study" / name, None, 0, {"test/miou": 0.5}) for name in ("one", "two")
    ]
    compared = compare(records)
    assert [variant.name for variant in compared.variants] == ["one", "two"]
    assert "one and two have the same mIoU" in compared.groups[0].pairs[0].sentence


def test_time_to_the_target_is_that_of_the_first_validation_with_it(tmp_path):
    def lines(*values):
        return [
            {"step": 10 * n, "validation/miou": value, "elapsed_s": 100.0 * n}
            for n, value in enumerate(values, 1)
        ]

    records = [
        write_run(
            tmp_path / "study" / "a0",
            "a",
            0,
            {"test/miou": 0.6},
            lines=lines(0.30, 0.55, 0.50, 0.62),
        ),
        write_run(
            tmp_path / "study" / "a1",
            "a",
            1,
            {"test/miou": 0.6},
            lines=lines(0.30, None, 0.60, 0.60),
        ),
        write_run(
            tmp_path / "study" / "b0",
            "b",
            0,
            {"test/miou": 0.5},
            lines=lines(0.10, 0.20, 0.30, 0.40),
        ),
    ]
    compared = compare(records)
    assert compared.target == 0.54, "90% of the mean of 0.62 and 0.60, rounded down"
    a, b = compared.variants
    assert a.time_to_target_s.values == (200.0, 300.0)
    assert b.time_to_target_s.values == ()
    a, b = compare(records, target=0.61).variants
    assert a.time_to_target_s.values == (400.0,)
    assert "| 400 (1 of 2) |" in as_markdown(compare(records, target=0.61))
    assert "not reached (0 of 1)" in as_markdown(compared)
    assert compare(records[:1], target=0.55).variants[0].time_to_target_s.mean == 200.0, (
        "at the target is at least the target"
    )


def test_classification_is_ranked_by_accuracy_and_tested_across_seeds(tmp_path):
    accuracies = {"cnn": (0.92, 0.93, 0.92), "mlp": (0.88, 0.89, 0.881)}
    for name, values in accuracies.items():
        for seed, value in enumerate(values):
            summary = {
                "test/accuracy": value,
                "test/mean_f1": value,
                "test/class_accuracy/shoe": value,
            }
            write_run(
                tmp_path / "study" / f"{name}{seed}",
                name,
                seed,
                summary,
                config={"task": "classification"},
            )
    compared = compare(
        [read(folder, tmp_path) for folder in sorted((tmp_path / "study").iterdir())]
    )
    pair = compared.groups[0].pairs[0]
    assert (compared.leading, pair.better) == ("accuracy", "cnn")
    assert pair.seeds.corrected == pytest.approx(stats.ttest_rel(*accuracies.values()).pvalue)
    assert "survives the choice of seeds" in pair.sentence
    ending = (
        "Of 1 tested difference 1 survives the choice of seeds; none was tested across test images."
    )
    assert compared.groups[0].verdict.endswith(ending)
    assert "## Recall of each class" in as_markdown(compared)
    write(compared, tmp_path / "out")


def test_csv_holds_the_figures_of_the_records(tmp_path):
    records = write_study(tmp_path / "study", {"a": 0.5, "b": 0.9}, seeds=(0, 1), scenes=3)
    rows = {row["variant"]: row for row in csv.DictReader(io.StringIO(as_csv(compare(records))))}
    for name, row in rows.items():
        of_variant = [record.summary for record in records if record.config["variant"] == name]
        for key in (
            "test/miou",
            "test/iou/road",
            "test/expected_calibration_error",
            "parameters",
            "wall_time_s",
        ):
            values = [summary[key] for summary in of_variant]
            assert float(row[f"{key} mean"]) == pytest.approx(np.mean(values))
            assert float(row[f"{key} sd"]) == pytest.approx(np.std(values, ddof=1))
        assert row["seeds"] == "0 1"
    assert rows["a"]["step_memory_bytes mean"] == "", "nothing is known of it"


def test_sums_over_seeds(tmp_path):
    records = write_study(tmp_path / "study", {"a": 0.5}, seeds=(0, 1), scenes=2)
    (variant,) = compare(records).variants
    assert np.array_equal(
        variant.confusion, sum(np.array(record.summary["test/confusion"]) for record in records)
    )
    assert np.array_equal(
        variant.calibration["count"], 2 * np.array(records[0].summary["test/calibration"]["count"])
    )
    assert math.isclose(variant.scenes[1].mious[1], miou_by_hand(variant.scenes[1].confusions[1]))


def test_bins_of_different_numbers_are_not_summed(tmp_path):
    records = [
        write_run(
            tmp_path / "study" / f"a{seed}",
            "a",
            seed,
            {"test/calibration": dict.fromkeys(("count", "confidence", "correct"), [1.0] * bins)},
        )
        for seed, bins in enumerate((15, 10))
    ]
    assert compare(records).variants[0].calibration is None
    assert len(compare(records[:1]).variants[0].calibration["count"]) == 15


def test_the_same_records_give_the_same_bytes_without_paths_of_this_machine(tmp_path):
    records = write_study(tmp_path / "study", {"a": 0.5, "b": 0.9}, seeds=(0, 1), scenes=2)
    first = [path.read_bytes() for path in write(compare(records), tmp_path / "one")]
    again = [path.read_bytes() for path in write(compare(records[::-1]), tmp_path / "two")]
    assert first == again
    assert not any(str(tmp_path).encode() in content for content in first)


def test_a_variant_alone_in_a_group_is_shown_in_its_other_group_only(tmp_path):
    scores = {"a": (0.6, 0.7), "b": (0.5, 0.5), "d": (0.1, 0.2)}
    groups = {"nets": ("a", "b"), "parts": ("a", "c"), "lone": ("d",), "absent": ("e",)}
    found = compare(write_scores(tmp_path, scores), groups=groups).groups
    assert [(group.title, group.variants) for group in found] == [
        ("nets", ("a", "b")),
        ("lone", ("d",)),
    ]


def test_variants_that_no_group_names_are_compared_with_each_other_or_told(tmp_path):
    """An average that lies beside the runs of its study, say."""
    groups = {"nets": ("a", "b"), "parts": ("a", "c")}
    scores = {"a": (0.6, 0.7), "soup": (0.5, 0.6), "broth": (0.5, 0.5)}
    records = write_scores(tmp_path / "few", scores)
    [group] = compare(records, groups=groups).groups
    assert (group.title, group.variants) == ("", ("a", "soup", "broth"))
    assert len(group.pairs) == 3
    records += write_scores(tmp_path / "more", {"b": (0.5, 0.5)})
    compared = compare(records, groups=groups)
    assert [group.variants for group in compared.groups] == [("a", "b")]
    assert "No group of the study names soup and broth" in as_markdown(compared)
    assert "No group" not in as_markdown(compare(records))


def test_runs_of_one_name_are_told_apart_by_the_folders_above(tmp_path):
    other = {"training": {"steps": 1500, "batch_size": 8}, "model": {"name": "unet"}}
    records = [
        write_run(tmp_path / above / "first", None, 0, {"test/miou": worth}, config=config)
        for above, worth, config in (("lenet", 0.5, {}), ("unet", 0.75, other))
    ]
    found = compare(records).variants
    assert [(variant.name, variant.scores["miou"].mean) for variant in found] == [
        ("unet/first", 0.75),
        ("lenet/first", 0.5),
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_beside_a_study_that_has_its_name_is_another_variant(tmp_path, seed):
    other = {"model": {"name": "unet", "base_width": 64}}
    records = write_scores(tmp_path, {"unet": (0.5,)})
    folder = tmp_path / "runs" / "unet"
    records.append(write_run(folder, None, seed, {"test/miou": 0.75}, config=other))
    assert [variant.name for variant in compare(records).variants] == ["runs/unet", "unet"]


def test_markdown_has_the_verdict_on_top_and_escapes_names(tmp_path):
    scores = {"a|b<i>": (0.61, 0.64), "año": (0.5, 0.5)}
    compared = compare(write_scores(tmp_path, scores))
    page = as_markdown(compared)
    assert compared.seeds == scores  # what comparison.png shows
    assert "(comparison.png)" in page
    assert r"a\|b\<i\>" in page
    assert "<i>" not in page
    assert page.index("ahead of año") < page.index("## Scores")
    alone = as_markdown(compare(write_scores(tmp_path / "alone", {"a": (0.6, 0.7)})))
    assert "no two variants to compare" in alone
    assert "| a | 2 | 0.6500 ± 0.0707 |" in alone


@pytest.mark.parametrize(
    "name", ["comparison.csv", "comparison.png", "comparison.md", "index.html"]
)
def test_files_of_somebodys_are_not_replaced(name, tmp_path):
    compared = compare(write_study(tmp_path / "study", {"unet": 0.3, "se": 0.4}, scenes=2))
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(InputError, match=f"{name} is of no comparison: give another --output"):
        write(compared, folder)
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(name, "mine")]
    (folder / name).unlink()
    assert write(compared, folder) == write(compared, folder)


def test_runs_of_different_software_are_told(tmp_path):
    def written(variant, commit, jax, **others):
        environment = {"commit": commit, "versions": {"jax": jax}, **others}
        folder = tmp_path / f"{variant}-seed0"
        return write_run(folder, variant, 0, {"test/miou": 0.5}, environment=environment)

    runs = [written("a", "1234567" + 33 * "8", "0.12.0", dirty=True), written("b", None, "0.12.0")]
    assert "of different" not in as_markdown(compare(runs))
    runs.append(written("c", "89abcde" + 33 * "f", "0.10.2", dirty=False))
    text = as_markdown(compare(runs))
    assert "different commits (1234567 with changes and 89abcde)" in text
    assert "different versions of JAX (0.10.2 and 0.12.0)" in text


def test_runs_of_different_processors_are_told(tmp_path):
    def written(variant, processor, device="cpu"):
        environment = {"processor": processor, "device_kind": device}
        folder = tmp_path / f"{variant}-seed0"
        return write_run(folder, variant, 0, {"test/miou": 0.5}, environment=environment)

    # A GPU's figures don't hang on it, and older records don't say.
    runs = [written("a", "AMD EPYC, family 25, model 17"), written("b", "Xeon", "NVIDIA H200")]
    runs += [written("c", None), written("d", "AMD EPYC, family 25, model 17")]
    assert "processors" not in as_markdown(compare(runs))
    runs.append(written("e", "AMD EPYC, family 25, model 1"))
    kinds = "AMD EPYC, family 25, model 1 and AMD EPYC, family 25, model 17"
    assert f"processors of different kinds ({kinds}), which round" in as_markdown(compare(runs))
