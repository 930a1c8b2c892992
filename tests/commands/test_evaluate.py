"""What an evaluation is held to; evaluations as such are in tests/inference/test_predictor.py."""

import json
from types import SimpleNamespace

import pytest

from cnn_jax.commands import evaluate
from cnn_jax.errors import InputError


@pytest.mark.parametrize("figures", [{"figures": None}, {"figures": [0.5]}, {}])
def test_a_file_without_figures_is_named_and_not_taken_for_agreement(tmp_path, figures):
    """Edited by hand, say: without figures nothing would differ."""
    held = {"run": "0123456789abcdef", "split": "test", **figures}
    (tmp_path / evaluate.OF_HALF).write_text(json.dumps(held), encoding="utf-8")
    run = SimpleNamespace(half=True, folder=tmp_path, digest=held["run"], summary={})
    with pytest.raises(InputError, match=r"evaluation\.json holds no figures that this command"):
        evaluate._recorded(run, "test")
