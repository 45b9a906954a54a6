import copy
import json

import numpy as np
import pytest
import torch
from regression_model import RegressionModel
from tiny_distillable import TinyDistillable, assert_same, assert_sequential, run, weights
from tiny_model import TinyData, experience
from torch import nn
from torch.optim import AdamW

from vla_cl.methods.packnet import FREE, PackNet
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.types import ConfigurationError, Draw, Task

LONG = TrainingSettings(steps=40, batch_size=6, learning_rate=2e-2, weight_decay=0.5, clip_norm=0.1)


class Varied(RegressionModel):
    """Linear layers, convolution, attention, two normalisations, an embedding, a bare parameter; one layer is tied."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        net = nn.Module()
        net.embedding = nn.Embedding(20, 6)
        net.convolution = nn.Conv1d(1, 4, 2)
        net.batch_norm = nn.BatchNorm1d(4)
        net.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        net.layer_norm = nn.LayerNorm(4)
        net.hidden = nn.Linear(14, 6)
        net.head = nn.Linear(6, 2)
        net.scale = nn.Parameter(torch.ones(2))
        self._module = net

    def outputs_of(self, batch):
        net = self._module
        x = net.batch_norm(net.convolution(batch["x"][:, None])).transpose(1, 2)
        x = net.layer_norm(net.attention(x, x, x, need_weights=False)[0]).flatten(1)
        joined = torch.cat([x, net.embedding(batch["index"])], 1)
        return net.head(torch.tanh(net.hidden(joined))) * net.scale

    def loss(self, batch, draw):
        return (self.outputs_of(batch) - batch["y"]).square().mean(1)


PRUNABLE = {
    "convolution.weight", "attention.in_proj_weight", "attention.out_proj.weight", "hidden.weight", "head.weight"
}  # fmt: skip


def attached(model, **options):
    method = PackNet(**options)
    method.attach(model, train_seed=5)
    return method


def predictions(model, seed):
    model.module.eval()
    with torch.no_grad():
        return model.outputs_of(TinyData(seed=seed).batch(np.arange(20)))


def owned(method, number, before):
    return {name: before[name][method.owners[name] == number] for name in method.owners}


def test_linear_layers_convolutions_and_attention_have_owners():
    method = attached(Varied())
    assert set(method.owners) == PRUNABLE
    assert all(owner.dtype == torch.uint8 and not owner.any() for owner in method.owners.values())
    assert method.memory_bytes() == 8 + 48 + 16 + 84 + 12


def test_weights_of_earlier_tasks_and_all_that_has_no_owner_stay_bit_for_bit():
    model, method = Varied(), PackNet(prune_share=0.7, retrain_share=0.4)
    method.attach(model, 5)
    kept, rest, found = [], None, []
    for index in range(5):
        run(model, method, [index], LONG, attach=False)
        now = weights(model)
        for number, earlier in enumerate(kept, start=1):
            assert_same(owned(method, number, now), earlier)
        kept.append(owned(method, index + 1, now))
        assert sum(len(values) for values in kept[-1].values()) > 0
        others = {name: value for name, value in now.items() if name not in PRUNABLE}
        if rest is None:
            rest = others
            assert not torch.equal(rest["batch_norm.running_mean"], torch.zeros(4))
            assert not torch.equal(rest["scale"], torch.ones(2))
        assert_same(others, rest)
        for task in range(index + 1):
            method.select_task(experience(task).tasks[0])
            outputs = predictions(model, task)
            method.select_task(None)
            assert_same(weights(model), now)
            if task == index:
                found.append(outputs)
            assert torch.equal(outputs, found[task])
    assert not torch.equal(found[0], predictions(model, 0))  # without being told, it is another function


def test_each_task_keeps_the_largest_of_what_was_free():
    model, method = Varied(), PackNet(prune_share=0.75, retrain_share=0.0)
    method.attach(model, 5)
    for index in range(3):
        free = {name: owner == FREE for name, owner in method.owners.items()}
        before = {}
        prune = method._prune
        method._prune = lambda number, before=before, prune=prune: (before.update(weights(model)), prune(number))
        run(model, method, [index], LONG, attach=False)
        method._prune = prune
        after = weights(model)
        for name, owner in method.owners.items():
            mine = owner == index + 1
            count = int(free[name].sum())
            assert int(mine.sum()) == count - int(0.75 * count)
            assert (mine & ~free[name]).sum() == 0
            lost = free[name] & ~mine
            assert before[name][mine].abs().min() >= before[name][lost].abs().max()
            assert torch.equal(after[name][mine], before[name][mine])
            assert not after[name][lost].any()


def test_what_was_pruned_stays_zero_while_the_rest_learns_once_more():
    model, method = Varied(), PackNet(retrain_share=0.5)
    method.attach(model, 5)
    pruned = None
    for report in Learning(model, method, experience(0), TinyData(10), LONG, 5):
        if report.phase == "retrain":
            assert all(not model.module.get_parameter(name)[o == FREE].any() for name, o in method.owners.items())
            pruned = pruned or weights(model)
    assert report.step == 40
    now = weights(model)
    assert not torch.equal(owned(method, 1, now)["hidden.weight"], owned(method, 1, pruned)["hidden.weight"])


def test_the_optimizer_is_adamw_for_what_learns_and_does_not_touch_the_rest():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.randn(6, 5)) for _ in range(2))
    theirs.data.copy_(ours.data)
    start = ours.detach().clone()
    model = RegressionModel()
    model._module = nn.Linear(5, 6)
    model._module.weight = ours
    method = attached(model)
    method.owners["weight"][2:] = 1
    method.learnt = [["toy/t0-0"]]
    groups = [{"params": [ours], "lr": 0.03, "weight_decay": 0.4}, {"params": [model.module.bias]}]
    mine = method.make_optimizer(groups, 0.1, 0.2)
    plain = AdamW([{"params": [theirs], "lr": 0.03, "weight_decay": 0.4}])
    assert "weight_decay" in groups[0]
    for step in range(30):
        gradient = torch.randn(6, 5, generator=torch.Generator().manual_seed(step))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        method.edit_gradients()
        mine.step()
        plain.step()
    assert torch.equal(ours[2:], start[2:])
    assert torch.equal(ours[:2], theirs[:2])
    assert not torch.equal(theirs[2:], start[2:])


def test_learning_rates_are_scheduled_anew_for_what_is_kept():
    method = PackNet(retrain_share=0.25)
    method.attach(Varied(), 5)
    rates = [r.learning_rate for r in Learning(method.model, method, experience(0), TinyData(10), LONG, 5)]
    assert rates[29] < 0.05 * max(rates)
    assert max(rates[30:]) == pytest.approx(max(rates), rel=0.05)


def test_phases_add_up_and_there_is_always_something_to_prune():
    for share in (0.0, 0.3, 0.5, 0.99):
        for steps in (1, 2, 7, 100):
            parts = PackNet(retrain_share=share).phases(steps)
            assert [name for name, _ in parts] == ["learn", "retrain"]
            assert sum(count for _, count in parts) == steps
            assert parts[0][1] >= 1


def test_tasks_are_served_as_they_were_learnt_last():
    model, method = Varied(), PackNet(prune_share=0.5)
    run(model, method, [0, 1], LONG)
    whole = weights(model)
    method.select_task(experience(0).tasks[0])
    first = weights(model)
    for name, owner in method.owners.items():
        assert torch.equal(first[name], torch.where(owner == 1, whole[name], 0.0))
    method.select_task(experience(1).tasks[0])  # without None between: puts back first
    assert_same(weights(model), whole)
    method.select_task(Task("toy/never", "", 1))
    assert_same(weights(model), whole)
    method.learnt[1].append("toy/t0-0")
    method.select_task(experience(0).tasks[0])
    assert_same(weights(model), whole)
    method.select_task(None)


def test_while_a_task_is_learnt_it_is_served_with_all_weights_and_earlier_ones_without_the_new():
    model, method = Varied(), PackNet(prune_share=0.5)
    run(model, method, [0], LONG)
    wanted = predictions(model, 0)
    steps = iter(Learning(model, method, experience(1), TinyData(10, seed=1), LONG, 5, 40))
    for _ in range(10):
        next(steps)
    whole = weights(model)
    method.select_task(experience(1).tasks[0])
    assert_same(weights(model), whole)
    method.select_task(experience(0).tasks[0])
    assert torch.equal(predictions(model, 0), wanted)
    method.select_task(None)
    assert_same(weights(model), whole)


def test_the_rest_never_learns_if_told_so():
    model, method = Varied(), PackNet(train_rest="never")
    before = weights(model)
    run(model, method, range(2), LONG)
    after = weights(model)
    for name in before:
        assert torch.equal(before[name], after[name]) == (name not in PRUNABLE)


def test_all_parameters_can_learn_again_after_a_task():
    model, method = Varied(), PackNet()
    model.module.scale.requires_grad_(False)
    run(model, method, range(2))
    assert [name for name, p in model.module.named_parameters() if not p.requires_grad] == ["scale"]


def test_weights_that_do_not_learn_have_no_owner():
    model = Varied()
    model.module.hidden.weight.requires_grad_(False)
    before = model.module.hidden.weight.detach().clone()
    method = PackNet()
    run(model, method, range(2))
    assert set(method.owners) == PRUNABLE - {"hidden.weight"}
    assert torch.equal(model.module.hidden.weight, before)


def test_a_task_for_which_nothing_is_left_is_refused():
    model, method = Varied(), PackNet(prune_share=0.0)
    run(model, method, [0])
    before = weights(model)
    with pytest.raises(ConfigurationError, match="nothing left for 'e1': the task before owns every weight"):
        run(model, method, [1], attach=False)
    assert_same(weights(model), before)
    model = RegressionModel()
    model._module = nn.Embedding(3, 4)
    with pytest.raises(ConfigurationError, match="linear layers or convolutions that learn"):
        attached(model)


def test_a_share_that_gives_nothing_back_is_refused_before_a_second_task():
    PackNet(prune_share=0.0).require_length(1)
    with pytest.raises(ConfigurationError, match=r"prune_share is 0, .* but the stream has 2 experiences"):
        PackNet(prune_share=0.0).require_length(2)


def test_a_share_below_one_weight_of_every_layer_is_refused():
    for experiences, message in ((1, "would prune nothing"), (2, "left for task 2 of 2: the task before owns every")):
        method = PackNet(prune_share=0.01)
        method.require_length(experiences)
        with pytest.raises(ConfigurationError, match=message):
            method.attach(Varied(), 5)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.75])
def test_a_stream_that_uses_up_all_weights_is_refused_before_it_is_learnt(share):
    model, learner = Varied(), PackNet(prune_share=share)
    learner.attach(model, 5)
    last = 0
    with pytest.raises(ConfigurationError, match="nothing left for"):
        for last in range(40):
            run(model, learner, [last], attach=False)
    for enough in range(1, last + 1):
        method = PackNet(prune_share=share)
        method.require_length(enough)
        method.attach(Varied(), 5)
    method = PackNet(prune_share=share)
    method.require_length(last + 1)
    message = f"nothing left for task {last + 1} of {last + 1}: the {last} tasks before own every weight"
    with pytest.raises(ConfigurationError, match=message):
        method.attach(Varied(), 5)


def test_the_first_task_is_learnt_as_sequentially_where_nothing_is_pruned():
    assert_sequential(Varied, PackNet(prune_share=0.0, retrain_share=0.0), tasks=[0])
    assert_sequential(TinyDistillable, PackNet(prune_share=0.0, retrain_share=0.0), tasks=[0])


def test_state_round_trip():
    model, method = Varied(), PackNet(prune_share=0.5)
    run(model, method, range(2))
    state = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    extra, before = json.loads(json.dumps(method.extra_state())), weights(model)
    assert extra["learnt"] == [["toy/t0-0"], ["toy/t1-0"]]
    run(model, method, [2], attach=False)
    again, other = Varied(seed=9), PackNet(prune_share=0.5)
    again.module.load_state_dict(before)
    other.attach(again, 5)
    other.load_state_dict(state, extra, iter([]))
    run(again, other, [2], attach=False)
    assert_same(weights(again), weights(model))
    assert_same(other.state_dict(), method.state_dict())
    assert other.extra_state() == method.extra_state()


def test_another_models_state_is_refused():
    method = attached(Varied())
    with pytest.raises(ValueError, match=r"PackNet's checkpoint lacks owner.attention"):
        method.load_state_dict({}, {"learnt": []}, iter([]))


def test_gradients_of_other_weights_do_not_count_for_clipping():
    model, method = Varied(), PackNet(prune_share=0.5)
    run(model, method, [0])
    method.begin_task(experience(1))
    model.loss(TinyData(seed=1).batch(np.arange(6)), Draw(0)).mean().backward()
    kept = copy.deepcopy(model.module.hidden.weight.grad)
    method.edit_gradients()
    free = method.owners["hidden.weight"] == FREE
    assert torch.equal(model.module.hidden.weight.grad, torch.where(free, kept, 0.0))
    assert model.module.hidden.bias.grad is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune_share": 1.0}, "method.prune_share must be at least 0 and below 1; got 1.0"),
        ({"retrain_share": -0.1}, "method.retrain_share must be at least 0 and below 1; got -0.1"),
        ({"train_rest": "always"}, "method.train_rest must be one of first_task, never; got 'always'"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        PackNet(**options)
