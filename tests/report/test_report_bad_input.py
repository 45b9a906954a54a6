"""What cannot be reported is refused in one sentence, and nothing is written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from generated_run import GeneratedRun

from vla_cl.report import write_report
from vla_cl.report.load import load_runs
from vla_cl.types import ConfigurationError


def change_info(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def overwrite(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


def remove(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()

    return change


def drop_column(folder: Path) -> None:
    import pandas as pd

    pd.read_parquet(folder / "episodes.parquet").drop(columns="outcome").to_parquet(folder / "episodes.parquet")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("run.json"), "has none; give the folder that a run wrote"),
        (overwrite("run.json", "{"), "run.json is not JSON"),
        (overwrite("run.json", "[]"), "holds list, expected an object"),
        (change_info(format=3), "has format 3, but this version reads the formats 1 and 2"),
        (change_info(format=True), "has format True, but this version reads the formats 1 and 2"),
        (change_info(method=None), "should give 'method' as str, got None"),
        (change_info(arrangement="circle"), "allowed are sequential, joint, independent"),
        (change_info(experiences=[1]), "should list experiences with 'name' and 'tasks', got 1"),
        (remove("matrix.json"), "is a finished run without matrix.json"),
        (overwrite("matrix.json", "nonsense"), "matrix.json"),
        (overwrite("episodes.parquet", "nonsense"), "the episode table at "),
        (drop_column, "lacks the column outcome"),
        (overwrite("config.yaml", "a: [1"), "config.yaml is not valid YAML"),
    ],
)
def test_damaged_run(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    folder = GeneratedRun(videos=0).write(tmp_path / "run")
    damage(folder)
    with pytest.raises(ConfigurationError) as caught:
        write_report([folder])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("lines", "steps", "damaged"),
    [
        (['{"step": 1, "loss": 3}', '{"step": 2, "lo'], (1,), 0),  # a kill; the end of the line is missing
        (['{"step": 1, "loss": 3}', '{"step": 2, "lo{"step": 2, "loss": 2}', '{"step": 3, "loss": 1}', ""], (1, 3), 1),
        (['{"step": 1, "loss": NaN}', "null", "[1]", "\x00\xff", '{"step": 2, "loss": 1}', ""], (2,), 4),
        (['{"step": 1, "loss": 9}', '{"step": 2, "loss": 8}', '{"step": 1, "loss": 3}', ""], (1, 2), 0),
        (["{}", ""], (), 0),
        ([""], (), 0),
    ],
)
def test_a_log_that_a_kill_tore_is_read_as_far_as_it_goes(lines, steps, damaged, tmp_path: Path) -> None:
    folder = GeneratedRun(videos=0).write(tmp_path / "run")
    (folder / "metrics.jsonl").write_text("\n".join(lines), encoding="latin-1")
    (run,) = load_runs([folder])
    assert (run.training.steps if run.training else ()) == steps
    assert not run.training or run.training.losses[0] != 9  # of a step logged twice, the last counts
    assert [note for note in run.missing if "damaged lines" in note] == (
        [f"{run.label}: {damaged} damaged lines of metrics.jsonl are passed over."] if damaged else []
    )
    write_report([folder])


def test_no_run() -> None:
    with pytest.raises(ConfigurationError, match="at least one run folder"):
        write_report([])


def test_folder_that_does_not_exist_names_the_nearest(tmp_path: Path) -> None:
    GeneratedRun(videos=0).write(tmp_path / "sequential")
    with pytest.raises(ConfigurationError, match=r"did you mean .*/sequential"):
        write_report([tmp_path / "sequental"])


def test_same_run_twice(tmp_path: Path) -> None:
    folder = GeneratedRun(videos=0).write(tmp_path / "run")
    with pytest.raises(ConfigurationError, match="more than once"):
        write_report([folder, tmp_path / "." / "run"])


def test_output_that_is_no_page(tmp_path: Path) -> None:
    folder = GeneratedRun(videos=0).write(tmp_path / "run")
    with pytest.raises(ConfigurationError, match=r"ends in \.html"):
        write_report([folder], folder / "run.json")


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    folder = GeneratedRun(videos=0).write(tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot write the report"):
        write_report([folder], tmp_path / "file" / "page.html")
