"""A method that would change nothing on a model refuses it before anything is learnt, in one sentence."""

import pytest
import torch
from method_neutral import NEUTRAL, method_settings
from small_beds import small_bed

from vla_cl.config.compose import build
from vla_cl.interfaces import Method, Model
from vla_cl.training.learning import Learning
from vla_cl.types import ConfigurationError

SETTINGS = method_settings()
METHODS = [name for name in SETTINGS if name != "sequential"]
REFUSED = {  # on a model of which only the output layer is trained
    "policy_regression": {"slca", "layer_freezing", "osft"},  # a tenth of eight directions is less than one
    "language": {"slca", "layer_freezing", "hft"},  # a single tensor
    "diffusion": {"slca", "layer_freezing", "osft", "osft_peft"},  # a convolution
}
ONLY_ON_CONFLICT = {"agem", "agem_libero", "agem_of_steps", "gem", "gem_of_steps"}
"""They change a step only where it would harm what was learnt, which these few steps need not."""


class Small(Model):
    """Two weights of a layer, and a bias."""

    def __init__(self):
        self._module = torch.nn.Linear(2, 1)

    @property
    def module(self):
        return self._module

    @property
    def device(self):
        return torch.device("cpu")

    def loss(self, batch, draw):
        raise NotImplementedError

    features = save = loss


def made(name, **changes):
    return build({**SETTINGS[name], **changes}, Method)


def learnt(bed, model, method):
    for experience in bed.stream.experiences[:2]:
        for _ in Learning(model, method, experience, bed.data[experience.index], bed.tiny, 0, experience.index * 6):
            pass
    return torch.cat([parameter.detach().flatten() for parameter in model.module.parameters()])


def only_the_output_layer(bed):
    model = bed.make_model(0)
    outputs = model.roles().outputs
    for name, parameter in model.module.named_parameters():
        parameter.requires_grad_(name in outputs)
    return model


@pytest.fixture(scope="module", params=["policy_regression", "language", "diffusion"])
def bed(request):
    return small_bed(request.param)


@pytest.fixture(scope="module")
def plain(bed):
    """The weights after plain fine-tuning of the output layer."""
    model, method = only_the_output_layer(bed), Method()
    method.attach(model, 0)
    return learnt(bed, model, method)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_model_of_which_nothing_is_trained(bed, name):
    model, method = bed.make_model(0), made(name)
    if method.needs - model.abilities:
        pytest.skip(f"{name} is refused on {bed.name}")
    model.module.requires_grad_(False)
    with pytest.raises(ConfigurationError, match=r"nothing of .* is trained: each of its param") as found:
        method.attach(model, 0)
    assert len(str(found.value)) <= 300


@pytest.mark.parametrize("name", METHODS)
def test_a_frozen_backbone(bed, plain, name):
    """What is not refused learns other weights than plain fine-tuning does."""
    model, method = only_the_output_layer(bed), made(name)
    if method.needs - model.abilities:
        pytest.skip(f"{name} is refused on {bed.name}")
    if name in REFUSED[bed.name]:
        with pytest.raises(ConfigurationError, match=r"nothing") as found:
            method.attach(model, 0)
        assert len(str(found.value)) <= 400
        assert "\n" not in str(found.value)
        return
    method.attach(model, 0)
    assert name in ONLY_ON_CONFLICT or not torch.equal(learnt(bed, model, method), plain)


@pytest.mark.parametrize("name", NEUTRAL)
def test_who_asks_for_nothing_gets_it(bed, plain, name):
    model, method = only_the_output_layer(bed), made(name, **NEUTRAL[name])
    if method.needs - model.abilities:
        pytest.skip(f"{name} is refused on {bed.name}")
    method.attach(model, 0)
    assert torch.equal(learnt(bed, model, method), plain)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_preset_asks_for_an_edit(name):
    assert made(name).acts == (name != "sequential")


@pytest.mark.parametrize("name", [name for name in NEUTRAL if name != "sequential"])
def test_who_asks_for_nothing_says_so_and_does_not_work_alone(name):
    first = {"from_task": 1} if "from_task" in SETTINGS[name] else {}
    method = made(name, **NEUTRAL[name], **first)
    assert not method.acts
    assert not method.works_alone


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("slca", {"slow": [], "from_task": 1}),
        ("layer_freezing", {"frozen": [], "from_task": 1}),
        ("retain", {"share": 1.0, "shares": {"head.*": 1.0}, "from_task": 1}),
        ("packnet", {"prune_share": 0.0}),
        ("l2_sp", {"strength": 0.0}),
        ("osft", {"rank_schedule": [0.0, 0.0]}),
        ("osft", {"tasks": 1}),
        ("m2distill", {"strength": 0.0, "strengths": {"vision": 0.0}, "outputs_strength": 0.0}),
    ],
)
def test_other_ways_to_ask_for_nothing(name, changes):
    method = made(name, **changes)
    assert not method.acts
    assert not method.works_alone


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("weight_merging", {"mode": "average"}),
        ("weight_merging", {"share": 1.0, "shares": {"head.*": 0.5}}),
        ("packnet", {"prune_share": 0.0, "train_rest": "never"}),
        ("der", {"alpha": 0.0, "beta": 0.5}),
        ("m2distill", {"strength": 0.0, "strengths": {"vision": 1.0}, "outputs_strength": 0.0}),
        ("generative_distillation", {"strength": 0.0}),
        ("slca", {"slow_share": 0.0}),
    ],
)
def test_a_zero_that_edits_all_the_same(name, changes):
    assert made(name, **changes).acts


def test_tensors_too_few_for_the_share_are_refused(bed):
    model = bed.make_model(0)
    count = sum(parameter.requires_grad for parameter in model.module.parameters())
    made("hft", frozen_share=1.01 / count).attach(model, 0)
    with pytest.raises(ConfigurationError, match=rf"frozen_share is 0.001.* {count} tensors .*would freeze nothing"):
        made("hft", frozen_share=0.001).attach(model, 0)


@pytest.mark.parametrize("name", ["mofo", "packnet"])
def test_tensors_too_small_for_the_method_are_refused(name):
    """MoFO leaves vectors alone; of a layer of two weights, a tenth is less than one."""
    model, small = Small(), {"packnet": {"prune_share": 0.1}}.get(name, {})
    model.module.weight.requires_grad_(name != "mofo")
    with pytest.raises(ConfigurationError, match=rf"method {name!r} would .* nothing"):
        made(name, **small).attach(model, 0)
