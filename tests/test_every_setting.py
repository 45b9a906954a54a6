"""Every setting of every configuration, given every kind of wrong value: used, or refused in one sentence at once."""

import copy
import math
import re
from pathlib import Path

import pytest
import yaml
from method_presets import method_preset

from vla_cl.config.compose import build, choices, compose
from vla_cl.interfaces import Method
from vla_cl.run import root as run
from vla_cl.settings.checks import checked
from vla_cl.types import ConfigurationError, InterfaceSpec

CONF = Path(__file__).parent / "conf"
POINTS = ["plugins=[toy_world]", "suite=point", "stream=points", "policy=tiny", "method=er", "device=cpu", "threads=1",
          "evaluation.replan_every=2"]  # fmt: skip
WRONG = [None, "text", "", -1, -0.5, 0, math.inf, math.nan, [1], [], {"a": 1}, True, 1e18, 10**12]
TYPED = ["null", "text", "-1", "1e400", "[1]", "{a: 1}"]
LONGEST = 300


def leaves(settings, prefix=""):
    for key, value in settings.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")


def with_value(settings, name, value):
    changed = copy.deepcopy(settings)
    holder = changed
    *groups, key = name.split(".")
    for group in groups:
        holder = holder[group]
    holder[key] = value
    return changed


def refused_or_used(use, settings, what):
    """What came of it: a sentence, or nothing if the value can be used."""
    try:
        use(settings)
    except ConfigurationError as error:
        message = str(error)
        assert len(message) <= LONGEST, f"{what}: {message}"
        assert "\n" not in message, f"{what}: {message}"
        return message
    return None


@pytest.mark.parametrize("root", ["config", "evaluate", "bench"])
def test_values_out_of_bounds(root):
    settings = compose([], root=root)
    for name in leaves(settings):
        for value in WRONG:
            refused_or_used(lambda changed: checked(changed, root), with_value(settings, name, value), (name, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threads", 100_000), ("threads", -1), ("train_seed", -1), ("train_seed", 2**40), ("cache_dir", None),
        ("device", "gpu"), ("device", 0), ("evaluation.episodes", 0), ("evaluation.deadline", math.inf),
        ("demonstrations.noise", -0.1), ("demonstrations.episodes", 10**12), ("training.weight_decay", math.nan),
        ("training.steps", True), ("tracking", 3), ("training", None), ("suite", "metaworld"), ("plugins", "a b"),
        ("name", "a/b"), ("name", ".."), ("output_dir", ""), ("arrangement", "jont"), ("stream.name", None),
        ("policy.type", None), ("evaluation.untrained", "yes"),
    ],
)  # fmt: skip
def test_these_are_refused(name, value):
    settings = compose([])
    assert refused_or_used(lambda changed: checked(changed, "config"), with_value(settings, name, value), name)


@pytest.mark.parametrize("method", choices("method"))
def test_values_of_a_method(method):
    settings = compose([f"method={method}"])
    for name in (name for name in leaves(settings) if name.startswith("method.")):
        for value in WRONG:
            refused_or_used(
                lambda changed: build(checked(changed, "config")["method"], Method),
                with_value(settings, name, value),
                (name, value),
            )


@pytest.mark.parametrize("suite", choices("suite"))
def test_values_of_a_suite_and_its_stream(suite):
    stream = {"metaworld": "metaworld_demo", "robosuite": "robosuite_6"}.get(suite, suite)
    settings = compose([f"suite={suite}", f"stream={stream if stream in choices('stream') else 'datasets'}"])
    for name in (name for name in leaves(settings) if name.startswith(("suite.", "stream."))):
        for value in WRONG:
            refused_or_used(
                lambda changed: run.sources(checked(changed, "config")),
                with_value(settings, name, value),
                (name, value),
            )


