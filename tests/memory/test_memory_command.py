"""A run's memory: listed, opened by stock LeRobot, taken over by another run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lerobot.datasets import LeRobotDataset
from remembered_data import same
from safetensors.numpy import load_file
from tiny_model import experience

from vla_cl.cli import memory as memory_command
from vla_cl.cli.main import main
from vla_cl.cli.memory import RunMemory
from vla_cl.config.compose import compose
from vla_cl.data.frames import Frames
from vla_cl.data.source import Source
from vla_cl.memory.replay_memory import ReplayMemory
from vla_cl.run import root as run
from vla_cl.types import ConfigurationError

CONF = [Path(__file__).parents[1] / "conf", Path(__file__).parent / "conf"]
SETTINGS = ["plugins=[toy_world,remembering_method]", "suite=point", "evaluation.episodes=1", "evaluation.workers=1",
            "evaluation.replan_every=2", "evaluation.videos=0", "device=cpu", "threads=1", "stream=points",
            "policy=tiny", "demonstrations.episodes=3", "demonstrations.workers=1", "training.steps=2",
            "training.batch_size=4", "method=remembering"]  # fmt: skip
INDEX = "{budget: 40 kB, unit: trajectory, selection: herding}"
COPY = "{budget: 40 kB, unit: trajectory, keep: copy}"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def train(cache, folder, memory):
    overrides = [*SETTINGS, f"cache_dir={cache}", f"output_dir={folder}", f"+method.memory={memory}"]
    return run.train(compose(overrides, folders=CONF))


@pytest.fixture(scope="module")
def with_index(cache, tmp_path_factory):
    return train(cache, tmp_path_factory.mktemp("runs") / "index", INDEX)


@pytest.fixture(scope="module")
def with_copy(cache, tmp_path_factory):
    return train(cache, tmp_path_factory.mktemp("runs") / "copy", COPY)


def test_a_copy_of_frames_gives_the_frames_batches(point_datasets, tmp_path):
    sources = [Source(root) for root in point_datasets[:2]]
    for number, history in enumerate((None, [-1, 0])):
        data = Frames(sources, tmp_path / "cache", range(-1, 4), history)
        memory = ReplayMemory.from_settings({"samples_per_task": len(data), "keep": "copy", "unit": "trajectory"})
        memory.keep_in(tmp_path / f"memory-{number}")
        memory.remember(experience(), data, 0)
        rows = np.random.default_rng(0).permutation(len(data))
        same(memory.fetch(np.column_stack([np.zeros_like(rows), rows])), data.batch(rows))


@pytest.mark.parametrize("kind", ["with_index", "with_copy"])
def test_a_memory_is_listed(kind, request, capsys):
    root = request.getfixturevalue(kind)
    assert main(["memory", str(root)]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert [line.split()[0] for line in lines] == ["experience", "red", "green", lines[3].split()[0]]
    assert "of a budget of 40,000 bytes" in lines[3]
    assert main(["memory", str(root), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["bytes"] == sum(task["bytes"] for task in content["tasks"]) <= 40_000
    assert content["bytes"] == json.loads((root / "run.json").read_text())["memory_bytes"]
    assert {task["encoding"] for task in content["tasks"]} == {"index" if kind == "with_index" else "raw"}
    assert all(task["trajectories"] >= 1 for task in content["tasks"])
    if kind == "with_copy":
        assert content["bytes"] == sum(path.stat().st_size for path in (root / "memory").iterdir())


@pytest.mark.parametrize("kind", ["with_index", "with_copy"])
def test_stock_lerobot_opens_the_export(kind, request, cache, tmp_path, capsys):
    root, folder = request.getfixturevalue(kind), tmp_path / "exported"
    assert main(["memory", str(root), "--export", str(folder), "--plugins", "toy_world"]) == 0
    assert f"{folder}: " in capsys.readouterr().out
    memory = RunMemory.read(root)
    stock = LeRobotDataset("local/exported", root=folder, video_backend="pyav", return_uint8=True)
    assert len(stock) == sum(len(task.rows) for task in memory.tasks)
    assert stock.num_episodes == sum(task.trajectories for task in memory.tasks)
    settings = compose([*SETTINGS, f"cache_dir={cache}", "+method.memory={samples_per_task: 1}"], folders=CONF)
    found = run.sources(settings)
    sources = run.demonstrations(settings, found.suite, found.stream.tasks)
    place = 0
    for task, item in zip(memory.tasks, found.stream.tasks, strict=True):
        data = Frames(sources[item.id], cache / "frames", [0])
        expected = data.batch(np.sort(task.rows))
        for number in range(len(task.rows)):
            frame = stock[place]
            place += 1
            assert frame["task"] == item.instruction
            assert torch.equal(frame["action"], expected["action"][number, 0])
            assert torch.equal(frame["observation.state"], expected["observation.state"][number])
            pictures = frame["observation.image"].float(), expected["observation.image"][number].float()
            assert (pictures[0] - pictures[1]).abs().mean() < 8  # the film is encoded again
    with pytest.raises(ConfigurationError, match="exists; give --export a new folder"):
        memory_command.export(root, folder, ["toy_world"])


@pytest.mark.parametrize("target", ["/", "."])
def test_a_folder_without_a_name_is_no_target(tmp_path, target):
    with pytest.raises(ConfigurationError, match="exists; give --export a new folder"):
        memory_command.export(tmp_path, Path(target))


def test_the_run_itself_does_not_say_which_packages_may_be_used(with_index, tmp_path, capsys):
    assert main(["memory", str(with_index), "--export", str(tmp_path / "exported")]) == 2
    assert "in the package 'toy_world', not listed; if you trust it, add --plugins toy_world" in capsys.readouterr().err
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        ("suite", "point", "'suite' as dict"),
        ("stream", {}, "lacks settings of a run"),
        ("cache_dir", None, "'cache_dir' as str"),
        ("method", {"memory": 3}, "must be a mapping"),
    ],
)
def test_settings_that_are_none_are_refused(with_index, tmp_path, part, value, says):
    copy = shutil.copytree(with_index, tmp_path / "run")
    settings = yaml.safe_load((copy / "config.yaml").read_text())
    (copy / "config.yaml").write_text(yaml.safe_dump(settings | {part: value}))
    with pytest.raises(ConfigurationError, match=says):
        memory_command.export(copy, tmp_path / "exported", ["toy_world"])


def test_a_cache_of_another_machine_is_not_made(with_copy, tmp_path):
    copy = shutil.copytree(with_copy, tmp_path / "run")
    settings = yaml.safe_load((copy / "config.yaml").read_text())
    elsewhere = tmp_path / "another" / "machine"
    (copy / "config.yaml").write_text(yaml.safe_dump(settings | {"cache_dir": str(elsewhere)}))
    memory_command.export(copy, tmp_path / "exported", ["toy_world"])
    assert not elsewhere.exists()


def test_another_run_starts_with_it_and_resumes(with_index, cache, tmp_path):
    folder = tmp_path / "exported"
    memory_command.export(with_index, folder, ["toy_world"])
    settings = f"{{budget: 60 kB, unit: trajectory, reuse: {folder}}}"
    later = train(cache, tmp_path / "later", settings)
    names = [task.name for task in RunMemory.read(later).tasks]
    assert names == ["memory.reused", "red", "green"]
    assert all(len(task.rows) for task in RunMemory.read(later).tasks)
    copy = tmp_path / "interrupted"
    shutil.copytree(later, copy)
    shutil.rmtree(copy / "checkpoints" / "002")
    (copy / "matrix.json").unlink()
    train(cache, copy, settings)
    whole, resumed = (
        load_file(root / "checkpoints" / "002" / "pretrained_model" / "model.safetensors") for root in (later, copy)
    )
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    memory_command.export(later, tmp_path / "again", ["toy_world"])
    without = load_file(with_index / "checkpoints" / "001" / "pretrained_model" / "model.safetensors")
    with_it = load_file(later / "checkpoints" / "001" / "pretrained_model" / "model.safetensors")
    assert any(not np.array_equal(without[name], with_it[name]) for name in without)


def test_a_run_with_copies_resumes_bit_for_bit(with_copy, cache, tmp_path):
    copy = tmp_path / "interrupted"
    shutil.copytree(with_copy, copy)
    shutil.rmtree(copy / "checkpoints" / "002")
    files = {path.name for path in (copy / "memory").iterdir()}
    train(cache, copy, COPY)
    assert {path.name for path in (copy / "memory").iterdir()} == files
    whole, resumed = (
        load_file(root / "checkpoints" / "002" / "pretrained_model" / "model.safetensors") for root in (with_copy, copy)
    )
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


def test_copies_that_a_kill_after_the_checkpoint_left_behind_go_when_the_run_continues(with_copy, cache, tmp_path):
    copy = tmp_path / "interrupted"
    shutil.copytree(with_copy, copy)
    files = {path.name for path in (copy / "memory").iterdir()}
    a_copy = next(path for path in (copy / "memory").iterdir() if path.name != "journal.jsonl")
    shutil.copy(a_copy, a_copy.with_stem("dropped"))
    train(cache, copy, COPY)
    assert {path.name for path in (copy / "memory").iterdir()} == files


def test_what_cannot_be_shown_is_said(tmp_path, with_index):
    with pytest.raises(ConfigurationError, match="is no run"):
        RunMemory.read(tmp_path)
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(ConfigurationError, match="no checkpoint yet"):
        RunMemory.read(tmp_path)


def test_single_frames_are_not_reused(cache, tmp_path):
    single = train(cache, tmp_path / "run", "{samples_per_task: 9}")
    memory_command.export(single, tmp_path / "exported", ["toy_world"])
    assert main(["memory", str(single)]) == 0
    with pytest.raises(ConfigurationError, match="kept single frames"):
        train(cache, tmp_path / "later", f"{{samples_per_task: 9, reuse: {tmp_path / 'exported'}}}")
    with pytest.raises(ConfigurationError, match="holds no dataset"):
        train(cache, tmp_path / "later", f"{{samples_per_task: 9, reuse: {tmp_path}}}")
