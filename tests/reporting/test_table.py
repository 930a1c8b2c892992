"""The tables say what the records say, and bad records are named."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from cnn_jax.commands.table import main
from cnn_jax.errors import InputError
from cnn_jax.records.run_record import read_records
from cnn_jax.reporting.table import (
    headline_table,
    results_page,
    summary_table,
    update_block,
)
from tests.reporting.fake_records import digested

SUMMARY = {
    "experiment": "aerial_unet",
    "configuration": "dubai",
    "parameters": 1942373,
    "steps": 1500,
    "wall_time_s": 1560.2,
    "train/images_per_second": 7.94,
    "test/miou": 0.58123,
    "test/iou/building": 0.59,
    "test/iou/vegetación": 0.57246,
    "test/dice/building": 0.742,
    "test/dice/vegetación": 0.728,
    "test/frequency_weighted_iou": 0.61,
    "test/mean_dice": 0.735,
    "test/pixel_accuracy": 0.81,
    "test/mean_class_accuracy": 0.7,
    "test/scenes": 9,
}


def write_record(
    folder: Path,
    *,
    source: str = "dubai",
    seed: int = 0,
    environment: dict | None = None,
    **changes,
) -> Path:
    """A record on disk in the true layout; a change to None takes the key away."""
    folder.mkdir(parents=True)
    summary = {key: value for key, value in (SUMMARY | changes).items() if value is not None}
    config = {
        "experiment": "aerial_unet",
        "configuration": "dubai",
        "seed": seed,
        "data": {"source": source},
    }
    environment = environment or {
        "devices": ["TFRT_CPU_0"],
        "platform": "cpu",
        "device_kind": "cpu",
        "device_count": 1,
    }
    for name, content in (("config", config), ("environment", environment), ("summary", summary)):
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return digested(folder)


def cells(table: str) -> list[dict[str, str]]:
    """The rows of a Markdown table by their column's heading."""
    header, _, *rows = (
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()
    )
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_headline_table_holds_the_figures_of_the_record(tmp_path):
    write_record(tmp_path / "aerial_unet" / "dubai-seed3", seed=3)
    (row,) = cells(headline_table(read_records(tmp_path)))
    assert row == {
        "record": "[dubai-seed3](aerial_unet/dubai-seed3/)",
        "data": "dubai",
        "parameters": "1,942,373",
        "steps": "1,500",
        "seed": "3",
        "device": "CPU",
        "mIoU": "0.5812",
        "frequency-weighted IoU": "0.6100",
        "mean Dice": "0.7350",
        "pixel accuracy": "0.8100",
        "mean class accuracy": "0.7000",
        "training images/s": "7.9",
        "training time, s": "1,560",
    }


def test_a_study_within_an_experiment_leads_to_its_own_comparison(tmp_path):
    for folder in ("one", "two/a b", "two/c", "two/d"):
        write_record(tmp_path / folder / "u-seed0")
        if folder != "two/d":
            (tmp_path / folder / "comparison.md").write_text("compared")
    page = results_page(read_records(tmp_path))
    links = re.findall(r"\[comparison\]\((.*?)\)", page)
    assert links == ["one/comparison.md", "two/a%20b/comparison.md", "two/c/comparison.md"]
    assert all((tmp_path / unquote(link)).is_file() for link in links)


def test_runs_that_differ_in_their_seed_have_one_row_with_an_interval(tmp_path):
    values = {
        "test/miou": None,
        "test/iou/building": None,
        "test/iou/vegetación": None,
        "test/class_accuracy/a": 0.5,
    }
    for name, seed, accuracy in [
        ("cnn-seed0", 0, 0.91),
        ("cnn-seed1", 1, 0.93),
        ("mlp-seed0", 0, 0.8),
        ("cnn-seed1-again", 1, 0.5),
    ]:
        folder = write_record(
            tmp_path / "study" / name, seed=seed, **values, **{"test/accuracy": accuracy}
        )
        moved = {
            "test/shifted_accuracy/10": accuracy - 0.2,
            "test/shifted_accuracy/2": accuracy - 0.1,
        }
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        (folder / "summary.json").write_text(json.dumps(summary | moved), encoding="utf-8")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config |= {"variant": name.split("-")[0], "task": "classification"}
        config["data"] |= {"directory": name}  # where the data lie makes no other variant
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        digested(folder)
    records = read_records(tmp_path)
    assert len(cells(headline_table(records))) == 4
    both, mlp, again = cells(headline_table(records, by_variant=True))
    # Mean 0.92; standard error 0.01, times the t quantile of one degree of freedom, 12.7062.
    assert both["accuracy"] == "0.9200 ± 0.1271"
    assert (both["record"], both["seed"]) == ("[cnn](study/)", "2 seeds")
    assert list(both)[-4:-2] == ["moved by 2 px", "moved by 10 px"]
    assert both["moved by 10 px"] == "0.7200 ± 0.1271"
    assert (mlp["accuracy"], mlp["seed"]) == ("0.8000", "0")
    assert (again["record"], again["accuracy"]) == (
        "[cnn-seed1-again](study/cnn-seed1-again/)",
        "0.5000",
    ), "a seed counts once"
    brief = headline_table(records, brief=True, link_base="results")
    assert "[study/cnn](results/study/)" in brief
    page = results_page(records)
    assert page.index("0.9200 ± 0.1271") < page.index("### Every run")
    assert "### Recall per class on the test split of dubai" in page


