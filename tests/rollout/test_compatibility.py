from dataclasses import replace

import pytest

from vla_cl.rollout.compatibility import check_interface
from vla_cl.types import ConfigurationError, InterfaceSpec, SuiteSpec

SUITE = SuiteSpec({"observation.image": (96, 96)}, 4, 4, "fast", "relative", "upright", fps=80)
POLICY = InterfaceSpec({"observation.image": (64, 64)}, 4, 4, "fast", "relative", "upright")
UNKNOWN = {"render_profile": None, "control_mode": None, "image_orientation": None}


@pytest.mark.parametrize(
    "policy",
    [POLICY, replace(POLICY, state_size=0), replace(POLICY, **UNKNOWN)],
    ids=["size", "state", "conventions"],
)
def test_fits(policy):
    check_interface(policy, SUITE, replan_every=8, chunk_size=8)
    check_interface(policy, replace(SUITE, **UNKNOWN), replan_every=8, chunk_size=8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cameras": {"observation.images.wrist": (96, 96)}}, ["observation.images.wrist", "observation.image'"]),
        ({"state_size": 39}, ["39 numbers", "gives 4"]),
        ({"action_size": 7}, ["7 numbers", "takes 4"]),
        ({"control_mode": "absolute"}, ["'absolute'", "has 'relative'", "set the suite's control_mode to 'absolute'"]),
        (
            {"image_orientation": "upright_mirrored"},
            ["'upright_mirrored'", "has 'upright'", "set the suite's image_orientation"],
        ),
        ({"render_profile": "reference"}, ["'reference'", "'fast'", "check_render_profile=false"]),
    ],
)
def test_names_both_sides(change, words):
    with pytest.raises(ConfigurationError) as caught:
        check_interface(replace(POLICY, **change), SUITE, replan_every=4, chunk_size=8)
    assert all(word in str(caught.value) for word in words)


def test_render_profile_can_be_overridden():
    policy = replace(POLICY, render_profile="reference")
    check_interface(policy, SUITE, replan_every=4, chunk_size=8, check_render_profile=False)


@pytest.mark.parametrize("replan_every", [0, 9])
def test_replan_every_lies_inside_the_chunk(replan_every):
    with pytest.raises(ConfigurationError, match="between 1 and 8"):
        check_interface(POLICY, SUITE, replan_every=replan_every, chunk_size=8)
