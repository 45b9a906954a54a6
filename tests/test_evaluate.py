"""``vla-cl evaluate``: nothing is lost, any LeRobot policy, a random one on any suite, rollouts as a dataset."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from toy_world import PointSuite

from vla_cl import checkpoint
from vla_cl.cli import main
from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.interfaces import Method
from vla_cl.location import compose_evaluation, find_run
from vla_cl.manifest import seal
from vla_cl.methods.packnet import PackNet
from vla_cl.metrics import wilson_interval
from vla_cl.models.vla import VlaModel, policy_config
from vla_cl.rollout.engine import Engine
from vla_cl.rollout.summary import describe
from vla_cl.types import ConfigurationError, Experience, InterfaceSpec

CONF = Path(__file__).parent / "conf"
SETTINGS = ["plugins=[troubled_suite]", "suite=troubled", "evaluation.episodes=3", "evaluation.replan_every=2",
            "evaluation.workers=2", "evaluation.slots_per_worker=2", "device=cpu"]  # fmt: skip
SPEC = InterfaceSpec({"observation.image": (16, 16)}, state_size=2, action_size=2)
ACT = {"chunk_size": 4, "n_action_steps": 2, "dim_model": 16, "n_heads": 2, "dim_feedforward": 16, "latent_dim": 4,
       "n_encoder_layers": 1, "n_vae_encoder_layers": 1, "pretrained_backbone_weights": None}  # fmt: skip
DIFFUSION = {"horizon": 8, "n_action_steps": 4, "down_dims": [8, 16], "num_train_timesteps": 4, "crop_shape": None,
             "pretrained_backbone_weights": None, "diffusion_step_embed_dim": 8, "use_group_norm": True,
             "spatial_softmax_num_keypoints": 4}  # fmt: skip
NANO = {"image_size": 16, "chunk_size": 4, "n_action_steps": 2}
POLICIES = {
    "nano_vla": ("nano_vla", NANO),
    "act": ("act", ACT),
    "diffusion": ("diffusion", DIFFUSION | {"n_obs_steps": 1}),
    "history": ("diffusion", DIFFUSION | {"n_obs_steps": 2}),
}


def evaluate(folder, *overrides, policy="random"):
    return main(["evaluate", "--conf", str(CONF), str(policy), *SETTINGS, f"output_dir={folder}", *overrides])


def rows(folder):
    """The table without the time that the episodes took."""
    return pd.read_parquet(folder / "episodes.parquet").drop(columns="seconds")


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def new_policy(name):
    kind, settings = POLICIES[name]
    ranges = {"mean": np.zeros(2), "std": np.ones(2), "min": -np.ones(2), "max": np.ones(2)}
    pictures = {key: np.full((3, 1, 1), value) for key, value in (("mean", 0.5), ("std", 0.5), ("min", 0), ("max", 1))}
    statistics = {key: {n: v.astype(np.float32) for n, v in ranges.items()} for key in ("action", "observation.state")}
    statistics["observation.image"] = {n: v.astype(np.float32) for n, v in pictures.items()}
    return VlaModel.new(policy_config(kind, settings, SPEC, "cpu"), statistics, init_seed=0)


def save_policy(name, folder):
    new_policy(name).save(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """All there is: films, and the rollouts as a dataset."""
    folder = tmp_path_factory.mktemp("undisturbed") / "evaluation"
    assert evaluate(folder, "record=true") == 0
    return folder


def test_a_random_policy_rolls_out_on_every_task_with_one_command(undisturbed):
    table = pd.read_parquet(undisturbed / "episodes.parquet")
    tasks = [task.id for task in PointSuite().tasks()]
    assert list(zip(table["task"], table["initial_state"], strict=True)) == [
        (task, state) for task in tasks for state in (20_000, 20_001, 20_002)
    ]
    assert (table["experience"] == -1).all()
    assert set(table["split"]) == {"report"}
    films = table["video"].dropna()
    assert films.index.tolist() == [0, 3, 6]
    assert all((undisturbed / film).stat().st_size > 0 for film in films)


def test_the_summary_is_that_of_the_table(undisturbed):
    table, found = pd.read_parquet(undisturbed / "episodes.parquet"), summary(undisturbed)
    for task, group in table.groupby("task"):
        successes = int((group["outcome"] == "success").sum())
        figures = found["tasks"][task]
        assert (figures["successes"], figures["episodes"], figures["errors"]) == (successes, 3, 0)
        assert figures["success"] == successes / 3
        assert figures["interval"] == list(wilson_interval(successes, 3))
        assert figures["env_steps"] == group["env_steps"].sum()
    successes = int((table["outcome"] == "success").sum())
    assert found["mean_success"] == pytest.approx(successes / 9)
    assert found["mean_interval"] == list(wilson_interval(successes, 9))
    assert found["episodes_per_hour"] == pytest.approx(9 / found["seconds"] * 3600, rel=1e-3)
    assert found["render_profile"] == "plain"
    assert {"numpy", "lerobot"} <= found["versions"].keys()


@pytest.mark.parametrize(
    "layout",
    [
        ["evaluation.workers=1", "evaluation.slots_per_worker=1", "record=false"],
        ["evaluation.workers=3", "evaluation.batch_size=1", "random.chunk_size=40", "record=false"],
    ],
    ids=["one slot", "many"],
)
def test_the_table_does_not_depend_on_the_layout(undisturbed, tmp_path, layout):
    assert evaluate(tmp_path / "e", *layout) == 0
    pd.testing.assert_frame_equal(rows(tmp_path / "e"), rows(undisturbed))


def test_a_finished_evaluation_says_so_and_shows_the_same(undisturbed, capsys):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    outputs = []
    for _ in range(2):
        assert evaluate(undisturbed, "record=true") == 0
        outputs.append(capsys.readouterr().out)
    assert "finished; nothing is rolled out again" in outputs[0]
    assert "mean of 3 tasks" in outputs[0]
    assert outputs[0] == outputs[1]
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("split=select", "split was report, is now select"),
        ("evaluation.replan_every=3", "replan_every was 2, is now 3"),
        ("random.seed=1", "policy.random.seed was 0, is now 1"),
        ("tasks=[red,green]", "tasks.point/blue was 'go to the blue side', 20 env steps, is now absent"),
        ("suite.render_profile=glossy", "suite.fingerprint.render_profile was plain, is now glossy"),
        ("record=false", "record was True, is now False"),
    ],
)
def test_another_evaluation_is_refused_and_the_difference_named(undisturbed, capsys, override, difference):
    assert evaluate(undisturbed, *(["record=true"] if "record" not in override else []), override) == 2
    message = capsys.readouterr().err
    assert difference in message
    assert message.count("\n") == 1


def _kill_after(folder, episodes, *overrides):
    """Start the command in a process of its own and kill it without warning when so many episodes are journalled."""
    command = [sys.executable, "-m", "vla_cl.cli", "evaluate", "--conf", str(CONF), "random", *SETTINGS,
               f"output_dir={folder}", *overrides]  # fmt: skip
    journal = folder / "episodes.jsonl"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not journal.exists() or journal.read_bytes().count(b"\n") < episodes:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = journal.read_bytes().count(b"\n")
    journal.write_bytes(journal.read_bytes() + b'{"task": "point/re')  # as if killed in the middle of a line
    return done


def test_a_killed_evaluation_continues_and_ends_the_same(undisturbed, tmp_path, capsys):
    folder, settings = tmp_path / "e", ("record=true", "suite.seconds=0.02")
    first = _kill_after(folder, 2, *settings)
    second = _kill_after(folder, first + 2, *settings)
    assert 4 <= second < 9
    kept = {path: path.stat().st_mtime_ns for path in (folder / "videos").iterdir()}
    assert evaluate(folder, *settings) == 0
    assert f"continuing: {second} of 9 episodes are done" in capsys.readouterr().out
    pd.testing.assert_frame_equal(rows(folder), rows(undisturbed))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert {path.name for path in (folder / "videos").iterdir()} == {
        path.name for path in (undisturbed / "videos").iterdir()
    }
    ours, theirs = DatasetFolder(folder / "dataset"), DatasetFolder(undisturbed / "dataset")
    for column in ("action", "observation.state", "episode_index"):
        assert np.array_equal(ours.column(column), theirs.column(column))
    pictures = zip(ours.images("observation.image"), theirs.images("observation.image"), strict=True)
    assert all(row == same and np.array_equal(one, other) for (row, one), (same, other) in pictures)
    assert summary(folder)["sessions"] == 3
    assert list(folder.rglob(".*")) == []


def test_a_lost_film_or_recording_is_made_again(undisturbed, tmp_path, capsys):
    folder = tmp_path / "e"
    shutil.copytree(undisturbed, folder)
    for name in ("summary.json", "videos"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert evaluate(folder, "record=true") == 0
    assert "continuing: 6 of 9" in capsys.readouterr().out
    pd.testing.assert_frame_equal(rows(folder), rows(undisturbed))
    assert len(list((folder / "videos").iterdir())) == 3
    for name in ("summary.json", "dataset"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert evaluate(folder, "record=true") == 0
    assert "continuing" not in capsys.readouterr().out
    assert (folder / "dataset" / "meta" / "info.json").is_file()


def test_crashed_episodes_are_shown_apart(tmp_path, capsys):
    crashes = "suite.crashes=[[red,20000],[red,20001],[blue,20002]]"
    assert evaluate(tmp_path / "e", crashes, "evaluation.max_attempts=2", "record=true") == 0
    shown = capsys.readouterr().out
    assert (
        "3 episodes crashed; they count as no success:\n  3 x ArithmeticError: the toy simulator is unstable" in shown
    )
    assert str(tmp_path / "e" / "errors.txt") in shown
    whole = (tmp_path / "e" / "errors.txt").read_text()
    assert whole.count("Traceback (most recent call last)") == 3
    assert "===== point/blue, initial state 20002 (report)" in whole
    assert summary(tmp_path / "e")["tasks"]["point/red"]["errors"] == 2
    note = json.loads((tmp_path / "e" / "dataset" / "meta" / "vla_cl.json").read_text())
    assert len(note["episodes"]) == 6


def test_crashed_episodes_are_rolled_out_again_only_if_asked_for(undisturbed, tmp_path, capsys):
    folder = tmp_path / "e"
    assert evaluate(folder, "suite.crashes=[[red,20000],[blue,20002]]", "evaluation.max_attempts=1") == 0
    assert evaluate(folder, "evaluation.max_attempts=1") == 0
    assert (rows(folder)["outcome"] == "error").sum() == 2
    capsys.readouterr()
    assert evaluate(folder, "evaluation.max_attempts=1", "retry_errors=true") == 0
    assert "continuing: 7 of 9 episodes are done" in capsys.readouterr().out
    pd.testing.assert_frame_equal(rows(folder), rows(undisturbed))
    assert summary(folder)["tasks"]["point/red"]["errors"] == 0
    assert not (folder / "errors.txt").exists()
    assert evaluate(folder, "evaluation.max_attempts=1", "retry_errors=true") == 0
    assert "finished; nothing is rolled out again" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nano_vla", "act", "diffusion"])
def test_any_lerobot_policy_evaluates(name, tmp_path, capsys):
    policy = save_policy(name, tmp_path / "policy")
    short = ["tasks=[red,green]", "evaluation.episodes=2"]
    assert evaluate(tmp_path / "e", *short, policy=policy) == 0
    one = ["evaluation.workers=1", "evaluation.slots_per_worker=1"]
    assert evaluate(tmp_path / "one", *short, *one, policy=policy) == 0
    pd.testing.assert_frame_equal(rows(tmp_path / "e"), rows(tmp_path / "one"))
    assert set(rows(tmp_path / "e")["outcome"]) <= {"success", "failure"}


def test_other_weights_are_another_evaluation(tmp_path, capsys):
    policy = save_policy("nano_vla", tmp_path / "policy")
    assert evaluate(tmp_path / "e", "tasks=[red]", policy=policy) == 0
    moved = policy.rename(tmp_path / "elsewhere")
    assert evaluate(tmp_path / "e", "tasks=[red]", policy=moved) == 0
    weights = moved / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    capsys.readouterr()
    assert evaluate(tmp_path / "e", "tasks=[red]", policy=moved) == 2
    assert "policy.files.model.safetensors was" in capsys.readouterr().err


def test_of_a_run_its_own_tasks_are_evaluated_where_the_suite_has_them(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    policy = save_policy("nano_vla", run / "checkpoints" / "001" / "pretrained_model")
    for tasks, expected in (["point/green"], ["point/green"]), (["other/lift"], [t.id for t in PointSuite().tasks()]):
        (run / "run.json").write_text(json.dumps({"tasks": [{"id": task} for task in tasks]}))
        assert evaluate(tmp_path / tasks[0], "evaluation.episodes=1", policy=policy.parent) == 0
        assert rows(tmp_path / tasks[0])["task"].tolist() == expected


class Told(Method):
    """Keeps one number per task, and puts that of the task served into the first weight of the model."""

    name = "told"
    task_id_at_test = True

    def __init__(self, served: list | None = None):
        self.numbers = {task: torch.tensor([float(place)]) for place, task in enumerate(served or [], start=3)}

    def select_task(self, task):
        if task is not None and task.id not in self.numbers:
            raise ConfigurationError(f"method 'told' has not learnt {task.id}")
        with torch.no_grad():
            first_weight(self.model)[0] = 0.0 if task is None else self.numbers[task.id][0]

    def state_dict(self):
        return self.numbers

    def extra_state(self):
        return {"order": list(self.numbers)}

    def load_state_dict(self, state, extra, past):
        assert list(past) == []
        self.numbers = {task: state[task] for task in extra["order"]}


def first_weight(model):
    return next(iter(model.module.parameters())).view(-1)


SEQUENTIAL = {"name": "sequential", "class": "vla_cl.methods.sequential:Sequential"}
TROUBLED = {"name": "of the past", "class": "troubled_suite:TroubledSuite", "seconds": 0.001, "crashes": []}
TOLD = {"name": "told", "class": f"{__name__}:Told"}
SHORT = ["evaluation.episodes=1", "evaluation.workers=1", "device=cpu"]


def make_run(root, model, method=None, suite=TROUBLED, method_settings=SEQUENTIAL):
    """A run's folder after its only experience, red and green."""
    from vla_cl.methods.sequential import Sequential

    root.mkdir()
    settings = {"suite": suite, "method": method_settings, "train_seed": 3, "plugins": ["troubled_suite", __name__],
                "evaluation": {"replan_every": 3}}  # fmt: skip
    (root / "config.yaml").write_text(yaml.safe_dump(settings))
    (root / "run.json").write_text(json.dumps({"tasks": [{"id": "point/red"}, {"id": "point/green"}]}))
    checkpoint.save(root / "checkpoints", model, method or Sequential(), checkpoint.Progress(1, 1, 0.0, 0.0))
    return root


