"""``report outputs/*`` and ``compare outputs/*``: what is no run is passed over with a sentence."""

from pathlib import Path

import pytest
from generated_run import GeneratedRun, experience_replay

from vla_cl.cli.main import main
from vla_cl.report import write_report
from vla_cl.types import ConfigurationError


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Two runs, and what else lies beside runs."""
    folder = tmp_path / "outputs"
    GeneratedRun(videos=0).write(folder / "sequential")
    experience_replay(videos=0).write(folder / "er")
    experience_replay(videos=0).write(folder / "demo" / "er")
    (folder / "refused").mkdir()
    (folder / "evaluated").mkdir()
    (folder / "evaluated" / "evaluation.json").write_text("{}")
    return folder


def everything(folder: Path) -> list[str]:
    return sorted(map(str, folder.iterdir()))


def test_a_report_of_everything_can_be_written_twice(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for turn in range(2):
        assert main(["report", *everything(outputs)]) == 0
        told = capsys.readouterr()
        assert told.out == f"{outputs / 'report.html'}\n"
        skipped = told.err.splitlines()
        assert skipped[0] == f"skipped {outputs / 'demo'}: it holds runs (er); give {outputs / 'demo'}/*"
        assert skipped[1] == f"skipped {outputs / 'evaluated'}: an evaluation, not a run"
        assert skipped[2].startswith(f"skipped {outputs / 'refused'}: it has no run.json")
        assert skipped[3:] == [f"skipped {outputs / 'report.html'}: a file, not the folder of a run"] * turn
    assert ">er, sequential on metaworld_demo</h1>" in (outputs / "report.html").read_text()


def test_a_comparison_of_everything_leaves_out_what_goes_on(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    GeneratedRun(videos=0, status="running", name="late").write(outputs / "late")
    (outputs / "report.html").write_text("<html>")
    assert main(["compare", *everything(outputs)]) == 0
    told = capsys.readouterr()
    assert [line.split()[0] for line in told.out.splitlines()[:3]] == ["method", "er", "sequential"]
    assert f"skipped {outputs / 'late'}: it is not finished" in told.err.splitlines()
    assert len(told.err.splitlines()) == 5


def test_a_mistyped_run_is_not_passed_over(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(outputs / "er"), str(outputs / "sequental")]) == 2
    assert "did you mean" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "compare"])
def test_nothing_but_other_things_is_refused(command: str, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(outputs / "refused"), str(outputs / "evaluated")]) == 2
    assert "none of 2 paths is a run" in capsys.readouterr().err
    assert main([command, str(outputs / "refused")]) == 2
    assert "expected a run folder with a run.json" in capsys.readouterr().err


def test_only_a_report_is_replaced(outputs: Path) -> None:
    target = outputs / "page.html"
    target.write_text("<html>somebody's own page</html>")
    with pytest.raises(ConfigurationError, match="is no report of vla-cl, so it is not replaced; give another file"):
        write_report([outputs / "er"], target)
    assert target.read_text() == "<html>somebody's own page</html>"
    target.unlink()
    for _ in range(2):  # an earlier report is
        write_report([outputs / "er"], target)
