import numpy as np
import pytest
import torch

from vla_cl.models.diffusion import DiffusionModel
from vla_cl.random_numbers import Purpose, number
from vla_cl.testbeds import BEDS
from vla_cl.types import Ability, ConfigurationError, Draw


@pytest.fixture(scope="module")
def bed():
    return BEDS["diffusion"]()


@pytest.fixture
def model(bed):
    return bed.make_model(0)


@pytest.fixture(scope="module")
def batch(bed):
    return bed.data[1].batch(np.arange(5))


def test_a_loss_is_the_squared_error_of_the_noise(model, batch):
    generator = torch.Generator().manual_seed(number(9, Purpose.GIVEN_NOISE))
    noise = torch.randn(batch["image"].shape, generator=generator)
    times = torch.randint(100, (5,), generator=generator)
    kept = model.scheduler.alphas_cumprod[times][:, None, None, None]
    noisy = kept.sqrt() * batch["image"] + (1 - kept).sqrt() * noise
    predicted = model.unet(noisy, times, class_labels=batch["label"]).sample
    given = model.forward_pass(batch, Draw(9))
    torch.testing.assert_close(given.losses, (predicted - noise).square().mean((1, 2, 3)))
    torch.testing.assert_close(given.outputs, predicted)
    assert torch.equal(model.distance(predicted, predicted + 2, batch), torch.full((5,), 4.0))


def test_noise_that_is_chosen_per_sample_does_not_depend_on_the_batch(model, batch):
    together = model.forward_pass(batch, Draw(0, np.arange(5) + 20))
    alone = model.forward_pass({key: value[3:4] for key, value in batch.items()}, Draw(1, np.array([23])))
    torch.testing.assert_close(together.losses[3:4], alone.losses)
    torch.testing.assert_close(together.outputs[3:4], alone.outputs)


def test_the_loss_is_a_function_of_the_seed_and_leaves_the_random_state_alone(model, batch):
    state = torch.get_rng_state()
    first, again, other = (model.loss(batch, Draw(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_stock_diffusers_loads_what_was_saved(model, batch, tmp_path):
    from diffusers import DDPMPipeline

    model.save(tmp_path / "model")
    stock = DDPMPipeline.from_pretrained(tmp_path / "model")
    assert stock.scheduler.config.num_train_timesteps == 100
    times = torch.full((5,), 30)
    predicted = stock.unet(batch["image"], times, class_labels=batch["label"]).sample
    assert torch.equal(predicted, model.unet(batch["image"], times, class_labels=batch["label"]).sample)
    again = DiffusionModel.load(tmp_path / "model", model.class_names, inference_steps=10)
    assert torch.equal(again.loss(batch, Draw(3)), model.loss(batch, Draw(3)))
    for name, value in model.unet.state_dict().items():
        assert torch.equal(stock.unet.state_dict()[name], value)
    with pytest.raises(ConfigurationError, match="not a diffusers folder"):
        DiffusionModel.load(tmp_path, model.class_names)


def test_made_up_pictures_follow_from_the_seed_alone(model):
    many, few = model.generate(["3", "5", "5"], seed=4), model.generate(["3", "5"], seed=4)
    torch.testing.assert_close(many["image"][:2], few["image"])
    assert few["image"].shape == (2, 1, 8, 8)
    assert few["label"].tolist() == [3, 5]
    assert few["image"].abs().max() <= 1
    assert not torch.equal(few["image"], model.generate(["3", "5"], seed=5)["image"])
    with pytest.raises(ConfigurationError, match="no classes of this model"):
        model.generate(["dog"], seed=0)


def test_features_and_abilities(model, batch):
    assert model.features(batch).shape == (5, 32)
    assert Ability.FIXED_OUTPUTS not in model.abilities
    assert {Ability.KEYED_DRAWS, Ability.GENERATION} <= model.abilities


def test_dropout_takes_keyed_draws_away(model, batch):
    next(part for part in model.unet.modules() if isinstance(part, torch.nn.Dropout)).p = 0.1
    assert Ability.KEYED_DRAWS not in model.abilities
    with pytest.raises(ConfigurationError, match="has dropout"):
        model.loss(batch, Draw(0, np.arange(5)))


def test_a_sample_does_not_depend_on_its_batch(model, batch):
    alone = model.features({key: value[2:3] for key, value in batch.items()})
    torch.testing.assert_close(model.features(batch)[2:3], alone)


def test_a_model_that_does_not_fit_is_refused(model):
    with pytest.raises(ConfigurationError, match="11 classes need"):
        DiffusionModel(model.unet, model.scheduler, [str(n) for n in range(11)])
    with pytest.raises(ConfigurationError, match="inference_steps must be between 1 and 100"):
        DiffusionModel(model.unet, model.scheduler, model.class_names, inference_steps=101)
