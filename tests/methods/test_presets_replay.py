"""Each replay preset does the step of the paper or code that it is named after, rewritten here in a few lines.

The yaml of a preset says what of its source is not followed. Values and gradients are compared on a network of several
tensors, over several batches; the samples that a step replays are those at the end of the batch that it composes.
"""

import copy

import numpy as np
import pytest
import torch
from keyed_model import KeyedTokens, tokens
from linear_model import Linear
from method_presets import method_preset
from tiny_model import TinyData, experience
from torch import nn
from torch.nn import functional

from vla_cl.config.compose import build
from vla_cl.interfaces import Method
from vla_cl.methods import der
from vla_cl.testbeds import BEDS
from vla_cl.types import Draw

STEPS = range(50, 56)
SEED = 3
NEW = TinyData(rows=300, seed=2)
OLD = TinyData(rows=1500, seed=1)


class Net(Linear):
    """A network of four tensors in double precision; makes up samples of its own."""

    def __init__(self):
        torch.manual_seed(0)
        self._module = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 2)).double()

    def generate(self, tasks, seed):
        return TinyData(rows=len(tasks), seed=5).batch(np.arange(len(tasks)))


def preset(name, model=None, tasks=1, **changes):
    """A method with the settings of a yaml, after some tasks; then the weights move on."""
    method = build({**method_preset(name), **changes}, Method)
    method.attach(model or Net(), SEED)
    for index in range(tasks):
        method.begin_task(experience(index))
        method.end_task(experience(index), TinyData(rows=1500, seed=1 + 100 * index))
    method.begin_task(experience(tasks))
    return method


def change(model, by=0.1):
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(by)


def error(model, batch):
    """Squared error, mean over samples and outputs."""
    return functional.mse_loss(model.module(batch["x"].double()), batch["y"].double())


def rows(batch, chosen):
    return {key: batch[key][chosen] for key in ("x", "y")}


def same_step(method, batch, expected, tolerance=1e-9):
    """Value and gradient of a composed batch are those of ``expected``."""
    weights = list(method.model.module.parameters())
    loss = method.loss(batch, Draw(0)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    ours, theirs = torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=tolerance)


def composed(method, size, step):
    given = NEW.batch(np.random.default_rng(step).integers(300, size=size))
    return given, method.compose(copy.copy(given), step)


def remembered(method, batch):
    """The rows of the old data that samples of a batch come from; they are in the memory."""
    found = [int(torch.nonzero((OLD.x == x).all(1))[0]) for x in batch["x"]]
    assert set(found) <= set(method.memory.index()["e0"])
    return found


@pytest.mark.parametrize(("name", "new", "old"), [("er", 8, 8), ("er_libero", 8, 8), ("er_replaced", 4, 4)])
def test_er_learns_from_the_union(name, new, old):
    """LIBERO's ER concatenates a batch of new data and as large a one of the memory, and takes the mean loss."""
    method = preset(name)
    change(method.model)
    for step in STEPS:
        given, batch = composed(method, 8, step)
        assert len(batch["task"]) == new + old
        remembered(method, rows(batch, slice(new, None)))
        union = {key: torch.cat([given[key][:new], batch[key][new:]]) for key in ("x", "y")}
        same_step(method, batch, error(method.model, union))


def test_er_keeps_a_thousand_samples_at_random_and_libero_the_first():
    assert preset("er_libero").memory.index()["e0"] == list(range(1000))
    kept = preset("er").memory.index()["e0"]
    assert len(set(kept)) == 1000
    beyond = sum(row >= 1000 for row in kept)  # hypergeometric: 333 expected, deviation 8.6
    assert abs(beyond - 1000 / 3) < 4 * 8.7


def test_er_coin_flip_learns_from_new_data_or_from_the_memory():
    """ContinualVLA: a number below 0.2 in a step makes the whole batch one of the memory."""
    method = preset("er_coin_flip")
    change(method.model)
    flips = []
    for step in range(400):
        given, batch = composed(method, 4, step)
        flips.append(not torch.equal(batch["x"], given["x"]))
        if flips[-1]:
            remembered(method, batch)
        if step < 20:
            same_step(method, batch, error(method.model, batch))
    assert np.mean(flips) == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / 400))


@pytest.mark.parametrize(("name", "beta"), [("der", 0.0), ("der_pp", 0.5)])
def test_der_adds_half_of_the_squared_error_from_stored_outputs(name, beta):
    """Mammoth: loss(new) + alpha mse(f(x), z) [+ beta loss(x, y)], each a mean over its batch."""
    method = preset(name)
    storing = copy.deepcopy(method.model)
    change(method.model)
    for step in STEPS:
        given, batch = composed(method, 8, step)
        buffer = rows(batch, slice(4, None))
        stored = storing.module(buffer["x"].double()).detach().float().double()
        expected = error(method.model, rows(given, slice(4)))
        expected = expected + 0.5 * functional.mse_loss(method.model.module(buffer["x"].double()), stored)
        same_step(method, batch, expected + beta * error(method.model, buffer))
        remembered(method, buffer)