def evaluate_plainly(policy, folder, *overrides):
    """The command without the settings that say which suite it is."""
    return main(["evaluate", "--conf", str(CONF), str(policy), *SHORT, f"output_dir={folder}", *overrides])


def identity(folder):
    return json.loads((folder / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", new_policy("nano_vla"))


@pytest.mark.parametrize("where", ["", "checkpoints/001", "checkpoints/001/pretrained_model"])
def test_a_run_is_evaluated_in_its_own_suite_and_as_it_planned(run, tmp_path, capsys, where):
    assert evaluate_plainly(run / where, tmp_path / "e", "plugins=[troubled_suite]") == 0
    assert f"as in the run {run}: suite=of the past, evaluation.replan_every=3\n" in capsys.readouterr().out
    found = identity(tmp_path / "e")
    assert (found["suite"]["name"], found["replan_every"]) == ("of the past", 3)
    assert found["suite"]["class"] == "troubled_suite:TroubledSuite"
    assert rows(tmp_path / "e")["task"].tolist() == ["point/red", "point/green"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_newer_checkpoint_that_is_damaged_is_named_in_the_results(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.copytree(copy / "checkpoints" / "001", copy / "checkpoints" / "002")
    flip(copy / "checkpoints" / "002" / "pretrained_model" / "model.safetensors")
    allowed = "plugins=[troubled_suite]"
    assert evaluate_plainly(copy, tmp_path / "e", allowed, "tasks=[red]", "evaluation.episodes=1") == 0
    (sentence,) = summary(tmp_path / "e")["passed_over"]
    assert "002/pretrained_model/model.safetensors is damaged" in sentence
    assert capsys.readouterr().out.count("passing over a checkpoint") == 2  # when it happens, and with the results
    for where in ("checkpoints/002", "checkpoints/002/pretrained_model"):
        assert evaluate_plainly(copy / where, tmp_path / "f", allowed) == 2
        assert "is damaged: it differs from its manifest" in capsys.readouterr().err
    flip(copy / "checkpoints" / "001" / "pretrained_model" / "config.json")
    assert evaluate_plainly(copy, tmp_path / "f", allowed) == 2
    assert "no checkpoint in" in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("where", ["", "checkpoints/001", "checkpoints/001/pretrained_model"])
@pytest.mark.parametrize(
    ("lost", "says"),
    [("run.json", "has no run.json, which says what it learnt"), ("config.yaml", "has lost its config.yaml")],
)
def test_a_run_that_lost_what_says_its_tasks_or_suite_is_not_guessed(run, tmp_path, capsys, where, lost, says):
    """It would be rolled out on every task of the suite, or in the default one."""
    copy = shutil.copytree(run, tmp_path / "run")
    sealed = seal(json.loads((copy / "run.json").read_text()))
    (copy / "run.json").write_text(json.dumps(sealed))
    (copy / lost).unlink()
    more = ["plugins=[troubled_suite]", "suite=troubled"]
    assert evaluate_plainly(copy / where, tmp_path / "e", *more) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "e").exists()
    named = evaluate_plainly(copy / where, tmp_path / "e", *more, "tasks=[red]", "evaluation.episodes=1")
    assert named == (0 if lost == "run.json" else 2)


@pytest.mark.parametrize("content", ['{"id": 3}', '{"tasks": []}'])
def test_a_run_json_of_other_software_does_not_make_a_run(tmp_path, content):
    save_policy("nano_vla", tmp_path / "checkpoints" / "000100" / "pretrained_model")
    (tmp_path / "run.json").write_text(content)
    assert find_run(str(tmp_path / "checkpoints" / "000100" / "pretrained_model")) is None


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "\\\\${oc.env:HOME}", "a ${b", "$HOME", "???"])
def test_the_settings_of_a_run_are_text(run, tmp_path, value):
    copy = shutil.copytree(run, tmp_path / "run")
    settings = yaml.safe_load((copy / "config.yaml").read_text())
    settings["suite"]["render_profile"] = value
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    found = compose_evaluation(str(copy), ["plugins=[troubled_suite]"], [CONF])
    assert found["suite"]["render_profile"] == value


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "3 plugins=[x]", 1.5, True, [3]])
def test_a_number_of_a_run_is_a_number(run, tmp_path, value):
    copy = shutil.copytree(run, tmp_path / "run")
    settings = yaml.safe_load((copy / "config.yaml").read_text())
    settings["evaluation"]["replan_every"] = value
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigurationError, match="expected a whole number"):
        compose_evaluation(str(copy), ["plugins=[troubled_suite]"], [CONF])


