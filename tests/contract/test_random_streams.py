"""While a method learns, no stream of random numbers serves two things."""

import sys

import pytest
from method_neutral import method_settings
from small_beds import small_bed

from vla_cl import random_numbers
from vla_cl.config.compose import build
from vla_cl.interfaces import Method
from vla_cl.training.learning import Learning
from vla_cl.types import Ability


@pytest.mark.parametrize("name", method_settings())
def test_a_stream_is_used_in_one_place(name, monkeypatch):
    """While a method learns three tasks: the same seed, purpose and indices are asked for by one function only."""
    method = build(method_settings()[name], Method)
    bed = small_bed("language" if Ability.GENERATION in method.needs else "policy_flow")
    model = bed.make_model(0)
    used: dict[tuple[object, ...], set[str]] = {}
    digest = random_numbers._digest

    def noted(seed, purpose, indices):
        frame = sys._getframe(2)
        used.setdefault((seed, purpose, indices), set()).add(f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}")
        return digest(seed, purpose, indices)

    monkeypatch.setattr(random_numbers, "_digest", noted)
    method.attach(model, 0)
    for experience, data in zip(bed.stream.experiences, bed.data, strict=True):
        for _ in Learning(model, method, experience, data, bed.tiny, 0, experience.index * bed.tiny.steps):
            pass
    assert used
    assert {key: places for key, places in used.items() if len(places) > 1} == {}
