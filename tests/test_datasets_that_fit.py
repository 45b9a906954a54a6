"""What is accepted beforehand is learnt, and what does not fit together is refused or said beforehand."""

import json
import shutil
from itertools import permutations

import pytest
from dataset_streams import CONF, POINT, SMALL, refusal, settings, train
from odd_datasets import make_dataset

from vla_cl.config.compose import compose
from vla_cl.models.stored_policy import noted_conventions
from vla_cl.run import root as run
from vla_cl.run.check import check


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def plain_and_own(folder, point_datasets):
    """A robot's dataset that says nothing of its conventions, and one that was recorded here."""
    return [make_dataset(folder / "plain", [("wave", 6)], {"observation.image": (16, 16)}, 2, 2), point_datasets[0]]


@pytest.mark.parametrize(
    "arranged", ["arrangement=joint", "stream.experiences=[{name: x, tasks: [wave, go to the red side]}]", "name=s"]
)
@pytest.mark.parametrize("turned", [False, True])
def test_own_recordings_and_plain_datasets_are_learnt_together(arranged, turned, point_datasets, cache, tmp_path):
    roots = plain_and_own(tmp_path, point_datasets)[:: -1 if turned else 1]
    folder = train(cache, tmp_path / "run", "stream=datasets", arranged, datasets=roots)
    note = json.loads(max(folder.glob("checkpoints/*/pretrained_model/vla_cl.json")).read_text())
    known = json.loads((point_datasets[0] / "meta" / "vla_cl.json").read_text())["spec"]
    assert note["control_mode"] == known["control_mode"]
    assert note["image_orientation"] == known["image_orientation"]


def test_other_rates_that_are_accepted_are_learnt_together(cache, tmp_path):
    roots = [
        make_dataset(tmp_path / name, [("wave", 6)], {"observation.image": (16, 16)}, 2, 2, fps=fps, seed=fps)
        for name, fps in (("slow", 5), ("fast", 50))
    ]
    for number, more in enumerate([(), ("arrangement=joint",)]):
        train(cache, tmp_path / str(number), "stream=datasets", "data.check_fps=false", *more, datasets=roots)


@pytest.mark.parametrize("modes", list(permutations((None, "relative", "absolute"))))
def test_conventions_that_contradict_are_refused_in_any_order(modes, cache, tmp_path):
    roots = []
    for number, mode in enumerate(modes):
        roots.append(make_dataset(tmp_path / str(number), [(f"task {number}", 3)], seed=number))
        note = {"spec": {"control_mode": mode}} if mode else {}
        (roots[-1] / "meta" / "vla_cl.json").write_text(json.dumps(note))
    sentence = refusal(settings(cache, tmp_path / "run", "stream=datasets", datasets=roots))
    assert [word for word in ("same control mode", "relative", "absolute") if word not in sentence] == []


# --- with a suite


def test_datasets_that_shall_stay_apart_are_not_merged_in_a_suite(cache, tmp_path):
    image = {"observation.image": (16, 16)}
    roots = [make_dataset(tmp_path / name, [(f"go to the {side} side", 3)], image, 2, 2, seed=seed)
             for seed, (name, side) in enumerate([("a", "red"), ("b", "red"), ("c", "green")])]  # fmt: skip
    apart = "data.same_instruction=separate"
    chosen = [*POINT, apart, "stream=datasets", "stream.check_orientation=false"]
    sentence = refusal(settings(cache, tmp_path / "run", *chosen, datasets=roots))
    assert [word for word in ("/a and", "/b shall stay apart", "point/red") if word not in sentence] == []
    order = [*POINT, apart, "stream=points", "stream.tasks=[red]", "data.check_orientation=false"]
    listed = ",".join(f"'{root}'" for root in roots)
    assert "stay apart" in refusal(settings(cache, tmp_path / "run", *order, f"data.datasets=[{listed}]"))
    assert len(check(settings(cache, tmp_path / "run", *chosen, datasets=roots[1:])).found.stream) == 2
    assert len(check(settings(cache, tmp_path / "run", apart, "stream=datasets", datasets=roots)).found.stream) == 3


def test_the_same_dataset_at_two_places_is_refused(cache, tmp_path):
    one = make_dataset(tmp_path / "one", [("wave", 3)])
    again = shutil.copytree(one, tmp_path / "again")
    sentence = refusal(settings(cache, tmp_path / "run", "stream=datasets", datasets=[one, again]))
    assert "one and" in sentence
    assert "again are the same dataset" in sentence


def test_pictures_of_another_size_than_the_suites_are_said(cache, tmp_path):
    for size, words in (((24, 40), ["24x40", "16x16", "another shape"]), ((32, 32), ["32x32"]), ((16, 16), [])):
        root = make_dataset(tmp_path / "d", [("go to the red side", 3)], {"observation.image": size}, 2, 2)
        chosen = settings(cache, tmp_path / "run", *POINT, "stream=datasets", "stream.check_orientation=false",
                          datasets=[root])  # fmt: skip
        said = [note for note in check(chosen).notes if "in the suite (height x width" in note]
        assert len(said) == bool(words)
        assert all(word in said[0] for word in words)
        assert not said or ("another shape" in said[0]) == (size[0] != size[1])


