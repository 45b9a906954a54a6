"""Recorded datasets as a stream: without a suite, with one, in its order; moved, renamed, refused beforehand."""

import json
import shutil

import numpy as np
import pytest
from dataset_streams import CONF, POINT, SMALL, refusal, settings, train
from odd_datasets import data_file, make_dataset, set_column
from safetensors.numpy import load_file

from vla_cl.cli.main import main
from vla_cl.config.compose import compose
from vla_cl.data.recorded import matched, recorded_tasks
from vla_cl.data.streams import recorded_stream
from vla_cl.metrics import ScoreMatrix
from vla_cl.run import root as run
from vla_cl.run.check import check
from vla_cl.run.evaluate import evaluate
from vla_cl.types import ConfigurationError

TOP = "observation.images.top"
WRIST = "observation.images.wrist"
CHINESE = ("拿起立方体", "放下立方体", "打开抽屉")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    """Three datasets of a robot with two cameras, told in Chinese; the third has the first's task too."""
    root = tmp_path_factory.mktemp("robot")
    cameras = {TOP: (16, 20), "observation.images.wrist": (16, 20)}
    told = [[CHINESE[0]], [CHINESE[1]], [CHINESE[2], CHINESE[0]]]
    return [
        make_dataset(root / f"part {number}", [(text, 6) for text in texts], cameras, state=6, action=6, seed=number)
        for number, texts in enumerate(told)
    ]


@pytest.fixture(scope="module")
def learnt(robot, cache, tmp_path_factory):
    return train(cache, tmp_path_factory.mktemp("runs") / "robot", "stream=datasets", datasets=robot)


def test_a_robot_without_a_simulator_is_learnt_and_that_is_said(learnt, robot, cache, tmp_path, capsys):
    summary = json.loads((learnt / "run.json").read_text())
    assert [task["instruction"] for task in summary["tasks"]] == list(CHINESE)
    assert len({task["id"] for task in summary["tasks"]}) == 3
    assert summary["status"] == "finished"
    assert summary["suite"] == "none"
    assert "rollouts are skipped" in summary["rollouts"]["skipped"]
    assert not (learnt / "matrix.json").exists()
    train(cache, tmp_path / "again", "stream=datasets", datasets=robot)
    shown = capsys.readouterr()
    assert "rollouts are skipped" in shown.err
    assert "rollouts are skipped" in shown.out.splitlines()[-1]


@pytest.mark.parametrize("command", [["metrics"], ["compare"]])
def test_what_needs_rollouts_says_that_there_were_none(learnt, command, capsys):
    assert main([*command, str(learnt)]) == 2
    sentence = capsys.readouterr().err
    assert "rollouts are skipped" in sentence
    assert sentence.count("\n") == 1
    assert len(sentence) <= 300


