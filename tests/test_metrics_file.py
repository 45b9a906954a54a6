"""The file ``matrix.json`` and what is printed from it: nothing gets lost, everything broken is named."""

import json
from dataclasses import replace

import numpy as np
import pytest

from vla_cl import metrics
from vla_cl.cli.main import main
from vla_cl.metrics import METRICS, ScoreMatrix, compute_all, describe, load_matrix
from vla_cl.storage.manifest import seal
from vla_cl.types import ConfigurationError


def make(success, **more):
    """A matrix with made-up names and 20 episodes in every evaluated cell."""
    success = np.asarray(success, dtype=float)
    tasks = tuple(f"suite/task-{index}" for index in range(success.shape[1]))
    experiences = tuple(f"experience-{index}" for index in range(success.shape[0]))
    return ScoreMatrix(tasks, experiences, success, np.where(np.isnan(success), 0, 20), **more)


@pytest.fixture
def sequential():
    """Ten tasks, each learnt to 80% and forgotten to 60% at once, with learning curves of three points."""
    success = np.where(np.eye(10, dtype=bool), 0.8, np.where(np.tri(10, dtype=bool), 0.6, np.nan))
    curve = np.array([[0, 0.1], [50, 1 / 3], [100, 0.8]])
    return make(success, curves={f"suite/task-{index}": curve for index in range(10)})


