import json
import os
import tracemalloc

import pytest

from vla_cl.cli import outcome
from vla_cl.run.tracking import Tracker, last_loss
from vla_cl.storage.manifest import seal
from vla_cl.trust.reading import last_lines
from vla_cl.types import ConfigurationError


def test_every_record_is_a_line(tmp_path):
    with Tracker(tmp_path) as tracker:
        tracker.log(1, loss=0.5, phase="learn")
        tracker.log(2, loss=0.25, phase="learn")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.5), (2, 0.25)]


def test_a_continued_run_appends(tmp_path):
    for step in (1, 2):
        with Tracker(tmp_path) as tracker:
            tracker.log(step, loss=0.0)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


DAMAGE = {
    "a flipped digit": lambda line: line.replace(b'"loss": 3.0', b'"loss": 9.0'),
    "a flipped step": lambda line: line.replace(b'"step": 3', b'"step": 9'),
    "half a line": lambda line: line[: len(line) // 2] + b"\n",
    "deep nesting": lambda line: line + b"[" * 30_000 + b"\n",
    "a foreign record": lambda line: line + b'{"step": 3, "loss": 9.0}\n',
    "no record": lambda line: line + b"null\n[1]\n\xff\xfe\n",
    "a long line": lambda line: line + b"x" * 2**20 + b"\n",
}


def logged(folder, *steps):
    with Tracker(folder) as tracker:
        for step in steps:
            tracker.log(step, loss=float(step))
    return folder / "metrics.jsonl"


def steps_of(path):
    return [json.loads(line)["step"] for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_in_the_log_is_neither_shown_nor_fatal(tmp_path, damage):
    path = logged(tmp_path, 1, 2, 3)
    *first, last = path.read_bytes().splitlines(keepends=True)
    damaged = b"".join(first) + DAMAGE[damage](last)
    path.write_bytes(damaged)
    loss, lines = last_loss(tmp_path)
    if damage == "a long line":  # what lies before it is beyond the tail
        assert (loss, lines) == (None, 1)
        loss, lines = last_loss(tmp_path, tail=2**21)
    assert loss == (3.0 if DAMAGE[damage](last).startswith(last) else 2.0)
    assert lines == (3 if damage == "no record" else 1)
    with Tracker(tmp_path) as tracker:
        assert tracker.continue_after(3) == ()
        assert path.read_bytes() == damaged  # the report counts it
        tracker.log(4, loss=4.0)
    assert last_loss(tmp_path) == (4.0, 0)


def test_what_is_learnt_again_is_cut_and_damage_before_it_stays(tmp_path):
    path = logged(tmp_path, 10, 20, 30, 40)
    lines = path.read_bytes().splitlines(keepends=True)
    broken = lines[1].replace(b'"loss": 20.0', b'"loss": 21.0')
    path.write_bytes(b"".join([lines[0], broken, b"[" * 9999 + b"\n", *lines[2:], lines[3][:-1]]))
    with Tracker(tmp_path) as tracker:
        tracker.continue_after(20)
    assert path.read_bytes() == lines[0] + broken + b"[" * 9999 + b"\n"


def test_a_whole_last_record_without_its_end_is_learnt_again(tmp_path):
    path = logged(tmp_path, 1, 2)
    path.write_bytes(path.read_bytes()[:-1])
    with Tracker(tmp_path) as tracker:
        tracker.continue_after(2)
        tracker.log(2, loss=2.0)
    assert steps_of(path) == [1, 2]


def test_a_log_of_an_earlier_version_has_no_seals(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (1, 2, 3)))
    with Tracker(tmp_path) as tracker:
        tracker.continue_after(2)
    assert steps_of(path) == [1, 2]


def test_a_log_of_gigabytes_costs_neither_memory_nor_time(tmp_path):
    path = logged(tmp_path, 1, 2)
    before = path.read_bytes()
    os.truncate(path, 2**31)
    tracemalloc.start()
    assert last_loss(tmp_path) == (None, 1)
    with Tracker(tmp_path) as tracker:
        tracker.continue_after(2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.read_bytes() == before
    assert peak < 16 * 2**20


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "damaged lines"])
def test_what_is_no_log_is_set_aside(tmp_path, kind, capsys):
    path = tmp_path / "metrics.jsonl"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "thesis.txt").write_text("precious")
        path.symlink_to(tmp_path / "thesis.txt")
    else:
        path.write_bytes(b"\n" * 200_000)
    with Tracker(tmp_path) as tracker:
        (note,) = tracker.continue_after(0)
        tracker.log(1, loss=1.0)
    assert "passing over" in note and note in capsys.readouterr().out
    assert len(note) <= 300
    assert steps_of(path) == [1]
    assert os.path.lexists(tmp_path / ".metrics.jsonl.damaged")
    assert kind != "link" or (tmp_path / "thesis.txt").read_text() == "precious"


def test_the_outcome_says_which_lines_it_passed_over(tmp_path):
    path = logged(tmp_path, 1, 2)
    assert outcome._results(tmp_path) == ["nothing was rolled out; the last loss is 2"]
    path.write_bytes(path.read_bytes().replace(b'"loss": 2.0', b'"loss": 9.0'))
    (line,) = outcome._results(tmp_path)
    assert line == (
        "nothing was rolled out; the last loss is 1; 1 damaged line at the end of metrics.jsonl passed over"
    )
    path.write_text(json.dumps(seal({"step": 3, "loss": "9"})) + "\n")
    assert outcome._results(tmp_path) == ["nothing was rolled out"]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 2**20])
@pytest.mark.parametrize("content", [b"", b"\n", b"a", b"a\n", b"a\nbc\n", b"\n\na\n\nlong one\n\nb", b"abcdefgh\n"])
def test_lines_from_the_last_to_the_first(tmp_path, content, block, monkeypatch):
    monkeypatch.setattr("vla_cl.trust.reading._BLOCK", block)
    path = tmp_path / "lines"
    path.write_bytes(content)
    found = list(last_lines(path, 6))
    expected, begin = [], 0
    for line in content.splitlines(keepends=True):
        expected.append((begin, line if len(line) <= 6 else None))
        begin += len(line)
    assert found == expected[::-1]
    assert list(last_lines(path, 6, tail=3)) == [item for item in expected[::-1] if item[0] > len(content) - 3] or (
        len(content) <= 3
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_tensorboard_through_accelerate(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Tracker(tmp_path, ["tensorboard"], "project", {"training": {"steps": 3}, "list": [1, 2]}) as tracker:
        for step in (1, 2):
            tracker.log(step, loss=step / 4, phase="learn")
    (events,) = (tmp_path / "project").glob("events*")
    read = EventAccumulator(str(events))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [(1, 0.25), (2, 0.5)]


@pytest.mark.parametrize(("name", "message"), [("tensorbord", "unknown tracker"), ("clearml", "is not installed")])
def test_trackers_that_cannot_be_had_are_named(tmp_path, name, message):
    with pytest.raises(ConfigurationError, match=message):
        Tracker(tmp_path, [name])
