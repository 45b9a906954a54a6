"""Every example of ``examples/`` runs as it stands, with few steps."""

import importlib.util
import runpy
from pathlib import Path

import pytest

from vla_cl.metrics import load_matrix
from vla_cl.types import ConfigurationError

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))


def imported(name):
    specification = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_these_are_the_examples():
    assert EXAMPLES == ["own_family", "own_loop", "own_method"]


def test_a_loop_of_ones_own():
    rows = imported("own_loop").main(steps=3)
    assert [len(row) for row in rows] == [1, 2, 3]


def test_a_family_of_ones_own(tmp_path):
    folders = imported("own_family").main(tmp_path, steps=60)
    plain, replay = (load_matrix(folder) for folder in folders)
    assert plain.measure.direction == "lower"
    assert replay.scores[2].max() < plain.scores[2].max()  # the first line is not quite forgotten


def test_the_same_call_continues_and_another_one_is_refused(tmp_path):
    module = imported("own_family")
    (plain, _) = module.main(tmp_path, steps=5)
    before = (plain / "matrix.json").read_bytes()
    module.main(tmp_path, steps=5)
    assert (plain / "matrix.json").read_bytes() == before
    with pytest.raises(ConfigurationError, match="holds a run with other settings"):
        module.main(tmp_path, steps=6)


def test_a_method_of_ones_own(tmp_path):
    assert imported("own_method").main(tmp_path, steps=3) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_it_runs_as_a_program(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
