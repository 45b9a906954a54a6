import contextlib
import logging

import numpy as np
import pytest
import torch
from tiny_distillable import TinyDistillable
from tiny_model import TinyData, TinyModel
from torch import nn
from torch.nn import functional

from vla_cl.interfaces import Data, Model
from vla_cl.methods import per_sample_gradients, per_sample_gradients_layers
from vla_cl.methods.per_sample_gradients import PerSampleGradients
from vla_cl.methods.per_sample_gradients_estimate import SampledGradients
from vla_cl.methods.per_sample_gradients_layers import NotPerSampleError
from vla_cl.methods.quadratic_penalty import trainable
from vla_cl.random_numbers import Purpose, number
from vla_cl.types import Ability, Draw

COUNT = 6
SIZES = {"squared": torch.square, "absolute": torch.abs}


def loop(values, parameters, statistic):
    """The definition: the gradient of one sample's value after the other."""
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for row in range(COUNT):
        gradients = torch.autograd.grad(values()[row], [*parameters.values()], allow_unused=True)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            if gradient is not None:
                total += SIZES[statistic](gradient)
    return sums


def assert_close(ours, theirs, relative):
    """To a share of each parameter's own norm; gradients that are zero but for rounding count with all others'."""
    assert ours.keys() == theirs.keys()
    everything = torch.stack([expected.norm() for expected in theirs.values()]).norm()
    for name, expected in theirs.items():
        error = (ours[name] - expected).norm()
        assert error <= relative * (expected.norm() + 1e-3 * everything), (name, error / expected.norm())


def checked_sums(module, parameters, values, count, statistic):
    gradients = PerSampleGradients(module, parameters)
    gradients.check(values, count)
    return gradients.sums(values, count, statistic)


class Several(nn.Module):
    """Every closed form, and what has none."""

    def __init__(self):
        super().__init__()
        self.picture = nn.Sequential(
            nn.Conv2d(2, 8, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2), bias=False),
            nn.GroupNorm(2, 8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, padding="valid", groups=4),
            nn.Conv2d(8, 6, 1),
            nn.Conv2d(6, 6, 3, padding="same"),
            nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular"),
            nn.BatchNorm2d(6),
        )
        self.words = nn.Embedding(7, 5, padding_idx=0)
        self.line = nn.Conv1d(5, 4, 3, padding=1, stride=2)
        self.sequence = nn.Sequential(nn.Linear(5, 5), nn.LayerNorm(5), nn.PReLU(), nn.Linear(5, 5, bias=False))
        self.attention = nn.MultiheadAttention(5, 1, batch_first=True)
        self.recurrent = nn.Bilinear(5, 4, 3)
        self.vector = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3))
        self.never = nn.Linear(2, 2)

    def forward(self, pictures, words):
        seen = self.vector(self.picture(pictures).mean((2, 3)))
        read = self.words(words)
        lines = self.line(read.transpose(1, 2)).mean(2)
        read = self.sequence(read)
        read = (read + self.attention(read, read, read)[0]).mean(1)
        return (seen + self.recurrent(read, lines)).square().sum(1)


def inputs(dtype):
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randn(COUNT, 2, 9, 9, generator=generator, dtype=dtype)
    return pictures, torch.randint(0, 7, (COUNT, 8), generator=generator)


def module(kind, dtype=torch.float64):
    torch.manual_seed(0)
    return kind().to(dtype).eval()


@pytest.mark.parametrize("statistic", SIZES)
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("working", [1 << 20, 1])
def test_every_kind_of_layer_equals_the_loop(monkeypatch, statistic, dtype, relative, working):
    monkeypatch.setattr(per_sample_gradients, "WORKING_NUMBERS", working)
    monkeypatch.setattr(per_sample_gradients_layers, "LARGE_CONVOLUTION", working)
    several, (pictures, words) = module(Several, dtype), inputs(dtype)
    parameters = trainable(several)
    ours = checked_sums(several, parameters, lambda: several(pictures, words), COUNT, statistic)
    assert_close(ours, loop(lambda: several(pictures, words), parameters, statistic), relative)
    assert ours["never.weight"].norm() == 0
    assert all(parameter.grad is None for parameter in parameters.values())
    assert not any(child._forward_hooks for child in several.modules())


