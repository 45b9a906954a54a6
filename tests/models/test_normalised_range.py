"""What is far outside a frozen normalization is found, in every mode, and said."""

import numpy as np
import pytest
from dataset_streams import train
from odd_datasets import make_dataset

from vla_cl.models.normalised_range import farthest


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.5, 3.0), (-2.0, 1.0)])
def test_the_farthest_number_is_found(scale, shift):
    actions = np.array([[0, 1], [4, -9]], np.float32) * scale + shift
    assert farthest(lambda normalized: normalized * scale + shift, actions) == (1, pytest.approx(9))


def test_a_gripper_that_rested_in_the_first_task_is_said(tmp_path, capsys):
    def action(episode, step):
        gripper = 1.0 if episode < 3 else -1.0
        return [*(0.01 * np.sin([step, step + 1, step + 2])), gripper]

    told = [("pick", 6)] * 3 + [("place", 6)] * 3
    root = make_dataset(tmp_path / "arm", told, {"observation.image": (16, 16)}, action_of=action)
    train(tmp_path / "cache", tmp_path / "run", "stream=datasets", "stream.tasks=[pick,place]", datasets=[root])
    said = capsys.readouterr().err
    assert "'place' has actions whose number 3" in said
    assert "'pick' has actions" not in said