def test_what_the_user_says_wins_over_the_run(run, tmp_path, capsys):
    allowed = "plugins=[troubled_suite,toy_world]"
    changed = ["suite.crashes=[[red,20000]]", "evaluation.replan_every=2", "evaluation.max_attempts=1"]
    assert evaluate_plainly(run, tmp_path / "changed", allowed, *changed) == 0
    assert f"as in the run {run}: suite=of the past\n" in capsys.readouterr().out
    assert identity(tmp_path / "changed")["replan_every"] == 2
    assert rows(tmp_path / "changed")["outcome"].tolist()[0] == "error"
    assert evaluate_plainly(run, tmp_path / "other", allowed, "suite=point") == 0
    assert f"as in the run {run}: evaluation.replan_every=3\n" in capsys.readouterr().out
    assert identity(tmp_path / "other")["suite"]["name"] == "point"
    both = ["suite=point", "evaluation.replan_every=2"]
    assert evaluate_plainly(run, tmp_path / "both", allowed, *both) == 0
    assert "as in the run" not in capsys.readouterr().out


def test_a_policy_outside_of_a_run_takes_nothing_over(run, tmp_path, capsys):
    copied = shutil.copytree(run / "checkpoints" / "001" / "pretrained_model", tmp_path / "policy")
    assert evaluate(tmp_path / "e", "tasks=[red]", "evaluation.episodes=1", policy=copied) == 0
    assert "as in the run" not in capsys.readouterr().out
    (tmp_path / "config.yaml").write_text("settings: of something else\n")
    assert evaluate(tmp_path / "e", "tasks=[red]", "evaluation.episodes=1", policy=copied) == 0
    (tmp_path / "config.yaml").write_text("settings: [of\n")
    assert evaluate(tmp_path / "f", "tasks=[red]", "evaluation.episodes=1", policy=copied) == 0
    (tmp_path / "run.json").write_text("{}")  # now it is a run's
    assert evaluate(tmp_path / "g", "tasks=[red]", policy=copied) == 2
    assert "config.yaml is not valid YAML" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "overrides", "advice"),
    [
        ("suite", ["plugins=[toy_world]"], "add plugins=[toy_world,troubled_suite]"),
        ("suite", ["plugins=[toy_world]", "suite.seconds=0.002"], "add plugins=[toy_world,troubled_suite]"),
        ("method", ["plugins=[troubled_suite]"], f"add plugins=[troubled_suite,{__name__}]"),
    ],
)
def test_only_the_command_says_which_packages_may_be_used(part, overrides, advice, tmp_path, capsys):
    run = make_run(tmp_path / "run", new_policy("nano_vla"), method_settings=TOLD)
    assert evaluate_plainly(run, tmp_path / "e", *overrides) == 2
    message = capsys.readouterr().err
    assert f"the {part} of the run {run} is" in message
    assert advice in message
    assert message.count("\n") == 1
    assert not (tmp_path / "e").exists()