def test_runs_without_a_variant_are_called_by_their_name_without_the_seed(tmp_path):
    for name, seed, miou in [
        ("wide", 0, 0.6),
        ("wide-seed1", 1, 0.7),
        ("wide-seed12", 12, 0.8),
        ("narrow-seed3", 4, 0.2),
    ]:
        folder = write_record(tmp_path / "study" / name, seed=seed, **{"test/miou": miou})
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["model"] = {"name": "unet", "base_width": 64 if name.startswith("wide") else 8}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        digested(folder)
    wide, narrow = cells(headline_table(read_records(tmp_path), by_variant=True))
    assert (wide["record"], wide["seed"], wide["mIoU"][:6]) == (
        "[wide](study/)",
        "3 seeds",
        "0.7000",
    )
    assert (narrow["record"], narrow["seed"]) == ("[narrow-seed3](study/narrow-seed3/)", "4")


def test_links_lead_to_the_records(tmp_path):
    folder = write_record(tmp_path / "results" / "aerial_unet" / "año 1")
    records = read_records(tmp_path / "results")
    assert "](results/aerial_unet/a%C3%B1o%201/)" in headline_table(
        records, link_base="results", brief=True
    )
    assert (tmp_path / "results" / records[0].location) == folder


def test_records_stand_by_source_then_best_first_and_without_score_last(tmp_path):
    for name, source, miou in [
        ("a", "dubai", 0.4),
        ("b", "dubai", None),
        ("c", "dubai", 0.6),
        ("d", "camvid", 0.1),
    ]:
        write_record(tmp_path / "aerial_unet" / name, source=source, **{"test/miou": miou})
    write_record(tmp_path / "aerial_unet" / "e", source="dubai", **{"test/miou": None})
    rows = cells(headline_table(read_records(tmp_path)))
    assert [row["record"][1] for row in rows] == ["d", "c", "a", "b", "e"]
    assert [row["mIoU"] for row in rows] == [
        "0.1000",
        "0.6000",
        "0.4000",
        "\N{EN DASH}",
        "\N{EN DASH}",
    ]


def test_device_names_kind_and_count_and_source_hides_folders(tmp_path):
    environment = {"platform": "gpu", "device_kind": "NVIDIA H200", "device_count": 4}
    write_record(
        tmp_path / "x" / "many", environment=environment, source="/home/me/sets/ciudad.toml"
    )
    write_record(tmp_path / "x" / "none", environment={"versions": {}}, source="")
    rows = cells(headline_table(read_records(tmp_path)))
    assert {(row["device"], row["data"]) for row in rows} == {
        ("4 x NVIDIA H200", "ciudad"),
        ("\N{EN DASH}", "\N{EN DASH}"),
    }


def test_page_has_a_section_an_experiment_and_classes_by_source(tmp_path):
    write_record(tmp_path / "aerial_unet" / "one")
    write_record(
        tmp_path / "aerial_unet" / "two",
        source="streets",
        **{"test/iou/building": None, "test/iou/a|b": 0.25},
    )
    write_record(tmp_path / "deeplab" / "one")
    page = results_page(read_records(tmp_path))
    assert page.startswith("<!-- Generated")
    assert "python -m cnn_jax.commands.table" in page.splitlines()[0]
    assert "mean Dice: mean over the classes that occur in truth or prediction" in page
    assert (
        page.index("## aerial_unet")
        < page.index("IoU per class on the test split of streets")
        < page.index("## deeplab")
    )
    streets = page[page.index("split of streets") :].split("\n\n")[1]
    assert streets.splitlines()[0] == r"| record | vegetación | a\|b |"
    assert streets.splitlines()[2] == "| [two](aerial_unet/two/) | 0.5725 | 0.2500 |"


