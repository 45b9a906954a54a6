"""``vla-cl evaluate``: nothing is lost, any LeRobot policy, a random one on any suite, rollouts as a dataset."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from evaluation_commands import CONF, SETTINGS, evaluate, rows, save_policy, summary
from toy_world import PointSuite

from vla_cl.cli.main import main
from vla_cl.data.dataset_folder import DatasetFolder
from vla_cl.metrics import wilson_interval
from vla_cl.rollout.summary import describe
from vla_cl.run.location import policy_name


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
    assert found["mean_success"] == pytest.approx((table["outcome"] == "success").mean())
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
        ("tasks=[red,green]", "with other settings (3 tasks, not the same)"),
        ("suite.render_profile=glossy", "(render_profile was plain, is now glossy"),
        ("record=false", "record was True, is now False"),
    ],
)
def test_another_evaluation_is_refused_and_the_difference_named(undisturbed, capsys, override, difference):
    assert evaluate(undisturbed, *(["record=true"] if "record" not in override else []), override) == 2
    message = capsys.readouterr().err
    assert difference in message
    assert message.count("\n") == 1


def test_two_policies_on_one_suite_have_folders_of_their_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short = ["evaluation.episodes=1", "evaluation.workers=1", "tasks=[red]"]
    for name, seed in (("er", 0), ("ewc", 1)):
        save_policy("nano_vla", tmp_path / "outputs" / "demo" / name, seed)
    for policy in ("random", "outputs/demo/er", "outputs/demo/ewc"):
        assert main(["evaluate", "--conf", str(CONF), policy, *SETTINGS, *short]) == 0
    names = ["evaluate-troubled-demo-er", "evaluate-troubled-demo-ewc", "evaluate-troubled-random"]
    assert sorted(path.name for path in (tmp_path / "outputs").glob("evaluate-*")) == names
    capsys.readouterr()
    for policy in ("random", "outputs/demo/er"):
        assert evaluate(f"outputs/{names[1]}", *short, policy=policy) == 2
        assert (
            f"outputs/{names[1]} holds an evaluation of another policy (outputs/demo/ewc); " in capsys.readouterr().err
        )
    save_policy("nano_vla", tmp_path / "outputs" / "demo" / "er", 2)
    assert evaluate(f"outputs/{names[0]}", *short, "split=select", policy="outputs/demo/er") == 2
    message = capsys.readouterr().err
    assert "of another policy (outputs/demo/er as it was then) and with other settings (split was report, is" in message
    assert len(message) < 310


@pytest.mark.parametrize("policy", ["random", "outputs/run"])
def test_a_suite_without_tasks_is_refused_before_a_policy_is_loaded(tmp_path, monkeypatch, capsys, policy):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "run"
    (folder / "checkpoints").mkdir(parents=True)
    none = {"name": "none", "class": "vla_cl.envs.no_suite:NoSuite"}
    sequential = {"name": "sequential", "class": "vla_cl.methods.sequential:Sequential"}
    (folder / "config.yaml").write_text(json.dumps({"suite": none, "method": sequential, "train_seed": 0}))
    assert main(["evaluate", policy, *(["suite=none"] if policy == "random" else [])]) == 2
    message = capsys.readouterr().err
    assert ("the run " in message and "learnt without a suite" in message) == (policy != "random")
    assert "name a simulator's suite, for example suite=metaworld" in message


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("random", "random"),
        ("user/policy", "user-policy"),
        ("outputs/demo/er", "demo-er"),
        ("outputs/er-0", "er-0"),
        ("outputs/demo/er/checkpoints/003/pretrained_model", "demo-er-003"),
        ("outputs/demo/er/checkpoints/last", "demo-er-003"),
        ("elsewhere/a/b/c", "b-c"),
        ("outputs", "policy"),
    ],
)
def test_a_policy_has_a_readable_name_for_folders(tmp_path, monkeypatch, location, name):
    monkeypatch.chdir(tmp_path)
    for folder in ("outputs/demo/er/checkpoints/003/pretrained_model", "outputs/er-0", "elsewhere/a/b/c"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "outputs/demo/er/checkpoints/last").symlink_to("003")
    assert policy_name(location) == name


def _kill_after(folder, episodes, *overrides):
    """Start the command in a process of its own and kill it without warning when so many episodes are journalled."""
    command = [sys.executable, "-m", "vla_cl.cli", "evaluate", "--conf", str(CONF), "random", *SETTINGS,
               f"output_dir={folder}", *overrides]  # fmt: skip
    journal = folder / "episodes.jsonl"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 600
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
    assert "/e holds an evaluation of another policy (" in capsys.readouterr().err


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
    done = subprocess.run(command, capture_output=True, text=True, env=broken, timeout=600, check=False)
    assert done.returncode == 2
    assert "cannot render off-screen" in done.stderr
    assert "Traceback" not in done.stderr
