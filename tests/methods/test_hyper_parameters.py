"""Every number that a method can be given is refused where it makes no sense, with the setting and what is allowed."""

import pytest

from vla_cl.compose import build, choices, compose
from vla_cl.interfaces import Method
from vla_cl.types import ConfigurationError

SETTINGS = {name: compose([f"method={name}"])["method"] for name in choices("method")}
NUMBERS = [
    (name, key) for name, settings in SETTINGS.items() for key, value in settings.items() if type(value) in (int, float)
]


def refused(name, key, value):
    with pytest.raises(ConfigurationError) as caught:
        build({**SETTINGS[name], key: value}, Method)
    return str(caught.value)


def test_there_are_many():
    assert len(NUMBERS) > 80


@pytest.mark.parametrize(("name", "key"), NUMBERS)
def test_what_is_below_its_range_is_refused_by_name(name, key):
    value = type(SETTINGS[name][key])(-7)
    message = refused(name, key, value)
    assert f"method.{key}" in message or f"method.memory.{key}" in message
    assert "-7" in message
    assert any(word in message for word in ("at least", "between", "above"))


@pytest.mark.parametrize(("name", "key"), [pair for pair in NUMBERS if type(SETTINGS[pair[0]][pair[1]]) is float])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_finite_number_is_refused(name, key, value):
    assert key in refused(name, key, value)