def test_a_name_on_the_hub_is_not_looked_for_around_the_working_directory(run, monkeypatch):
    from vla_cl.location import find_run

    monkeypatch.chdir(run)
    assert find_run("someone/policy") is None
    assert find_run("random") is None
    assert find_run("checkpoints").root == run


def test_a_misspelt_setting_of_the_suite_of_a_run_is_one_sentence(run, tmp_path, capsys):
    assert evaluate_plainly(run, tmp_path / "e", "plugins=[troubled_suite]", "suite.secods=1") == 2
    message = capsys.readouterr().err
    assert "unknown key 'suite.secods'; did you mean 'suite.seconds'" in message
    assert message.count("\n") == 1


@pytest.fixture
def served(monkeypatch):
    """The tasks of each call of the engine, and what a function said of the policy then."""
    calls, look, roll_out = [], [first_weight], Engine.run

    def rolled_out(self, policy, requests, *more):
        calls.append(({request.task.id for request in requests}, look[0](policy)[0].item()))
        return roll_out(self, policy, requests, *more)

    monkeypatch.setattr(Engine, "run", rolled_out)
    return calls, look


ALLOWED = f"plugins=[troubled_suite,{__name__}]"


def make_told_run(root):
    model = new_policy("nano_vla")
    method = Told(["point/red", "point/green"])
    method.attach(model, 3)
    return make_run(root, model, method, method_settings=TOLD)


