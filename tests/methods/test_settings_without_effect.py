"""Settings under which a method could change nothing in a stream are refused before it is learnt."""

import pytest

from vla_cl.compose import build, choices, compose
from vla_cl.interfaces import Method
from vla_cl.types import ConfigurationError

PRESETS = {name: compose([f"method={name}"])["method"] for name in choices("method")}
LATER = [name for name, settings in PRESETS.items() if "from_task" in settings]


def made(name, **changes):
    return build({**PRESETS[name], **changes}, Method)


def test_there_are_methods_that_begin_with_a_later_task():
    assert {"layer_freezing", "slca", "mofo", "hft", "weight_merging", "retain"} <= set(LATER)


@pytest.mark.parametrize("name", LATER)
def test_a_first_edited_task_behind_the_stream_is_refused(name):
    for experiences in (2, 3, 5):
        made(name, from_task=experiences).require_length(experiences)
        message = rf"method\.from_task is {experiences + 1}, but the stream has {experiences} experiences"
        with pytest.raises(ConfigurationError, match=message):
            made(name, from_task=experiences + 1).require_length(experiences)


@pytest.mark.parametrize("name", LATER)
def test_a_stream_of_one_experience_may_grow_by_a_second(name):
    made(name, from_task=1).require_length(1)
    made(name, from_task=2).require_length(1)
    with pytest.raises(ConfigurationError, match=r"from_task is 3, but the stream has 1 experience, so"):
        made(name, from_task=3).require_length(1)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_acts_in_a_stream_of_any_length(name):
    for experiences in (1, 2, 10):
        made(name).require_length(experiences)


def test_a_schedule_that_freezes_nothing_in_the_stream_is_refused():
    made("osft", rank_schedule=[0, 0.5]).require_length(1)
    made("osft", rank_schedule=[0, 0, 0.5]).require_length(3)
    made("osft", effective_rank=0.0).require_length(3)  # as documented, sequential fine-tuning
    for schedule, experiences in (([0, 0], 2), ([0], 5), ([0, 0], 1), ([0, 0, 0.5], 2)):
        with pytest.raises(ConfigurationError, match=rf"rank_schedule is 0 for all of {experiences} experience"):
            made("osft", rank_schedule=schedule).require_length(experiences)
