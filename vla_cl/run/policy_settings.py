"""Which policy a run trains, from its settings; all that can be refused is refused before anything is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vla_cl.config.compose import OF_WARM_START, Settings
from vla_cl.data.agreement import same_rate
from vla_cl.models.chosen import PolicySettings, choose_device
from vla_cl.models.instructions import require_told_apart
from vla_cl.models.policy_config import (
    check_buildable,
    horizon,
    is_of_a_plugin,
    policy_config,
    predicted_actions,
    resizes,
)
from vla_cl.models.stored_policy import noted_conventions
from vla_cl.models.warm_start import fit_to_data, require_type, sizes, stored_config
from vla_cl.run.location import find_policy
from vla_cl.types import ConfigurationError, InterfaceSpec

if TYPE_CHECKING:
    from lerobot.configs.policies import PreTrainedConfig


def policy_settings(
    settings: Settings, spec: InterfaceSpec, rolled_out: bool, instructions: Sequence[str] = ()
) -> PolicySettings:
    """The policy of a run.

    Of a warm start, the type is that of the checkpoint, and is written into ``settings["policy"]``.

    Args:
        settings: Composed from ``conf/config.yaml``.
        spec: Cameras, state and action sizes of the data.
        rolled_out: Whether the policy will be rolled out at all.
        instructions: Of all tasks.

    Raises:
        ConfigurationError: Type, fields or checkpoint do not exist, do not fit each other or the data, or need
            something that is not there.
    """
    device = choose_device(settings["device"])
    fields = {name: value for name, value in settings["policy"].items() if name != "type"}
    kind, warm_start = settings["policy"]["type"], settings["warm_start"]
    passed_over: tuple[str, ...] = ()
    if warm_start is None:
        if settings["normalisation"] == "checkpoint":
            raise ConfigurationError("normalisation=checkpoint needs warm_start=<checkpoint>; or use first_task")
        config = policy_config(kind, fields, spec, device)
    else:
        start = find_policy(warm_start)
        folder, passed_over = start.folder, start.passed_over
        config = _warm_start(folder, kind, device)
        before = sizes(config)
        fit_to_data(config, fields, spec, warm_start)
        if settings["normalisation"] == "checkpoint" and sizes(config) != before:
            raise ConfigurationError(
                f"normalisation=checkpoint is of states and actions of {before[0]} and {before[1]} numbers, and the "
                f"data have {spec.state_size} and {spec.action_size}; use normalisation=first_task"
            )
        kind, warm_start = config.type, str(folder)
        settings["policy"]["type"] = kind
    if rolled_out:
        _check_rollouts(config, settings["evaluation"]["replan_every"])
    known = (require_told_apart(config, instructions), _other_rate(warm_start, spec))
    network = check_buildable(config, fresh=warm_start is None)
    if warm_start is None and is_of_a_plugin(config):
        from vla_cl.models.tried_policy import try_policy

        network = try_policy(config, spec).policy.to_empty(device="meta")
    notes = tuple(note for note in known if note is not None)
    window = horizon(config)
    return PolicySettings(
        kind,
        fields,
        warm_start,
        settings["normalisation"],
        device,
        passed_over,
        chunk=len(window.actions),
        histories=window.observations is not None,
        any_size=resizes(config),
        notes=notes,
        network=network,
    )


def _other_rate(warm_start: str | None, data: InterfaceSpec) -> str | None:
    """A sentence if the warm start learnt from another number of actions per second."""
    before = None if warm_start is None else noted_conventions(Path(warm_start))["fps"]
    if not before or not data.fps or same_rate(before, data.fps):
        return None
    return (
        f"the warm start learnt from {before:g} actions a second, the data have {data.fps:g}: what it knows comes "
        "out at another speed until it has learnt these"
    )


def _warm_start(folder: Path, kind: str, device: str) -> PreTrainedConfig:
    config = stored_config(folder, device)
    if kind != OF_WARM_START:
        require_type(config, kind, str(folder))
    return config


def _check_rollouts(config: PreTrainedConfig, replan_every: int) -> None:
    """What the suite would refuse only after the demonstrations have been recorded."""
    frames = horizon(config).observations or (0,)
    if frames != (0,):
        raise ConfigurationError(
            f"policy {config.type!r} looks at {len(frames)} frames, but rollouts render only when a decision is due; "
            "set policy.n_obs_steps=1"
        )
    given = predicted_actions(config)
    if replan_every > given:
        raise ConfigurationError(
            f"evaluation.replan_every={replan_every} is not possible: policy {config.type!r} gives {given} actions at "
            f"once; set it between 1 and {given}"
        )
