"""A figure of a new task, of another range and direction, takes one line: tables, comparison and
page then know it."""

import csv
import io
import math

import pytest

from cnn_jax.records.metrics import FIGURES, Figure
from cnn_jax.reporting.comparison import compare
from cnn_jax.reporting.comparison_tables import as_csv, as_markdown
from cnn_jax.reporting.page import page
from cnn_jax.reporting.table import (
    headline_table,
    results_page,
    summary_table,
    variants_table,
)
from tests.reporting.fake_records import write_run

RANKS = {"near": (3.1, 3.2, 3.3), "far": (12.0, 12.4, 12.2)}


@pytest.fixture
def records(tmp_path, monkeypatch):
    """Runs of a task called counting: its mean rank, of which less is better, after 10 and 20
    steps on validation and at the end on test."""
    figure = Figure(
        "mean_rank",
        "mean rank",
        least=1.0,
        most=math.inf,
        higher_is_better=False,
        tasks=("counting",),
        averaging="mean over images of the rank of the true count",
    )
    monkeypatch.setitem(FIGURES, figure.name, figure)
    made = []
    for name, ranks in RANKS.items():
        for seed, rank in enumerate(ranks):
            lines = [
                {"step": step, "validation/mean_rank": rank + later, "elapsed_s": 2.0 * step}
                for step, later in ((10, 20.0), (20, 0.0))
            ]
            summary = {"test/mean_rank": rank, "parameters": 1000, "wall_time_s": 5.0}
            made.append(
                write_run(
                    tmp_path / "study" / f"{name}-seed{seed}",
                    name,
                    seed,
                    summary,
                    lines=lines,
                    config={"task": "counting"},
                )
            )
    return made


def test_tables_show_it_and_rank_by_it(records):
    table = headline_table(records, by_variant=True)
    header, _, best, worst = table.splitlines()
    assert "| mean rank |" in header
    assert "[near]" in best
    assert "| 3.200 ± 0.248 |" in best
    assert "[far]" in worst
    assert [line.split()[0] for line in variants_table(records).splitlines()] == [
        "variant",
        "near",
        "far",
    ]
    assert summary_table(records[0].summary) == "test\nmean rank   3.100"
    page = results_page(records)
    assert "mean rank (less is better): mean over images of the rank of the true count" in page


def test_a_comparison_ranks_tests_and_times_by_its_direction(records):
    compared = compare(records)
    assert [variant.name for variant in compared.variants] == ["near", "far"]
    (pair,) = compared.groups[0].pairs
    assert (pair.better, pair.worse) == ("near", "far")
    assert pair.difference == pytest.approx(9.0)
    assert pair.seeds.interval[0] > 0
    assert pair.sentence.startswith("near is ahead of far by 9.000 in mean rank: survives")
    assert compared.groups[0].verdict.startswith("near has the best mean rank")
    assert compared.target == pytest.approx(3.52), "110% of 3.2"
    near, far = compared.variants
    assert near.time_to_target_s.values == (40.0, 40.0, 40.0)
    assert far.time_to_target_s.values == ()
    assert compare(records, target=13.0).variants[1].time_to_target_s.mean == 40.0
    markdown = as_markdown(compared)
    assert "| near | 3 | 3.200 ± 0.100 | 2.952 to 3.448 |" in markdown
    assert "with at most this mean rank" in markdown
    rows = list(csv.DictReader(io.StringIO(as_csv(compared))))
    assert [float(row["test/mean_rank mean"]) for row in rows] == pytest.approx([3.2, 12.2])


def test_a_page_shows_it(records):
    text = page(compare(records))
    assert "3.200 <small>± 0.100</small>" in text
    assert "Mean rank against cost" in text
    assert "validation mean rank against the step" in text
    assert "near is ahead of far by 9.000 in mean rank" in text
