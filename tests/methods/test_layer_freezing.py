import pytest
import torch
from tiny_distillable import TinyDistillable, assert_continues_after_resume, assert_sequential, run, weights
from tiny_model import TinyModel, experience

from vla_cl.methods.layer_freezing import LayerFreezing
from vla_cl.types import ConfigurationError, Roles

ENCODERS = {"vision.weight", "vision.bias", "state.weight", "state.bias"}


def moved(model, method, task):
    """The tensors that learning a task changes."""
    before = weights(model)
    run(model, method, [task], attach=False)  # with weight decay
    return {name for name, value in weights(model).items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("options", [{"first_share": 0.0}, {"frozen": []}])
def test_freezing_nothing_is_sequential(options):
    assert_sequential(TinyDistillable, LayerFreezing(**options))


def test_what_is_frozen_is_trained_in_the_first_task_only_and_then_stays_bit_for_bit():
    model, method = TinyDistillable(), LayerFreezing(frozen=["vision.*", "state.*"])
    method.attach(model, 5)
    assert moved(model, method, 0) == ENCODERS | {"head.weight", "head.bias"}
    for task in (1, 2):
        assert moved(model, method, task) == {"head.weight", "head.bias"}
        assert [p.requires_grad for p in model.module.parameters()] == [False] + [True] * 6
        assert all(p.grad is None for p in model.module.parameters())


def test_from_task_says_when():
    for start in (1, 3):
        model, method = TinyDistillable(), LayerFreezing(frozen=["vision.*"], from_task=start)
        method.attach(model, 5)
        frozen = ["vision.weight" not in moved(model, method, task) for task in range(4)]
        assert frozen == [task + 1 >= start for task in range(4)]


def test_without_patterns_the_first_share_of_what_is_trained_is_frozen_to_within_half_a_tensor():
    # In order: vision 8 + 4, state 3 + 3, head 14 + 2: 34 are trained; scale's 9 never are.
    for share, expected in (
        (0.12, {"vision.weight"}),  # 4.1: 8 is as near as 0
        (0.29, {"vision.weight"}),  # 9.9
        (0.31, {"vision.weight", "vision.bias"}),  # 10.5
        (0.5, ENCODERS),  # 17
        (0.99, ENCODERS),  # the output layer is trained
    ):
        model, method = TinyDistillable(), LayerFreezing(first_share=share)
        method.attach(model, 5)
        run(model, method, [0], attach=False)
        assert (ENCODERS | {"head.weight", "head.bias"}) - moved(model, method, 1) == expected, share


class Reordered(TinyDistillable):
    """Says that the state is used before the picture, and the bias of that layer not at all when acting."""

    def roles(self):
        forward = (
            "state.weight",
            "state.bias",
            "vision.weight",
            "vision.bias",
            "scale.weight",
            "head.weight",
            "head.bias",
        )
        return Roles(forward, frozenset({"head.weight", "head.bias"}), frozenset({"state.bias"}))


def test_the_model_tells_the_order_and_what_acts():
    # state's weight 3, vision 8 + 4, head 14 + 2: 31 are trained and act.
    for share, expected in ((0.1, {"state.weight"}), (0.5, {"state.weight", "vision.weight", "vision.bias"})):
        model, method = Reordered(), LayerFreezing(first_share=share)
        method.attach(model, 5)
        run(model, method, [0], attach=False)
        assert (ENCODERS | {"head.weight", "head.bias"}) - moved(model, method, 1) == expected, share


class Silent(TinyDistillable):
    def roles(self):
        return None


def test_a_model_that_does_not_tell_wants_patterns():
    with pytest.raises(
        ConfigurationError, match=r"Silent does not tell which .* give method\.frozen, patterns of names"
    ):
        LayerFreezing().attach(Silent(), 0)
    LayerFreezing(frozen=["vision.*"]).attach(Silent(), 0)
    assert_sequential(Silent, LayerFreezing(first_share=0.0))


def test_where_nothing_would_be_frozen_it_refuses():
    with pytest.raises(ConfigurationError, match=r"method\.first_share freezes nothing of TinyDistillable"):
        LayerFreezing(first_share=0.1).attach(TinyDistillable(), 0)
    with pytest.raises(ConfigurationError, match=r"method\.frozen freezes nothing .*is not trained anyway"):
        LayerFreezing(frozen=["scale.*"]).attach(TinyDistillable(), 0)
    model = TinyDistillable()
    for name, parameter in model.module.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    with pytest.raises(ConfigurationError, match=r"method\.first_share freezes nothing of TinyDistillable"):
        LayerFreezing().attach(model, 0)


def test_the_trained_part_learns_as_if_the_rest_were_constant():
    model, method = TinyDistillable(fixed=True), LayerFreezing(frozen=["vision.*", "state.*"])
    run(model, method, [0])
    other = TinyDistillable(fixed=True)
    other.module.load_state_dict(weights(model))
    for name in ("vision", "state"):
        getattr(other.module, name).requires_grad_(False)
    run(model, method, [1], attach=False)
    from vla_cl.interfaces import Method

    run(other, Method(), [1])
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(model).items())


def test_it_continues_after_a_resume():
    assert_continues_after_resume(TinyDistillable, LayerFreezing)


def test_it_keeps_nothing():
    method = LayerFreezing(frozen=["weight"])
    run(TinyModel(), method, [0, 1])
    assert method.memory_bytes() == 0


def test_an_unknown_pattern_and_a_model_with_nothing_left_to_train_are_refused():
    with pytest.raises(ConfigurationError, match=r"method.frozen: no parameter matches 'vison.\*'; did you mean"):
        LayerFreezing(frozen=["vison.*"]).attach(TinyDistillable(), 0)
    with pytest.raises(ConfigurationError, match=r"method\.frozen freezes every parameter of TinyDistillable"):
        LayerFreezing(frozen=["vision.*", "state.*", "head.*"]).attach(TinyDistillable(), 0)
    model = TinyDistillable()
    for parameter in model.module.head.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ConfigurationError, match=r"method\.first_share freezes every parameter"):
        LayerFreezing(first_share=1.0).attach(model, 0)


@pytest.mark.parametrize("share", [1.0, 0.99999])
def test_of_all_that_is_trained_the_output_layers_learn_on(share):
    model, method = TinyDistillable(), LayerFreezing(first_share=share)
    method.attach(model, 0)
    run(model, method, [0])
    method.begin_task(experience(1))
    learning = {name for name, parameter in model.module.named_parameters() if parameter.requires_grad}
    assert learning == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_share": 1.5}, "method.first_share must be between 0 and 1; got 1.5"),
        ({"frozen": "vision.*"}, "method.frozen must be a list of patterns"),
        ({"from_task": 0}, "method.from_task must be a whole number between 1 and"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        LayerFreezing(**options)
