"""What cannot be reported is refused in one sentence, and nothing is written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from generated_run import GeneratedRun

from vla_cl.report import write_report
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
        (overwrite("run.json", "{"), "run.json is not valid JSON"),
        (overwrite("run.json", "[]"), "should hold a JSON object, got list"),
        (change_info(format=2), "has format 2, but this version reads format 1"),
        (change_info(method=None), "should give 'method' as str, got None"),
        (change_info(arrangement="circle"), "allowed are sequential, joint, independent"),
        (change_info(experiences=[1]), "should list experiences with 'name' and 'tasks', got 1"),
        (remove("matrix.json"), "is a finished run without matrix.json"),
        (overwrite("matrix.json", "nonsense"), "matrix.json"),
        (overwrite("episodes.parquet", "nonsense"), "cannot be read as an episode table"),
        (drop_column, "but lacks outcome"),
        (overwrite("metrics.jsonl", "{}\nnonsense\n{}\n"), "metrics.jsonl:2 is not valid JSON"),
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
