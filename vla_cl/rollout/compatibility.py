"""Does this policy fit this suite? Asked before the first simulation step."""

from __future__ import annotations

from collections.abc import Sequence

from vla_cl.data.agreement import same_rate
from vla_cl.data.cameras import listed
from vla_cl.interfaces import Suite
from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError, InterfaceSpec, SuiteSpec

_SAME_SHAPE = 0.03
"""Relative difference of two ratios of width and height that count as one."""


def check_interface(
    policy_spec: InterfaceSpec,
    suite_spec: SuiteSpec,
    replan_every: int,
    chunk_size: int,
    check_render_profile: bool = True,
) -> None:
    """Refuse a policy that cannot act in a suite.

    Picture sizes are compared if the policy does not resize (`InterfaceSpec.any_size`). A policy that declares no state
    (``state_size`` 0) ignores the suite's. Control modes, image orientations and render profiles are compared where
    both are known.

    Raises:
        ConfigurationError: Camera keys, picture sizes, state size, action size, control mode, image orientation or
            render profile differ, or ``replan_every`` is not between 1 and ``chunk_size``.
    """
    if not 1 <= replan_every <= chunk_size:
        raise ConfigurationError(
            f"replan_every={replan_every} is not possible: the policy predicts {chunk_size} actions at once, "
            f"so set replan_every between 1 and {chunk_size}"
        )
    if policy_spec.cameras.keys() != suite_spec.cameras.keys():
        raise ConfigurationError(
            f"the policy expects the cameras {listed(policy_spec.cameras, 90)}, the suite offers "
            f"{listed(suite_spec.cameras, 90)}; rename or choose them with cameras={{new: old, ...}}, or use the "
            "suite that the policy was trained on"
        )
    _require_sizes(policy_spec, suite_spec, "the policy", "the suite draws", "set the suite's picture size")
    if policy_spec.state_size not in (0, suite_spec.state_size):
        raise ConfigurationError(
            f"the policy expects a state of {policy_spec.state_size} numbers, the suite gives {suite_spec.state_size}; "
            "use the suite that the policy was trained on, or train a policy for this one"
        )
    if policy_spec.action_size != suite_spec.action_size:
        raise ConfigurationError(
            f"the policy gives actions of {policy_spec.action_size} numbers, the suite takes {suite_spec.action_size}; "
            "use the suite that the policy was trained on, or train a policy for this one"
        )
    _check_conventions(policy_spec, suite_spec)
    known = policy_spec.render_profile is not None and suite_spec.render_profile is not None
    if check_render_profile and known and policy_spec.render_profile != suite_spec.render_profile:
        raise ConfigurationError(
            f"the policy learnt from pictures of the render profile {policy_spec.render_profile!r}, the suite draws "
            f"{suite_spec.render_profile!r}; set the suite's render_profile to {policy_spec.render_profile!r}, "
            "or check_render_profile=false to roll out all the same"
        )


def require_rate(policy: InterfaceSpec, suite: SuiteSpec) -> None:
    """Refuse a policy whose actions would be executed faster or slower than those that it learnt from.

    Raises:
        ConfigurationError: Both rates are known, and differ by more than 1 %.
    """
    if policy.fps and suite.fps and not same_rate(policy.fps, suite.fps):
        raise ConfigurationError(
            f"the policy learnt from {policy.fps:g} actions a second, the suite takes {suite.fps:g}, so every movement "
            "would have another speed; use the suite that it was trained on, or check_fps=false to accept it"
        )


