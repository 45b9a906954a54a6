"""What ``vla-cl evaluate`` rolls out: a policy, with the method that serves it where that must be told the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vla_cl.config.compose import Settings, build, checked_arguments
from vla_cl.files import sha256
from vla_cl.interfaces import Method, Policy, Suite
from vla_cl.rollout.random_policy import RandomPolicy
from vla_cl.run.location import RANDOM, PastRun, find_policy, find_run, require_listed
from vla_cl.trust.hub import POLICY_FILES
from vla_cl.trust.text import short
from vla_cl.types import ConfigurationError, Task

if TYPE_CHECKING:
    from vla_cl.models.vla import VlaModel

_NOT_OF_THE_POLICY = ("train_config.json",)


@dataclass(frozen=True)
class Candidate:
    """A policy that may not be needed, because everything is done.

    Attributes:
        location: Where it comes from, as the user named it.
        identity: Hashes of all that decides its actions.
        device: Torch device, or ``none``.
        load: The policy; and its method, if that must be told at test time which task it is.
        passed_over: A sentence for each newer checkpoint of its run that is damaged.
    """

    location: str
    identity: Mapping[str, object]
    device: str
    load: Callable[[], tuple[Policy, Method | None]]
    passed_over: tuple[str, ...] = ()


def find_candidate(location: str, settings: Settings, suite: Suite, replan_every: int) -> Candidate:
    """Find a policy; loads no weights yet.

    Args:
        location: As of `vla_cl.run.evaluate.evaluate`.
        settings: Composed from ``conf/evaluate.yaml``.
        suite: Where it will act.
        replan_every: Actions executed of each chunk; the chunks of a random policy, unless they have their own size.

    Raises:
        ConfigurationError: There is none, or the method of its run cannot be built.
    """
    if location == RANDOM:
        given = {"suite": suite.spec, **settings["random"]}
        given["chunk_size"] = given["chunk_size"] or replan_every
        policy = RandomPolicy(**checked_arguments(RandomPolicy, given, RANDOM))
        return Candidate(location, {RANDOM: {"seed": given["seed"]}}, "none", lambda: (policy, None))
    found = find_policy(location)
    folder, notes = found.folder, found.passed_over
    run = find_run(location)
    method = None if run is None else _told_method(run, settings["plugins"])
    from vla_cl.models.chosen import choose_device

    device = choose_device(settings["device"])
    files = _hashes(folder, POLICY_FILES)
    identity: dict[str, object] = {"files": {k: v for k, v in files.items() if k not in _NOT_OF_THE_POLICY}}
    if run is None or method is None:
        return Candidate(location, identity, device, lambda: (_load(folder, device), None), notes)
    checkpoint_folder = folder.resolve().parent
    if not (checkpoint_folder / "cl_state" / "method.json").is_file():
        raise ConfigurationError(
            f"method {method.name!r} of the run {short(run.root, 90)} must be told which task it is, but "
            f"{short(checkpoint_folder, 90)} "
            "lacks its cl_state; give the run's folder, or a checkpoint of it"
        )
    identity["method"] = {"settings": run.settings["method"], "files": _hashes(checkpoint_folder / "cl_state", ("*",))}
    seed = run.settings["train_seed"]
    return Candidate(location, identity, device, lambda: _load_told(folder, device, method, seed), notes)


def require_served(method: Method, tasks: Sequence[Task]) -> None:
    """Try every task before the first is rolled out.

    Raises:
        ConfigurationError: The method cannot serve one of them, for example because it has not learnt it.
    """
    try:
        for task in tasks:
            method.select_task(task)
    finally:
        method.select_task(None)


def _told_method(run: PastRun, plugins: Sequence[str]) -> Method | None:
    """The method of a run, new; None if its policy can be rolled out without it.

    Raises:
        ConfigurationError: Its class is not allowed, does not exist any more, or takes other settings.
    """
    require_listed(run, "method", run.settings["method"]["class"], plugins)
    method = build(run.settings["method"], Method, plugins)
    return method if method.task_id_at_test else None


def _load_told(folder: Path, device: str, method: Method, train_seed: int) -> tuple[Policy, Method]:
    """The policy with its method attached, in the state of the checkpoint that the policy lies in.

    Raises:
        ConfigurationError: The checkpoint is damaged or another method's, or the policy cannot be rolled out.
    """
    from vla_cl.run import checkpoint

    whole = folder.resolve().parent
    checkpoint.verify(whole)
    model = _load(folder, device)
    method.attach(model, train_seed)
    checkpoint.load_method(whole, method, iter(()))  # nothing is learnt any more, so the past's data are not needed
    return model, method


def _load(folder: Path, device: str) -> VlaModel:
    """A LeRobot policy that can be rolled out.

    Raises:
        ConfigurationError: It cannot be loaded, or it needs earlier observations.
    """
    from vla_cl.models.vla import VlaModel, horizon

    model = VlaModel.load(folder, device)
    model.require_statistics()
    config = model.policy.config
    frames = horizon(config).observations or (0,)
    if frames != (0,):
        raise ConfigurationError(
            f"policy {config.type!r} looks at {len(frames)} frames at once, but rollouts render only when a decision "
            "is due; evaluate a policy that was trained with n_obs_steps=1"
        )
    return model


def _hashes(folder: Path, patterns: Sequence[str]) -> dict[str, str]:
    return {path.name: sha256(path) for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()}
