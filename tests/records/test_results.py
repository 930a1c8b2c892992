"""The committed results: small, each picture once, and the page that is made of them."""

import hashlib
from pathlib import Path

from cnn_jax.records.run_record import read_records
from cnn_jax.reporting.table import results_page
from tests.records.pictures import missing_pictures

RESULTS = Path(__file__).parents[2] / "results"


def files():
    """All but what is on its way in `runs/`."""
    paths = (path for path in RESULTS.rglob("*") if path.is_file())
    return [path for path in paths if path.relative_to(RESULTS).parts[0] != "runs"]


def test_each_picture_is_there_once_and_all_are_small():
    pictures = [path for path in files() if path.suffix in (".png", ".jpg", ".webp", ".svg")]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in pictures]
    assert len(set(digests)) == len(pictures)
    assert sum(path.stat().st_size for path in pictures) < 8e6
    others = (path for path in files() if path.suffix != ".safetensors")
    assert sum(path.stat().st_size for path in others) < 16e6


def test_the_page_of_results_is_that_of_the_records():
    tables = [
        [line for line in text.splitlines() if line.startswith("|")]
        for text in (results_page(read_records(RESULTS)), (RESULTS / "README.md").read_text())
    ]
    assert len(tables[0]) > 150
    assert tables[0] == tables[1]


def test_the_first_seeds_of_a_study_can_be_shown():
    for record in read_records(RESULTS):
        if record.scenes is not None and record.config["seed"] == 0:
            count = len(record.scenes.names)
            assert missing_pictures(record.folder, record.info.fingerprint, count) == []