def test_a_method_that_must_be_told_the_task_is_told_it(served, tmp_path, capsys):
    run = make_told_run(tmp_path / "run")
    assert evaluate_plainly(run, tmp_path / "e", ALLOWED, "evaluation.episodes=2") == 0
    assert served[0] == [({"point/red"}, 3.0), ({"point/green"}, 4.0)]
    assert rows(tmp_path / "e")["task"].tolist() == ["point/red", "point/red", "point/green", "point/green"]
    served[0].clear()
    copied = shutil.copytree(run / "checkpoints" / "001" / "pretrained_model", tmp_path / "policy")
    assert evaluate(tmp_path / "plain", "tasks=[red,green]", policy=copied) == 0
    assert [tasks for tasks, _ in served[0]] == [{"point/red", "point/green"}]
    capsys.readouterr()
    (run / "checkpoints" / "001" / "cl_state" / "method.json").unlink()
    assert evaluate_plainly(run / "checkpoints" / "001", tmp_path / "f", ALLOWED) == 2
    assert "001 lacks cl_state/method.json" in capsys.readouterr().err


def test_a_task_that_the_method_of_a_run_has_not_learnt_is_one_sentence(served, tmp_path, capsys):
    run = make_told_run(tmp_path / "run")
    assert evaluate_plainly(run, tmp_path / "e", ALLOWED, "tasks=[red,blue]") == 2
    assert capsys.readouterr().err == "vla-cl: method 'told' has not learnt point/blue\n"
    assert served[0] == []
    assert not (tmp_path / "e").exists()