@pytest.mark.parametrize("policy", sorted(set(choices("policy")) - {"eo1"}))  # eo1 asks the hub
def test_values_of_a_policy(policy):
    from vla_cl.models.policy_config import policy_config

    spec = InterfaceSpec({"observation.image": (96, 96)}, 4, 4)

    def use(changed):
        fields = dict(checked(changed, "config")["policy"])
        policy_config(fields.pop("type"), fields, spec, "cpu")

    settings = compose([f"policy={policy}"])
    for name in (name for name in leaves(settings) if name.startswith("policy.") and name != "policy.type"):
        for value in WRONG:
            refused_or_used(use, with_value(settings, name, value), (name, value))


class RecordedError(Exception):
    """Everything was found in order."""


def record(*_):
    raise RecordedError


@pytest.mark.slow
@pytest.mark.parametrize("value", TYPED)
def test_what_is_typed_is_refused_before_anything_is_recorded(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "demonstrations", record)
    for name in leaves(compose(POINTS, folders=[CONF])):
        try:
            run.train(compose([*POINTS, f"{name}={value}"], folders=[CONF]))
        except ConfigurationError as error:
            assert len(str(error)) <= LONGEST, str(error)
            assert "\n" not in str(error)
        except RecordedError:
            continue  # a value that can be used
        else:
            pytest.fail(f"{name}={value} went past the recording of demonstrations")


def examples_of_methods():
    """(method, setting, value) of every list and mapping that a comment in ``conf/method`` shows for a setting."""
    folder = Path(__file__).parents[1] / "conf" / "method"
    shown = re.compile(r"^(\w+): .*#.* for example ([\[{].*[\]}])", re.MULTILINE)
    return [(path.stem, *found) for path in sorted(folder.glob("*.yaml")) for found in shown.findall(path.read_text())]


@pytest.mark.parametrize(("method", "setting", "value"), examples_of_methods())
def test_examples_in_comments_can_be_typed_as_they_stand(method, setting, value):
    assert compose([f"method={method}", f"method.{setting}={value}"])["method"][setting] == yaml.safe_load(value)


def test_there_are_examples():
    assert {("retain", "shares"), ("slca", "slow"), ("layer_freezing", "frozen"), ("er", "memory")} <= {
        (method, setting) for method, setting, _ in examples_of_methods()
    }


NEVER_FITS = [
    ("layer_freezing", "frozen=[nope.*]", "no parameter matches"),
    ("slca", "slow=[nothing.*]", "no parameter matches"),
    ("retain", "shares={nothing.*: 0.5}", "no parameter matches"),
    ("weight_merging", "shares={nothing.*: 0.5}", "no parameter matches"),
    ("osft", "target=[nothing.*]", "no linear layer matches"),
    ("packnet", "prune_share=1e-9", "weight"),
]


@pytest.mark.parametrize(("method", "setting", "words"), NEVER_FITS)
def test_what_the_policy_does_not_have_is_refused_before_anything_is_recorded(method, setting, words, monkeypatch):
    """The method meets the policy's network before its weights are made."""
    monkeypatch.setattr(run, "demonstrations", record)
    settings = compose([*POINTS, "policy=nano_vla", f"method={method}", f"method.{setting}"], folders=[CONF])
    with pytest.raises(ConfigurationError, match=words):
        run.train(settings)


@pytest.mark.parametrize("name", choices("method"))
def test_every_method_meets_a_network_without_weights(name):
    """As it meets the real one: neither is refused, and no weight is looked at."""
    from vla_cl.models.policy_config import check_buildable, policy_config
    from vla_cl.models.vla import VlaModel

    spec = InterfaceSpec({"observation.images.top": (64, 64)}, 4, 4)
    method = build(method_preset(name), Method, [])
    method.require_length(2)
    network = check_buildable(policy_config("nano_vla", {}, spec, "cpu"))
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    model = VlaModel(network, None, None)
    if method.needs <= model.abilities:
        method.attach(model, 0)
    else:
        with pytest.raises(ConfigurationError, match="needs"):
            method.attach(model, 0)