class Shared(nn.Module):
    """One encoder for two inputs, and one table that reads and writes."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(7, 5)
        self.encoder = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.LayerNorm(5))
        self.output = nn.Linear(5, 7, bias=False)
        self.output.weight = self.words.weight

    def forward(self, pictures, words):
        left, right = self.encoder(self.words(words[:, :4])), self.encoder(self.words(words[:, 4:]))
        logits = self.output(self.encoder((left + right).mean(1)))
        return functional.cross_entropy(logits, words[:, 0], reduction="none")


def test_a_parameter_that_is_used_several_times_is_summed_before_it_is_squared():
    shared, batch = module(Shared), inputs(torch.float64)
    parameters = trainable(shared)
    assert "output.weight" not in parameters
    ours = checked_sums(shared, parameters, lambda: shared(*batch), COUNT, "squared")
    assert_close(ours, loop(lambda: shared(*batch), parameters, "squared"), 1e-12)


def test_frozen_parameters_are_left_out():
    several, batch = module(Several), inputs(torch.float64)
    several.picture.requires_grad_(False)
    several.words.requires_grad_(False)
    parameters = trainable(several)
    ours = checked_sums(several, parameters, lambda: several(*batch), COUNT, "squared")
    assert_close(ours, loop(lambda: several(*batch), parameters, "squared"), 1e-12)


class Wrong(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.start = nn.Parameter(torch.randn(8))
        self.normalisation = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.first(x).sum(1)


class SequenceFirst(Wrong):
    def forward(self, x):
        return self.first(x.expand(8, -1, -1)).square().sum((0, 2))


class SequenceOfSixFirst(Wrong):
    def forward(self, x):
        return self.first(x.expand(COUNT, -1, -1) * torch.arange(1, COUNT + 1)[:, None, None]).square().sum((0, 2))


class SharedForAll(Wrong):
    def forward(self, x):
        return (x + self.first(self.start.detach())).square().sum(1)


class Mixed(Wrong):
    def forward(self, x):
        y = self.first(x)
        return (y - 0.5 * y.mean(0)).square().sum(1)


class Outside(Wrong):
    def forward(self, x):
        return (self.first(x) @ self.first.weight).square().sum(1)


class Training(Wrong):
    def forward(self, x):
        return self.normalisation.train()(self.first(x)).pow(3).sum(1)


class Mean(Wrong):
    def forward(self, x):
        return self.first(x).mean().expand(COUNT)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (SequenceFirst, r"first: the first dimension of \(8, 6, 8\) is not the 6 samples"),
        (SequenceOfSixFirst, "'first.weight' has another gradient"),
        (SharedForAll, r"first: the first dimension of \(8,\) is not the 6 samples"),
        (Mixed, "'first.weight' has another gradient"),
        (Outside, "'first.weight' has another gradient"),
        (Training, "has another gradient"),
        (Mean, "has another gradient"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(kind, message):
    torch.manual_seed(0)
    wrong, x = kind(), torch.randn(COUNT, 8)
    parameters = {name: p for name, p in wrong.named_parameters() if name != "start"}
    with pytest.raises(NotPerSampleError, match=message):
        checked_sums(wrong, parameters, lambda: wrong(x), COUNT, "squared")


def test_a_root_parameter_that_no_layer_owns_is_refused_or_right():
    class Root(Wrong):
        def forward(self, x):
            return (self.first(x) + self.start).square().sum(1)

    torch.manual_seed(0)
    root, x = Root(), torch.randn(COUNT, 8)
    parameters = trainable(root)
    ours = checked_sums(root, parameters, lambda: root(x), COUNT, "squared")
    assert_close(ours, loop(lambda: root(x), parameters, "squared"), 1e-5)
    with pytest.raises(NotPerSampleError, match="'start' is used outside of the module that owns it"):
        checked_sums(root, parameters, lambda: (root.first(x) + root.start).square().sum(1), COUNT, "squared")


# --- Over the samples of an experience


class Sequences(Data):
    """Data of a model of one's own: a batch is whatever ``make`` gives for rows."""

    bytes_per_sample = 1

    def __init__(self, everything):
        self.everything = everything

    def __len__(self):
        return len(self.everything["task"])

    @property
    def episode_of_row(self):
        return np.arange(len(self))

    def batch(self, rows):
        return {k: [v[r] for r in rows] if isinstance(v, list) else v[rows] for k, v in self.everything.items()}


