"""``vla-cl train stream=metaworld_demo method=...`` with every method that ships, in tiny sizes: learns or refuses."""

import json

import pytest
from method_presets import method_preset

from vla_cl.cli.main import main
from vla_cl.config.compose import build, choices
from vla_cl.interfaces import Method
from vla_cl.types import Ability

pytestmark = [pytest.mark.slow, pytest.mark.sim]

TINY = ["stream=metaworld_demo", "device=cpu", "threads=1", "suite.image_size=48", "suite.max_steps=200",
        "policy.image_size=48", "policy.vision_channels=[8,16,32]", "policy.num_keypoints=8", "policy.hidden_size=32",
        "demonstrations.episodes=2", "demonstrations.workers=1", "training.steps=6", "training.batch_size=8",
        "evaluation.episodes=1", "evaluation.workers=1", "evaluation.slots_per_worker=2"]  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", choices("method"))
def test_it_learns_three_tasks_from_the_command_line(cache, tmp_path, capfd, name):
    folder = tmp_path / "run"
    status = main(["train", *TINY, f"method={name}", f"cache_dir={cache}", f"output_dir={folder}"])
    method = build(method_preset(name), Method)
    if Ability.GENERATION in method.needs:  # no policy makes up its own demonstrations
        assert status == 2
        assert "needs a model with generation" in capfd.readouterr().err
        return
    assert status == 0
    summary = json.loads((folder / "run.json").read_text())
    assert summary["status"] == "finished"
    assert summary["method"] == name
    assert summary["told_the_task"] == method.task_id_at_test
    assert sorted(path.name for path in (folder / "checkpoints").iterdir() if path.name.isdigit()) == [
        "001",
        "002",
        "003",
    ]
    success = json.loads((folder / "matrix.json").read_text())["success"]
    assert [sum(cell is not None for cell in row) for row in success] == [1, 2, 3]
