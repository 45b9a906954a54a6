"""A run with several measures: `--measure` chooses, and the report shows the others as further matrices."""

import json
from pathlib import Path

import pytest
from generated_run import GeneratedRun, experience_replay
from parsed_page import ParsedPage

from vla_cl.cli.main import main
from vla_cl.metrics import describe, load_matrix
from vla_cl.report import write_report
from vla_cl.report.seed_groups import compare
from vla_cl.types import ConfigurationError

ERROR = {
    "name": "action_error",
    "direction": "lower",
    "kind": "mean",
    "low": 0,
    "high": None,
    "title": "held-out action error",
    "note": "An alarm, not a ranking.",
}


def with_error(run: GeneratedRun, folder: Path, worse: float) -> Path:
    """A run that was also scored on held-out actions."""
    run.write(folder)
    matrix = json.loads((folder / "matrix.json").read_text())
    scores = [[0.02, None, None], [0.02 + worse, 0.03, None], [0.02 + 2 * worse, 0.03 + worse, 0.04]]
    counts = [[10 if score is not None else 0 for score in row] for row in scores]
    spread = [[None if score is None else 0.005 for score in row] for row in scores]
    content = {key: matrix[key] for key in ("tasks", "experiences")}
    content |= {"measure": ERROR, "scores": scores, "trials": counts, "spread": spread}
    (folder / "matrix-action_error.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        with_error(GeneratedRun(videos=0), tmp_path / "sequential", 0.2),
        with_error(experience_replay(videos=0), tmp_path / "er", 0.001),
    ]


def test_the_first_measure_is_shown_and_the_other_named(runs: list[Path]) -> None:
    text = describe(runs[0])
    assert text.startswith("success in percent, 20 episodes per cell")
    assert text.endswith("further measures of this run: action_error (--measure action_error)")
    other = describe(runs[0], measure="action_error")
    assert other.startswith("held-out action error, lower is better, 10 trials per cell")
    assert "An alarm, not a ranking." in other and "alarm" not in text
    assert other.endswith("further measures of this run: success (--measure success)")
    found = json.loads(describe(runs[0], as_json=True, measure="action_error"))
    assert found["metrics"]["final_average"]["direction"] == "lower"
    assert found["metrics"]["final_average"]["value"] == pytest.approx((0.42 + 0.23 + 0.04) / 3)


def test_a_comparison_is_of_one_of_them(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    table = compare(runs, measure="action_error").splitlines()
    assert "final_average ↓" in table[0]
    assert "note: An alarm, not a ranking." in table
    assert [line.split()[0] for line in table[1:3]] == ["er", "sequential"]
    assert main(["compare", *map(str, runs), "--measure", "action_error"]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == table[:3]


def test_the_report_shows_one_in_full_and_the_others_as_matrices(runs: list[Path], tmp_path: Path) -> None:
    page = ParsedPage(write_report(runs, tmp_path / "report.html"))
    assert "92 % average success" in page.text("")
    further = page.text("further-1")
    assert further.startswith("Held-out action error matrix A further measure of the same runs")
    assert "lower is better. An alarm, not a ranking. Give --measure action_error to have it in full." in further
    assert "after window-close 0.42 n 10 0.23 n 10 0.04 n 10" in further
    page = ParsedPage(write_report(runs, tmp_path / "report.html", measure="action_error"))
    assert "0.23 average held-out action error on all tasks at the end" in page.text("")
    assert "Held-out action error: An alarm, not a ranking." in page.text("")
    assert "an old task got worse by 0.3 on average" in page.text("")
    assert "forgotten beyond chance (Welch's t-test, Holm's correction for 2 tests)" in page.text("")
    assert page.text("further-1").startswith("Success matrix")


@pytest.mark.parametrize("command", ["metrics", "compare", "report"])
def test_a_measure_that_is_not_there_is_refused_with_those_that_are(
    command: str, runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(runs[0]), "--measure", "los"]) == 2
    assert "has no measure 'los'; it has success, action_error" in capsys.readouterr().err


def test_a_file_is_its_own_measure(runs: list[Path]) -> None:
    file = runs[0] / "matrix-action_error.json"
    assert load_matrix(file).measure.name == "action_error"
    with pytest.raises(ConfigurationError, match="has no measure 'success'; it has action_error"):
        load_matrix(file, "success")


def test_a_copy_beside_a_matrix_is_no_further_measure(runs: list[Path]) -> None:
    (runs[0] / "matrix-before.json").write_bytes((runs[0] / "matrix.json").read_bytes())
    assert describe(runs[0]).endswith("further measures of this run: action_error (--measure action_error)")
