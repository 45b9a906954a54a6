"""Every method in every arrangement, driven as users drive it: cut at any border, a run ends as the undisturbed one.

And a reference is one: alone, every experience is learnt as by a run that has no other.
"""

import shutil

import pytest
from composed import composed
from method_neutral import VARIANTS, method_settings

from vla_cl.config.compose import build
from vla_cl.interfaces import Method
from vla_cl.run import root as run
from vla_cl.types import Ability, ConfigurationError

SETTINGS = method_settings()
METHODS = {name: build(settings, Method) for name, settings in SETTINGS.items()}
POLICY = [name for name, method in METHODS.items() if Ability.GENERATION not in method.needs]
TINY = ["stream=datasets", "policy.image_size=16", "policy.chunk_size=4", "policy.n_action_steps=2",
        "policy.vision_channels=[8,8,8]", "policy.num_keypoints=4", "policy.hidden_size=16", "policy.condition_size=16",
        "device=cpu", "threads=1", "training.steps=2", "training.batch_size=4"]  # fmt: skip
ALONE = {
    "sequential": {},
    "l2_sp": {},
    "packnet": {},
    "packnet_libero": {},
    "hft": {"from_task": 1},
    "layer_freezing": {"from_task": 1},
    "mofo": {"from_task": 1},
    "osft": {"rank_schedule": "[0.5,0.5]"},
    "slca": {"from_task": 1},
    "retain": {"from_task": 1},
    "weight_merging": {"from_task": 1},
}
"""Methods that edit a first task, and the settings with which they do."""


@pytest.fixture(scope="module")
def train(point_datasets, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def start(folder, name, *overrides, datasets=(0, 1, 2), **settings):
        roots = ",".join(str(point_datasets[number]) for number in datasets)
        preset, changes = VARIANTS.get(name, (name, {}))
        own = [f"method.{key}={value}" for key, value in {**changes, **settings}.items()]
        given = [*TINY, f"stream.datasets=[{roots}]", f"method={preset}", *own, *overrides]
        return run.train(composed(*given, cache_dir=cache, output_dir=folder))

    return start


@pytest.fixture(scope="module")
def undisturbed(train, tmp_path_factory):
    """The run of a method with all three tasks in sequence; made once."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = train(tmp_path_factory.mktemp("runs") / name, name)
        return made[name]

    return of


def learnt(checkpoint):
    """All that a checkpoint knows of weights and method, byte by byte."""
    files = [checkpoint / "pretrained_model" / "model.safetensors", *sorted((checkpoint / "cl_state").iterdir())]
    return {file.name: file.read_bytes() for file in files}


def cut(folder, to, border):
    """The run as a kill right after its ``border``-th checkpoint leaves it."""
    shutil.copytree(folder, to, symlinks=True)
    for checkpoint in (to / "checkpoints").glob("[0-9]*"):
        if int(checkpoint.name) > border:
            shutil.rmtree(checkpoint)
    return to


@pytest.mark.parametrize("name", POLICY)
def test_a_run_cut_at_any_border_ends_as_the_undisturbed_one(train, undisturbed, tmp_path, name):
    whole = undisturbed(name)
    for border in (1, 2):
        again = cut(whole, tmp_path / str(border), border)
        train(again, name)
        for number in ("001", "002", "003"):
            assert learnt(again / "checkpoints" / number) == learnt(whole / "checkpoints" / number)


@pytest.mark.parametrize("name", ALONE)
def test_alone_every_experience_is_learnt_as_by_a_run_that_has_no_other(train, tmp_path, name):
    whole = train(tmp_path / "whole", name, "arrangement=independent", **ALONE[name])
    cut_once = cut(whole, tmp_path / "cut", 1)
    train(cut_once, name, "arrangement=independent", **ALONE[name])
    for number in (1, 2):
        alone = train(tmp_path / f"alone-{number}", name, datasets=(number,), **ALONE[name])
        expected = learnt(alone / "checkpoints" / "001")
        assert learnt(whole / "checkpoints" / f"{number + 1:03d}") == expected
        assert learnt(cut_once / "checkpoints" / f"{number + 1:03d}") == expected


@pytest.mark.parametrize("arrangement", ["joint", "independent"])
@pytest.mark.parametrize("name", ["ewc", "er", "weight_merging", "generative_replay"])
def test_a_method_that_begins_with_the_second_task_is_refused_where_there_is_none(train, tmp_path, name, arrangement):
    with pytest.raises(
        ConfigurationError, match=rf"begins with the second experience, but with arrangement={arrangement}"
    ):
        train(tmp_path / "run", name, f"arrangement={arrangement}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arrangement", ["joint", "independent"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("hft", {"frozen_share": 0, "from_task": 1}),
        ("retain", {"share": 1, "from_task": 1}),
        ("l2_sp", {"strength": 0}),
    ],
)
def test_settings_that_ask_for_nothing_are_refused_where_there_is_no_sequence(
    train, tmp_path, name, settings, arrangement
):
    with pytest.raises(ConfigurationError, match=rf"would change nothing .* and arrangement is {arrangement}; use"):
        train(tmp_path / "run", name, f"arrangement={arrangement}", **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", POLICY)
def test_what_a_method_says_of_a_first_task_is_true(undisturbed, name):
    """Whether it edits one: whether the weights differ from those of sequential fine-tuning after it."""
    ours, plain = (learnt(undisturbed(which) / "checkpoints" / "001") for which in (name, "sequential"))
    same = ours["model.safetensors"] == plain["model.safetensors"]
    assert same == (not METHODS[name].works_alone or name == "sequential")


@pytest.mark.parametrize("name", [name for name, settings in ALONE.items() if settings])
def test_with_other_settings_it_edits_a_first_task(train, undisturbed, tmp_path, name):
    folder = train(tmp_path / "run", name, "arrangement=joint", datasets=(0,), **ALONE[name])
    ours, plain = (learnt(which / "checkpoints" / "001") for which in (folder, undisturbed("sequential")))
    assert ours["model.safetensors"] != plain["model.safetensors"]