def test_mir_replays_what_a_step_of_gradient_descent_harms_most():
    """Aljundi et al.: the largest loss after minus before a step of 0.1 on the new samples; the mean of the union."""
    method = preset("mir")
    change(method.model)
    for step in STEPS:
        given, batch = composed(method, 8, step)
        drawn = np.unique(method.memory.pick(2 * 4, SEED, step)[:, 1])
        candidates = OLD.batch(drawn)
        ahead = copy.deepcopy(method.model)
        loss = error(ahead, rows(given, slice(4)))
        descent = torch.optim.SGD(ahead.module.parameters(), lr=0.1)
        loss.backward()
        descent.step()
        after, before = (
            (m.module(candidates["x"].double()) - candidates["y"]).square().mean(1) for m in (ahead, method.model)
        )
        worst = (after - before).argsort(descending=True)[:4]
        assert remembered(method, rows(batch, slice(4, None))) == drawn[worst.numpy()].tolist()
        union = {key: torch.cat([given[key][:4], candidates[key][worst]]) for key in ("x", "y")}
        same_step(method, batch, error(method.model, union))


def test_camas_loss_is_that_of_the_authors_code():
    """Thirds: mean(stream) + 0.5 mean(replay) + 0.5 mse(logits, stored logits)."""
    method = preset("cama")
    storing = copy.deepcopy(method.model)
    change(method.model)
    for step in STEPS:
        given, batch = composed(method, 9, step)
        distilled, replayed = rows(batch, slice(3, 6)), rows(batch, slice(6, 9))
        stored = storing.module(distilled["x"].double()).detach().float().double()
        expected = error(method.model, rows(given, slice(3))) + 0.5 * error(method.model, replayed)
        expected = expected + 0.5 * functional.mse_loss(method.model.module(distilled["x"].double()), stored)
        same_step(method, batch, expected)


def test_camas_stored_logits_move_by_the_mean_of_five_confidences_less_chance():
    """z <- (1 - c) z + c z_new, c = clip(mean of the last 5 confidences - 1 / number of classes, 0, 1)."""

    class Sequences(TinyData):
        def batch(self, rows):
            return {key: [v[r] for r in rows] if key == "task" else v[rows] for key, v in tokens(20, 4, 2, 1).items()}

    method = build(method_preset("cama"), Method)
    method.attach(KeyedTokens(), SEED)
    method.end_task(experience(0), Sequences())
    history = []
    for step in range(8):
        with torch.no_grad():
            method.model.module[0].weight.normal_(generator=torch.Generator().manual_seed(step))
        batch = method.compose(tokens(9, 4, 2, 2), step)
        where = [row for row, z in enumerate(batch[der.STORED]) if z is not None]
        places = [tuple(batch[der.PLACE][row].tolist()) for row in where]
        before = {place: method.stored.output(place).clone() for place in places}
        method.loss(batch, Draw(0))
        method.after_step()
        logits = method.model.module[0](batch["input_ids"][where]).detach()
        right = batch["input_ids"][where][:, 2:]
        probabilities = logits[:, 1:3].softmax(-1).gather(-1, right[..., None])
        history.append(probabilities.mean().item())
        share = np.clip(np.mean(history[-5:]) - 1 / 5, 0, 1)
        for place, new in zip(places, logits, strict=True):
            expected = (1 - share) * before[place] + share * new.float()
            torch.testing.assert_close(method.stored.output(place), expected)


def test_generative_replay_mixes_half_of_what_the_model_makes_up():
    """Shin et al.: r E[new] + (1 - r) E[generated], r = 1/2."""
    method = preset("generative_replay", tasks=2)
    change(method.model)
    for step in STEPS:
        given, batch = composed(method, 8, step)
        made = rows(batch, slice(4, None))
        expected = 0.5 * error(method.model, rows(given, slice(4))) + 0.5 * error(method.model, made)
        same_step(method, batch, expected)


@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_generative_distillation_weighs_its_terms_by_the_tasks(tasks):
    """The authors' code: (1 - w) mse(new) + w lambda mse(student, teacher), w = 1 - 1 / (1 + tasks behind)."""
    method = preset("generative_distillation", tasks=tasks)
    teacher = copy.deepcopy(method.model)
    change(method.model)
    share = 1 - 1 / (tasks + 1)
    for step in STEPS:
        given, batch = composed(method, 8, step)
        made = batch["x"][4:].double()
        distance = functional.mse_loss(method.model.module(made), teacher.module(made).detach())
        same_step(method, batch, (1 - share) * error(method.model, rows(given, slice(4))) + share * distance)


def test_lamols_loss_and_shares():
    """Sun et al.: L_QA + 0.25 L_LM, the second on all tokens; 0.2 generated samples to each new one."""
    bed = BEDS["language"]()
    model = bed.make_model(0)
    method = build(method_preset("lamol"), Method)
    method.attach(model, SEED)
    method.end_task(bed.stream.experiences[0], bed.data[0])
    generate, asked, sizes = model.generate, [], []
    model.generate = lambda tasks, seed: (asked.extend(tasks), generate(tasks, seed))[1]
    method.begin_task(bed.stream.experiences[1])
    assert asked == ["code one"] * round(0.2 * len(bed.data[0]))
    for step in STEPS:
        batch = method.compose(bed.data[1].batch(np.arange(8 * step, 8 * step + 8) % 250), step)
        sizes.append(batch["task"].count("code one"))
        expected = []
        for row in range(8):
            length = int(batch["attention_mask"][row].sum())
            ids, labels = batch["input_ids"][row, :length], batch["labels"][row, 1:length]
            nats = functional.cross_entropy(model.model(input_ids=ids[None]).logits[0, :-1], ids[1:], reduction="none")
            expected.append(nats[labels != -100].mean() + 0.25 * nats.mean())
        same_step(method, batch, torch.stack(expected).mean(), tolerance=1e-7)  # in single precision
    assert sum(sizes) == 8  # of 48