def test_runs_and_folders_that_are_no_records_are_left_alone(tmp_path):
    write_record(tmp_path / "runs" / "aerial_unet" / "draft")
    (tmp_path / "notes").mkdir()
    assert read_records(tmp_path) == []
    assert "There are no records yet." in results_page([])


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("summary.json", None, "is missing"),
        ("environment.json", None, "is missing"),
        ("config.json", b'{"seed": 0,', r"not valid JSON \(.* in line 1\)"),
        ("summary.json", b"[1, 2]", "must hold a JSON object"),
        ("config.json", b"\xff\xfe{}", "not UTF-8"),
        ("summary.json", b'{"test/miou": "0.58"}', "'0.58' as test/miou"),
        ("summary.json", b'{"steps": true}', "True as steps"),
    ],
)
def test_a_bad_record_is_named_and_nothing_is_written(tmp_path, capsys, file, content, says):
    path = write_record(tmp_path / "aerial_unet" / "one") / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        read_records(tmp_path)
    assert str(path) in str(caught.value)
    assert main(["--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {caught.value}\n"
    assert not (tmp_path / "README.md").exists()


def test_command_writes_the_page_and_the_block_and_repeats_itself(tmp_path):
    results, readme = tmp_path / "results", tmp_path / "README.md"
    write_record(results / "aerial_unet" / "one")
    readme.write_text(
        "# Project\n\n<!-- results -->\nold\n<!-- /results -->\n\nThe end.\n", encoding="utf-8"
    )
    command = [
        sys.executable,
        "-m",
        "cnn_jax.commands.table",
        "--results",
        str(results),
        "--readme",
        str(readme),
    ]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], capture_output=True)
    page, first = (results / "README.md").read_bytes(), readme.read_text(encoding="utf-8")
    assert "[aerial_unet/one](results/aerial_unet/one/)" in first
    assert first.startswith("# Project\n\n<!-- results -->\n")
    assert first.endswith("\n<!-- /results -->\n\nThe end.\n")
    assert "old" not in first
    assert "0.5812" in first
    assert main(["--results", str(results), "--readme", str(readme)]) == 0
    assert (results / "README.md").read_bytes() == page
    assert readme.read_text(encoding="utf-8") == first


def test_blocks_hold_the_best_of_each_task_and_data_set_or_all(tmp_path):
    results, pages = tmp_path / "results", [tmp_path / "README.md", tmp_path / "docs" / "all.md"]
    for experiment, name, source, miou in (
        ("first", "a", "dubai", 0.4),
        ("second", "b", "dubai", 0.6),
        ("second", "c", "camvid", 0.1),
    ):
        write_record(results / experiment / name, source=source, **{"test/miou": miou})
    for page, block in zip(pages, ("results", "all results"), strict=True):
        page.parent.mkdir(exist_ok=True)
        page.write_text(f"<!-- {block} -->\n<!-- /{block} -->\n", encoding="utf-8")
    assert main(["--results", str(results), "--readme", *map(str, pages)]) == 0
    best, every = (page.read_text(encoding="utf-8") for page in pages)
    assert "(results/second/b/)" in best
    assert "(results/second/c/)" in best
    assert "(results/first/a/)" not in best
    for link in ("first/a", "second/b", "second/c"):
        assert f"(../results/{link}/)" in every
    assert "mIoU: mean over" in best
    assert "mean Dice" not in best, "notes are of the figures that the table shows"


def test_a_page_that_somebody_wrote_is_kept(tmp_path, capsys):
    (tmp_path / "README.md").write_text("mine")
    assert main(["--results", str(tmp_path)]) == 2
    assert "wasn't written by this command" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "mine"


def test_missing_results_folder_is_named(tmp_path, capsys):
    assert main(["--results", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_update_block_keeps_the_rest_byte_for_byte(tmp_path):
    page = tmp_path / "page.md"
    page.write_bytes("año\r\n<!-- a -->x<!-- /a -->\r\n<!-- b -->y<!-- /b -->".encode())
    assert update_block(page, "a", r"new \1 text")
    assert (
        page.read_bytes()
        == (
            "año\r\n<!-- a -->\r\n\r\nnew \\1 text\r\n\r\n<!-- /a -->\r\n<!-- b -->y<!-- /b -->"
        ).encode()
    )


def test_update_block_without_block_changes_nothing(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("no block")
    assert not update_block(page, "results", "text")
    assert page.read_text() == "no block"


@pytest.mark.parametrize(
    "text",
    ["<!-- a --> open", "<!-- /a --> <!-- a -->", "<!-- a --><!-- /a --><!-- a --><!-- /a -->"],
)
def test_update_block_refuses_a_broken_block(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(InputError, match=r"page\.md"):
        update_block(page, "a", "text")
    assert page.read_text() == text


def test_update_block_names_a_file_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.md"):
        update_block(tmp_path / "nothing.md", "a", "text")


def test_summary_table_is_aligned_and_complete():
    lines = summary_table(SUMMARY | {"test/iou/道路": None}).splitlines()
    assert lines == [
        "test",
        "class                      IoU    Dice",
        "--------------------------------------",
        "building                0.5900  0.7420",
        "vegetación              0.5725  0.7280",
        "道路                         \N{EN DASH}       \N{EN DASH}",
        "--------------------------------------",
        "mIoU                    0.5812",
        "frequency-weighted IoU  0.6100",
        "mean Dice               0.7350",
        "pixel accuracy          0.8100",
        "mean class accuracy     0.7000",
    ]


def test_summary_table_shows_each_split_that_was_scored():
    text = summary_table({"validation/miou": 0.5, "test/iou/road": 0.25, "steps": 10})
    assert (
        text
        == "validation\nmIoU  0.5000\n\ntest\nclass     IoU    Dice\n---------------------\nroad  "
        " 0.2500       \N{EN DASH}"
    )
    assert summary_table({"steps": 10}) == ""
