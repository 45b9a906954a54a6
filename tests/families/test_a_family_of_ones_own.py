"""A family outside the package goes through train, resume, report, compare and metrics; lower scores are better."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from vla_cl.config.compose import compose
from vla_cl.metrics import compute_all, describe, load_matrix
from vla_cl.report import write_report
from vla_cl.report.seed_groups import compare
from vla_cl.run import root as run

CONF = Path(__file__).parent / "conf"
STREAM = ["plugins=[own_family]", "stream=lines", "training.steps=60", "training.learning_rate=0.1", "threads=1"]


def train(folder, *overrides):
    return run.train(compose([*STREAM, f"output_dir={folder}", *overrides], folders=[CONF]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [train(folder / method, f"method={method}", f"name={method}") for method in ("sequential", "ewc")]


def test_the_last_line_is_drawn_well_and_the_first_no_more(runs):
    matrix = load_matrix(runs[0])
    assert matrix.measure.name == "squared_error"
    assert np.diag(matrix.scores).max() < 0.01
    assert matrix.scores[2, 0] > 0.1
    found = compute_all(matrix)
    assert found["final_average"].value == pytest.approx(matrix.scores[2].mean())
    lost = (matrix.scores[2, :2] - np.diag(matrix.scores)[:2]).mean()
    assert found["simple_recipe_nbt"].value == pytest.approx(lost)  # harm is positive
    assert found["simple_recipe_nbt"].low > 0


def test_a_run_that_is_cut_ends_as_the_undisturbed_one(runs, tmp_path):
    again = tmp_path / "cut"
    shutil.copytree(runs[1], again, symlinks=True)
    shutil.rmtree(again / "checkpoints" / "002")
    shutil.rmtree(again / "checkpoints" / "003")
    train(again, "method=ewc", "name=ewc")
    for name in ("checkpoints/003/pretrained_model/line.safetensors", "matrix.json"):
        assert (again / name).read_bytes() == (runs[1] / name).read_bytes()


def test_what_is_said_of_it_is_in_its_own_words(runs, tmp_path):
    text = describe(runs[0])
    assert text.startswith("squared error, lower is better, 20 trials per cell")
    assert "↓ score on all tasks at the end" in text
    assert json.loads(describe(runs[0], as_json=True))["metrics"]["final_average"]["direction"] == "lower"
    table = compare(runs)
    assert "final_average ↓" in table
    better = min(runs, key=lambda folder: load_matrix(folder).scores[2].mean())
    assert table.splitlines()[1].startswith(better.name)  # the best first
    page = write_report(runs, tmp_path / "report.html").read_text()
    told = re.sub(r"<pre.*?</pre>|<style.*?</style>", "", page, flags=re.DOTALL).lower()  # settings keep their names
    assert "average squared error" in told
    assert "success" not in told
    assert "episode" not in told
