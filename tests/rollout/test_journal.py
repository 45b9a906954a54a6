import json
import math
import multiprocessing
import os

import pytest

from vla_cl.rollout.journal import EPISODES, IDENTITY, Journal, check_same_evaluation, differences
from vla_cl.types import ConfigurationError, Episode, EpisodeRequest, Outcome, Task

IDENTITY_A = {"policy": {"seed": 0}, "split": "report", "sizes": (8, 9)}
TASK = Task("toy/red", "go", 30)


def episode(state, outcome=Outcome.SUCCESS, reward=0.1 + 0.2, error=None):
    return Episode(TASK.id, "report", state, outcome, 20, 5, reward, 0.25, error)


def request(state):
    return EpisodeRequest(TASK, "report", state)


def written(folder, states=(0, 1, 2)):
    with Journal(folder, IDENTITY_A) as journal:
        for state in states:
            journal.append(episode(state), None, elapsed=state + 0.5)
    return folder / EPISODES


def test_episodes_come_back_exactly(tmp_path):
    crashed = episode(1, Outcome.ERROR, reward=math.inf, error='Traceback\n  "ä"\nValueError: x')
    with Journal(tmp_path / "e", IDENTITY_A) as journal:
        journal.append(episode(0), "videos/red-0-success.mp4", 1.5)
        journal.append(crashed, None, 2.0)
    with Journal(tmp_path / "e", IDENTITY_A) as journal:
        assert len(journal) == 2
        assert journal.find(request(0)).episode == episode(0)
        assert journal.find(request(0)).video == "videos/red-0-success.mp4"
        assert journal.find(request(1)).episode == crashed
        assert journal.find(request(2)) is None


def test_not_a_number_comes_back(tmp_path):
    with Journal(tmp_path, IDENTITY_A) as journal:
        journal.append(episode(0, reward=math.nan), None, 1.0)
    with Journal(tmp_path, IDENTITY_A) as journal:
        assert math.isnan(journal.find(request(0)).episode.total_reward)
    assert json.loads((tmp_path / EPISODES).read_text())["total_reward"] == "nan"


def test_every_line_is_on_the_disk_when_append_returns(tmp_path):
    with Journal(tmp_path, IDENTITY_A) as journal:
        for state in range(3):
            journal.append(episode(state), None, 1.0)
            assert len((tmp_path / EPISODES).read_bytes().splitlines()) == state + 1


def test_a_file_torn_anywhere_keeps_every_whole_line_and_goes_on(tmp_path):
    content = written(tmp_path / "whole").read_bytes()
    ends = [position for position, byte in enumerate(content) if byte == ord("\n")]
    lengths = {0, 1, len(content), *(end + shift for end in ends for shift in (-1, 0, 1))}
    for length in sorted({*lengths, *range(0, len(content), 97)}):
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / IDENTITY).write_bytes((tmp_path / "whole" / IDENTITY).read_bytes())
        (folder / EPISODES).write_bytes(content[:length])
        with Journal(folder, IDENTITY_A) as journal:
            assert len(journal) == content[:length].count(b"\n")
            journal.append(episode(7), None, 1.0)
        lines = (folder / EPISODES).read_text().splitlines()
        assert [json.loads(line)["initial_state"] for line in lines] == [*range(content[:length].count(b"\n")), 7]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = written(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1][:20] + "\n" + lines[2])
    with (
        pytest.raises(ConfigurationError, match=r"line 2 of .*episodes\.jsonl is damaged"),
        Journal(tmp_path, IDENTITY_A),
    ):
        pass
    path.write_text(lines[0] + '{"task": "toy/red"}\n' + lines[2])
    with pytest.raises(ConfigurationError, match="line 2"), Journal(tmp_path, IDENTITY_A):
        pass


def test_the_later_entry_counts(tmp_path):
    written(tmp_path)
    with Journal(tmp_path, IDENTITY_A) as journal:
        journal.append(episode(0, Outcome.FAILURE), None, 1.0)
    with Journal(tmp_path, IDENTITY_A) as journal:
        assert len(journal) == 3
        assert journal.find(request(0)).episode.outcome is Outcome.FAILURE


def test_sessions_are_counted(tmp_path):
    for state in range(3):
        with Journal(tmp_path, IDENTITY_A) as journal:
            journal.append(episode(state), None, 1.0)
    with Journal(tmp_path, IDENTITY_A) as journal:
        assert [journal.find(request(state)).session for state in range(3)] == [0, 1, 2]


def test_another_evaluation_is_refused_and_the_difference_named(tmp_path):
    path = written(tmp_path)
    before = path.read_bytes()
    other = IDENTITY_A | {"split": "select", "policy": {"seed": 1}}
    with pytest.raises(ConfigurationError) as caught, Journal(tmp_path, other):
        pass
    assert "(policy.seed was 0, is now 1; split was report, is now select); give output_dir=" in str(caught.value)
    assert path.read_bytes() == before
    check_same_evaluation(tmp_path, IDENTITY_A)


def test_an_evaluation_without_episodes_gives_its_folder_up(tmp_path):
    written(tmp_path, states=())
    with Journal(tmp_path, IDENTITY_A | {"split": "select"}) as journal:
        assert len(journal) == 0
    assert json.loads((tmp_path / IDENTITY).read_text())["split"] == "select"


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigurationError, match="is not empty and holds no evaluation"):
        check_same_evaluation(tmp_path, IDENTITY_A)


def test_what_a_kill_at_the_very_beginning_leaves_is_no_obstacle(tmp_path):
    (tmp_path / EPISODES).touch()
    (tmp_path / ".0123.json").write_text("{")
    with Journal(tmp_path, IDENTITY_A) as journal:
        assert len(journal) == 0


def _open(folder, answers):
    try:
        with Journal(folder, IDENTITY_A):
            answers.put("opened")
    except ConfigurationError as error:
        answers.put(str(error))


def test_two_processes_do_not_write_the_same_journal(tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    with Journal(tmp_path, IDENTITY_A):
        process = context.Process(target=_open, args=(tmp_path, answers))
        process.start()
        assert f"process {os.getpid()} " in (refusal := answers.get())
        assert f"is writing the evaluation {tmp_path}" in refusal
        process.join()
    process.close()
    _open(tmp_path, answers)
    assert answers.get() == "opened"
    answers.close()


def test_long_values_are_cut():
    assert list(differences({"a": "x" * 100}, {})) == [f"a was {'x' * 56} ..., is now absent"]
