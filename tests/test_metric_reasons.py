"""Why a metric is undefined: the true reason, in words, in the table and in the JSON."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from vla_cl.metrics import METRICS, ScoreMatrix, compute_all, describe
from vla_cl.metrics.reasons import NO_CURVES, NO_REFERENCE
from vla_cl.types import ConfigurationError

NAN = math.nan
CURVES = {"a": [[0, 0.0], [6, 0.5]], "b": [[6, 0.0], [12, 0.5]]}


def two(success=((0.5, NAN), (0.5, 0.5)), **more):
    """Tasks a and b, one after the other unless the stream says something else."""
    success = np.asarray(success)
    settings = {"stream": (("a",), ("b",))} | more
    rows = tuple(f"row {number}" for number in range(len(success)))
    return ScoreMatrix(("a", "b"), rows, success, np.where(np.isnan(success), 0, 10), **settings)


ALONE = ((0.5, NAN), (NAN, 0.5))
TOGETHER = {"stream": (("a", "b"),)}


@pytest.mark.parametrize(
    ("metric", "run", "reference", "why"),
    [
        ("cw_forward_transfer", two(curves=CURVES), None, NO_REFERENCE),
        (
            "cw_forward_transfer",
            two(),
            two(ALONE, curves=CURVES),
            NO_CURVES,
        ),
        ("cw_forward_transfer", two(curves=CURVES), two(ALONE), "the reference has no learning curve of a"),
        (
            *("cw_forward_transfer", two(curves={"a": [[0, 0.0], [60, 0.5]], "b": [[60, 0.0], [120, 0.5]]})),
            *(two(ALONE, curves=CURVES), "the learning curve of a covers 60 steps, that of the reference 6"),
        ),
        (
            *("cw_forward_transfer", two(curves=CURVES)),
            two(ALONE, curves={"a": [[0, 1.0], [6, 1.0]], "b": [[6, 0.0], [12, 0.5]]}),
            "the reference always succeeds on a, so there is nothing to gain",
        ),
        (
            *("cw_forward_transfer", two(curves=CURVES), two(ALONE[:1], curves=CURVES)),
            "in the reference, only 1 of 2 experiences have been evaluated",
        ),
        ("tail_fwt", two(curves={"a": CURVES["a"]}), None, "not every experience has a learning curve of its task"),
        ("clare_nbt", two(((0.5, 0.5),), **TOGETHER), None, "an experience brings several tasks"),
        ("learning_accuracy", two(((0.5, NAN),)), None, "only 1 of 2 experiences have been evaluated"),
        ("learning_accuracy", two(((0.5, NAN),), stream=None), None, "the file does not say which tasks"),
        ("final_average", two(ALONE), None, "not every task was evaluated after the last experience"),
        ("gem_bwt", two(ALONE), None, "not every task was evaluated after the last experience"),
        ("libero_nbt", two(ALONE), None, "earlier tasks were not evaluated after every later experience"),
        ("gem_fwt", two(), None, "no task was evaluated just before learning it, above the diagonal"),
        ("gem_fwt", two(((0.5, 0.5), (0.5, 0.5))), None, "the untrained policy was not evaluated"),
        (
            *("gem_bwt", ScoreMatrix(("a",), ("a",), [[0.5]], [[10]]), None),
            "with one task only, nothing can be forgotten or transferred",
        ),
    ],
)
def test_an_undefined_metric_has_its_true_reason(metric, run, reference, why):
    found = compute_all(run, reference)[metric]
    assert math.isnan(found.value) and math.isnan(found.low)
    assert found.why.startswith(why)


def test_every_metric_says_what_it_needs():
    """Of a run that measured nothing, each metric knows more than that something is missing."""
    for name, found in compute_all(two(((NAN, NAN), (NAN, NAN)))).items():
        assert math.isnan(found.value), name
        assert found.why and not found.why.startswith("something"), name


def test_the_table_and_the_json_give_the_reason(tmp_path):
    two(curves=CURVES, curve_count=10).write(tmp_path / "run.json")
    two(ALONE, curves={task: [[10 * step, rate] for step, rate in curve] for task, curve in CURVES.items()}).write(
        tmp_path / "alone.json"
    )
    why = "the learning curve of a covers 6 steps, that of the reference 60"
    text = describe(tmp_path / "run.json", reference=tmp_path / "alone.json")
    assert f"cw_forward_transfer: not defined: {why}." in " ".join(text.split())
    content = json.loads(describe(tmp_path / "run.json", as_json=True, reference=tmp_path / "alone.json"))
    assert content["metrics"]["cw_forward_transfer"]["why_undefined"] == why
    assert content["metrics"]["cw_forward_transfer"]["why_no_interval"] is None


def test_an_independent_run_of_several_tasks_at_once_is_not_called_something_else():
    several = ScoreMatrix(
        ("a", "b", "c"), ("ab", "c"), [[0.5, 0.5, NAN], [NAN, NAN, 0.5]], [[10, 10, 0], [0, 0, 10]],
        stream=(("a", "b"), ("c",)),
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"has an experience of several tasks, but .* one task per experience"):
        compute_all(two(curves=CURVES), several)
    # Where the run itself has such experiences, no other reference would help.
    found = compute_all(several, several)["cw_forward_transfer"]
    assert found.why == "an experience brings several tasks, and the formula needs one task per experience"


def test_the_reference_that_was_read_is_named_and_so_is_its_method(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    two(curves=CURVES).write("run.json")
    for method, told in (
        ("sequential", ""),
        ("packnet", ", which learns with packnet and not by plain fine-tuning (method=sequential)"),
    ):
        Path(method).mkdir()
        two(ALONE, curves=CURVES).write(Path(method, "matrix.json"))
        Path(method, "run.json").write_text(json.dumps({"method": method}))
        text = " ".join(describe("run.json", reference=method).split())
        assert text.endswith(f"reference of cw_forward_transfer: {method}{told}")
        assert json.loads(describe("run.json", as_json=True, reference=method))["reference"] == method
    assert "reference of" not in describe("run.json")


def test_nothing_is_minus_zero(tmp_path):
    two(((0.5, NAN), (0.5, 0.5)), curves=CURVES).write(tmp_path / "run.json")
    text = describe(tmp_path / "run.json", as_json=True)
    assert "-0.0," not in text
    values = [found["value"] for found in json.loads(text)["metrics"].values()]
    assert len(values) == len(METRICS) and 0.0 in values
