"""``--dry-run`` against what the run then takes; nothing is left behind."""

import json
from pathlib import Path

import pytest

from vla_cl.cli.main import main

CONF = str(Path(__file__).parents[1] / "conf")
SMALL = ["training.steps=3", "training.batch_size=4", "evaluation.episodes=2", "device=cpu", "threads=1"]
BED = ["stream=bed_policy_regression", *SMALL]
TOY = ["--conf", CONF, "plugins=[toy_world]", "suite=point", "stream=points", "policy=tiny", "cache_dir=cache", *SMALL,
       "demonstrations.episodes=1", "demonstrations.workers=1", "evaluation.workers=1", "evaluation.videos=0",
       "evaluation.replan_every=2"]  # fmt: skip
PLANS = {
    "plain": [],
    "curves": ["evaluation.curve_points=2", "evaluation.curve_episodes=1", "evaluation.untrained=true"],
    "future": ["evaluation.future_tasks=true"],
    "joint": ["arrangement=joint"],
    "independent": ["arrangement=independent", "evaluation.untrained=true"],
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def estimated(arguments, here, capfd):
    assert main(["train", *arguments, "--dry-run", "--json"]) == 0, capfd.readouterr().err
    assert list(here.iterdir()) == []
    (found,) = json.loads(capfd.readouterr().out)["runs"]
    return found


@pytest.mark.parametrize("plan", PLANS)
def test_a_family(plan, here, capfd):
    found = estimated([*BED, *PLANS[plan]], here, capfd)
    assert main(["train", *BED, *PLANS[plan]]) == 0
    require_true(found, Path(found["folder"]), "trials.parquet")
    weights = Path(found["folder"]) / "checkpoints" / "001" / "pretrained_model"
    assert found["weight_bytes"] == sum(path.stat().st_size for path in weights.rglob("*") if path.is_file())
    assert found["step_seconds"] > 0 and found["trial_seconds"] > 0 and found["seconds"] > 0


def test_a_robot(here, capfd):
    arguments = [*TOY, *PLANS["curves"]]
    found = estimated(arguments, here, capfd)
    assert any("2 demonstrations are recorded first" in note for note in found["notes"])
    assert found["seconds"] is None
    assert main(["train", *arguments]) == 0
    require_true(found, Path(found["folder"]), "episodes.parquet")
    file = Path(found["folder"]) / "checkpoints" / "001" / "pretrained_model" / "model.safetensors"
    assert found["weight_bytes"] <= file.stat().st_size <= 1.1 * found["weight_bytes"] + 65536


def require_true(found, folder, table):
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(folder / table).to_pylist()
    assert found["trials"] == len(rows)
    alone = "independent" in folder.name  # each new model is scored on its own task before it has learnt anything
    evaluations = {(row["experience"], row["step"], row["split"], row["task"] if alone else "") for row in rows}
    assert found["evaluations"] == len(evaluations)
    assert found["steps"] == json.loads((folder / "run.json").read_text())["steps"]
    assert found["checkpoints"] == len(list((folder / "checkpoints").glob("[0-9]*")))


def test_what_is_wrong_is_refused_and_people_read_lines(here, capsys):
    assert main(["train", *BED, "--dry-run", "method=nope"]) == 2
    capsys.readouterr()
    assert main(["train", *BED, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "9 optimizer steps, 3 evaluations with 12 trials together" in said
    assert "note: measured: 5 steps of the first experience" in said
    assert main(["train", "resume=x", "--dry-run"]) == 2
