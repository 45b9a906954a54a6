"""Every number that a method can be given is refused where it makes no sense, with the setting and what is allowed."""

import inspect
import types
import typing

import pytest
from method_presets import method_presets

from vla_cl.config.compose import build, part_class
from vla_cl.interfaces import Method
from vla_cl.types import ConfigurationError

SETTINGS = method_presets()
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


CLASSES = {part_class(settings["class"], Method): settings for settings in SETTINGS.values()}
TOO_MUCH = [10**320, -(10**320), 1e300, -1]


def numbers_of(kind):
    """Constructor arguments that are numbers, or may be."""
    for name, hint in typing.get_type_hints(kind.__init__).items():
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if {int, float} & set(options):
            yield name, int in options


ARGUMENTS = [(kind, name) for kind in CLASSES for name, _ in numbers_of(kind)]
COUNTS = [(kind, name) for kind in CLASSES for name, whole in numbers_of(kind) if whole]


def made_with(kind, name, value):
    settings = {key: given for key, given in CLASSES[kind].items() if key not in ("class", "name")}
    return kind(**{**settings, name: value})


def test_there_are_many_arguments():
    assert len(ARGUMENTS) > 50
    assert len(COUNTS) > 20
    parameters = {name for kind, name in ARGUMENTS}
    assert {"strength", "samples_per_task", "from_task", "tasks", "temperature", "virtual_learning_rate"} <= parameters
    assert all(name in inspect.signature(kind).parameters for kind, name in ARGUMENTS)


@pytest.mark.parametrize(("kind", "name"), ARGUMENTS)
@pytest.mark.parametrize("value", TOO_MUCH, ids=["10^320", "-10^320", "1e300", "-1"])
def test_what_no_run_could_use_is_refused_in_a_short_sentence(kind, name, value):
    for attempt in (lambda: made_with(kind, name, value), lambda: build({**CLASSES[kind], name: value}, Method)):
        with pytest.raises(ConfigurationError) as caught:
            attempt()
        message = str(caught.value)
        assert name in message
        assert len(message) < 400


@pytest.mark.parametrize(("kind", "name"), COUNTS)
@pytest.mark.parametrize("value", [2.5, 2.0, True])
def test_what_is_counted_is_a_whole_number(kind, name, value):
    with pytest.raises(ConfigurationError, match=rf"method\.{name} must be a whole number"):
        made_with(kind, name, value)


@pytest.mark.parametrize("value", TOO_MUCH, ids=["10^320", "-10^320", "1e300", "-1"])
@pytest.mark.parametrize(
    ("name", "key", "wrapped"),
    [
        ("m2distill", "strengths", lambda value: {"vision": value}),
        ("weight_merging", "shares", lambda value: {"head.*": value}),
        ("osft", "rank_schedule", lambda value: [0.5, value]),
        ("er", "memory", lambda value: {"budget": value}),
        ("er", "memory", lambda value: {"budget": f"{value:d} MB" if isinstance(value, int) else f"{value} MB"}),
        ("er", "memory", lambda value: {"samples_per_task": value}),
        ("er", "memory", lambda value: {"trajectories_per_task": value, "unit": "trajectory"}),
        ("er", "memory", lambda value: {"samples_per_task": 2, "unit": "window", "window": value}),
        ("er", "memory", lambda value: {"samples_per_task": 2, "keep": "copy", "encoding": "jpeg", "quality": value}),
        (
            "er",
            "memory",
            lambda value: {"samples_per_task": 2, "keep": "copy", "unit": "window", "encoding": "h264", "crf": value},
        ),
        (
            "er",
            "memory",
            lambda value: {"samples_per_task": 2, "selection": "phase", "selection_settings": {"phases": value}},
        ),
        (
            "er",
            "memory",
            lambda value: {"samples_per_task": 2, "selection": "keyframes", "selection_settings": {"change": value}},
        ),
    ],
)
def test_numbers_inside_of_settings_are_bounded_too(name, key, wrapped, value):
    with pytest.raises(ConfigurationError) as caught:
        build({**SETTINGS[name], key: wrapped(value)}, Method)
    assert key in str(caught.value)
    assert len(str(caught.value)) < 400
