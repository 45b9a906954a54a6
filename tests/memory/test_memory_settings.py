import pytest

from vla_cl.memory.replay_memory import ReplayMemory
from vla_cl.memory.settings import MemorySettings, parse_bytes
from vla_cl.types import ConfigurationError


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("25 MB", 25_000_000),
        ("24MiB", 24 * 2**20),
        ("1.5 kB", 1500),
        ("0.5 KiB", 512),
        ("7 B", 7),
        (1234, 1234),
        ("2 GB", 2 * 10**9),
        ("0.000000001 GB", 1),
    ],
)
def test_bytes_are_read_exactly(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text", ["25", "25 mb", "MB", "0 MB", "-1 MB", "1.5 B", "1e6 B", 0, -3, True, 2.5, None, "1,5 MB"]
)
def test_other_budgets_are_refused(text):
    with pytest.raises(ConfigurationError, match=r"method\.memory\.budget must be a positive whole number of bytes"):
        parse_bytes(text)


def test_nothing_given_is_liberos_number():
    assert MemorySettings.of(None).samples_per_task == 1000
    ready = MemorySettings(samples_per_task=3)
    assert MemorySettings.of(ready) is ready
    assert MemorySettings.of({"budget": "25 MB"}).budget_bytes == 25_000_000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budgett": "1 MB"}, r"method\.memory has no setting 'budgett'; did you mean 'budget'"),
        ({}, "needs exactly one of budget, samples_per_task, trajectories_per_task; got none"),
        ({"budget": "1 MB", "samples_per_task": 3}, "got budget and samples_per_task"),
        ({"budget": "1 megabyte"}, r"method\.memory\.budget"),
        (
            {"samples_per_task": 0},
            r"method\.memory\.samples_per_task must be a whole number between 1 and",
        ),
        ({"samples_per_task": 2.0}, r"samples_per_task must be a whole number"),
        ({"trajectories_per_task": 2}, r"needs method\.memory\.unit=trajectory; got unit='frame'"),
        ({"budget": "1 MB", "split": "even"}, r"method\.memory\.split must be one of equal, proportional, similarity"),
        ({"samples_per_task": 2, "split": "similarity"}, "split=similarity has no effect without"),
        ({"samples_per_task": 2, "unit": "episode"}, "frame, window, trajectory; got 'episode'"),
        ({"samples_per_task": 2, "window": 0}, r"method\.memory\.window must be a whole number between 1 and"),
        ({"samples_per_task": 2, "keep": "both"}, r"method\.memory\.keep must be one of index, copy"),
        ({"samples_per_task": 2, "keep": "copy", "encoding": "png"}, r"method\.memory\.encoding must be one of raw"),
        ({"samples_per_task": 2, "encoding": "jpeg"}, r"needs method\.memory\.keep=copy"),
        ({"samples_per_task": 2, "keep": "copy", "encoding": "h264"}, "needs method.memory.unit=window or trajectory"),
        ({"samples_per_task": 2, "quality": 101}, "between 1 and 100; got 101"),
        ({"samples_per_task": 2, "crf": 52}, "between 0 and 51; got 52"),
        ({"samples_per_task": 2, "selection": "unifrom"}, "did you mean 'uniform'"),
        ({"samples_per_task": 2, "selection_settings": {"phases": 2}}, "'uniform' has no setting 'phases'"),
        ({"samples_per_task": 2, "reuse": 3}, r"method\.memory\.reuse must be a folder or null"),
        ("25 MB", "must be a mapping of settings; got '25 MB'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        ReplayMemory.from_settings(settings)
