"""Learning as a library: what ``vla-cl train`` does, without settings in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vla_cl.continual import ContinualRun
from vla_cl.data.streams import suite_stream
from vla_cl.evaluation.plan import EvaluationPlan
from vla_cl.interfaces import Family, Method
from vla_cl.methods.remembering import RememberingMethod
from vla_cl.run_folder import RunFolder
from vla_cl.run_summary import Identity
from vla_cl.tracking import Tracker
from vla_cl.train import TrainingSettings

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
    root, plan = Path(folder), plan or EvaluationPlan(20)
    chosen = list(tasks) or [task.id for task in family.tasks()]
    stream = suite_stream(root.name, family.tasks(), chosen, (), arrangement)
    method.require_length(1 if stream.independent else len(stream))
    family.check(stream, method)
    settings = {
        "name": root.name,
        "family": {"name": family.name},
        "method": {"name": method.name, "class": type(method).__qualname__} | _told(method),
        "stream": {"name": stream.name, "tasks": chosen},
        "arrangement": arrangement,
        "train_seed": train_seed,
        "training": asdict(training),
        "evaluation": asdict(plan),
    }
    run = RunFolder(root)
    with run.open(settings), Tracker(root, [], "vla-cl", settings) as tracker:
        identity = Identity(root.name, method.name, arrangement)
        ContinualRun(identity, family, stream, method, training, plan, train_seed, run).go(tracker)
    return root


def _told(method: Method) -> dict[str, Any]:
    """A method's settings, as far as its public attributes are plain; with those of its memory."""
    plain = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(method).items()
        if not name.startswith("_") and isinstance(value, bool | int | float | str | tuple | None)
    }
    memory = {"memory": asdict(method.memory.settings)} if isinstance(method, RememberingMethod) else {}
    return plain | memory