def test_the_file_gives_back_the_matrix(tmp_path, sequential):
    for matrix in (
        sequential,
        make(sequential.scores, baseline=np.linspace(0, 1, 10) / 3, curve_count=10, baseline_count=5),
        make([[0.5, np.nan]], baseline=[np.nan, 0.1]),
    ):
        path = tmp_path / "matrix.json"
        matrix.write(path)
        back = ScoreMatrix.from_json(path)
        assert (back.tasks, back.experiences) == (matrix.tasks, matrix.experiences)
        np.testing.assert_array_equal(back.scores, matrix.scores)
        np.testing.assert_array_equal(back.counts, matrix.counts)
        assert set(back.curves) == set(matrix.curves)
        for task, curve in matrix.curves.items():
            np.testing.assert_array_equal(back.curves[task], curve)
        np.testing.assert_array_equal(back.baseline, matrix.baseline)
        assert (back.curve_count, back.baseline_count) == (matrix.curve_count, matrix.baseline_count)
    assert [file.name for file in tmp_path.iterdir()] == ["matrix.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path, sequential, monkeypatch):
    path = tmp_path / "matrix.json"
    sequential.write(path)
    before = path.read_bytes()

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        make([[0.5]]).write(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["matrix.json"]


def test_arrays_are_copies_and_read_only():
    success = np.array([[0.5]])
    matrix = make(success)
    success[0, 0] = 0.9
    assert matrix.scores[0, 0] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        matrix.scores[0, 0] = 1


GOOD = {
    "tasks": ["a", "b"],
    "experiences": ["first", "second"],
    "success": [[0.5, None], [0.2, 1]],
    "episodes": [[20, 0], [20, 20]],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": None}, "'tasks' must be a list of names, but is null"),
        ({"tasks": ["a", 3]}, "'tasks' must be a list of names"),
        ({"tasks": ["a", "a"]}, "a appears more than once"),
        ({"tasks": ["a"]}, "'success' must be 2 x 1.*but is 2 x 2"),
        ({"experiences": []}, "at least one of 'experiences'"),
        ({"success": [[0.5], [0.2, 1]]}, r"success\[1\] must have 1 numbers, but has 2"),
        ({"success": [[0.5, None], [0.2, 50]]}, "fractions between 0 and 1, or null, but one is 50"),
        ({"success": [[0.5, None], [-0.1, 1]]}, "fractions between 0 and 1, or null, but one is -0.1"),
        ({"success": [[0.5, "x"], [0.2, 1]]}, r"success\[0\]\[1\] must be a number or null, but is 'x'"),
        ({"success": [[0.5, True], [0.2, 1]]}, r"success\[0\]\[1\] must be a number or null, but is True"),
        ({"success": 3}, "success must be a list of lists, but is a number"),
        ({"episodes": [[20, 0], [20, 0]]}, r"success\[1\]\[1\] is 1 but episodes\[1\]\[1\] is 0"),
        ({"episodes": [[20, 0], [20, 2.5]]}, "'episodes' must be whole numbers"),
        ({"episodes": [[20, None], [20, 20]]}, "'episodes' must be whole numbers"),
        ({"episodes": [[20, 0], [20, -1]]}, "must not be negative"),
        ({"episodes": [[20, 20]]}, "'episodes' must be 2 x 2.*but is 1 x 2"),
        ({"curves": [1]}, "'curves' must be an object"),
        ({"curves": {"aa": []}}, "unknown task 'aa'; did you mean 'a'"),
        ({"curves": {"a": [[0, 0.5, 1]]}}, r"curves\['a'\]\[0\] must have 2 numbers, but has 3"),
        ({"curves": {"a": [[5, 0.5], [5, 0.6]]}}, "steps in the curve of 'a' must be increasing"),
        ({"curves": {"a": [[None, 0.5]]}}, "steps in the curve of 'a' must be increasing"),
        ({"curves": {"a": [[0, 7]]}}, "the curve of 'a' must be fractions"),
        ({"baseline": [0.1]}, "'baseline' must have one number per task, 2, but is 1"),
        ({"baseline": [0.1, 2]}, "baseline must be fractions"),
        ({"baseline": "none"}, "baseline must be a list of numbers, but is text"),
        ({"curve_episodes": 0}, "'curve_episodes' must be a number of episodes"),
        ({"baseline_episodes": "20"}, "'baseline_episodes' must be a number of episodes"),
        ({"stream": [["a"], ["b"], []]}, r"stream\[2\] must name at least one task"),
        ({"stream": [["a"], ["b", "b"]]}, r"stream\[1\] must name each task once, but names 'b' twice"),
        (
            {"curves": {"a": [[0, 0.5], [5, 0.5]]}, "curve_experiences": {"a": [0, 99]}, "stream": [["a"], ["b"]]},
            "'a' has the experience 99, but there are only 2",
        ),
        (
            {"curves": {"a": [[0, 0.5], [5, 0.5]]}, "curve_experiences": {"a": [0, 99]}},
            "'a' has the experience 99, but there are only 2",
        ),
        (
            {"curves": {"a": [[0, 0.5], [5, 0.5]]}, "curve_experiences": {"a": [0, 1]}, "stream": [["a"], ["b"]]},
            "'a' has the experience 1, but that one brings b",
        ),
        ({"success": [[0.85, None], [0.2, 1]], "episodes": [[1, 0], [20, 20]]}, "0.85 where there is 1 episode, which"),
        ({"success": [[0.85, None], [0.2, 1]], "episodes": [[10, 0], [20, 20]]}, "0.85 where there are 10 episodes"),
        ({"base_line": [0, 0]}, "unknown key 'base_line'; did you mean 'baseline'"),
    ],
)
def test_a_broken_matrix_is_named(tmp_path, change, message):
    path = tmp_path / "matrix.json"
    path.write_text(json.dumps(GOOD))
    ScoreMatrix.from_json(path)
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(ConfigurationError, match=message) as caught:
        ScoreMatrix.from_json(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("rate", "count"),
    [(1 / 3, 3), (0.333, 3), (0.33, 3), (0.3, 3), (0.66, 3), (0.67, 3), (0.7, 3), (0.14, 7), (0.47, 30), (0.123, 500)],
)
def test_a_rounded_rate_is_no_contradiction(tmp_path, rate, count):
    path = tmp_path / "matrix.json"
    path.write_text(json.dumps({"tasks": ["a"], "success": [[rate]], "episodes": [[count]]}))
    assert ScoreMatrix.from_json(path).scores[0, 0] == rate


def test_a_rate_of_a_paper_without_episodes_may_be_any(tmp_path):
    path = tmp_path / "matrix.json"
    path.write_text(json.dumps({"tasks": ["a"], "success": [[0.855]]}))
    assert ScoreMatrix.from_json(path).scores[0, 0] == 0.855


@pytest.mark.parametrize("key", ["tasks", "success"])
def test_a_missing_key_is_named(tmp_path, key):
    path = tmp_path / "matrix.json"
    path.write_text(json.dumps({name: value for name, value in GOOD.items() if name != key}))
    with pytest.raises(ConfigurationError, match=f"the key '{key}' is missing"):
        ScoreMatrix.from_json(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x00\xff\xfe", "not readable UTF-8 text"),
        (b'{"tasks": [', "is not JSON"),
        (b"[" * 100_000, "is not JSON|nested"),
        (b'{"tasks": [' + b"1" * 5000 + b"]}", "is not JSON"),
        (b'{"tasks": ["a"], "success": [[1e999]]}', "beyond the range"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"[1, 2]", "expected a JSON object with tasks and success, but found a list"),
        (json.dumps(GOOD).replace("null", "NaN").encode(), "NaN is not JSON.*null"),
    ],
)
def test_a_corrupted_file_is_named(tmp_path, content, message):
    path = tmp_path / "matrix.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        ScoreMatrix.from_json(path)


SQUARE = {"tasks": ["a", "b"], "success": [[0.5, None], [0.2, 1]]}


