"""A run with a method that must be told which task it is evaluated on."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from vla_cl.cli.main import main
from vla_cl.config.compose import compose
from vla_cl.methods.packnet import PackNet
from vla_cl.rollout.engine import Engine
from vla_cl.run import root as run

CONF = Path(__file__).parent / "conf"
SETTINGS = ["plugins=[toy_world]", "suite=point", "evaluation.episodes=2", "evaluation.replan_every=2",
            "evaluation.workers=1", "device=cpu", "threads=1", "stream=points", "policy=tiny",
            "demonstrations.episodes=3", "demonstrations.workers=1", "training.steps=6", "training.batch_size=4",
            "evaluation.curve_points=1", "evaluation.curve_episodes=2", "evaluation.untrained=true",
            "evaluation.future_tasks=true", "method=packnet"]  # fmt: skip


def weights_of(policy):
    tensors = policy.module.state_dict().values()
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The run's folder, and what the method was told, with the tasks that were rolled out then."""
    calls = []
    select, roll_out = PackNet.select_task, Engine.run

    def selected(self, task):
        calls.append(("select", None if task is None else task.id))
        select(self, task)

    def rolled_out(self, policy, requests, *more):
        calls.append(("run", {request.task.id for request in requests}, weights_of(policy)))
        return roll_out(self, policy, requests, *more)

    folder = tmp_path_factory.mktemp("packnet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackNet, "select_task", selected)
        patch.setattr(Engine, "run", rolled_out)
        overrides = [*SETTINGS, f"cache_dir={folder / 'cache'}", f"output_dir={folder / 'run'}"]
        run.train(compose(overrides, folders=[CONF]))
    return folder / "run", calls


def test_every_rollout_is_of_one_task_that_was_named_before_and_everything_is_put_back(told):
    _, calls = told
    rollouts = [place for place, call in enumerate(calls) if call[0] == "run"]
    assert len(rollouts) == 2 + 2 * (2 * 1 + 2)
    for place in rollouts:
        kind, task = calls[place - 1]
        assert kind == "select"
        assert calls[place][1] == {task}
    assert calls[-1] == ("select", None)


def test_the_checkpoint_has_the_weights_of_all_tasks(told):
    folder, _ = told
    checkpoint = folder / "checkpoints" / "002"
    weights = load_file(checkpoint / "pretrained_model" / "model.safetensors")
    owners = load_file(checkpoint / "cl_state" / "method.safetensors")
    for key, owner in owners.items():
        values = weights[key.removeprefix("owner.")]
        assert not values[owner == 0].any()
    assert sum(np.count_nonzero(weights[key.removeprefix("owner.")][owner == 2]) for key, owner in owners.items()) > 100


def test_a_task_is_served_later_with_the_weights_that_it_had_when_it_was_learnt(told):
    _, calls = told
    runs = [(min(call[1]), call[2]) for call in calls if call[0] == "run"]
    assert [task for task, _ in runs] == [
        *("point/red", "point/green"),  # untrained
        *("point/red", "point/red", "point/red", "point/green"),  # two points of the curve, then all
        *("point/green", "point/green", "point/red", "point/green"),
    ]
    learnt, later = runs[4][1], runs[8][1]
    assert learnt == later
    assert later != runs[9][1]
    assert learnt != runs[0][1]


def test_evaluate_serves_the_tasks_with_the_same_weights(told, tmp_path, monkeypatch):
    folder, calls = told
    during = [call[1:] for call in calls if call[0] == "run"][-2:]
    again, roll_out = [], Engine.run

    def rolled_out(self, policy, requests, *more):
        again.append(({request.task.id for request in requests}, weights_of(policy)))
        return roll_out(self, policy, requests, *more)

    monkeypatch.setattr(Engine, "run", rolled_out)
    short = ["evaluation.episodes=2", "evaluation.workers=1", "device=cpu", "threads=1", "plugins=[toy_world]"]
    assert main(["evaluate", str(folder), *short, f"output_dir={tmp_path / 'e'}"]) == 0
    assert again == during
    tasks = json.loads((tmp_path / "e" / "summary.json").read_text())["tasks"]
    assert [figures["success"] for figures in tasks.values()] == json.loads((folder / "matrix.json").read_text())[
        "success"
    ][-1]
