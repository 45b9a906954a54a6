"""Whole runs on the toy suite: files, references, resume, datasets as a stream, stock LeRobot loading the result."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from vla_cl.cli.main import main
from vla_cl.config.compose import compose
from vla_cl.metrics import ScoreMatrix
from vla_cl.report.load import load_runs
from vla_cl.run import root as run
from vla_cl.run.evaluate import evaluate
from vla_cl.run.folder import RunFolder, read_settings
from vla_cl.run.location import compose_evaluation
from vla_cl.storage.manifest import write_manifest
from vla_cl.types import ConfigurationError, InterfaceSpec

CONF = Path(__file__).parent / "conf"
POINT = ["plugins=[toy_world]", "suite=point", "evaluation.episodes=2", "evaluation.replan_every=2",
         "evaluation.workers=1", "device=cpu", "threads=1"]  # fmt: skip
SETTINGS = [*POINT, "stream=points", "policy=tiny", "demonstrations.episodes=3", "demonstrations.workers=1",
            "training.steps=4", "training.batch_size=4"]  # fmt: skip

ER = ["method=er", "method.samples_per_task=5", "evaluation.curve_points=1", "evaluation.curve_episodes=2",
      "evaluation.untrained=true", "evaluation.future_tasks=true"]  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def train(cache, folder, *overrides):
    return run.train(compose([*SETTINGS, f"cache_dir={cache}", f"output_dir={folder}", *overrides], folders=[CONF]))


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "er"
    return train(cache, folder, *ER)


def test_a_run_writes_what_the_design_says(finished):
    names = {path.name for path in finished.iterdir()}
    files = {"config.yaml", "run.json", "matrix.json", "episodes.parquet", "metrics.jsonl"}
    assert names >= files | {"checkpoints", "videos"}
    summary = json.loads((finished / "run.json").read_text())
    assert summary["status"] == "finished"
    assert summary["method"] == "er"
    spent = summary["seconds"]
    assert spent["total"] == pytest.approx(spent["train"] + spent["evaluate"], abs=0.11)
    assert summary["memory_bytes"] == 10 * (16 * 16 * 3 + 4 * 4)
    matrix = ScoreMatrix.from_json(finished / "matrix.json")
    assert matrix.scores.shape == (2, 2)
    assert np.isfinite(matrix.scores).all()
    assert matrix.baseline is not None
    assert [step for step, _ in matrix.curves["point/green"]] == [4, 8]
    table = pd.read_parquet(finished / "episodes.parquet")
    assert len(table) == 2 * 2 + 2 * (2 * 2) + 2 * 2 * 2
    assert set(table["outcome"]) <= {"success", "failure"}
    for video in table["video"].dropna():
        assert (finished / video).stat().st_size > 0


def test_every_table_row_has_its_cell(finished):
    table = pd.read_parquet(finished / "episodes.parquet")
    matrix = ScoreMatrix.from_json(finished / "matrix.json")
    for row in range(2):
        for column, task in enumerate(matrix.tasks):
            rows = table[(table.experience == row) & (table.task == task) & (table.split == "report")]
            assert (rows.outcome == "success").mean() == matrix.scores[row, column]


def test_metrics_and_report_read_it(finished, capsys):
    assert main(["metrics", str(finished)]) == 0
    assert "final_average" in capsys.readouterr().out
    assert main(["report", str(finished)]) == 0
    assert (finished / "report.html").stat().st_size > 10_000


def test_a_finished_run_is_not_run_again(finished, cache, capsys):
    before = (finished / "checkpoints" / "002" / "MANIFEST.json").stat().st_mtime_ns
    train(cache, finished, *ER)
    assert (finished / "checkpoints" / "002" / "MANIFEST.json").stat().st_mtime_ns == before


def test_a_run_interrupted_at_a_border_continues_bit_for_bit(finished, cache, tmp_path):
    folder = tmp_path / "interrupted"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "checkpoints" / "002")
    table = pd.read_parquet(folder / "episodes.parquet")
    (folder / "matrix.json").unlink()
    train(cache, folder, *ER)
    whole = load_file(finished / "checkpoints" / "002" / "pretrained_model" / "model.safetensors")
    resumed = load_file(folder / "checkpoints" / "002" / "pretrained_model" / "model.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    drop = ["seconds"]
    again = pd.read_parquet(folder / "episodes.parquet")
    pd.testing.assert_frame_equal(again.drop(columns=drop), table.drop(columns=drop))
    assert (folder / "matrix.json").read_text() == (finished / "matrix.json").read_text()


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_run_that_continues_without_a_damaged_checkpoint_says_so(finished, cache, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(finished, folder)
    flip(folder / "checkpoints" / "002" / "pretrained_model" / "model.safetensors")
    train(cache, folder, *ER)
    again = load_file(folder / "checkpoints" / "002" / "pretrained_model" / "model.safetensors")
    whole = load_file(finished / "checkpoints" / "002" / "pretrained_model" / "model.safetensors")
    assert all(np.array_equal(whole[name], again[name]) for name in whole)
    (sentence,) = json.loads((folder / "run.json").read_text())["passed_over"]
    assert "002/pretrained_model/model.safetensors is damaged" in sentence
    assert any("is damaged" in note for note in load_runs([folder])[0].missing)
    assert json.loads((finished / "run.json").read_text())["passed_over"] == []


@pytest.mark.parametrize("where", ["", "checkpoints/001", "checkpoints/001/pretrained_model"])
def test_a_damaged_warm_start_is_refused(finished, cache, tmp_path, where):
    folder = tmp_path / "damaged"
    shutil.copytree(finished, folder)
    for number in ("001", "002"):
        flip(folder / "checkpoints" / number / "pretrained_model" / "model.safetensors")
    with pytest.raises(ConfigurationError, match=r"is damaged|no checkpoint in .* is whole"):
        train(cache, tmp_path / "warm", f"warm_start={folder / where}", "normalisation=checkpoint", "training.steps=1")


def test_a_run_of_a_version_with_other_random_numbers_is_read_but_not_continued(finished, cache, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(finished, folder, symlinks=True)
    shutil.rmtree(folder / "checkpoints" / "002")
    path = folder / "checkpoints" / "001" / "training_state" / "progress.json"
    progress = json.loads(path.read_text())
    del progress["format"]  # as versions before wrote it
    path.write_text(json.dumps(progress))
    write_manifest(path.parents[1])
    with pytest.raises(ConfigurationError, match="begun by a version of vla-cl in which the same command gives"):
        train(cache, folder, *ER)
    assert main(["metrics", str(folder)]) == 0


def test_another_run_is_not_overwritten(finished, cache):
    with pytest.raises(ConfigurationError, match="holds a run with other settings"):
        train(cache, finished, "method=er", "method.samples_per_task=6")


@pytest.mark.parametrize(
    ("given", "remedy"), [("outputs/x", "give output_dir=<a new"), (None, "give name=<another> or output_dir=<a new")]
)
def test_a_folder_that_is_taken_says_how_to_get_another(finished, given, remedy):
    settings = read_settings(finished / "config.yaml") | {"train_seed": 9, "output_dir": given}
    with pytest.raises(ConfigurationError) as caught, RunFolder(finished).open(settings):
        pass
    assert f"other settings (train_seed); {remedy}" in str(caught.value)


def test_a_folder_that_is_no_run_says_how_to_get_another(tmp_path):
    (tmp_path / "thesis.tex").touch()
    message = r"is no run .*; give name=<another> or output_dir=<a new folder>$"
    with pytest.raises(ConfigurationError, match=message), RunFolder(tmp_path).open({"output_dir": None}):
        pass


def test_joint_and_independent_references(cache, tmp_path):
    joint = train(cache, tmp_path / "joint", "arrangement=joint", "training.steps=2")
    matrix = ScoreMatrix.from_json(joint / "matrix.json")
    assert matrix.scores.shape == (1, 2)
    independent = train(cache, tmp_path / "independent", "arrangement=independent", "training.steps=2")
    matrix = ScoreMatrix.from_json(independent / "matrix.json")
    assert np.isfinite(np.diag(matrix.scores)).all()
    assert np.isnan(matrix.scores[0, 1])
    assert np.isnan(matrix.scores[1, 0])
    first = load_file(independent / "checkpoints" / "001" / "pretrained_model" / "model.safetensors")
    alone = train(cache, tmp_path / "alone", "stream.tasks=[red]", "training.steps=2")
    same = load_file(alone / "checkpoints" / "001" / "pretrained_model" / "model.safetensors")
    assert all(np.array_equal(first[name], same[name]) for name in first)


def test_alone_every_task_is_rolled_out_as_by_a_run_that_has_no_other(cache, tmp_path):
    more = ("training.steps=2", "evaluation.untrained=true", "evaluation.curve_points=1", "evaluation.curve_episodes=2")
    whole = train(cache, tmp_path / "whole", "arrangement=independent", *more)
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut, symlinks=True)
    shutil.rmtree(cut / "checkpoints" / "002")
    train(cache, cut, "arrangement=independent", *more)
    assert (cut / "matrix.json").read_text() == (whole / "matrix.json").read_text()
    matrix = ScoreMatrix.from_json(whole / "matrix.json")
    for place, task in enumerate(("red", "green")):
        alone = ScoreMatrix.from_json(train(cache, tmp_path / task, f"stream.tasks=[{task}]", *more) / "matrix.json")
        assert matrix.scores[place, place] == alone.scores[0, 0]
        assert matrix.baseline[place] == alone.baseline[0]
        assert np.array_equal(matrix.learning_curve(place)[:, 1], alone.learning_curve(0)[:, 1])


def test_what_comes_later_is_not_rolled_out_where_nothing_does(cache, tmp_path):
    with pytest.raises(ConfigurationError, match="with arrangement=independent none is"):
        train(cache, tmp_path / "run", "arrangement=independent", "evaluation.future_tasks=true")


def test_a_stream_that_is_too_long_for_the_method_is_refused_before_it_learns(cache, tmp_path):
    with pytest.raises(ConfigurationError, match=r"the stream has 2 experiences .* set method.tasks=2"):
        train(cache, tmp_path / "run", "method=osft", "method.tasks=1")
    assert not (tmp_path / "run").exists()


def test_of_an_independent_run_a_policy_is_rolled_out_on_what_it_learnt(cache, tmp_path):
    run = train(cache, tmp_path / "run", "arrangement=independent", "training.steps=2")
    for place, tasks in (
        ("", ["point/green"]),
        ("checkpoints/001", ["point/red"]),
        ("checkpoints/last", ["point/green"]),
    ):
        settings = compose_evaluation(str(run / place), [*POINT, f"output_dir={tmp_path / ('e' + place)}"], [CONF])
        evaluate(str(run / place), settings)
        table = pd.read_parquet(tmp_path / ("e" + place) / "episodes.parquet")
        assert sorted(table.task.unique()) == tasks


def test_recorded_datasets_are_a_stream(point_datasets, cache, tmp_path):
    roots = ",".join(str(root) for root in point_datasets[1:])
    folder = train(cache, tmp_path / "run", "stream=datasets", f"stream.datasets=[{roots}]", "training.steps=1")
    matrix = ScoreMatrix.from_json(folder / "matrix.json")
    assert matrix.tasks == ("point/green", "point/blue")


def test_evaluate_repeats_the_run(finished, tmp_path, capsys):
    settings = compose([*POINT, f"output_dir={tmp_path / 'e'}"], root="evaluate", folders=[CONF])
    folder = evaluate(str(finished), settings)
    summary = json.loads((folder / "summary.json").read_text())
    matrix = ScoreMatrix.from_json(finished / "matrix.json")
    assert [summary["tasks"][task]["success"] for task in matrix.tasks] == matrix.scores[-1].tolist()
    assert "mean" in capsys.readouterr().out


def test_another_look_is_refused_by_name(finished, tmp_path):
    overrides = [*POINT, "suite.render_profile=glossy", f"output_dir={tmp_path / 'e'}"]
    settings = compose(overrides, root="evaluate", folders=[CONF])
    with pytest.raises(ConfigurationError, match=r"'plain'.*'glossy'"):
        evaluate(str(finished), settings)
    assert not (tmp_path / "e").exists()


def test_a_policy_that_looks_at_several_frames_is_refused_before_it_learns(cache, tmp_path, monkeypatch):
    def learn(*_):
        raise AssertionError("it learnt")

    monkeypatch.setattr("vla_cl.run.continual.Learning", learn)
    history = ["policy=diffusion", "policy.n_action_steps=4", "policy.n_obs_steps=2", "policy.horizon=8",
               "policy.down_dims=[8,16]", "policy.pretrained_backbone_weights=null"]  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"'diffusion' looks at 2 frames.*policy\.n_obs_steps=1"):
        train(cache, tmp_path / "run", *history)
    assert list((tmp_path / "run").glob("checkpoints/*")) == []


def test_stock_lerobot_loads_a_checkpoint(finished):
    from lerobot.configs.parser import load_plugin
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    load_plugin("vla_cl.policies")
    folder = Path(finished) / "checkpoints" / "002" / "pretrained_model"
    config = PreTrainedConfig.from_pretrained(folder)
    policy = get_policy_class(config.type).from_pretrained(folder, config=config)
    make_pre_post_processors(config, pretrained_path=str(folder))
    assert policy.name == "nano_vla"


def test_a_warm_start_brings_its_weights_and_normalisation(finished, cache, tmp_path):
    start = finished / "checkpoints" / "002" / "pretrained_model"
    folder = train(cache, tmp_path / "warm", f"warm_start={start}", "normalisation=checkpoint", "stream.tasks=[blue]",
                   "training.steps=1")  # fmt: skip
    name = "policy_preprocessor_step_3_normalizer_processor.safetensors"
    before, after = load_file(start / name), load_file(folder / "checkpoints" / "001" / "pretrained_model" / name)
    assert all(np.array_equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("policy", "data", "message"),
    [
        ({"action_size": 3}, {}, "expects action size 3, the data have 2"),
        ({"state_size": 5}, {}, "expects state size 5, the data have 2"),
        ({"cameras": {"observation.images.wrist": (8, 8)}}, {}, "expects cameras .*wrist.*observation.image"),
    ],
)
def test_data_that_do_not_fit_the_policy_are_refused_naming_both(policy, data, message):
    from vla_cl.rollout.compatibility import require_fit

    usual = {"cameras": {"observation.image": (16, 16)}, "state_size": 2, "action_size": 2}
    with pytest.raises(ConfigurationError, match=message):
        require_fit(InterfaceSpec(**usual | policy), InterfaceSpec(**usual | data), "the policy")


def test_a_full_disk_is_one_sentence(monkeypatch, capsys):
    def full(settings):
        raise OSError(errno.ENOSPC, "No space left on device", "/data/x")

    monkeypatch.setattr(run, "train", full)
    assert main(["train"]) == 1
    assert "the disk is full (/data/x)" in capsys.readouterr().err
