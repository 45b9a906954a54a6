import pytest
from toy_world import PointSuite

from vla_cl.compose import build, choices, compose
from vla_cl.interfaces import Method, Suite
from vla_cl.types import ConfigurationError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method=ewcc", "unknown method 'ewcc'"),
        ("stream=cw11", "did you mean 'cw10'"),
        ("suite=metawrld", "did you mean 'metaworld'"),
        ("metod=er", "unknown key 'metod'; did you mean 'method'"),
        ("training.step=5", "did you mean 'training.steps'"),
        ("foo", "expected key=value"),
    ],
)
def test_misspelt_settings_name_the_nearest(override, message):
    with pytest.raises(ConfigurationError, match=message):
        compose([override])


@pytest.mark.parametrize("method", choices("method"))
def test_every_method_yaml_builds(method):
    settings = compose([f"method={method}"])
    part = build(settings["method"], Method)
    assert part.name == method


@pytest.mark.parametrize("suite", choices("suite"))
def test_every_suite_yaml_builds(suite):
    part = build(compose([f"suite={suite}"])["suite"], Suite)
    assert bool(part.tasks()) == (suite != "none")


@pytest.mark.parametrize("stream", [name for name in choices("stream") if name != "datasets"])
def test_every_stream_yaml_names_tasks_that_exist(stream):
    from vla_cl.run import sources

    suite = compose([f"stream={stream}"])["stream"].get("suite", "metaworld")
    found = sources(compose([f"stream={stream}", f"suite={suite}"]))
    assert len(found.stream) == len({experience.name for experience in found.stream})


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_composes(experiment):
    assert compose([f"experiment={experiment}"])


def test_a_class_from_a_listed_package_is_allowed():
    part = build({"name": "p", "class": "toy_world:PointSuite", "render_profile": "x"}, Suite, plugins=["toy_world"])
    assert isinstance(part, PointSuite)
    assert part.name == "p"


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("os:system", "not in an allowed package"),
        ("toy_world:PointSuite", "not in an allowed package"),
        ("vla_cl.methods.er:__import__('os')", "expected a class as package.module:Class"),
        ("vla_cl.methods.er:Mixing", "is no Suite"),
        ("vla_cl.methods.er:ExperienceReplay", "is no Suite"),
        ("vla_cl.compose:build", "is no Suite"),
        ("vla_cl.envs.mojoco:Thing", "does not exist"),
        ("", "expected a class"),
    ],
)
def test_other_classes_are_refused(location, message):
    with pytest.raises(ConfigurationError, match=message):
        build({"class": location}, Suite)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.samples_per_task=many", "must be of type int; got 'many'"),
        ("method.samples_per_task=1.5", "must be of type int"),
        ("method.mixing=shaken", "must be one of added, replaced"),
        ("+method.size=3", "has no setting 'size'"),
    ],
)
def test_arguments_are_checked_against_the_constructor(override, message):
    with pytest.raises(ConfigurationError, match=message):
        build(compose(["method=er", override])["method"], Method)


def test_an_integer_is_a_float_where_one_is_due():
    assert build(compose(["method=er", "method.share=2"])["method"], Method).share == 2.0