class Wrapped(Model):
    def __init__(self, module, losses):
        self._module, self._losses = module, losses
        self.device_ = torch.device("cpu")

    @property
    def module(self):
        return self._module

    @property
    def device(self):
        return self.device_

    def loss(self, batch, draw):
        return self._losses(self._module, batch, draw)

    def features(self, batch):
        raise NotImplementedError

    def save(self, folder):
        raise NotImplementedError


def naive(model, sampled, data, statistic="squared"):
    """One sample, one pass, one backward; each sample under its own seed."""
    training = model.module.training
    model.module.eval()
    parameters = trainable(model.module)
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for row, seed in zip(sampled.rows, sampled.seeds, strict=True):
        loss = model.loss(data.batch(np.array([row])), draw_of(model, seed)).sum()
        gradients = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            if gradient is not None:
                total += SIZES[statistic](gradient)
    model.module.train(training)
    return {name: total / len(sampled.rows) for name, total in sums.items()}


def draw_of(model, seed):
    from vla_cl.types import Draw

    return Draw(int(seed), np.array([seed]) if Ability.KEYED_DRAWS in model.abilities else None)


def sampled_gradients(model, data, samples=None, batch_size=4):
    return SampledGradients(model, data, lambda batch, draw, _: model.loss(batch, draw), samples, batch_size, 3, 1)


def check_against_loop(model, data, relative=1e-5):
    model.module.train()
    state = torch.get_rng_state()
    sampled = sampled_gradients(model, data)
    found = sampled.mean("squared", "per_sample")
    assert found.loop_reason is None
    assert found.samples == len(data)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(child.training for child in model.module.modules())
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert_close(found.mean, naive(model, sampled, data), relative)


def nano_vla(objective):
    pytest.importorskip("lerobot")
    from vla_cl.models.vla import VlaModel, policy_config
    from vla_cl.types import InterfaceSpec

    cameras = ("observation.images.front", "observation.images.wrist")
    spec = InterfaceSpec(dict.fromkeys(cameras, (32, 32)), 3, 2)
    settings = {
        "image_size": 32,
        "vision_channels": [8, 8, 16],
        "num_keypoints": 4,
        "hidden_size": 32,
        "chunk_size": 4,
        "n_action_steps": 2,
        "objective": objective,
    }
    generator = torch.Generator().manual_seed(0)
    data = {c: torch.randint(0, 256, (10, 3, 32, 32), generator=generator).byte() for c in cameras}
    data["observation.state"] = torch.randn(10, 3, generator=generator)
    data["action"] = torch.rand(10, 4, 2, generator=generator) * 2 - 1
    data["action_is_pad"] = torch.arange(4) >= torch.randint(2, 5, (10, 1), generator=generator)
    data["task"] = ["open the drawer" if row % 2 else "reach the goal" for row in range(10)]
    data["index"] = torch.arange(10)
    ones = {"mean": np.zeros(1), "std": np.ones(1), "min": -np.ones(1), "max": np.ones(1)}
    statistics = {
        "observation.state": {key: np.repeat(value, 3) for key, value in ones.items()},
        "action": {key: np.repeat(value, 2) for key, value in ones.items()},
    }
    model = VlaModel.new(policy_config("nano_vla", settings, spec, "cpu"), statistics, 0)
    return model, Sequences(data)


@pytest.mark.parametrize("objective", ["regression", "flow_matching"])
def test_nano_vla_with_two_cameras(objective):
    check_against_loop(*nano_vla(objective))


@pytest.mark.parametrize("tied", [False, True])
def test_a_small_llama(tied):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, tie_word_embeddings=tied))

    def losses(module, batch, draw):
        logits = module(input_ids=batch["tokens"], use_cache=False).logits[:, :-1]
        return functional.cross_entropy(logits.transpose(1, 2), batch["tokens"][:, 1:], reduction="none").mean(1)

    tokens = torch.randint(0, 40, (10, 12), generator=torch.Generator().manual_seed(0))
    check_against_loop(Wrapped(module, losses), Sequences({"tokens": tokens, "task": [""] * 10}))


def test_a_small_unet_with_classes():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    module = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
        num_class_embeds=5,
    )

    def losses(module, batch, draw):
        output = module(batch["picture"], batch["time"], class_labels=batch["label"]).sample
        return (output - batch["noise"]).square().flatten(1).mean(1)

    generator = torch.Generator().manual_seed(0)
    data = {name: torch.randn(10, 1, 8, 8, generator=generator) for name in ("picture", "noise")}
    data["time"] = torch.randint(0, 1000, (10,), generator=generator)
    data["label"] = torch.randint(0, 5, (10,), generator=generator)
    check_against_loop(Wrapped(module, losses), Sequences({**data, "task": [""] * 10}))


