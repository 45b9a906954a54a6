"""Two tasks that a policy cannot tell apart are refused, not learnt as one."""

import pytest

from vla_cl.models.instructions import require_told_apart
from vla_cl.models.policy_config import policy_config
from vla_cl.types import ConfigurationError, InterfaceSpec

SPEC = InterfaceSpec({"observation.image": (16, 16)}, 2, 2)
LONG = "take the small red cube from the left side of the table and put it carefully into the bowl on the "


def nano(most=96):
    return policy_config("nano_vla", {"max_instruction_bytes": most}, SPEC, "cpu")


@pytest.mark.parametrize(
    ("first", "second", "most"),
    [
        (f"{LONG}left", f"{LONG}right", 96),
        ("拿起" * 16 + "方块", "拿起" * 16 + "球", 96),
        ("ab", "ac", 1),
        (LONG, f"{LONG}x", len(LONG)),
    ],
)
def test_instructions_that_are_the_same_as_far_as_they_are_read_are_refused(first, second, most):
    with pytest.raises(ConfigurationError, match=r"are the same; set policy\.max_instruction_bytes=") as found:
        require_told_apart(nano(most), [first, "lift", second])
    assert len(str(found.value)) <= 300
    assert first[-5:] in str(found.value)
    assert second[-5:] in str(found.value)
    enough = int(str(found.value).partition("max_instruction_bytes=")[2].partition(",")[0])
    assert require_told_apart(nano(enough), [first, "lift", second]) is None


def test_what_is_cut_but_told_apart_is_said():
    assert "1 of 2 tasks have more" in require_told_apart(nano(10), ["lift the red cube", "push"])
    assert require_told_apart(nano(), ["lift", "lift", "push"]) is None


def test_types_that_read_tokens_are_let_pass():
    act = policy_config("act", {"pretrained_backbone_weights": None}, SPEC, "cpu")
    assert require_told_apart(act, [f"{LONG}left", f"{LONG}right"]) is None
