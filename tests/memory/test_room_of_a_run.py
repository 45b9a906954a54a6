"""The pre-flight refuses a memory that would keep nothing of some task, from what the datasets' metadata say."""

import pytest
from dataset_streams import refusal, settings
from odd_datasets import make_dataset

from vla_cl.run.check import check
from vla_cl.run.checkpoint import read_method
from vla_cl.run.root import train
from vla_cl.storage.names import NOTES

CAMERA = {"observation.image": (8, 8)}
FRAME = 8 * 8 * 3 + 4 * (2 + 2)  # picture, state, action
METHODS = ("er", "agem", "gem", "mir", "der_pp")


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Three datasets of one task each, with episodes of 6 and 4 frames."""
    folder = tmp_path_factory.mktemp("data")
    return [
        make_dataset(folder / text, [(text, 6), (text, 4)], CAMERA, state=2, action=2, seed=number)
        for number, text in enumerate(("lift", "drop", "push"))
    ]


def chosen(roots, tmp_path, memory, method="er"):
    overrides = ("stream=datasets", f"method={method}", f"method.memory={memory}")
    return settings(tmp_path / "cache", tmp_path / "run", *overrides, datasets=roots)


@pytest.mark.parametrize(("unit", "frames"), [("frame", 1), ("window", 3), ("trajectory", 6)])
def test_a_budget_below_a_unit_for_each_task_is_refused(roots, tmp_path, unit, frames):
    enough = 3 * frames * FRAME
    memory = "{budget: %d, unit: " + unit + (", window: 3}" if unit == "window" else "}")
    assert f"give {enough} bytes" in refusal(chosen(roots, tmp_path, memory % (enough - 1)))
    check(chosen(roots, tmp_path, memory % enough))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_with_a_memory_is_asked(roots, tmp_path, method):
    memory = f"{{budget: {2 * FRAME}}}"
    assert "is too little for 3 experiences" in refusal(chosen(roots, tmp_path, memory, method))


@pytest.mark.parametrize("method", ["der_pp", "cama"])
def test_what_is_advised_holds_the_stored_outputs_too(roots, tmp_path, method):
    small = [f"policy.{setting}" for setting in ("chunk_size=4", "n_action_steps=2", "image_size=16", "hidden_size=16",
             "vision_channels=[8,8,8]", "num_keypoints=4", "condition_size=16")]  # fmt: skip
    training = ("training.steps=2", "training.batch_size=4", "device=cpu", "threads=1")

    def given(budget):
        memory = f"method.memory={{budget: {budget}}}"
        more = ("stream=datasets", f"method={method}", memory, *small, *training)
        return settings(tmp_path / "cache", tmp_path / "run", *more, datasets=roots)

    advised = int(refusal(given(3 * FRAME)).split("give ")[1].split(" bytes")[0])
    assert "too little" in refusal(given(advised - 1))
    index = read_method(train(given(advised)) / "checkpoints" / "003")[0]["memory"]
    assert [len(rows) for name, rows in index.items() if name != NOTES] == [1, 1, 1]


def test_samples_per_task_must_hold_a_trajectory(roots, tmp_path):
    memory = "{samples_per_task: %d, unit: trajectory}"
    assert "which has 6 frames; give at least 6" in refusal(chosen(roots, tmp_path, memory % 5))
    check(chosen(roots, tmp_path, memory % 6))
    check(chosen(roots, tmp_path, "{samples_per_task: 1000}"))


def test_a_memory_that_is_reused_counts_as_a_task(roots, tmp_path):
    memory = "{budget: %d, unit: trajectory, reuse: " + str(roots[2]) + "}"
    assert f"give {3 * 6 * FRAME} bytes" in refusal(chosen(roots[:2], tmp_path, memory % (2 * 6 * FRAME)))
    check(chosen(roots[:2], tmp_path, memory % (3 * 6 * FRAME)))


def test_demonstrations_that_are_yet_to_be_collected_have_a_least_length(tmp_path):
    def collected(memory):
        point = ("plugins=[toy_world]", "suite=point", "stream=points", "demonstrations.hold=9", "method=er")
        more = ("evaluation.replan_every=2", "evaluation.workers=1", f"method.memory={memory}")
        return settings(tmp_path / "cache", tmp_path / "run", *point, *more)

    said = refusal(collected("{budget: 1 kB, unit: trajectory}"))
    least = int(said.split(" takes at least ")[1].split(" bytes")[0])
    spec = check(collected("{budget: 1 MB}")).found.suite.spec
    pixels = sum(height * width for height, width in spec.cameras.values())
    assert least == 10 * (3 * pixels + 4 * (spec.state_size + spec.action_size))
