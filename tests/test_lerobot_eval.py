"""Stock ``lerobot-eval`` runs our checkpoints, and sees what we see."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vla_cl.models.vla import VlaModel, policy_config
from vla_cl.types import InterfaceSpec

SPEC = InterfaceSpec({"observation.image": (96, 96)}, state_size=4, action_size=4)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    ranges = {"mean": np.zeros(4), "std": np.ones(4), "min": -np.ones(4), "max": np.ones(4)}
    statistics = {key: {name: value.astype(np.float32) for name, value in ranges.items()} for key in
                  ("action", "observation.state")}  # fmt: skip
    model = VlaModel.new(policy_config("nano_vla", {}, SPEC, "cpu"), statistics, init_seed=0)
    folder = tmp_path_factory.mktemp("checkpoint") / "pretrained_model"
    model.save(folder)
    return model, folder


@pytest.mark.sim
def test_a_chunk_equals_that_of_lerobots_own_path(untrained):
    """From LeRobot's environment through its processors to actions, against ours on the same state."""
    import torch
    from lerobot.envs.metaworld import MetaworldEnv
    from lerobot.envs.utils import preprocess_observation
    from lerobot.policies.factory import make_pre_post_processors

    from vla_cl.envs.metaworld import MetaWorld

    model, folder = untrained
    suite = MetaWorld(image_size=480, render_profile="reference")
    ours = suite.make_environment(suite.task("drawer-open"))
    ours.reset(1000)
    chunk = model.act([ours.observe()])[0]

    stock = MetaworldEnv("drawer-open-v3", obs_type="pixels_agent_pos")
    observation, _ = stock.reset(seed=1000)
    batched = {key: value[None] for key, value in observation.items()}
    batch = {**preprocess_observation(batched), "task": [stock.task_description]}
    before, after = make_pre_post_processors(model.policy.config, pretrained_path=str(folder))
    model.policy.reset()
    with torch.inference_mode():
        for step in range(3):
            action = after(model.policy.select_action(before(dict(batch))))
            assert np.allclose(action[0].numpy(), chunk[step], atol=1e-6)
    ours.close()
    stock.close()


@pytest.mark.sim
@pytest.mark.slow
def test_the_command_line_runs_it(untrained, tmp_path):
    _, folder = untrained
    command = [
        str(Path(sys.executable).with_name("lerobot-eval")),
        f"--policy.path={folder}", "--policy.discover_packages_path=vla_cl.policies", "--policy.device=cpu",
        "--env.type=metaworld", "--env.task=drawer-open-v3", "--eval.n_episodes=1", "--eval.batch_size=1",
        f"--output_dir={tmp_path / 'out'}",
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=900, env={**os.environ, "MUJOCO_GL": "egl"})
    info = json.loads((tmp_path / "out" / "eval_info.json").read_text())
    assert info["overall"]["n_episodes"] == 1
