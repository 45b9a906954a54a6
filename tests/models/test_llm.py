import numpy as np
import pytest
import torch
from torch.nn import functional

from vla_cl.models.llm import IGNORED, LanguageModel
from vla_cl.testbeds import BEDS
from vla_cl.types import Ability, ConfigurationError, Draw


@pytest.fixture(scope="module")
def bed():
    return BEDS["language"]()


@pytest.fixture
def model(bed):
    return bed.make_model(0)


@pytest.fixture(scope="module")
def batch(bed):
    batch = bed.data[0].batch(np.arange(5))
    for key, value in (("input_ids", 0), ("attention_mask", 0), ("labels", IGNORED)):  # one shorter sample, padded
        batch[key][3, -2:] = value
    return batch


def one(batch, row):
    return {key: value[row : row + 1] for key, value in batch.items()}


def test_a_loss_is_the_mean_cross_entropy_of_what_is_learnt_and_a_quarter_of_that_of_all_tokens(model, batch):
    losses = model.loss(batch, Draw(0))
    for row in range(5):
        length = int(batch["attention_mask"][row].sum())
        ids = batch["input_ids"][row, :length]
        nats = functional.cross_entropy(model.model(input_ids=ids[None]).logits[0, :-1], ids[1:], reduction="none")
        learnt = batch["labels"][row, 1:length] != IGNORED
        torch.testing.assert_close(losses[row], nats[learnt].mean() + 0.25 * nats.mean())


def test_a_sample_does_not_depend_on_its_batch(model, batch):
    together = model.forward_pass(batch, Draw(0))
    alone = model.forward_pass(one(batch, 2), Draw(1, np.array([7])))
    torch.testing.assert_close(together.losses[2:3], alone.losses)
    torch.testing.assert_close(together.outputs[2:3], alone.outputs)
    torch.testing.assert_close(model.features(batch)[3:4], model.features(one(batch, 3)))


def test_the_distance_is_the_divergence_from_the_teacher(model, batch):
    student, teacher = torch.randn(2, 5, batch["labels"].shape[1], 8).unbind()
    found = model.distance(student, teacher, batch, temperature=3.0)
    row = 3
    places = (batch["labels"][row, 1:] != IGNORED).nonzero()[:, 0]
    expected = [
        9 * functional.kl_div((student[row, p] / 3).log_softmax(0), (teacher[row, p] / 3).softmax(0), reduction="sum")
        for p in places
    ]
    torch.testing.assert_close(found[row], torch.stack(expected).mean())
    assert model.distance(teacher, teacher, batch).abs().max() < 1e-6


def test_stock_transformers_loads_what_was_saved(model, batch, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model.save(tmp_path / "model")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    logits = stock(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert torch.equal(logits, model.outputs(batch, Draw(0)))
    assert AutoTokenizer.from_pretrained(tmp_path / "model").decode(batch["input_ids"][0]).startswith("code one: ")
    again = LanguageModel.load(tmp_path / "model", language_weight=0.25)
    assert torch.equal(again.loss(batch, Draw(0)), model.loss(batch, Draw(0)))
    with pytest.raises(ConfigurationError, match="not a causal language model"):
        LanguageModel.load(tmp_path)


def test_made_up_samples_follow_from_the_seed_alone(model):
    many = model.generate(["code one", "code two", "code six"], seed=4)
    few = model.generate(["code one", "code two"], seed=4)
    other = model.generate(["code one", "code two"], seed=5)
    length = few["input_ids"].shape[1]
    assert torch.equal(many["input_ids"][:2, :length], few["input_ids"])
    assert not torch.equal(few["input_ids"][:, :12], other["input_ids"][:, :12])
    assert few.keys() == {"input_ids", "attention_mask", "labels", "task", "index"}
    assert model.tokenizer.decode(few["input_ids"][1]).startswith("code two: ")


def test_dropout_takes_fixed_outputs_and_keyed_draws_away(model, batch):
    lost = {Ability.FIXED_OUTPUTS, Ability.KEYED_DRAWS}
    assert lost <= model.abilities
    model.model.config.attention_dropout = 0.1
    assert not lost & model.abilities
    with pytest.raises(ConfigurationError, match="has dropout"):
        model.loss(batch, Draw(0, np.arange(5)))


@pytest.mark.parametrize(
    ("changes", "message"), [({"language_weight": -1}, "language_weight"), ({"top_k": 0}, "top_k")]
)
def test_settings_out_of_range_are_refused(model, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        LanguageModel(model.model, model.tokenizer, **changes)
