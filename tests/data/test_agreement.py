"""Which datasets one policy can learn from: one rule for a stream and an experience, whatever their order."""

import json
from dataclasses import replace
from itertools import permutations

import pytest
from odd_datasets import make_dataset
from sentences import length

from vla_cl.data.agreement import CONVENTIONS, Described, agreed
from vla_cl.data.frames import Frames
from vla_cl.data.source import Source
from vla_cl.types import ConfigurationError, InterfaceSpec

SPEC = InterfaceSpec({"observation.image": (16, 16)}, 2, 2, fps=10.0)


def described(*specs):
    return [Described(f"d{number}", spec) for number, spec in enumerate(specs)]


@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_dataset_is_compared_with_all_that_is_known_in_any_order(name):
    one, other = replace(SPEC, **{name: "one"}), replace(SPEC, **{name: "other"})
    for chosen in permutations((SPEC, one, other)):
        with pytest.raises(ConfigurationError, match=rf"same {CONVENTIONS[name]}.* has one.*|.* has other.*"):
            agreed(described(*chosen))
    for chosen in permutations((SPEC, one, SPEC)):
        assert getattr(agreed(described(*chosen)), name) == "one"


def test_rates_are_compared_unless_they_are_accepted():
    other = replace(SPEC, fps=20.0)
    with pytest.raises(ConfigurationError, match=r"rate \(fps\): d0 has 10, d1 has 20.*data.check_fps=false"):
        agreed(described(SPEC, other))
    assert agreed(described(SPEC, other), check_fps=False).fps is None
    assert agreed(described(SPEC, SPEC), check_fps=False).fps == 10


def test_the_sentence_is_short_whatever_names_there_are():
    specs = [InterfaceSpec({"observation.images." + "x" * 200: size}, 2, 2) for size in ((1000, 1000), (9999, 9999))]
    with pytest.raises(ConfigurationError) as caught:
        agreed([Described("d" * 60, spec) for spec in specs])
    assert length(str(caught.value)) <= 300
    specs = [replace(SPEC, image_orientation=word * 90) for word in "ab"]
    with pytest.raises(ConfigurationError) as caught:
        agreed([Described("d" * 60, spec) for spec in specs])
    assert length(str(caught.value)) <= 300


def test_what_one_recording_knows_counts_for_an_experience(tmp_path):
    roots = [make_dataset(tmp_path / name, [(name, 4)], {"observation.image": (16, 16)}, 2, 2, seed=seed, fps=fps)
             for seed, (name, fps) in enumerate([("a", 10), ("b", 20), ("c", 10)])]  # fmt: skip
    for root, low in zip(roots[1:], (-1.0, -2.0), strict=True):
        spec = {"render_profile": "fast", "control_mode": "relative", "action_low": [low] * 2, "action_high": [1.0] * 2}
        (root / "meta" / "vla_cl.json").write_text(json.dumps({"spec": spec}))
    frames = Frames([Source(root) for root in roots], tmp_path / "cache", [0])
    assert (frames.spec.render_profile, frames.spec.control_mode, frames.spec.fps) == ("fast", "relative", None)
    assert frames.action_range == ([-2.0, -2.0], [1.0, 1.0])