@pytest.mark.parametrize(
    ("content", "experiences"),
    [
        (SQUARE, ("a", "b")),
        (SQUARE | {"experiences": None, "episodes": None, "curves": None}, ("a", "b")),
        (SQUARE | {"author": "somebody"}, ("a", "b")),
        ({"tasks": ["a", "b"], "success": [[0.5, 0.25]]}, ("row 1",)),
        ({"tasks": ["a"], "success": [[0], [1], [None]]}, ("row 1", "row 2", "row 3")),
    ],
)
def test_a_matrix_of_other_software_has_metrics_without_invented_intervals(tmp_path, capsys, content, experiences):
    path = tmp_path / "matrix.json"
    path.write_text(json.dumps(content))
    matrix = ScoreMatrix.from_json(path)
    assert matrix.experiences == experiences
    assert matrix.counts is None
    results = compute_all(matrix)
    assert all(np.isnan([result.low, result.high]).all() for result in results.values())
    known = ScoreMatrix.from_json(path), replace(matrix, counts=np.full(matrix.scores.shape, 20))
    values = [[result.value for result in compute_all(one).values()] for one in known]
    assert np.array_equal(*values, equal_nan=True)
    matrix.write(tmp_path / "again.json")
    assert ScoreMatrix.from_json(tmp_path / "again.json").counts is None
    assert main(["metrics", str(path)]) == 0
    assert "episodes unknown" in capsys.readouterr().out
    assert main(["metrics", str(path), "--json"]) == 0


def test_notes_of_others_in_the_file_are_left_alone(tmp_path):
    path = tmp_path / "matrix.json"
    path.write_text(json.dumps(GOOD | {"comment": "mine", "curves": None, "baseline": None}))
    assert ScoreMatrix.from_json(path).baseline is None


def test_a_matrix_is_found_in_a_run_folder(tmp_path, sequential):
    sequential.write(tmp_path / "matrix.json")
    np.testing.assert_array_equal(load_matrix(tmp_path).scores, sequential.scores)
    (tmp_path / "matrix.json").unlink()
    with pytest.raises(ConfigurationError, match=r"holds no matrix\.json"):
        load_matrix(tmp_path)
    with pytest.raises(ConfigurationError, match="does not exist"):
        load_matrix(tmp_path / "nothing.json")


def test_the_printed_table(tmp_path, sequential):
    sequential.write(tmp_path / "matrix.json")
    text = describe(tmp_path)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert "nan" not in text
    assert lines[0] == "success in percent, 20 episodes per cell"
    assert next(line for line in lines if line.startswith("after experience-1")).split()[2:] == ["60", "80"] + ["-"] * 8
    row = next(line for line in lines if line.startswith("libero_nbt"))
    assert row.split()[:2] == ["libero_nbt", "0.180"] and "↓" in row
    assert next(line for line in lines if line.startswith("gem_fwt")).split()[:3] == ["gem_fwt", "-", "↑"]
    assert len({line.index(arrow) for line in lines for arrow in "↑↓" if arrow in line}) == 1


@pytest.mark.parametrize("tasks", [1, 3, 10, 50])
def test_every_matrix_fits_the_terminal(tasks):
    tasks_of = tuple(f"suite/put-the-black-bowl-on-the-plate-{index}" for index in range(tasks))
    success = np.full((2, tasks), 0.5)
    matrix = ScoreMatrix(tasks_of, ("e" * 60, "second"), success, np.full((2, tasks), 7), baseline=np.zeros(tasks))
    text = metrics.format_matrix(matrix)
    assert max(map(len, text.splitlines())) <= 100
    assert text.count(" 50") >= 2 * tasks
    assert all(f"plate-{index}" in text for index in range(tasks))


def test_the_json_for_machines(tmp_path, sequential):
    sequential.write(tmp_path / "matrix.json")
    diagonal = np.where(np.eye(10, dtype=bool), 0.5, np.nan)
    make(diagonal, curves=sequential.curves).write(tmp_path / "alone.json")

    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(describe(tmp_path, as_json=True), parse_constant=refuse)
    assert list(content["metrics"]) == [metric.name for metric in METRICS]
    assert content["metrics"]["gem_fwt"]["value"] is None
    assert content["metrics"]["libero_nbt"]["value"] == pytest.approx(0.18)
    keys = {"value", "low", "high", "why_no_interval", "why_undefined", "direction", "meaning", "bias", "source"}
    assert set(content["metrics"]["libero_nbt"]) == keys
    assert content["metrics"]["libero_nbt"]["why_no_interval"] is None
    assert content["metrics"]["libero_nbt"]["why_undefined"] is None
    assert content["metrics"]["gem_fwt"]["why_no_interval"] is None
    assert content["metrics"]["gem_fwt"]["why_undefined"].startswith("no task was evaluated just before learning it")
    assert content["metrics"]["chaudhry_forgetting"]["low"] is None
    assert content["metrics"]["chaudhry_forgetting"]["why_no_interval"].startswith(
        "too high: a maximum of noisy values"
    )
    assert seal(content["matrix"]) == json.loads((tmp_path / "matrix.json").read_text())
    with_reference = json.loads(describe(tmp_path, as_json=True, reference=tmp_path / "alone.json"))
    assert with_reference["metrics"]["cw_forward_transfer"]["value"] == pytest.approx(0)
