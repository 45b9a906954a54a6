"""Small models with streams of three tasks that learn and forget in seconds: every method is tried on each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vla_cl.testbeds.bed import Bed


def _policy_regression() -> Bed:
    from vla_cl.testbeds.policy import policy_bed

    return policy_bed("regression")


def _policy_flow() -> Bed:
    from vla_cl.testbeds.policy import policy_bed

    return policy_bed("flow_matching")


def _language() -> Bed:
    from vla_cl.testbeds.language import language_bed

    return language_bed()


def _diffusion() -> Bed:
    from vla_cl.testbeds.diffusion import diffusion_bed

    return diffusion_bed()


BEDS: Mapping[str, Callable[[], Bed]] = {
    "policy_regression": _policy_regression,
    "policy_flow": _policy_flow,
    "language": _language,
    "diffusion": _diffusion,
}
"""Name to a function that builds the bed; nothing heavy is imported before it is called."""

__all__ = ["BEDS", "Bed"]
