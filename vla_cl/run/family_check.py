"""The pre-flight of families that bring tasks, data and scores themselves: no suite, no datasets, no policy."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from vla_cl.config.compose import Settings, build, compose
from vla_cl.config.plugins import import_plugins
from vla_cl.interfaces import Family, Method
from vla_cl.rollout.evaluation import EvaluationSettings
from vla_cl.run.arrangements import require_no_future_tasks, require_second_task
from vla_cl.run.check import heavy_settings, light_settings, output_folder, require_writable
from vla_cl.run.check_answer import plain_stream
from vla_cl.run.method_check import require_continuable
from vla_cl.run.stream_sources import stream_of
from vla_cl.types import ConfigurationError, Stream

if TYPE_CHECKING:
    from vla_cl.training.learning import TrainingSettings

ROBOT = "robot"
"""The family whose settings are the groups below."""

ROBOT_SETTINGS = ("warm_start", "suite", "policy", "demonstrations", "data", "cameras", "normalisation")
"""Settings that only robots read."""

_READ_OF_EVALUATION = frozenset({"episodes", "future_tasks", "untrained", "curve_points", "curve_episodes"})


@dataclass(frozen=True)
class CheckedFamily:
    """The parts of a run that passed."""

    family: Family
    stream: Stream
    evaluation: EvaluationSettings
    training: TrainingSettings
    method: Method


def is_robot(settings: Settings) -> bool:
    """Whether a run is one of the robot family."""
    return bool(settings.get("family", {}).get("name", ROBOT) == ROBOT)


def check_family(settings: Settings) -> CheckedFamily:
    """Look at everything that a run will need; writes nothing.

    Raises:
        ConfigurationError: The first thing that is wrong.
    """
    _require_effect(settings)
    evaluation = light_settings(settings)
    import_plugins(settings["plugins"])
    family = build(settings["family"], Family, settings["plugins"])
    if (wanted := settings["stream"].get("family", ROBOT)) != settings["family"]["name"]:
        raise ConfigurationError(
            f"stream {settings['stream']['name']!r} is of the family {wanted!r}, but family="
            f"{settings['family']['name']} was given; choose a stream of that family (vla-cl list streams), or leave "
            "family out"
        )
    stream = stream_of(settings["stream"], family.tasks(), settings["arrangement"])
    training, method = heavy_settings(settings)
    require_writable(output_folder(settings), "output_dir")
    require_second_task(settings["arrangement"], method)
    require_no_future_tasks(stream.independent, evaluation.future_tasks)
    method.require_length(1 if stream.independent else len(stream))
    family.check(stream, method)
    evaluator = family.evaluator()
    for task in stream.tasks:  # whether there are as many trials as are asked for
        evaluator.units(task, "report", evaluation.episodes)
        if evaluation.curve_points:
            evaluator.units(task, "select", evaluation.curve_episodes)
    if (untried := require_continuable(method)) is not None:
        print(untried, file=sys.stderr)
    return CheckedFamily(family, stream, evaluation, training, method)


def without_robot_settings(settings: Settings) -> Settings:
    """The settings less those that only robots read."""
    kept = {key: value for key, value in settings.items() if key not in ROBOT_SETTINGS}
    kept["evaluation"] = {key: value for key, value in settings["evaluation"].items() if key in _READ_OF_EVALUATION}
    return kept


def _require_effect(settings: Settings) -> None:
    """Refuse settings that only robots read.

    Raises:
        ConfigurationError: One differs from its default.
    """
    default = _defaults()
    name = settings["family"]["name"]
    for group in ROBOT_SETTINGS:
        if settings[group] != default[group]:
            raise ConfigurationError(f"{group} has no effect with family={name}, only robots read it; leave it out")
    for key, value in settings["evaluation"].items():
        if key not in _READ_OF_EVALUATION and value != default["evaluation"][key]:
            raise ConfigurationError(
                f"evaluation.{key} has no effect with family={name}, only robots read it; leave it out"
            )


@cache  # Hydra takes a quarter of a second, as long as a small run
def _defaults() -> Settings:
    """The settings of a run that chooses nothing; only to be read."""
    return compose([])


def check_family_command(settings: Settings) -> dict[str, object]:
    """``vla-cl check`` for such a family: look, say what would be learnt, write nothing.

    Returns:
        The same as plain data.

    Raises:
        ConfigurationError: The first thing that is wrong.
    """
    checked = check_family(settings)
    for experience in checked.stream:
        print(f"{experience.name}: {'; '.join(task.instruction for task in experience.tasks)}")
    count = len(checked.stream)
    print(
        f"\nnothing speaks against it: {count} experience{'s' * (count != 1)}, family {checked.family.name!r}, method "
        f"{checked.method.name!r}, into {Path(output_folder(settings))}"
    )
    return {
        "experiences": plain_stream(checked.stream, {task.id for task in checked.stream.tasks}),
        "family": checked.family.name,
        "method": checked.method.name,
        "notes": [],
    }
