"""The first view says what the records say: places on the axis, marks, and the sentence on top."""

import itertools

import numpy as np
import pytest
from scipy import stats

from cnn_jax.reporting import first_view
from cnn_jax.reporting.comparison import compare
from cnn_jax.reporting.page import page
from tests.reporting.fake_records import write_run


def compared(tmp_path, scores, groups=None):
    """A comparison of variants with these test mIoUs, one a seed."""
    records = [
        write_run(tmp_path / "study" / f"{name}-{seed}", name, seed, {"test/miou": value})
        for name, values in scores.items()
        for seed, value in enumerate(values)
    ]
    return compare(records, groups=groups)


@pytest.fixture
def three(tmp_path):
    return compared(
        tmp_path,
        {"high": (0.80, 0.82, 0.81), "low": (0.20, 0.21, 0.22), "near": (0.79, 0.80, 0.82)},
    )


def test_places_are_those_of_the_ticks(three):
    drawn = first_view.forest(three)
    assert [row.name for row in drawn.rows] == ["high", "near", "low"]
    ticks = np.array([(tick.at, float(tick.text)) for tick in drawn.ticks])
    assert len(ticks) >= 3
    scale = np.polyfit(*ticks.T, 1)  # what the axis says of a place
    for row, values in zip(
        drawn.rows, [(0.80, 0.82, 0.81), (0.79, 0.80, 0.82), (0.20, 0.21, 0.22)], strict=True
    ):
        interval = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        told = np.polyval(scale, [row.mean, row.low, row.high, *row.seeds])
        np.testing.assert_allclose(told, [np.mean(values), *interval, *values], atol=2e-4)
        assert all(0 <= at <= 100 for at in (row.low, row.high, *row.seeds))
        assert row.interval == f"{interval[0]:.3f} to {interval[1]:.3f}"


def test_an_interval_of_two_seeds_does_not_press_the_others_flat(tmp_path):
    drawn = first_view.forest(compared(tmp_path, {"wide": (0.5, 0.6), "other": (0.52, 0.521)}))
    wide = next(row for row in drawn.rows if row.name == "wide")
    assert wide.open_low
    assert wide.open_high
    assert (wide.low, wide.high) == (0, 100)
    assert wide.seeds[1] - wide.seeds[0] > 30


def test_one_seed_has_no_interval_and_none_no_dot(tmp_path):
    drawn = first_view.forest(compared(tmp_path, {"one": (0.5,), "none": (None,)}))
    one, none = drawn.rows
    assert one.low is one.high is None
    assert one.seeds == ()
    assert 0 < one.mean < 100
    assert none.mean is None
    assert first_view.forest(compared(tmp_path / "b", {"none": (None,)})).ticks == ()


@pytest.mark.parametrize("values", [(0.4359,), (0.91, 0.912), (0.2, 0.7)])
def test_labels_of_ticks_leave_each_other_room(tmp_path, values):
    """A digit takes some 4% of the axis where it is narrowest."""
    drawn = first_view.forest(compared(tmp_path, {f"of {value}": (value,) for value in values}))
    assert len(drawn.ticks) >= 2
    for left, right in itertools.pairwise(drawn.ticks):
        assert right.at - left.at > 4 * len(left.text)


def test_numbers_are_ranks_and_cells_stand_above_the_diagonal(three):
    [matrix] = first_view.matrices(three)
    assert [(line.number, line.name) for line in matrix.lines] == [
        (1, "high"),
        (2, "near"),
        (3, "low"),
    ]
    assert [[cell and cell.of for cell in line.cells] for line in matrix.lines] == [
        ["1 2", "1 3"],
        [None, "2 3"],
        [None, None],
    ]
    first, second = matrix.lines[0].cells
    assert (first.text, first.verdict) == ("0.007", "chance")
    assert (second.text, second.verdict, second.shade) == ("0.600", "seeds", 100)
    assert second.sentence == three.groups[0].pairs[0].sentence
    assert matrix.says == (
        "2 of 3 tested pairs differ across seeds; none was tested across test images."
    )


def test_the_headline_is_of_all_groups(three, tmp_path):
    assert first_view.headline(three) == (
        "high leads with mIoU 0.810 (95%: 0.785 to 0.835). 2 of 3 tested pairs differ across seeds;"
        " none was tested across test images."
    )
    one = compared(tmp_path / "one", {"a": (0.5,), "b": (0.4,)})
    assert first_view.headline(one) == (
        "a leads with mIoU 0.500. No pair was tested across seeds: it takes two that both have."
    )
    assert first_view.headline(compared(tmp_path / "none", {"a": (0.5,)})) == ""
    two = compared(tmp_path / "two", {"a": (0.80, 0.83), "b": (0.20, 0.22)})
    assert first_view.headline(two).endswith(
        "The one tested pair differs across seeds; none was tested across test images."
    )
    close = compared(tmp_path / "close", {"a": (0.80, 0.82), "b": (0.81, 0.80)})
    assert first_view.headline(close).endswith(
        "The one tested pair isn't shown to differ across seeds; none was tested across test"
        " images."
    )


def test_the_page_draws_them(tmp_path):
    groups = {"Nets & <more>": ("net_a", "net_b"), "alone": ("net_c",)}
    scores = {"net_a": (0.5, 0.6), "net_b": (0.4, 0.5), "net_c": (0.1, 0.2)}
    text = page(compared(tmp_path, scores, groups))
    assert text.count('<tr data-of="') == 3
    assert text.count('<i class="dot"') == 3
    assert text.count('<i class="seed"') == 6
    assert "Nets &amp; &lt;more&gt;" in text
    assert "net_<wbr>a" in text
    assert '<th scope="row">net_<wbr>a</th>' in text  # the tables that can be sorted
    [button] = [line for line in text.splitlines() if 'class="pair ' in line]
    assert 'data-of="1 2"' in button
    assert 'aria-label="net_a is ahead of net_b by 0.100 mIoU' in button
