"""Every example of ``examples/`` runs as it stands, with few steps."""

import importlib.util
import runpy
from pathlib import Path

import numpy as np
import pytest
from method_presets import method_preset

from vla_cl.config.compose import build, choices
from vla_cl.interfaces import Method
from vla_cl.metrics import load_matrix
from vla_cl.types import ConfigurationError

FOLDER = Path(__file__).parents[1] / "examples"
MEMORY = ("memory", "samples_per_task", "selection")
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))


def imported(name):
    specification = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_these_are_the_examples():
    assert EXAMPLES == ["own_evaluator", "own_family", "own_loop", "own_method", "own_stream"]


def test_a_loop_of_ones_own():
    rows = imported("own_loop").main(steps=3)
    assert [len(row) for row in rows] == [1, 2, 3]


def test_a_family_of_ones_own(tmp_path):
    folders = imported("own_family").main(tmp_path, steps=60)
    plain, replay = (load_matrix(folder) for folder in folders)
    assert plain.measure.direction == "lower"
    assert replay.scores[2, :2].sum() < plain.scores[2, :2].sum()  # what came before is not quite forgotten


def test_the_family_learns_jointly_too(tmp_path):
    module = imported("own_family")
    training = module.TrainingSettings(steps=3, batch_size=8)
    run = module.learn_stream(module.Lines(), module.Sequential(), tmp_path / "joint", training, arrangement="joint")
    assert load_matrix(run).scores.shape == (1, 3)


@pytest.mark.parametrize("other", [{"shares": {"*.bias": 0.9}}, {"share": 0.3}])
def test_another_setting_of_the_method_is_another_run(tmp_path, other):
    from vla_cl.families.beds import BedFamily
    from vla_cl.library import TrainingSettings, learn_stream
    from vla_cl.methods.weight_merging import WeightMerging

    training, settings = TrainingSettings(steps=2, batch_size=8), {"share": 0.5, "shares": {"*.bias": 0.1}}
    family = BedFamily("policy_regression")
    learn_stream(family, WeightMerging(**settings), tmp_path / "run", training)
    with pytest.raises(ConfigurationError, match="holds a run with other settings"):
        learn_stream(family, WeightMerging(**settings | other), tmp_path / "run", training)
    with pytest.raises(ConfigurationError, match="holds a run with other settings"):
        learn_stream(BedFamily("policy_flow"), WeightMerging(**settings), tmp_path / "run", training)


@pytest.mark.parametrize("name", choices("method"))
def test_every_method_can_be_told_from_itself_with_other_settings(name):
    from vla_cl.library import told

    settings = method_preset(name)
    found = told(build(settings, Method))
    assert found == told(build(settings, Method))
    given = {
        key: value for key, value in settings.items() if key not in ("name", "class", *MEMORY) and value is not None
    }
    assert {key: found[key] for key in given} == given


def test_a_method_that_does_not_keep_its_settings_is_refused(tmp_path):
    from vla_cl.families.beds import BedFamily
    from vla_cl.interfaces import Method
    from vla_cl.library import TrainingSettings, learn_stream

    class Secretive(Method):
        name = "secretive"

        def __init__(self, strength=1.0):
            self._strength = strength

    with pytest.raises(ConfigurationError, match=r"self\.strength = strength"):
        learn_stream(BedFamily("policy_flow"), Secretive(), tmp_path / "run", TrainingSettings(steps=1))


def test_the_same_call_continues_and_another_one_is_refused(tmp_path):
    module = imported("own_family")
    (plain, _) = module.main(tmp_path, steps=5)
    before = (plain / "matrix.json").read_bytes()
    module.main(tmp_path, steps=5)
    assert (plain / "matrix.json").read_bytes() == before
    with pytest.raises(ConfigurationError, match="holds a run with other settings"):
        module.main(tmp_path, steps=6)


def test_an_evaluator_of_ones_own(tmp_path):
    run = imported("own_evaluator").main(tmp_path, steps=4)
    worst, mean = load_matrix(run, "worst_loss"), load_matrix(run, "loss")
    assert worst.measure.kind == "statistic"
    known = ~np.isnan(mean.scores)
    assert (worst.scores[known] > mean.scores[known]).all()


def test_a_stream_of_ones_own(tmp_path):
    runs = imported("own_stream").main(tmp_path, steps=4)
    one, other = (load_matrix(run) for run in runs)
    assert one.tasks == other.tasks[::-1]


def test_a_method_of_ones_own(tmp_path):
    assert imported("own_method").main(tmp_path, steps=3) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_it_runs_as_a_program(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
