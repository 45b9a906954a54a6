import pytest
from method_presets import method_preset
from toy_world import PointSuite

from vla_cl.config.compose import build, checked_arguments, choices, compose
from vla_cl.interfaces import Method, Suite
from vla_cl.rollout.evaluation import EvaluationSettings
from vla_cl.run.check import run_name
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
    assert method_preset(method) == settings["method"]


@pytest.mark.parametrize("suite", choices("suite"))
def test_every_suite_yaml_builds(suite):
    part = build(compose([f"suite={suite}"])["suite"], Suite)
    assert bool(part.tasks()) == (suite != "none")


@pytest.mark.parametrize("stream", [name for name in choices("stream") if name != "datasets" and name[:4] != "bed_"])
def test_every_stream_yaml_names_tasks_that_exist(stream):
    from vla_cl.run.root import sources

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
        ("vla_cl.config.compose:build", "is no Suite"),
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
        ("method.samples_per_task=many", "^method.samples_per_task must be of type int; got 'many'"),
        ("method.samples_per_task=1.5", "must be of type int"),
        ("method.mixing=shaken", "^method.mixing must be one of added, replaced"),
        ("+method.size=3", "there is no setting method.size of ExperienceReplay"),
    ],
)
def test_arguments_are_checked_against_the_constructor(override, message):
    with pytest.raises(ConfigurationError, match=message):
        build(compose(["method=er", override])["method"], Method)


def test_an_integer_is_a_float_where_one_is_due():
    assert build(compose(["method=er", "method.share=2"])["method"], Method).share == 2.0


def test_settings_are_named_as_they_are_typed():
    with pytest.raises(ConfigurationError, match=r"^suite\.image_size must be of type int; got 'wide'"):
        build({**compose(["suite=metaworld"])["suite"], "image_size": "wide"}, Suite)
    with pytest.raises(ConfigurationError, match=r"^evaluation\.episodes must be of type int; got 'many'"):
        checked_arguments(EvaluationSettings, {"episodes": "many"})


ODD_VALUES = ("linear", 0.5, 3, True, None, float("nan"), float("inf"), -1, ["a", "b"], [1, 2], [[1]], {"a": "b"},
              {"a": 1}, {"a": None}, [], {})  # fmt: skip


@pytest.mark.parametrize("name", choices("method"))
def test_a_value_of_a_wrong_type_is_refused_by_the_name_of_its_setting(name):
    settings = method_preset(name)
    for setting in settings.keys() - {"class", "name"}:
        refused = 0
        for value in ODD_VALUES:
            try:
                build({**settings, setting: value}, Method)
            except ConfigurationError as error:
                assert f"method.{setting}" in str(error), (setting, value, str(error))
                refused += 1
        assert refused >= len(ODD_VALUES) // 2, setting


def test_no_two_runs_of_one_stream_and_seed_share_a_name():
    settings = compose([])
    arrangements = ("sequential", "joint", "independent")
    names = {
        (method, arrangement): run_name(settings | {"method": {"name": method}, "arrangement": arrangement})
        for method in choices("method")
        for arrangement in arrangements
    }
    assert len(set(names.values())) == len(names)
    start = "metaworld_demo"
    assert [names["er", arrangement] for arrangement in arrangements] == [
        f"{start}-er-seed0", f"{start}-er-joint-seed0", f"{start}-er-independent-seed0"
    ]  # fmt: skip
    # as versions before named them, so that the same command goes on in the folders they began
    assert [names["sequential", arrangement] for arrangement in arrangements] == [
        f"{start}-sequential-seed0", f"{start}-joint-seed0", f"{start}-independent-seed0"
    ]  # fmt: skip


def test_a_name_that_is_given_is_the_name():
    assert run_name(compose(["name=mine", "method=er", "arrangement=joint"])) == "mine"
