"""Learning as a library: what ``vla-cl train`` does, without settings in files."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vla_cl.data.streams import suite_stream
from vla_cl.evaluation.plan import EvaluationPlan
from vla_cl.interfaces import Family, Method
from vla_cl.methods.remembering import RememberingMethod
from vla_cl.run.arrangements import require_no_future_tasks, require_second_task
from vla_cl.run.continual import ContinualRun
from vla_cl.run.folder import RunFolder
from vla_cl.run.method_check import require_continuable
from vla_cl.run.summary import Identity
from vla_cl.run.tracking import Tracker
from vla_cl.training.learning import TrainingSettings
from vla_cl.types import ConfigurationError

_MISSING = object()

__all__ = ["EvaluationPlan", "TrainingSettings", "learn_stream"]


def learn_stream(
    family: Family,
    method: Method,
    folder: Path | str,
    training: TrainingSettings,
    tasks: Sequence[str] = (),
    arrangement: str = "sequential",
    plan: EvaluationPlan | None = None,
    train_seed: int = 0,
) -> Path:
    """Learn a family's tasks one after another, score them after each, and write it all down.

    ``vla-cl report``, ``metrics`` and ``compare`` read the folder. The same call continues what was interrupted, bit
    for bit; another call with the same folder is refused.

    Args:
        family: Model, data and evaluator.
        method: The continual-learning method; not attached to a model yet, and left as it is.
        folder: Where results go.
        training: Steps, batch size, learning rate.
        tasks: Ids or names, one experience each, in order; empty: all of the family's.
        arrangement: ``sequential``, ``joint`` or ``independent``.
        plan: What is scored, and when; None: 20 trials of each task met so far.
        train_seed: Initial weights, order of samples, noise of the loss, replay.

    Returns:
        The folder.

    Raises:
        ConfigurationError: Something does not fit, or the folder holds another run.
        FloatingPointError: Training diverged.
    """
    root, plan, own = Path(folder), plan or EvaluationPlan(20), copy.deepcopy(method)
    chosen = list(tasks) or [task.id for task in family.tasks()]
    stream = suite_stream(family.name, family.tasks(), chosen, (), arrangement)
    require_second_task(arrangement, own)
    require_no_future_tasks(stream.independent, plan.future_tasks)
    own.require_length(1 if stream.independent else len(stream))
    family.check(stream, own)
    if (untried := require_continuable(own)) is not None:
        print(untried, file=sys.stderr)
    settings = {
        "name": root.name,
        "family": {"name": family.name} | told(family),
        "method": {"name": own.name} | told(method),
        "stream": {"name": stream.name, "tasks": chosen},
        "arrangement": arrangement,
        "train_seed": train_seed,
        "training": asdict(training),
        "evaluation": asdict(plan),
    }
    run = RunFolder(root)
    with run.open(settings), Tracker(root, [], "vla-cl", settings) as tracker:
        identity = Identity(root.name, own.name, arrangement)
        ContinualRun(identity, family, stream, own, training, plan, train_seed, run).go(tracker)
    return root


def told(part: Family | Method) -> dict[str, Any]:
    """Class and settings of a part, by which a folder knows whether it is the same run.

    Args:
        part: Its constructor's arguments are looked for in attributes of the same names.

    Raises:
        ConfigurationError: An argument is in no such attribute, or is nothing plain.
    """
    kind = type(part)
    found: dict[str, Any] = {"class": f"{kind.__module__}:{kind.__qualname__}"}
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in ("memory", "samples_per_task", "selection") and isinstance(part, RememberingMethod):
            found["memory"] = _plain(asdict(part.memory.settings), name, kind)
            continue
        found[name] = _plain(getattr(part, name, _MISSING), name, kind)
    return found


def _plain(value: object, name: str, kind: type) -> Any:  # noqa: ANN401 - plain data
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, name, kind) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [_plain(inner, name, kind) for inner in items]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise ConfigurationError(
        f"{kind.__name__} does not keep its setting {name!r} as plain data in the attribute {name!r}, so a folder "
        f"could not tell two runs apart; set self.{name} = {name} in its constructor"
    )
