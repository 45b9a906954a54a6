"""A plug-in's method that would continue differently is refused before its run; no method of the package is."""

import copy

import pytest
import torch
from method_presets import method_preset, method_presets

from vla_cl.config.compose import build
from vla_cl.families.beds import BedFamily
from vla_cl.interfaces import Method
from vla_cl.library import TrainingSettings, learn_stream
from vla_cl.run.method_check import require_continuable, try_continuing
from vla_cl.types import Ability, ConfigurationError


class Anchored(Method):
    """Pulls to the weights after the last task, and saves them."""

    name = "anchored"

    def __init__(self):
        self.anchor = {}

    def end_task(self, experience, data):
        self.anchor = {name: p.detach().clone() for name, p in self.model.module.named_parameters()}

    def edit_gradients(self):
        for name, parameter in self.model.module.named_parameters():
            if name in self.anchor and parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - self.anchor[name])

    def state_dict(self):
        return self.anchor

    def load_state_dict(self, state, extra, past):
        self.anchor = dict(state)


class Forgetful(Anchored):
    def state_dict(self):
        return {}

    def load_state_dict(self, state, extra, past):
        pass


class OneSided(Anchored):
    """Saves, and leaves the loading to the base class, which refuses."""

    load_state_dict = Method.load_state_dict


class Averaging(Method):
    """Gradients with momentum of its own, which lives from one step to the next."""

    name = "averaging"

    def begin_task(self, experience):
        self.velocity = {}

    def edit_gradients(self):
        for name, parameter in self.model.module.named_parameters():
            if parameter.grad is not None:
                before = self.velocity.get(name, torch.zeros_like(parameter))
                self.velocity[name] = before * 0.9 + parameter.grad
                parameter.grad.copy_(self.velocity[name])


class Logging(Method):
    """Keeps much that changes no weight; nothing speaks against that."""

    name = "logging"

    def __init__(self):
        self.norms, self.hook = [], lambda: None

    def begin_task(self, experience):
        self.experience, self.steps = experience, 0

    def after_step(self):
        self.steps += 1
        self.norms.append(float(next(self.model.module.parameters()).detach().norm()))


class Particular(Method):
    name = "particular"

    def compose(self, batch, step):
        return {**batch, "force": batch["observation.force"]}


class Unfitting(Method):
    name = "unfitting"
    needs = frozenset(Ability)


@pytest.mark.parametrize("name", method_presets())
def test_no_method_of_the_package_is_refused_or_remarked_on(name):
    assert try_continuing(build(method_preset(name), Method)) is None


@pytest.mark.parametrize("kind", [Anchored, Logging])
def test_a_method_that_saves_what_matters_passes(kind):
    method = kind()
    before = copy.copy(vars(method))
    assert require_continuable(method) is None
    assert vars(method) == before


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (Forgetful, r"continued: anchor changes while it learns and is not saved; give it in state_dict"),
        (Averaging, r"continued: velocity changes while it learns and is not saved; give it in midway_state"),
        (OneSided, r"'anchored' cannot be continued after a stop: load_state_dict does not take what it saved"),
    ],
)
def test_a_method_that_would_continue_differently_is_refused(kind, match):
    with pytest.raises(ConfigurationError, match=match):
        require_continuable(kind())


def test_a_method_that_cannot_be_tried_is_told_and_not_refused():
    said = require_continuable(Particular())
    assert said == (
        "method 'particular' fails on a small model (KeyError: 'observation.force'), so nobody knows yet whether a run "
        "with it continues exactly"
    )
    assert "fits none of the small models" in require_continuable(Unfitting())


def test_the_trial_changes_no_random_number():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    require_continuable(Anchored())
    assert torch.equal(state, torch.get_rng_state())


def test_it_is_refused_before_a_run_has_a_folder(tmp_path):
    with pytest.raises(ConfigurationError, match="anchor changes while it learns"):
        learn_stream(BedFamily("policy_regression"), Forgetful(), tmp_path / "run", TrainingSettings(steps=1))
    assert not (tmp_path / "run").exists()