def test_another_state_of_the_method_is_another_evaluation(tmp_path, capsys):
    first = make_told_run(tmp_path / "first")
    assert evaluate_plainly(first, tmp_path / "e", ALLOWED) == 0
    model, method = new_policy("nano_vla"), Told(["point/red", "point/green"])
    method.attach(model, 3)
    method.numbers["point/red"] += 1
    second = make_run(tmp_path / "second", model, method, method_settings=TOLD)
    capsys.readouterr()
    assert evaluate_plainly(second, tmp_path / "e", ALLOWED) == 2
    assert "policy.method.files.method.safetensors was" in capsys.readouterr().err
    damaged = second / "checkpoints" / "001" / "cl_state" / "method.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert evaluate_plainly(damaged.parents[1], tmp_path / "f", ALLOWED) == 2
    assert "is damaged" in capsys.readouterr().err


def test_packnet_serves_each_task_with_its_own_weights(served, tmp_path):
    model, method = new_policy("nano_vla"), PackNet()
    method.attach(model, 3)
    by_id = {task.id: task for task in PointSuite().tasks()}
    for number, task in enumerate(("point/red", "point/green")):
        experience = Experience(number, task, (by_id[task],))
        method.begin_task(experience)
        with torch.no_grad():  # what is free learns
            for name, owner in method.owners.items():
                dict(model.module.named_parameters())[name][owner == 0] = number + 0.5
        method.begin_phase("retrain")
        method.end_task(experience, None)
    name = next(iter(method.owners))
    owner = method.owners[name]
    counts = [int((owner == 1).sum()), int((owner > 0).sum())]
    assert 0 < counts[0] < counts[1] < owner.numel()
    settings = {"name": "packnet", "class": "vla_cl.methods.packnet:PackNet"}
    run = make_run(tmp_path / "run", model, method, method_settings=settings)
    served[1][0] = lambda policy: [torch.count_nonzero(dict(policy.module.named_parameters())[name])]
    assert evaluate_plainly(run, tmp_path / "e", "plugins=[troubled_suite]") == 0
    assert served[0] == [({"point/red"}, counts[0]), ({"point/green"}, counts[1])]


