"""Scores without a simulator: against a computation by hand, in a run, beside rollouts and instead of them."""

import json

import numpy as np
import pytest
import torch
from dataset_streams import POINT, refusal, settings, train
from odd_datasets import make_dataset

from vla_cl.data.frames import Frames
from vla_cl.data.source import HoldOut, Source
from vla_cl.evaluation.held_out_episodes import HeldOutEpisodes
from vla_cl.metrics import ScoreMatrix
from vla_cl.models.vla import VlaModel
from vla_cl.scores import EvaluationRequest
from vla_cl.types import Task

GROUPS = {"position": (0, 1), "gripper": (3,)}
MEASURES = ["chunk_position_error", "chunk_gripper_error", "first_position_error", "first_gripper_error",
            "held_out_loss"]  # fmt: skip
TOLD = ("pick", "place")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Two tasks of seven episodes, of different lengths: some shorter than a chunk."""
    root = tmp_path_factory.mktemp("robot")
    return [
        make_dataset(
            root / text, [(text, 3 + 4 * number) for number in range(7)], {"observation.image": (16, 16)}, seed=n
        )
        for n, text in enumerate(TOLD)
    ]


@pytest.fixture(scope="module")
def learnt(datasets, cache, tmp_path_factory):
    groups = "data.action_groups={position: [0, 1], gripper: [3]}"
    wanted = ["stream=datasets", "data.held_out=4", "data.held_out_frames=0", groups, "evaluation.curve_points=1",
              "evaluation.untrained=true"]  # fmt: skip
    return train(cache, tmp_path_factory.mktemp("runs") / "robot", *wanted, datasets=datasets)


def evaluator(datasets, cache, frames=0):
    sources = {
        f"datasets/{text}": [Source(root, hold_out=HoldOut(4, 0))] for text, root in zip(TOLD, datasets, strict=True)
    }
    return HeldOutEpisodes(sources, GROUPS, frames, cache / "frames")


def request(split="report", count=1):
    return EvaluationRequest(tuple(Task(f"datasets/{text}", text, 0) for text in TOLD), 0, 0, split, count)


def test_a_run_without_a_simulator_has_a_matrix_of_each_measure(learnt, datasets):
    summary = json.loads((learnt / "run.json").read_text())
    assert summary["rollouts"]["skipped"] is None
    names = {path.name for path in learnt.glob("matrix*.json")}
    assert names == {"matrix.json", *(f"matrix-{name}.json" for name in MEASURES[1:])}
    shown = ScoreMatrix.from_json(learnt / "matrix.json")
    assert shown.measure.name == MEASURES[0]
    assert shown.measure.direction == "lower"
    assert "alarm" in shown.measure.note
    assert shown.counts.tolist() == [[3, 0], [3, 3]]
    assert shown.curve_count == 1
    assert shown.baseline_count == 3


def test_errors_are_those_computed_by_hand(learnt, datasets, cache):
    """Frame by frame, through `act`, with the padding left out."""
    policy = VlaModel.load(learnt / "checkpoints" / "001" / "pretrained_model", "cpu")
    trials = evaluator(datasets, cache).evaluate(policy, request())
    assert [trial.task for trial in trials] == ["datasets/pick"] * 3 + ["datasets/place"] * 3
    whole = Frames([Source(datasets[0])], cache / "frames", range(policy.chunk_size))
    for trial in trials[:3]:
        rows = np.flatnonzero(whole.recorded_places[1] == trial.columns["episode"])
        chunk = {name: [] for name in GROUPS}
        first = {name: [] for name in GROUPS}
        for place, row in enumerate(rows):
            sample = whole.batch(np.array([row]))
            given = policy.chunks(sample)[0]
            for ahead in range(min(policy.chunk_size, len(rows) - place)):
                wanted = whole.actions[rows[place + ahead]]
                for name, numbers in GROUPS.items():
                    error = np.mean([abs(float(given[ahead, n]) - float(wanted[n])) for n in numbers])
                    chunk[name].append(error)
                    first[name] += [error] * (ahead == 0)
        for name in GROUPS:
            assert trial.values[f"chunk_{name}_error"] == pytest.approx(np.mean(chunk[name]), rel=1e-5)
            assert trial.values[f"first_{name}_error"] == pytest.approx(np.mean(first[name]), rel=1e-5)
        assert trial.columns["frames"] == len(rows)
    in_matrix = ScoreMatrix.from_json(learnt / "matrix.json").scores[0, 0]
    assert in_matrix == pytest.approx(np.mean([trial.values[MEASURES[0]] for trial in trials[:3]]), rel=1e-6)


def test_an_exact_policy_has_no_error(learnt, datasets, cache, monkeypatch):
    policy = VlaModel.load(learnt / "checkpoints" / "001" / "pretrained_model", "cpu")
    monkeypatch.setattr(policy, "chunks", lambda batch: batch["action"].numpy())
    for trial in evaluator(datasets, cache).evaluate(policy, request()):
        assert all(trial.values[name] == 0 for name in MEASURES[:-1])
        assert trial.values["held_out_loss"] > 0


def test_a_trial_is_a_function_of_its_unit_alone(learnt, datasets, cache):
    policy = VlaModel.load(learnt / "checkpoints" / "002" / "pretrained_model", "cpu")
    policy.module.train()
    every = evaluator(datasets, cache).evaluate(policy, request())
    alone = evaluator(datasets, cache).evaluate(
        policy, EvaluationRequest((Task("datasets/place", "place", 0),), 1, 9, "report", 50)
    )
    assert [trial.values for trial in alone] == [trial.values for trial in every[3:]]
    assert policy.module.training


def test_frames_are_spread_evenly_from_the_first_to_the_last(learnt, datasets, cache):
    policy = VlaModel.load(learnt / "checkpoints" / "001" / "pretrained_model", "cpu")
    for trial in evaluator(datasets, cache, frames=5).evaluate(policy, request()):
        length = 3 + 4 * trial.columns["episode"]
        assert trial.columns["frames"] == min(5, length)


def test_reported_and_selecting_episodes_differ(datasets, cache):
    judge = evaluator(datasets, cache)
    for task in request().tasks:
        reported, selecting = judge.units(task, "report", 1), judge.units(task, "select", 1)
        assert len(reported) == 3
        assert len(selecting) == 1
        assert not set(reported) & set(selecting)


def test_a_diverged_model_is_no_score(learnt, datasets, cache):
    policy = VlaModel.load(learnt / "checkpoints" / "001" / "pretrained_model", "cpu")
    with torch.no_grad():
        for parameter in policy.module.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="no number"):
        evaluator(datasets, cache).evaluate(policy, request())


def test_beside_rollouts_each_has_its_table(cache, tmp_path):
    wanted = [*POINT, "stream=points", "demonstrations.episodes=5", "demonstrations.workers=1", "data.held_out=3"]
    folder = train(cache, tmp_path / "run", *wanted)
    assert ScoreMatrix.from_json(folder / "matrix.json").measure.name == "success"
    other = ScoreMatrix.from_json(folder / "matrix-chunk_action_error.json")
    assert other.counts.tolist() == [[2, 0], [2, 2]]
    assert (folder / "episodes.parquet").is_file()
    assert (folder / "trials.parquet").is_file()


def test_too_few_episodes_are_refused_before_anything_is_recorded_or_learnt(datasets, cache, tmp_path):
    message = refusal(settings(cache, tmp_path / "a", "stream=datasets", "data.held_out=7", datasets=datasets))
    assert "holds out 7 episodes of each task" in message
    recorded = [*POINT, "stream=points", "demonstrations.episodes=3", "data.held_out=3"]
    message = refusal(settings(cache, tmp_path / "b", *recorded))
    assert "demonstrations.episodes=3" in message
    message = refusal(settings(cache, tmp_path / "c", *POINT, "stream=points", "data.held_out=3",
                               "data.action_groups={position: [9]}"))  # fmt: skip
    assert "data.action_groups names place 9" in message
