import copy

import numpy as np
import pytest
import torch
from keyed_model import KeyedModel, KeyedTokens, tokens
from safetensors.torch import load, save
from tiny_model import TinyData, TinyModel, experience

from vla_cl.methods import der
from vla_cl.methods.der import DarkExperienceReplay
from vla_cl.methods.stored_outputs import StoredOutputs
from vla_cl.training.learning import Learning, TrainingSettings
from vla_cl.types import ConfigurationError, Draw

DRAW = Draw(11)


def attached(model=None, **options):
    method = DarkExperienceReplay(**{"samples_per_task": 6, **options})
    method.attach(model or KeyedModel(), train_seed=3)
    return method


def after_one_task(model=None, **options):
    method = attached(model, **options)
    method.end_task(experience(0), TinyData(seed=1))
    return method


def composed(method, size=8, step=5):
    return method.compose(TinyData(seed=2).batch(np.arange(size)), step)


def change(model):
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(0.1)


def gradients(model, loss):
    return torch.autograd.grad(loss, list(model.module.parameters()))


def test_the_first_task_and_weights_of_zero_leave_the_batch_alone():
    batch = TinyData().batch(np.arange(4))
    assert attached().compose(batch, 0) is batch
    assert after_one_task(alpha=0.0, beta=0.0).compose(batch, 0) is batch


@pytest.mark.parametrize("draws", [1, 3])
def test_stored_outputs_are_replayed_under_their_own_noise(draws):
    method = after_one_task(KeyedModel(dropout=0.5), draws_per_sample=draws)
    method.model.module.eval()
    used = set()
    for step in range(20):
        batch = composed(method, step=step)
        losses = method.loss(batch, Draw(step))
        remembered = [place for place, stored in enumerate(batch[der.STORED]) if stored is not None]
        assert remembered == [4, 5, 6, 7]
        assert losses[remembered].abs().max() < 1e-12
        assert losses[:4].min() > 0
        used |= set(batch[der.PLACE][4:, 2].tolist())
        other = {**batch, der.SEED: batch[der.SEED] + 1}  # noise matters
        assert method.loss(other, Draw(step))[remembered].max() > 1e-6
    assert used == set(range(draws))


def test_the_batch_has_the_promised_size():
    assert len(composed(after_one_task(mixing="replaced", share=0.25))["task"]) == 8
    assert len(composed(after_one_task(mixing="added", share=0.25))["task"]) == 10


@pytest.mark.parametrize("label_batch", ["same", "independent"])
@pytest.mark.parametrize("mixing", ["added", "replaced"])
def test_the_gradient_is_that_of_the_papers_three_terms(label_batch, mixing):
    model = KeyedModel()
    method = after_one_task(model, alpha=0.3, beta=0.7, mixing=mixing, share=0.5, label_batch=label_batch)
    before = copy.deepcopy(model)
    change(model)
    batch = composed(method)
    ours = gradients(model, method.loss(batch, DRAW).mean())

    new = len(batch["task"]) - 4
    compared, labelled = ([new, new + 1, new + 2, new + 3],) * 2
    if label_batch == "independent":
        compared, labelled = compared[:2], labelled[2:]

    def alone(network, row):
        one = {key: value[row : row + 1] for key, value in batch.items() if not key.startswith("method.")}
        return network.forward_pass(one, Draw(0, batch[der.SEED][row : row + 1].numpy()))

    loss = sum(alone(model, row).losses[0] for row in range(new)) / new
    for row in compared:
        distance = (alone(model, row).outputs - alone(before, row).outputs.detach()).square().mean()
        loss = loss + 0.3 * distance / len(compared)
    for row in labelled:
        loss = loss + 0.7 * alone(model, row).losses[0] / len(labelled)
    for found, expected in zip(ours, gradients(model, loss), strict=True):
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)  # outputs are stored in single precision


@pytest.mark.parametrize("label_batch", ["same", "independent"])
def test_a_share_of_the_batch_has_the_same_losses(label_batch):
    method = after_one_task(alpha=0.3, beta=0.7, label_batch=label_batch)
    change(method.model)
    batch = composed(method)
    whole = method.loss(batch, DRAW)
    for rank in range(2):
        part = {key: value[rank::2] for key, value in batch.items()}
        assert torch.allclose(method.loss(part, Draw(DRAW.seed ^ rank)), whole[rank::2], rtol=1e-9)
    only_new = {key: value[:2] for key, value in batch.items()}
    assert torch.allclose(method.loss(only_new, DRAW), whole[:2], rtol=1e-9)