def test_a_policy_that_needs_the_past_is_refused_before_anything_starts(tmp_path, capsys):
    policy = save_policy("history", tmp_path / "policy")
    assert evaluate(tmp_path / "e", policy=policy) == 2
    message = capsys.readouterr().err
    assert "'diffusion' looks at 2 frames at once" in message
    assert message.count("\n") == 1
    assert not (tmp_path / "e").exists()


def test_a_policy_on_the_hub_is_found_in_its_cache(tmp_path, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    home = tmp_path / "hub" / "models--someone--policy"
    save_policy("nano_vla", home / "snapshots" / "0123abc")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0123abc")
    assert evaluate(tmp_path / "e", "tasks=[red]", policy="someone/policy") == 0
    assert summary(tmp_path / "e")["policy"] == "someone/policy"
    assert evaluate(tmp_path / "f", policy="someone/other") == 2
    assert "cannot be had from the hub" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["suite=metaworl"], "unknown suite 'metaworl'; did you mean 'metaworld'"),
        (["tasks=[redd]"], "unknown task 'redd' of point; nearest: red"),
        (["split=reprot"], "split must be one of report, select, train; got 'reprot'; did you mean 'report'"),
        (["evaluation.episods=3"], "did you mean 'evaluation.episodes'"),
        (["record=maybe"], "record must be true or false; got 'maybe'"),
        (["evaluation.deadline=0"], "evaluation.deadline must be a finite number above 0"),
        (["evaluation.batch_size=0"], "evaluation.batch_size must be null or a whole number from 1"),
        (["random.seed=-1"], "random.seed must be a whole number from 0"),
        (["random.chunk_size=1"], "replan_every=2 is not possible"),
        (["suite.bounded=false"], "a random policy needs a finite range"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(overrides, message, tmp_path, capsys):
    assert evaluate(tmp_path / "e", *overrides) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "e").exists()