def test_where_samples_cannot_be_told_apart_they_are_taken_one_by_one_and_the_reason_is_given(caplog):
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    model = Wrapped(module, lambda module, batch, draw: (module(batch["x"].expand(9, -1, -1))).square().sum((0, 2)))
    data = TinyData(7)
    sampled = sampled_gradients(model, data)
    with caplog.at_level(logging.WARNING):
        found = sampled.mean("squared", "per_sample")
    assert "is not the 5 samples" in found.loop_reason
    assert "sample by sample" in caplog.text
    assert_close(found.mean, naive(model, sampled, data), 1e-6)


def test_batches_give_the_square_of_the_mean():
    model, data = TinyModel(), TinyData(8)
    sampled = sampled_gradients(model, data)
    expected = torch.zeros(2, 3)
    for first in (0, 4):
        rows = slice(first, first + 4)
        loss = model.loss(
            data.batch(sampled.rows[rows]), Draw(number(int(sampled.seeds[first]), Purpose.IMPORTANCE_BATCH))
        ).mean()
        expected += torch.autograd.grad(loss, model.module.weight)[0].square() / 2
    assert torch.allclose(sampled.mean("squared", "batch").mean["weight"], expected, rtol=1e-6)


def test_the_samples_are_a_function_of_the_seed():
    model, data = TinyModel(), TinyData(20)
    ours, again = (sampled_gradients(model, data, samples=6) for _ in range(2))
    assert np.array_equal(ours.rows, again.rows)
    assert len(set(ours.rows)) == 6
    assert len(sampled_gradients(model, data, samples=50).rows) == 20
    other = SampledGradients(model, data, lambda *_: torch.zeros(()), 6, 4, 3, 2)
    assert not np.array_equal(ours.rows, other.rows)


def test_modes_of_single_modules_and_sharing_come_back():
    model, data = TinyModel(), TinyData(4)
    entered = []

    @contextlib.contextmanager
    def independent_samples():
        entered.append(model.module.training)
        yield
        entered.append("left")

    model.independent_samples = independent_samples
    wrapper = nn.Sequential(model.module, nn.Dropout())
    model._module = wrapper
    wrapper.train()
    wrapper[0].eval()
    sampled_gradients(model, data).mean("squared", "per_sample")
    assert (wrapper.training, wrapper[0].training, wrapper[1].training) == (True, False, True)
    assert entered == [True, "left"]


class Scaled(nn.Module):
    """Its second input is shared by all samples, and is as long as the second batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, dtype=torch.float64))

    def forward(self, x, shared):
        return x * self.weight * shared.sum()


def test_an_input_that_is_shared_is_not_taken_for_samples_where_its_length_happens_to_be_theirs():
    scaled, shared = Scaled(), torch.randn(COUNT, dtype=torch.float64)
    module = nn.ModuleList([scaled])
    x = torch.randn(COUNT, 3, dtype=torch.float64)
    parameters = trainable(module)
    gradients = PerSampleGradients(module, parameters)
    gradients.check(lambda: scaled(x[:5], shared).square().sum(1), 5)
    ours = gradients.sums(lambda: scaled(x, shared).square().sum(1), COUNT, "squared")
    assert_close(ours, loop(lambda: scaled(x, shared).square().sum(1), parameters, "squared"), 1e-12)


def test_what_is_the_batchs_in_a_pass_shares_no_random_numbers_with_its_samples():
    """Augmentation is seeded with the batch's number, a sample's noise with its own."""
    seen = []
    sampled = SampledGradients(
        TinyDistillable(),
        TinyData(rows=8),
        lambda batch, draw, seeds: (seen.append((draw.seed, seeds)), TinyDistillable().loss(batch, draw))[1],
        None,
        4,
        3,
        1,
    )
    for rows in (slice(0, 4), slice(4, 5)):
        sampled._value(rows)
    for seed, seeds in seen:
        first = torch.randn(4, generator=torch.Generator().manual_seed(seed))
        assert not any(
            torch.equal(first, torch.randn(4, generator=torch.Generator().manual_seed(s))) for s in seeds.tolist()
        )
