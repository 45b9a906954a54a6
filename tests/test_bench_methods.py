"""The rows of ``vla-cl bench methods``: every method has one, on a model that it can learn with."""

from dataclasses import fields

import pytest
from method_presets import method_preset

from vla_cl.bench.method_grounds import GENERATING, of_bed
from vla_cl.bench.method_rows import rows
from vla_cl.bench.method_steps import step
from vla_cl.bench.method_theory import Circumstances, theory
from vla_cl.bench.rows import RowSettings
from vla_cl.config.compose import build, choices
from vla_cl.interfaces import Method
from vla_cl.types import Ability


def settings_of(name):
    return method_preset(name)


def test_exactly_the_methods_that_generate_are_timed_on_test_beds():
    generating = {name for name in choices("method") if Ability.GENERATION in build(settings_of(name), Method).needs}
    assert set(GENERATING) == generating
    for name, beds in GENERATING.items():
        for bed in beds:
            needed = build(settings_of(name), Method).needs
            assert needed <= of_bed(bed).make_model().abilities


def test_every_method_has_a_row():
    named = {row.removeprefix("step-").partition("-")[0] for row in rows() if row.startswith("step-")}
    assert named == set(choices("method"))


def test_theory_of_methods_that_generate_is_that_of_their_cards():
    """A step of one batch; distillation also a forward pass of its half that is generated, and 4 bytes per weight."""
    given = {"step": 1.0, "forward": 0.3, "both": 0.7, "double": 1.2, "parameters": 1000, "past": 2, "batch": 64}
    given |= {"samples_per_task": 200, "bytes_per_sample": 7}
    at = Circumstances(**{field.name: 0 for field in fields(Circumstances)} | given)
    for name in ("generative_replay", "lamol"):
        due = theory(settings_of(name), at)
        assert (due.seconds, due.bytes) == (1.0, 40 * 7)
    due = theory(settings_of("generative_distillation"), at)
    assert (due.seconds, due.bytes) == (1.15, 40 * 7 + 4000)
    due = theory({**settings_of("generative_replay"), "mixing": "added", "samples": 5}, at)
    assert (due.seconds, due.bytes) == (1.25, 35)


@pytest.mark.parametrize("name", ["generative_distillation-diffusion"])
def test_a_row_on_a_bed_measures_a_step_and_what_comes_before_the_task(tmp_path, name):
    result = step(RowSettings(f"step-{name}", True, None, None, None, tmp_path))
    figures = {figure.who: figure.value for figure in result.figures}
    assert result.gate.passed
    assert figures["kept"] > 0
    assert figures["before a task"] > 0
    assert f"{name.partition('-')[2]} test bed" in result.compares