def test_logits_are_compared_by_squared_error_at_the_tokens_that_are_learnt_from():
    model = KeyedTokens()
    method = attached(model, alpha=2.0)

    class Sequences(TinyData):
        def batch(self, rows):
            return {key: [v[r] for r in rows] if key == "task" else v[rows] for key, v in tokens(20, 4, 2, 1).items()}

    method.end_task(experience(0), Sequences())
    old = model.module[0].weight.detach().clone()
    change(model)
    with torch.no_grad():
        model.module[0].weight[2] += 1.0
    batch = method.compose(tokens(4, 6, 3, 2), 0)  # longer sequences than those that were stored
    losses = method.loss(batch, DRAW)
    for row in (2, 3):
        ids, labels = batch["input_ids"][row], batch["labels"][row]
        assert labels.tolist()[4:] == [-100, -100]
        squares = [
            (model.module[0].weight[ids[place]] - old[ids[place]]).square().mean().item()
            for place in range(5)
            if labels[place + 1] != -100
        ]
        assert len(squares) == 2
        assert losses[row].item() == pytest.approx(2.0 * np.mean(squares) * 4 / 2)
    method.compare = "distance"
    assert method.loss(batch, DRAW)[3].item() == pytest.approx(2.0 * 7.0 * 4 / 2)


def test_outputs_leave_with_their_samples_and_are_counted():
    method = after_one_task(draws_per_sample=2)
    method.end_task(experience(1), TinyData(seed=2))
    per_sample = TinyData.bytes_per_sample + 2 * (2 * 4 + 8)
    assert method.memory_bytes() == 12 * per_sample
    everything = method.memory.everything()
    kept = np.concatenate([everything[:2], everything[6:]])
    before = [method.stored.output([*place, 1]).clone() for place in kept]
    method.stored.keep_only(kept)
    assert method.stored.bytes == 8 * 2 * (2 * 4 + 8)
    for place, output in zip(kept, before, strict=True):
        assert torch.equal(method.stored.output([*place, 1]), output)
    method.stored.keep_only(everything[6:])
    assert method.stored.state_dict().keys() == {"rows.1", "seeds.1", "outputs.1"}


def test_half_precision_takes_half_the_bytes():
    method = after_one_task(precision="float16")
    change_free = method.stored.output([0, method.memory.everything()[0, 1], 0])
    assert change_free.dtype == torch.float16
    assert method.stored.bytes == 6 * (2 * 2 + 8)


def test_storing_disturbs_neither_the_mode_nor_random_numbers():
    model = KeyedModel(dropout=0.5)
    model.module.train()
    model.module[0].eval()
    state = torch.get_rng_state()
    after_one_task(model)
    assert [part.training for part in model.module] == [False, True, True, True]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_resumed_run_continues_bit_for_bit():
    settings = TrainingSettings(steps=5, batch_size=6)
    data = [TinyData(seed=seed) for seed in range(3)]
    model, method = KeyedModel(), attached(None)
    method.attach(model, 3)
    for index in range(2):
        list(Learning(model, method, experience(index), data[index], settings, 3, index * 5))
    state, extra = load(save(method.state_dict())), copy.deepcopy(method.extra_state())
    again = copy.deepcopy(model)
    other = attached(again)
    other.load_state_dict(state, extra, iter([(experience(i), data[i]) for i in range(2)]))
    assert other.memory_bytes() == method.memory_bytes()
    for one, edits in ((model, method), (again, other)):
        list(Learning(one, edits, experience(2), data[2], settings, 3, 10))
    for ours, theirs in zip(model.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_state_of_other_draws_is_refused():
    method = after_one_task(draws_per_sample=2)
    state, shapes, kept = method.state_dict(), method.extra_state()["outputs"], method.memory.everything()
    StoredOutputs(2, torch.float32).load_state_dict(state, shapes, kept)
    with pytest.raises(ValueError, match=r"seeds.0 must be torch.int64 of shape \(\d+, 1\)"):
        StoredOutputs(1, torch.float32).load_state_dict(state, shapes, kept)


def test_a_model_without_outputs_is_refused():
    with pytest.raises(ConfigurationError, match="keyed_draws and outputs"):
        attached(TinyModel())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1}, "method.alpha must be between 0 and"),
        ({"beta": -1}, "method.beta must be between 0 and"),
        ({"mixing": "coin_flip"}, "one of added, replaced"),
        ({"share": 1.5}, "at most 1.0"),
        ({"label_batch": "other"}, "same, independent"),
        ({"compare": "kl"}, "squared_error, distance"),
        ({"draws_per_sample": 0}, "between 1 and 64"),
        ({"temperature": 0}, "above 0"),
        ({"precision": "int4"}, "float32, float16"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        DarkExperienceReplay(**options)