@pytest.mark.parametrize(("fields", "refused"), [([], True), (["policy.resize_shape=[48,64]"], False)])
def test_a_policy_of_one_picture_size_is_refused_where_the_suites_is_another(fields, refused, cache, tmp_path):
    root = make_dataset(tmp_path / "d", [("go to the red side", 8)], {"observation.image": (64, 96)}, 2, 2)
    small = [
        "pretrained_backbone_weights=null",
        "n_obs_steps=1",
        "horizon=8",
        "n_action_steps=4",
        "down_dims=[16,32,64]",
    ]
    policy = ["policy=diffusion", *(f"policy.{field}" for field in small), *fields]
    chosen = [*(item for item in SMALL if item != "policy=tiny"), *policy, *POINT, "stream.check_orientation=false"]
    composed = compose(
        ["stream=datasets", *chosen, f"cache_dir={cache}", f"output_dir={tmp_path / 'run'}"], folders=[CONF]
    )
    composed["stream"]["datasets"] = [str(root)]
    if refused:
        sentence = refusal(composed)
        assert [word for word in ("64x96", "16x16", "policy.resize_shape") if word not in sentence] == []
    else:
        assert (run.train(composed) / "matrix.json").is_file()


@pytest.mark.parametrize("setting", ["output_dir", "cache_dir"])
@pytest.mark.parametrize("inside", ["", "data/x", "meta", "videos/a/b", "runs"])
def test_nothing_is_written_into_a_dataset(setting, inside, cache, tmp_path):
    """It would be read as a part of the dataset, which then is another one."""
    root = make_dataset(tmp_path / "d", [("lift", 4)], {"observation.image": (16, 16)}, 2, 2)
    (tmp_path / "link").symlink_to(root)
    for where in (root, tmp_path / "link"):
        chosen = settings(cache, tmp_path / "run", "stream=datasets", f"{setting}={where / inside}", datasets=[root])
        assert f"{setting}=" in (sentence := refusal(chosen))
        assert "lies inside the dataset" in sentence


@pytest.mark.parametrize(("rates", "noted"), [((10, 10), 10), ((10, 20), None)])
def test_a_checkpoint_notes_the_rate_of_its_data_or_none(rates, noted, cache, tmp_path):
    roots = [
        make_dataset(tmp_path / str(n), [(text, 4)], {"observation.image": (16, 16)}, 2, 2, fps=fps, seed=n)
        for n, (text, fps) in enumerate(zip(("lift", "push"), rates, strict=True))
    ]
    start = train(cache, tmp_path / "start", "stream=datasets", datasets=[roots[0]])
    for more, folder in ((), tmp_path / "new"), ((f"warm_start={start}",), tmp_path / "warm"):
        train(cache, folder, "stream=datasets", "data.check_fps=false", *more, datasets=roots)
        for number in ("001", "002"):
            assert noted_conventions(folder / "checkpoints" / number / "pretrained_model")["fps"] == noted
    other = make_dataset(tmp_path / "other", [("lift", 4)], {"observation.image": (16, 16)}, 2, 2, fps=25, seed=3)
    train(cache, tmp_path / "faster", "stream=datasets", f"warm_start={start}", datasets=[other])
    assert noted_conventions(tmp_path / "faster" / "checkpoints" / "001" / "pretrained_model")["fps"] == 25


def test_what_is_learnt_together_is_said_of_tasks_in_the_stream_only(cache, tmp_path):
    texts = (("lift", "push"), ("lift", "pull"))
    roots = [
        make_dataset(tmp_path / str(n), [(text, 4) for text in told], {"observation.image": (16, 16)}, 2, 2, seed=n)
        for n, told in enumerate(texts)
    ]
    for chosen, said in ((), 1), (("stream.tasks=[pull]",), 0), (("stream.tasks=[lift]",), 1):
        notes = check(settings(cache, tmp_path / "run", "stream=datasets", *chosen, datasets=roots)).notes
        assert len([note for note in notes if "learnt together" in note]) == said


def test_instructions_that_the_policy_cannot_tell_apart_are_refused(cache, tmp_path):
    told = "take the cube from the left side of the table and put it carefully into the bowl that is on the very "
    texts = [f"{told}left", f"{told}right"]
    root = make_dataset(
        tmp_path / "d", [(text, 4) for text in texts], {"observation.images.top": (16, 20)}, state=6, action=6
    )
    chosen = ["stream=datasets", "policy=nano_vla", "policy.image_size=16"]
    said = refusal(settings(cache, tmp_path / "run", *chosen, datasets=[root]))
    assert "very left' and" in said
    assert "policy.max_instruction_bytes=106" in said
    check(settings(cache, tmp_path / "run", *chosen, "policy.max_instruction_bytes=106", datasets=[root]))
