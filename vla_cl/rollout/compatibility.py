"""Does this policy fit this suite? Asked before the first simulation step."""

from __future__ import annotations

from vla_cl.types import ConfigurationError, InterfaceSpec, SuiteSpec


def check_interface(
    policy_spec: InterfaceSpec,
    suite_spec: SuiteSpec,
    replan_every: int,
    chunk_size: int,
    check_render_profile: bool = True,
) -> None:
    """Refuse a policy that cannot act in a suite.

    Picture sizes may differ, because policies resize. A policy that declares no state (``state_size`` 0) ignores
    the suite's. Control modes, image orientations and render profiles are compared where both are known.

    Raises:
        ConfigurationError: Camera keys, state size, action size, control mode, image orientation or render profile
            differ, or ``replan_every`` is not between 1 and ``chunk_size``.
    """
    if not 1 <= replan_every <= chunk_size:
        raise ConfigurationError(
            f"replan_every={replan_every} is not possible: the policy predicts {chunk_size} actions at once, "
            f"so set replan_every between 1 and {chunk_size}"
        )
    if policy_spec.cameras.keys() != suite_spec.cameras.keys():
        raise ConfigurationError(
            f"the policy expects the cameras {sorted(policy_spec.cameras)}, "
            f"the suite offers {sorted(suite_spec.cameras)}; "
            "configure the suite with the cameras that the policy was trained on, or train a policy for these"
        )
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
