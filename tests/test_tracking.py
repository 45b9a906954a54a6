import json

import pytest

from vla_cl.tracking import Tracker
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