def test_rollouts_can_be_learnt_from(undisturbed, tmp_path):
    command = ["train", "--conf", str(CONF), "plugins=[toy_world]", "suite=point", "policy=tiny", "stream=datasets",
               f"stream.datasets=[{undisturbed / 'dataset'}]", "training.steps=1", "training.batch_size=2", "threads=1",
               "evaluation.episodes=1", "evaluation.replan_every=2", "evaluation.workers=1", "device=cpu",
               f"cache_dir={tmp_path / 'cache'}", f"output_dir={tmp_path / 'run'}"]  # fmt: skip
    assert main(command) == 0
    assert (tmp_path / "run" / "matrix.json").is_file()


def test_a_task_with_a_long_name_leaves_the_table_readable(undisturbed):
    found = summary(undisturbed)
    figures = found["tasks"].pop("point/red")
    name = f"libero_10/{'put_both_the_soup_and_the_box_in_the_basket_' * 3}"
    found["tasks"] = {name: figures, **found["tasks"]}
    lines = describe(found, undisturbed).splitlines()
    assert max(map(len, lines)) <= 120
    assert sum("libero_10/put_both" in line for line in lines) == 1


METAWORLD = ["suite=metaworld", "tasks=[reach,push]", "suite.image_size=32", "suite.max_steps=24",
             "evaluation.episodes=1", "evaluation.slots_per_worker=1"]  # fmt: skip


@pytest.mark.sim
def test_what_is_recorded_of_metaworld_is_what_happened(tmp_path):
    from vla_cl.envs.metaworld import MetaWorld

    assert evaluate(tmp_path / "plain", *METAWORLD) == 0
    assert evaluate(tmp_path / "recorded", *METAWORLD, "record=true") == 0
    pd.testing.assert_frame_equal(rows(tmp_path / "recorded"), rows(tmp_path / "plain"))
    suite = MetaWorld(image_size=32, render_profile="fast", max_steps=24)
    dataset = DatasetFolder(tmp_path / "recorded" / "dataset")
    actions, states = dataset.column("action"), dataset.column("observation.state")
    numbers = dataset.column("episode_index")
    for index, row in rows(tmp_path / "recorded").iterrows():
        environment = suite.make_environment(suite.task(row["task"]))
        environment.reset(int(row["initial_state"]))
        for action, state in zip(actions[numbers == index], states[numbers == index], strict=True):
            assert np.array_equal(environment.state(), state)
            environment.step(action)
        environment.close()


@pytest.mark.sim
def test_a_machine_that_cannot_render_is_one_sentence(tmp_path):
    command = [sys.executable, "-m", "vla_cl.cli", "evaluate", "random", *METAWORLD, f"output_dir={tmp_path / 'e'}",
               "evaluation.workers=1"]  # fmt: skip
    broken = {**os.environ, "MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"}
    done = subprocess.run(command, capture_output=True, text=True, env=broken, timeout=120, check=False)
    assert done.returncode == 2
    assert "cannot render off-screen" in done.stderr
    assert "Traceback" not in done.stderr
