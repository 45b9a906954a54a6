import copy

import numpy as np
import pytest
import torch
from regression_model import RegressionModel
from tiny_distillable import (
    TinyDistillable,
    assert_continues_after_resume,
    assert_same,
    assert_sequential,
    run,
    weights,
)
from tiny_model import TinyData, TinyModel, experience
from torch import nn

from vla_cl.config.compose import build, compose
from vla_cl.interfaces import Method
from vla_cl.methods.osft import OrthogonalSubspaceFineTuning
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.types import ConfigurationError, Draw, Roles

WIDE = TrainingSettings(steps=12, batch_size=6, learning_rate=3e-2, weight_decay=0.1)


class WideModel(RegressionModel):
    """Matrices that are wider than high, higher than wide, and square; one that is not linear."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self._module = nn.Sequential(
            nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4), nn.Linear(4, 2)
        )


def subspaces(weight, rank):
    """The largest singular directions: U_h (out, rank) and V_h (rank, in)."""
    left, _, right = torch.linalg.svd(weight.double(), full_matrices=False)
    return left[:, :rank], right[:rank]


def learn_two(method, model, settings=WIDE):
    """The weights after the first task and after the second."""
    run(model, method, [0], settings)
    before = weights(model)
    run(model, method, [1], settings, attach=False)
    return before, weights(model)


def linear(model):
    return [f"{name}.weight" for name, part in model.module.named_modules() if isinstance(part, nn.Linear)]


def drift(before, after, name, share):
    """How much of the change of a weight lies in its frozen directions, against the whole change."""
    change = (after[name] - before[name]).double()
    rank = int(share * min(change.shape))
    left, right = subspaces(before[name], rank)
    frozen = max((left.T @ change).norm(), (change @ right.T).norm())
    return rank, float(frozen / change.norm())


@pytest.mark.parametrize("share", [0.3, 0.5, 0.75])
def test_the_frozen_directions_of_each_weight_do_not_change(share):
    model = WideModel()
    before, after = learn_two(OrthogonalSubspaceFineTuning(effective_rank=share), model)
    ranks = []
    for name in linear(model):
        rank, found = drift(before, after, name, share)
        ranks.append(rank)
        assert not torch.equal(before[name], after[name])
        if rank:
            assert found < 1e-5
            left, right = subspaces(before[name], rank)
            old, new = before[name].double(), after[name].double()
            torch.testing.assert_close(left.T @ new, left.T @ old, rtol=0, atol=1e-5)
            torch.testing.assert_close(new @ right.T, old @ right.T, rtol=0, atol=1e-5)
    assert max(ranks) >= 2


def test_with_projected_gradients_alone_adam_turns_back_into_them():
    model = WideModel()
    before, after = learn_two(OrthogonalSubspaceFineTuning(effective_rank=0.5, exact=False), model)
    assert max(drift(before, after, name, 0.5)[1] for name in linear(model)) > 1e-2


def test_biases_and_normalisation_learn_if_asked():
    model = WideModel()
    before, after = learn_two(OrthogonalSubspaceFineTuning(effective_rank=0.5), model)
    rest = [name for name in before if name not in linear(model)]
    assert len(rest) == 6
    assert all(torch.equal(before[name], after[name]) for name in rest)
    model = WideModel()
    before, after = learn_two(OrthogonalSubspaceFineTuning(effective_rank=0.5, train_rest=True), model)
    assert not any(torch.equal(before[name], after[name]) for name in rest)
    assert drift(before, after, "3.weight", 0.5)[1] < 1e-5


def test_only_what_the_patterns_name_is_split():
    model = WideModel()
    method = OrthogonalSubspaceFineTuning(effective_rank=0.5, target=["3", "5"])
    run(model, method, [0], WIDE)
    before = weights(model)
    method.begin_task(experience(1))
    names = {name.partition(".")[0] for name, _ in model.module.named_parameters() if "osf" in name}
    assert names == {"3", "5"}
    method.end_task(experience(1), TinyData())
    for name, value in weights(model).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)
    with pytest.raises(ConfigurationError, match=r"no linear layer matches 'head\.\*'; they are 0, 3, 5, 6"):
        OrthogonalSubspaceFineTuning(target=["head.*"]).attach(model, 0)


def test_a_split_model_computes_what_it_computed_before():
    model = WideModel()
    method = OrthogonalSubspaceFineTuning(effective_rank=0.5)
    run(model, method, [0], WIDE)
    batch = TinyData().batch(np.arange(5))
    before = model.loss(batch, Draw(0))
    method.begin_task(experience(1))
    assert any("osf" in name for name, _ in model.module.named_parameters())
    torch.testing.assert_close(model.loss(batch, Draw(0)), before, rtol=1e-5, atol=1e-6)
    method.end_task(experience(1), TinyData())


def test_between_tasks_the_module_is_plain_and_its_parameters_are_the_same_objects():
    model = WideModel()
    kinds = [type(part) for part in model.module.modules()]
    parameters = dict(model.module.named_parameters())
    learn_two(OrthogonalSubspaceFineTuning(effective_rank=0.5), model)
    assert [type(part) for part in model.module.modules()] == kinds
    after = dict(model.module.named_parameters())
    assert list(after) == list(parameters)
    assert all(after[name] is parameters[name] and after[name].requires_grad for name in parameters)
    assert not any(parameter.grad is not None for parameter in parameters.values())
    assert not any(part._forward_pre_hooks for part in model.module.modules())


def test_what_never_learnt_is_neither_split_nor_thawed():
    model = WideModel()
    model.module[3].weight.requires_grad_(False)
    before, after = learn_two(OrthogonalSubspaceFineTuning(effective_rank=0.5, train_rest=True), model)
    assert not model.module[3].weight.requires_grad
    assert torch.equal(before["3.weight"], after["3.weight"])
    assert not torch.equal(before["3.bias"], after["3.bias"])


def test_the_schedule_freezes_more_with_each_task():
    method = OrthogonalSubspaceFineTuning(tasks=4)
    assert [method.frozen_share(task) for task in (1, 2, 3, 4)] == [0, 0.25, 0.5, 0.75]
    with pytest.raises(ConfigurationError, match=r"method\.tasks is 4, but task 5 begins"):
        method.frozen_share(5)
    constant = OrthogonalSubspaceFineTuning(effective_rank=0.5)
    assert [constant.frozen_share(task) for task in (1, 2, 20)] == [0, 0.5, 0.5]
    chosen = OrthogonalSubspaceFineTuning(rank_schedule=[0.1, 0.4])
    assert [chosen.frozen_share(task) for task in (1, 2, 3)] == [0.1, 0.4, 0.4]


@pytest.mark.parametrize("preset", ["osft", "osft_peft"])
def test_where_nothing_is_announced_the_stream_is_as_long_as_it_is(preset):
    method = build(compose([f"method={preset}", "method.effective_rank=null"])["method"], Method)
    method.require_length(4)
    assert [method.frozen_share(task) for task in (1, 2, 3, 4)] == [0, 0.25, 0.5, 0.75]
    method.require_length(1)  # a stream of one experience may grow
    assert [method.frozen_share(task) for task in (1, 2)] == [0, 0.5]
    announced = OrthogonalSubspaceFineTuning(tasks=8)
    announced.require_length(4)
    assert announced.frozen_share(4) == 3 / 8


def test_torchs_fast_path_does_not_pass_the_split_layers_by():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = RegressionModel()
    model._module = nn.Sequential(layer)
    method = OrthogonalSubspaceFineTuning(rank_schedule=[0.5])
    method.attach(model, 0)
    method.begin_task(experience(0))
    split = [name for name, _ in layer.named_parameters() if "U_low" in name]
    assert [name.partition(".")[0] for name in split] == ["linear1", "linear2"]
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "low" in name:
                parameter.mul_(1.5)
    x = torch.randn(3, 5, 8)
    layer.train()
    wanted = layer(x).detach()
    layer.eval()
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), wanted, rtol=1e-5, atol=1e-5)


def test_sequential_where_nothing_is_frozen():
    assert_sequential(TinyDistillable, OrthogonalSubspaceFineTuning(effective_rank=0.0))
    assert_sequential(TinyDistillable, OrthogonalSubspaceFineTuning(tasks=2), tasks=[0])


class TellingModel(WideModel):
    def roles(self):
        return Roles(tuple(name for name, _ in self.module.named_parameters()), frozenset({"6.weight", "6.bias"}))


@pytest.mark.parametrize("train_rest", [False, True])
def test_the_output_layer_is_split_frozen_or_trained(train_rest):
    moved = {}
    for output in ("split", "frozen", "trained"):
        model = TellingModel()
        method = OrthogonalSubspaceFineTuning(effective_rank=0.5, output=output, train_rest=train_rest)
        before, after = learn_two(method, model)
        assert drift(before, after, "3.weight", 0.5)[1] < 1e-5
        assert all(parameter.requires_grad for parameter in model.module.parameters())
        moved[output] = [not torch.equal(before[f"6.{name}"], after[f"6.{name}"]) for name in ("weight", "bias")]
        if output != "frozen":
            assert (drift(before, after, "6.weight", 0.5)[1] < 1e-5) is (output == "split")
    assert moved == {"split": [True, train_rest], "frozen": [False, False], "trained": [True, True]}


def test_where_it_would_freeze_nothing_it_refuses():
    with pytest.raises(ConfigurationError, match="freeze nothing: no linear layer of TinyModel is"):
        OrthogonalSubspaceFineTuning(effective_rank=0.5).attach(TinyModel(), 0)  # the module itself: no parent
    with pytest.raises(ConfigurationError, match=r"freeze nothing in task 2: 0.1 of the 8 directions"):
        OrthogonalSubspaceFineTuning(tasks=10).attach(WideModel(), 0)
    with pytest.raises(ConfigurationError, match=r"freeze nothing in task 3: 0.1 of the 8 directions"):
        OrthogonalSubspaceFineTuning(rank_schedule=[0, 0.5, 0.1]).attach(WideModel(), 0)
    model = WideModel()
    for layer in (0, 3, 5, 6):
        model.module[layer].weight.requires_grad_(False)
    with pytest.raises(ConfigurationError, match="freeze nothing: no linear layer of WideModel is"):
        OrthogonalSubspaceFineTuning(effective_rank=0.5).attach(model, 0)


def test_weights_that_are_computed_are_not_split():
    for normalised in (nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm):
        model = WideModel()
        normalised(model.module[3])
        method = OrthogonalSubspaceFineTuning(effective_rank=0.5)
        run(model, method, [0], WIDE)
        method.begin_task(experience(1))
        names = {name.partition(".")[0] for name, _ in model.module.named_parameters() if "osf" in name}
        assert names == {"0", "5", "6"}
        method.end_task(experience(1), TinyData())


def test_it_continues_after_a_resume():
    assert_continues_after_resume(WideModel, lambda: OrthogonalSubspaceFineTuning(effective_rank=0.5))


def test_a_task_learnt_twice_from_the_same_weights_ends_in_the_same_weights():
    first, second = WideModel(), WideModel()
    run(first, OrthogonalSubspaceFineTuning(effective_rank=0.5), range(3), WIDE)
    run(second, OrthogonalSubspaceFineTuning(effective_rank=0.5), range(3), WIDE)
    assert_same(weights(first), weights(second))


def test_a_deep_copy_between_tasks_is_plain():
    model, method = WideModel(), OrthogonalSubspaceFineTuning(effective_rank=0.5)
    learn_two(method, model)
    copied = copy.deepcopy(model)
    method.attach(copied, 5)
    for _ in Learning(copied, method, experience(2), TinyData(10, seed=2), WIDE, 5):
        pass
    assert list(copied.module.state_dict()) == list(model.module.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": 0}, "method.tasks must be a whole number between 1 and"),
        ({"effective_rank": 1.0}, "method.effective_rank: shares must be at least 0 and below 1; got 1.0"),
        ({"rank_schedule": [0.1, -0.1]}, "method.rank_schedule: shares must be at least 0 and below 1; got -0.1"),
        ({"rank_schedule": []}, "method.rank_schedule must hold at least one share"),
        ({"rank_schedule": [0.1], "effective_rank": 0.1}, "exclude each other"),
        ({"output": "merged"}, "method.output must be one of split, frozen, trained; got 'merged'"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        OrthogonalSubspaceFineTuning(**options)