def test_the_report_shows_the_loss_curves(learnt, tmp_path, capsys):
    assert main(["report", str(learnt), "--output", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "rollouts were skipped" in page
    assert "<svg" in page


def test_data_that_moved_continue_bit_for_bit_and_others_are_refused(learnt, robot, cache, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(learnt, folder)
    shutil.rmtree(folder / "checkpoints" / "003")
    moved = [shutil.copytree(root, tmp_path / f"ümlaut = ({n}), x") for n, root in enumerate(robot)]
    changed = shutil.copytree(robot[1], tmp_path / "changed")
    (changed / "meta" / "stats.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"learnt from dataset 2 at .*part 1.*changed is given"):
        train(cache, folder, "stream=datasets", datasets=[moved[0], changed, moved[2]])
    with pytest.raises(ConfigurationError, match="learnt from 3 datasets, 2 are given"):
        train(cache, folder, "stream=datasets", datasets=moved[:2])
    with pytest.raises(ConfigurationError, match="comes in another place"):
        train(cache, folder, "stream=datasets", datasets=[moved[1], moved[0], moved[2]])
    train(cache, folder, "stream=datasets", datasets=moved)
    one, other = (load_file(path / "checkpoints" / "003" / "pretrained_model" / "model.safetensors")
                  for path in (learnt, folder))  # fmt: skip
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_warm_start_of_another_rate_is_said(learnt, cache, tmp_path, capsys):
    root = make_dataset(tmp_path / "d", [("x", 4)], {TOP: (16, 20), WRIST: (16, 20)}, state=6, action=6, fps=25)
    check(settings(cache, tmp_path / "run", "stream=datasets", f"warm_start={learnt}", datasets=[root])).say()
    assert "learnt from 10 actions a second, the data have 25" in capsys.readouterr().err


def recorded_anew(root, steps, seed):
    shutil.rmtree(root)
    cameras = {TOP: (16, 20), "observation.images.wrist": (16, 20)}
    make_dataset(root, [(CHINESE[1], steps)], cameras, state=6, action=6, seed=seed)


CHANGES = {
    "other pictures": lambda root: recorded_anew(root, steps=6, seed=9),
    "shorter": lambda root: recorded_anew(root, steps=4, seed=1),
    "one action": lambda root: set_column(data_file(root), "action", [[1.0] * 6] * 6),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_dataset_that_changes_while_the_run_is_under_way_is_refused(robot, cache, tmp_path, monkeypatch, change):
    """It would be learnt without a word, and run.json would tell of the data that were there before."""
    from vla_cl.run import continual

    roots = [shutil.copytree(root, tmp_path / f"part {number}") for number, root in enumerate(robot[:2])]
    learning, done = continual.Learning, []

    def learn_and_change(*arguments, **named):
        result = learning(*arguments, **named)
        if not done:
            done.append(CHANGES[change](roots[1]))
        return result

    monkeypatch.setattr(continual, "Learning", learn_and_change)
    folder = tmp_path / "run"
    with pytest.raises(ConfigurationError, match=r"part 1 was changed while the run was under way"):
        train(tmp_path / "cache", folder, "stream=datasets", datasets=roots)
    assert [path.name for path in (folder / "checkpoints").glob("0*")] == ["001"]


def test_a_run_that_lost_the_note_of_its_datasets_is_refused(learnt, robot, cache, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(learnt, folder)
    shutil.rmtree(folder / "checkpoints" / "003")
    (folder / "data.json").unlink()
    with pytest.raises(ConfigurationError, match=r"data\.json"):
        train(cache, folder, "stream=datasets", datasets=robot)
    assert not (folder / "checkpoints" / "003").exists()
    shutil.rmtree(folder / "checkpoints")  # a kill before the first checkpoint
    train(cache, folder, "stream=datasets", datasets=robot)
    assert (folder / "data.json").is_file()


def test_a_run_of_before_with_other_ids_still_opens(learnt, tmp_path, capsys):
    old = tmp_path / "old"
    shutil.copytree(learnt, old)
    summary = json.loads((old / "run.json").read_text())
    for number, task in enumerate(summary["tasks"]):
        task["id"] = f"my_dataset/task-{number}"
    for number, experience in enumerate(summary["experiences"]):
        experience["tasks"] = [f"my_dataset/task-{number}"]
    for key in ("rollouts", "seal"):
        summary.pop(key, None)
    (old / "run.json").write_text(json.dumps(summary))
    names = ("my_dataset/task-0", "my_dataset/task-1", "my_dataset/task-2")
    ScoreMatrix(names, ("a", "b", "c"), np.eye(3), np.full((3, 3), 5)).write(old / "matrix.json")
    assert main(["metrics", str(old)]) == 0
    assert "task-2" in capsys.readouterr().out
    assert main(["report", str(old)]) == 0


def test_the_order_and_the_groups_of_recorded_tasks(robot):
    recorded = recorded_tasks(robot)
    first = recorded.tasks[0].task.id
    ordered = recorded_stream("s", recorded, tasks=[CHINESE[2], first, CHINESE[2]])
    assert [task.instruction for e in ordered.stream for task in e.tasks] == [CHINESE[2], CHINESE[0], CHINESE[2]]
    assert any(CHINESE[1] in note for note in ordered.notes)
    groups = [{"name": "both", "tasks": list(CHINESE[:2])}, {"tasks": [CHINESE[2]]}]
    grouped = recorded_stream("s", recorded, experiences=groups)
    assert [e.name for e in grouped.stream] == ["both", "2"]
    assert [len(e.tasks) for e in grouped.stream] == [2, 1]
    with pytest.raises(ConfigurationError, match=r"which no dataset holds.*nearest"):
        recorded_stream("s", recorded, tasks=["放下"])


def test_equal_instructions_are_one_task_or_one_for_each_dataset(robot, tmp_path):
    merged, apart = recorded_tasks(robot), recorded_tasks(robot, same_instruction="separate")
    assert [len(task.sources) for task in merged.tasks] == [2, 1, 1]
    assert "learnt together" in recorded_stream("s", merged).notes[0]
    assert [task.instruction for task in apart.tasks] == [CHINESE[0], CHINESE[1], CHINESE[2], CHINESE[0]]
    moved = [shutil.copytree(root, tmp_path / str(number)) for number, root in enumerate(robot)]
    for same in ("merge", "separate"):
        ids = [
            [task.task.id for task in recorded_tasks(roots, same_instruction=same).tasks] for roots in (robot, moved)
        ]
        assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cameras": {TOP: (16, 20), "observation.images.left": (16, 20)}}, ["same cameras", "left", "wrist"]),
        ({"cameras": {TOP: (20, 20), "observation.images.wrist": (16, 20)}}, ["picture size", "16 x 20", "20 x 20"]),
        ({"state": 7}, ["state size", "6", "7"]),
        ({"state": 0}, ["state size", "6", "0"]),
        ({"action": 7}, ["action size", "6", "7"]),
        ({"fps": 15}, ["fps", "10", "15", "data.check_fps=false"]),
    ],
)
def test_a_third_dataset_of_another_kind_is_refused_before_the_first_step(change, words, robot, cache, tmp_path):
    usual = {"cameras": {TOP: (16, 20), "observation.images.wrist": (16, 20)}, "state": 6, "action": 6}
    other = make_dataset(tmp_path / "other", [("wave", 3)], **usual | change)
    sentence = refusal(settings(cache, tmp_path / "run", "stream=datasets", datasets=[*robot[:2], other]))
    assert [word for word in (*words, "part 0", "other") if word not in sentence] == []
    assert not (tmp_path / "run").exists()
    if "fps" in change:
        check(settings(cache, tmp_path / "run", "stream=datasets", "data.check_fps=false", datasets=[robot[0], other]))


@pytest.mark.parametrize(
    "name", ["a=b", "a(b", "a,b", "ä ö ü", "a'b", 'a"b', "[a]", "{a}", "$a", "a\\b", "~a", "#a", "%41"]
)
def test_paths_of_every_kind(name, robot):
    from vla_cl.data.location import dataset_roots

    root = robot[0].parent / "named" / name
    if not root.exists():
        shutil.copytree(robot[0], root)
    assert dataset_roots([("stream.datasets", [str(root)])]) == [root]
    assert dataset_roots([("stream.datasets", str(root))]) == [root]  # without brackets


def test_home_stands_for_itself(robot, monkeypatch):
    from vla_cl.data.location import dataset_roots

    monkeypatch.setenv("HOME", str(robot[0].parent))
    assert dataset_roots([("stream.datasets", ["~/part 0"])]) == [robot[0]]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (["{0}", "{0}"], "named twice"),
        (["{0}", "{link}"], "named twice"),
        (["{parent}"], "holds the datasets 'part 0', 'part 1'"),
        (["{file}"], "neither a LeRobotDataset folder"),
        (["/nowhere/at/all"], "neither a LeRobotDataset folder"),
        (["nobody/nothing"], "could not be fetched from the hub"),
        ([3], "must be a list of folders"),
        ({"a": 1}, "must be a list of folders"),
        ([""], "must be a list of folders"),
        (["x" * 5000], "cannot be read|neither"),
        (["a\0b"], "neither a LeRobotDataset folder|cannot be read"),
        ([], "has no dataset"),
    ],
)
def test_what_is_no_dataset_is_said_to_be_none(value, words, robot, cache, tmp_path):
    (tmp_path / "link").symlink_to(robot[0])
    (tmp_path / "file").write_text("x")
    places = {"parent": robot[0].parent, "link": tmp_path / "link", "file": tmp_path / "file"}
    chosen = settings(cache, tmp_path / "run", "stream=datasets")
    given = [item.format(robot[0], **places) if isinstance(item, str) else item for item in value]
    chosen["stream"]["datasets"] = given if isinstance(value, list) else value
    with pytest.raises(ConfigurationError, match=words) as caught:
        check(chosen)
    assert len(str(caught.value)) <= 300


# --- with a suite


def test_a_stream_of_the_suite_finds_its_data_by_instruction(point_datasets, cache, tmp_path):
    places = ",".join(f"'{root}'" for root in point_datasets)
    folder = train(
        cache, tmp_path / "run", *POINT, "stream=points", f"data.datasets=[{places}]", "stream.tasks=[blue,red]"
    )
    assert ScoreMatrix.from_json(folder / "matrix.json").tasks == ("point/blue", "point/red")
    assert list(cache.glob("demonstrations/*")) == []
    sentence = refusal(
        settings(cache, tmp_path / "b", *POINT, "stream=points", f"data.datasets=['{point_datasets[0]}']")
    )
    assert "1 of 2 tasks of the stream have no data" in sentence
    assert "point/green" in sentence


def test_the_order_of_libero_is_followed_with_data_from_elsewhere(tmp_path):
    from vla_cl.envs.libero import Libero

    usual = [task.instruction for task in Libero("libero_10").tasks()]
    for order in (0, 3):
        suite = Libero("libero_10", order=order)
        if not (tmp_path / "data").exists():
            make_dataset(tmp_path / "data", [(f"{text.capitalize()}.", 2) for text in usual])
        overrides = ["stream=libero_10", f"suite.order={order}", f"data.datasets=['{tmp_path / 'data'}']"]
        found = run.sources(compose(overrides))
        assert [task.id for task in found.stream.tasks] == [task.id for task in suite.tasks()]
        told = [found.recorded[task.id][0].recorded_instruction for task in found.stream.tasks]
        assert told == [f"{task.instruction.capitalize()}." for task in suite.tasks()]
        assert [found.recorded[t.id][0].instruction for t in suite.tasks()] == [t.instruction for t in suite.tasks()]


@pytest.mark.parametrize(
    "told", ["Go to the red side", "go to the red side.", " go to the red side ", "GO TO THE RED SIDE."]
)
def test_an_instruction_of_a_suite_is_recognised(told, tmp_path):
    from toy_world import PointSuite

    recorded = recorded_tasks([make_dataset(tmp_path / "d", [(told, 2)])])
    found = matched(recorded, PointSuite().tasks(), "point")
    assert [task.task.id for task in found.tasks] == ["point/red"]
    assert found.tasks[0].sources[0].instruction == "go to the red side"
    assert any("suite's words" in note for note in found.notes)


def test_no_task_of_the_suite_is_refused_and_some_are_said(point_datasets, cache, tmp_path):
    other = make_dataset(tmp_path / "other", [("go to the redd side", 3)], {"observation.image": (16, 16)}, 2, 2)
    chosen = [*POINT, "stream=datasets", "stream.check_orientation=false"]
    sentence = refusal(settings(cache, tmp_path / "run", *chosen, datasets=[other]))
    assert "0 of 1 tasks can be evaluated in suite 'point'" in sentence
    assert "nearest: 'go to the red side'" in sentence
    some = check(settings(cache, tmp_path / "run", *chosen, datasets=[point_datasets[0], other]))
    assert any("1 of 2 tasks can be evaluated" in note for note in some.notes)


def test_data_of_another_rate_than_the_suites_are_refused(cache, tmp_path):
    slow = make_dataset(tmp_path / "slow", [("go to the red side", 3)], {"observation.image": (16, 16)}, 2, 2, fps=5)
    chosen = [*POINT, "stream=datasets", "stream.check_orientation=false"]
    sentence = refusal(settings(cache, tmp_path / "run", *chosen, datasets=[slow]))
    assert "5 frames a second" in sentence
    assert "10 actions a second" in sentence
    check(settings(cache, tmp_path / "run", *chosen, "data.check_fps=false", datasets=[slow]))


def test_cameras_are_renamed_for_data_warm_start_and_rollouts(point_datasets, cache, tmp_path):
    renamed = [*POINT, "stream=datasets", "cameras={eye: observation.image}"]
    first = train(cache, tmp_path / "first", *renamed, datasets=point_datasets[:1])
    config = json.loads((first / "checkpoints" / "001" / "pretrained_model" / "config.json").read_text())
    assert "observation.images.eye" in config["input_features"]
    assert np.isfinite(ScoreMatrix.from_json(first / "matrix.json").scores).all()
    start = f"warm_start={first}"
    sentence = refusal(settings(cache, tmp_path / "w", *POINT, "stream=datasets", start, datasets=point_datasets[1:]))
    assert "observation.images.eye" in sentence
    assert "cameras={observation.images.eye: observation.image" in sentence
    warm = train(cache, tmp_path / "warm", *renamed, start, datasets=point_datasets[1:])
    overrides = [*POINT, "device=cpu", "cameras={eye: observation.image}", f"output_dir={tmp_path / 'e'}"]
    folder = evaluate(str(warm), compose(overrides, root="evaluate", folders=[CONF]))
    matrix = ScoreMatrix.from_json(warm / "matrix.json")
    tasks = json.loads((folder / "summary.json").read_text())["tasks"]
    assert [tasks[task]["success"] for task in matrix.tasks] == matrix.scores[-1].tolist()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("policy.type=nano_vl", ["nano_vl", "nano_vla"]),
        ("policy.chunk_size=0", ["policy"]),
        ("warm_start=/nowhere/at/all", ["/nowhere/at/all"]),
        ("warm_start=nobody/nothing", ["nobody/nothing"]),
        ("normalisation=checkpoint", ["warm_start"]),
        ("training.batch_size=0", ["batch_size"]),
        ("tracking.trackers=[clearml]", ["clearml"]),
        ("evaluation.replan_every=50", ["replan_every=50"]),
        ("device=cuda:9", ["cuda"]),
        ("cameras={top:nose}", ["nose"]),
        ("threads=-1", ["threads"]),
        ("demonstrations.episodes=100000 demonstrations.hold=100000", ["GiB"]),
        ("output_dir=/dev/null/x", ["output_dir"]),
        ("cache_dir=/dev/null", ["cache_dir"]),
    ],
)
def test_what_cannot_be_done_is_refused_before_a_demonstration_is_recorded(override, words, tmp_path, monkeypatch):
    def collect(*_, **__):
        raise AssertionError("demonstrations were recorded")

    monkeypatch.setattr("vla_cl.rollout.collect.collect", collect)
    overrides = [*SMALL, *POINT, "stream=points", f"cache_dir={tmp_path / 'c'}", f"output_dir={tmp_path / 'r'}"]
    with pytest.raises(ConfigurationError) as caught:
        run.train(compose([*overrides, *override.split()], folders=[CONF]))
    assert [word for word in words if word not in str(caught.value)] == []
    assert len(str(caught.value)) <= 300
    assert list(tmp_path.iterdir()) == []


def test_check_writes_nothing_and_shows_what_it_found(robot, tmp_path, capsys):
    arguments = ["check", "--conf", str(CONF), *SMALL, "stream=datasets", f"stream.datasets=['{robot[0]}']",
                 f"cache_dir={tmp_path / 'c'}", f"output_dir={tmp_path / 'r'}"]  # fmt: skip
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "16x20" in shown.out
    assert CHINESE[0] in shown.out
    assert "rollouts are skipped" in shown.err
    assert list(tmp_path.iterdir()) == []
    assert main([*arguments, "cameras={top: nose}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