def require_fit(policy: InterfaceSpec, data: InterfaceSpec, who: str) -> None:
    """Refuse data whose cameras, state or actions are not what the policy expects.

    What actions mean and how pictures are turned is compared where both sides know.

    Raises:
        ConfigurationError: They differ; the message names both sides.
    """
    if policy.cameras.keys() != data.cameras.keys():
        raise ConfigurationError(
            f"{who} expects cameras {listed(policy.cameras, 90)}, the data have {listed(data.cameras, 90)}; rename or "
            "choose them with cameras={new: old, ...}, or use another policy"
        )
    _require_sizes(policy, data, who, "the data have", "use data of this size")
    for what, expected, came in (
        ("state size", policy.state_size, data.state_size),
        ("action size", policy.action_size, data.action_size),
        ("control mode", policy.control_mode, data.control_mode),
        ("image orientation", policy.image_orientation, data.image_orientation),
    ):
        if None not in (expected, came) and expected != came:
            raise ConfigurationError(
                f"{who} expects {what} {expected}, the data have {came}; use data of this kind, or another policy"
            )


def other_picture_sizes(data: InterfaceSpec, suite: InterfaceSpec) -> str | None:
    """A sentence where the suite draws pictures of another size than the data's; None where all are alike.

    Another size is no fault, as most policies resize. Another shape is said too, and not refused: whether it distorts
    what is seen is up to the policy (one that pads distorts nothing). Policies that do not resize are refused by
    `check_interface`.
    """
    for camera, (height, width) in data.cameras.items():
        other = suite.cameras.get(camera, (height, width))
        if other == (height, width):
            continue
        alike = abs((width / height) / (other[1] / other[0]) - 1) <= _SAME_SHAPE
        more = "" if alike else ", another shape"
        return (
            f"pictures of {harmless(camera, 60)} are {height}x{width} in the data, {other[0]}x{other[1]} in the suite "
            f"(height x width{more}); the policy resizes both"
        )
    return None


def require_single_frames(policy: str, observations: Sequence[int] | None) -> None:
    """Refuse a policy that needs earlier pictures in rollouts.

    Args:
        policy: Its name, for the message.
        observations: Frames that it looks at, relative to the present one; None: the present one.

    Raises:
        ConfigurationError: It looks at others.
    """
    frames = observations or (0,)
    if tuple(frames) != (0,):
        raise ConfigurationError(
            f"{policy} looks at {len(frames)} frames, but rollouts render only when a decision is due; "
            "set policy.n_obs_steps=1"
        )


def skipped_rollouts(suite: Suite, held_out: bool = False) -> str:
    """The sentence for a run in which nothing is rolled out.

    Args:
        suite: That has none of the tasks.
        held_out: Whether episodes are kept from training, which the policy is scored on instead.
    """
    why = f"no task of the stream is one of suite {suite.name!r}" if suite.tasks() else "there is no suite (suite=none)"
    if held_out:
        return (
            f"{why}, so rollouts are skipped: the policy is scored on held-out episodes, by the errors of its actions"
        )
    return (
        f"{why}, so rollouts are skipped: the run gets checkpoints and loss curves, but no success matrix; "
        "data.held_out=0.1 scores it on episodes kept from training"
    )


def _require_sizes(policy: InterfaceSpec, other: InterfaceSpec, who: str, have: str, remedy: str) -> None:
    """Pictures of another size would be taken as they come, and stand for something else."""
    for key, size in ({} if policy.any_size else policy.cameras).items():
        if other.cameras[key] != size:
            (height, width), (high, wide) = size, other.cameras[key]
            raise ConfigurationError(
                f"{who} learns from pictures of {height}x{width} ({harmless(key, 60)}, height x width) and does not "
                f"resize, {have} {high}x{wide}; {remedy}, or let it resize (diffusion: policy.resize_shape; nano_vla)"
            )


def _check_conventions(policy: InterfaceSpec, suite: SuiteSpec) -> None:
    """What cannot be seen from sizes: the same numbers that mean something else, the same camera turned."""
    for what, expected, offered, setting in (
        ("actions of the control mode", policy.control_mode, suite.control_mode, "control_mode"),
        ("pictures of the orientation", policy.image_orientation, suite.image_orientation, "image_orientation"),
    ):
        if None not in (expected, offered) and expected != offered:
            raise ConfigurationError(
                f"the policy was trained on {what} {expected!r}, the suite has {offered!r}; set the suite's {setting} "
                f"to {expected!r} if it has this setting, use the suite that the policy was trained on, or train a "
                "policy for this one"
            )
