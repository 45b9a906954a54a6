"""The test beds as families, driven by the run that users drive."""

import shutil

import numpy as np
import pytest
import torch

from vla_cl.cli.main import main
from vla_cl.config.compose import build, compose
from vla_cl.families.beds import BedFamily
from vla_cl.interfaces import Family
from vla_cl.metrics import load_matrix
from vla_cl.run import root as run
from vla_cl.testbeds import BEDS
from vla_cl.types import ConfigurationError, Draw

TINY = ["training.steps=6", "training.batch_size=8", "evaluation.episodes=8", "device=cpu", "threads=1"]


def train(bed, folder, *overrides):
    return run.train(compose([f"stream=bed_{bed}", *TINY, f"output_dir={folder}", *overrides]))


@pytest.fixture(params=BEDS, scope="module")
def bed(request):
    return request.param


@pytest.fixture(scope="module")
def whole(bed, tmp_path_factory):
    more = ("evaluation.untrained=true", "evaluation.curve_points=1", "evaluation.curve_episodes=4", "method=er")
    return train(bed, tmp_path_factory.mktemp("runs") / bed, *more), more


def test_a_run_cut_at_any_border_ends_as_the_undisturbed_one(bed, whole, tmp_path):
    folder, more = whole
    for border in (1, 2):
        again = tmp_path / str(border)
        shutil.copytree(folder, again, symlinks=True)
        for number in range(border + 1, 4):
            shutil.rmtree(again / "checkpoints" / f"{number:03d}")
        train(bed, again, *more)
        assert (again / "matrix.json").read_bytes() == (folder / "matrix.json").read_bytes()
        for path in sorted((folder / "checkpoints" / "003").rglob("*.safetensors")):
            assert (again / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_the_matrix_has_every_cell_below_the_diagonal_and_the_rest(whole):
    matrix = load_matrix(whole[0])
    assert np.isfinite(matrix.scores[np.tri(3, dtype=bool)]).all()
    assert np.isfinite(matrix.baseline).all()
    assert set(matrix.curves) == set(matrix.tasks)
    assert matrix.counts[2].tolist() == [8, 8, 8]


def test_what_is_saved_and_loaded_gives_the_same_bits(bed, tmp_path):
    family = BedFamily(bed)
    stream = BEDS[bed]().stream
    model = family.new_model(stream.experiences[0], 3)
    model.save(tmp_path / "model")
    again = family.load_model(tmp_path / "model")
    batch = family.data(stream.experiences[1], model).batch(np.arange(5))
    for ours, theirs in zip(model.module.state_dict().values(), again.module.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(model.loss(batch, Draw(1)), again.loss(batch, Draw(1)))


def test_a_trial_is_a_function_of_task_and_unit_alone(bed):
    from vla_cl.scores import EvaluationRequest

    family = BedFamily(bed)
    tasks = tuple(family.tasks())
    model = family.new_model(BEDS[bed]().stream.experiences[0], 0)
    with family.evaluator() as evaluator:
        many = evaluator.evaluate(model, EvaluationRequest(tasks, 0, 0, "report", 12))
        few = evaluator.evaluate(model, EvaluationRequest(tasks[::-1], 2, 9, "report", 3))
    scores = {(trial.task, trial.unit): trial.values for trial in many}
    assert len(scores) == 36
    assert all(scores[trial.task, trial.unit] == trial.values for trial in few)


def test_reported_and_selecting_samples_are_different_ones(bed):
    evaluator = BedFamily(bed).evaluator()
    task = BedFamily(bed).tasks()[0]
    assert not set(evaluator.units(task, "report", 40)) & set(evaluator.units(task, "select", 10))
    with pytest.raises(ConfigurationError, match=r"evaluation.episodes=10000 asks for more than there is"):
        evaluator.units(task, "report", 10_000)


def test_joint_training_learns_all_three_at_once(bed, tmp_path):
    matrix = load_matrix(train(bed, tmp_path / "joint", "arrangement=joint"))
    assert matrix.scores.shape == (1, 3)


def test_the_exact_match_of_the_language_bed_is_that_of_greedy_generation(tmp_path):
    """Each prompt is continued alone by transformers' own ``generate``."""
    folder = run.train(compose(["stream=bed_language", "training.steps=28", "threads=1", f"output_dir={tmp_path}/run"]))
    family = build(compose(["stream=bed_language"])["family"], Family)
    model = family.load_model(folder / "checkpoints" / "003" / "pretrained_model")
    evaluator = family.evaluator()
    task = family.tasks()[2]
    held_out = evaluator._batches[task.id]
    expected = []
    for ids, labels in zip(held_out["input_ids"], held_out["labels"], strict=True):
        prompt, answer = ids[labels == -100], ids[labels != -100]
        written = model.model.generate(prompt[None], max_new_tokens=len(answer), do_sample=False)[0, len(prompt) :]
        expected.append(float(torch.equal(written, answer)))
    from vla_cl.testbeds.language import exact_match

    assert exact_match(model, held_out).tolist() == expected
    assert 0 < sum(expected) < len(expected)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["suite=robosuite"], "suite has no effect with family=bed_language"),
        (["policy=act"], "policy has no effect"),
        (["warm_start=x"], "warm_start has no effect"),
        (["evaluation.videos=3"], "evaluation.videos has no effect"),
        (["evaluation.episodes=49"], "has 48 held-out samples to report; give at most 48"),
        (["evaluation.curve_points=1", "evaluation.curve_episodes=17"], "has 16 held-out samples to select"),
        (["stream.tasks=[codes/7]"], "unknown task 'codes/7'"),
        (["method=m2distill"], "needs a model with"),
        (["family=bed_diffusion"], "stream 'bed_language' is of the family 'bed_language'"),
        (["family.bed=nonsense"], "family.bed must be one of"),
        (["family.bed=diffusion"], "family.bed=diffusion is not the bed of family=bed_language"),
        (["arrangement=independent", "evaluation.future_tasks=true"], "evaluation.future_tasks=true"),
        (["method=er", "arrangement=joint"], "begins with the second experience"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(tmp_path, overrides, words):
    with pytest.raises(ConfigurationError, match=words):
        run.train(compose(["stream=bed_language", f"output_dir={tmp_path}/run", *overrides]))
    assert not (tmp_path / "run").exists()


def test_a_stream_of_robots_is_not_learnt_by_another_family(tmp_path):
    with pytest.raises(ConfigurationError, match="stream 'cw10' is of the family 'robot'"):
        run.train(compose(["stream=cw10", "family=bed_language", f"output_dir={tmp_path}/run"]))


@pytest.mark.parametrize("command", [["evaluate"], ["memory", "--export", "m"]])
def test_commands_for_robots_say_what_else_reads_the_run(whole, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    name, *options = command
    assert main([name, str(whole[0]), *options]) == 2
    assert "takes runs of robots, but" in capsys.readouterr().err
    assert main(["memory", str(whole[0])]) == 0
