import pandas as pd
import pytest

from vla_cl.evaluation.table import TrialTable
from vla_cl.rollout.evaluator import trial_of
from vla_cl.rollout.table import EPISODES
from vla_cl.types import Episode, Outcome

COLUMNS = ["experience", "step", "split", "task", "initial_state", "outcome", "env_steps", "decisions"]
COLUMNS += ["total_reward", "seconds", "error", "video", "render_profile"]


def episode(task, state, outcome, split="report"):
    error = "Traceback" if outcome is Outcome.ERROR else None
    return Episode(task, split, state, outcome, 20, 5, 1.5, 0.25, error)


def put(table, shown, *, step, experience=0, video=None):
    table.append(trial_of(shown, "fast", video), experience=experience, step=step, split=shown.split)


def success(table, *which, **more):
    """Mean, episodes and crashes of each task."""
    return {task: (cell.value, cell.count, cell.errors) for task, cell in table.cells(*which, **more).items()}


def course(table):
    return {
        task: [(experience, step, cell.value) for experience, step, cell in curve]
        for task, curve in table.curves().items()
    }


@pytest.fixture
def table():
    table = TrialTable(EPISODES)
    start = [episode("toy/red", 1, Outcome.FAILURE), episode("toy/red", 2, Outcome.FAILURE)]
    end = [
        episode("toy/red", 1, Outcome.SUCCESS),
        episode("toy/red", 2, Outcome.FAILURE),
        episode("toy/red", 3, Outcome.ERROR),
        episode("toy/red", 4, Outcome.SUCCESS),
        episode("toy/red", 4, Outcome.FAILURE, split="select"),
        episode("toy/blue", 1, Outcome.ERROR),
    ]
    for shown in start:
        put(table, shown, step=100)
    for number, shown in enumerate(end):
        put(table, shown, step=200, video="videos/0-red-2-failure.mp4" if number == 1 else None)
    return table


def test_cells_count_errors_apart_and_use_the_last_evaluation(table):
    assert success(table, 0) == {"toy/red": (0.5, 4, 1), "toy/blue": (0.0, 1, 1)}
    assert success(table, 0, step=100) == {"toy/red": (0.0, 2, 0)}
    assert success(table, 0, split="select") == {"toy/red": (0.0, 1, 0)}
    assert success(table, 1) == {}


def test_curves(table):
    assert course(table) == {"toy/red": [(0, 100, 0.0), (0, 200, 0.5)], "toy/blue": [(0, 200, 0.0)]}


def test_a_task_that_is_learnt_again_has_another_curve_even_at_the_same_step(table):
    put(table, episode("toy/red", 1, Outcome.SUCCESS), experience=1, step=200)
    assert course(table)["toy/red"] == [(0, 100, 0.0), (0, 200, 0.5), (1, 200, 1.0)]


def test_the_same_episode_again_replaces_its_row(table):
    before = len(table)
    put(table, episode("toy/blue", 1, Outcome.SUCCESS), step=200)
    assert len(table) == before
    assert success(table, 0)["toy/blue"] == (1.0, 1, 0)


def test_written_and_read(table, tmp_path):
    path = tmp_path / "run" / "episodes.parquet"
    TrialTable(EPISODES).write(path)
    assert TrialTable.read(path, EPISODES).rows == []
    table.write(path)
    assert TrialTable.read(path, EPISODES).rows == table.rows
    assert [file.name for file in path.parent.iterdir()] == ["episodes.parquet"]
    frame = pd.read_parquet(path)
    assert list(frame.columns) == COLUMNS
    assert frame.outcome.tolist() == [
        "failure",
        "failure",
        "success",
        "failure",
        "error",
        "success",
        "failure",
        "error",
    ]
    assert frame.video.dropna().tolist() == ["videos/0-red-2-failure.mp4"]
    assert frame.error.dropna().tolist() == ["Traceback", "Traceback"]


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "other.parquet"
    pd.DataFrame({"x": [1]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"the episode table .* lacks the column"):
        TrialTable.read(path, EPISODES)


def test_a_failed_write_leaves_the_old_file(table, tmp_path, monkeypatch):
    path = tmp_path / "episodes.parquet"
    table.write(path)
    before = path.read_bytes()

    def disk_full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        table.write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
