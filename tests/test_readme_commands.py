"""Every command that README and docs show is run: on the toy suite, or as it stands with small numbers.

A command that is shown and has no entry in `QUICK`, `SLOW` or `NOT_RUN` fails the test.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from odd_datasets import make_dataset
from parsed_markdown import named_files

from vla_cl.cli.main import main

ROOT = Path(__file__).parents[1]
CONF = str(ROOT / "tests" / "conf")

TOY = ["--conf", CONF, "plugins=[toy_world]", "suite=point", "device=cpu", "threads=1", "evaluation.episodes=2",
       "evaluation.replan_every=2", "evaluation.workers=1", "evaluation.videos=0"]  # fmt: skip
LEARN = ["cache_dir=cache", "training.steps=2", "training.batch_size=2", "demonstrations.episodes=2",
         "demonstrations.workers=1"]  # fmt: skip
TRAIN = [*TOY, *LEARN, "stream=points", "policy=tiny"]
SMALL = [*LEARN, "evaluation.episodes=1", "evaluation.workers=1", "evaluation.slots_per_worker=1", "device=cpu",
         "demonstrations.episodes=1"]  # fmt: skip
BED = ["training.steps=2", "training.batch_size=2", "evaluation.episodes=2", "device=cpu", "threads=1"]
ACT = ["policy.pretrained_backbone_weights=null", "policy.dim_model=16", "policy.n_heads=2", "policy.chunk_size=4",
       "policy.dim_feedforward=16", "policy.n_encoder_layers=1", "policy.n_action_steps=4"]  # fmt: skip

COPIES = '"method.memory={budget: 5 MB, unit: trajectory, keep: copy, encoding: jpeg}"'

CACHE = ["cache_dir=cache"]
CUBES_AND_DRAWER = "'stream.datasets=[~/data/cubes,~/data/drawer]'"
CUBES = "stream=datasets stream.datasets=~/data/cubes"
NANO = ["policy.image_size=16", "policy.chunk_size=4", "policy.n_action_steps=4"]

PLUGIN = "--conf my_plugin/conf plugins=my_plugin"

QUICK = {
    "train stream=cw10 method=er": [*TRAIN, "stream.name=cw10"],
    "train stream=metaworld_6 arrangement=joint": TRAIN,
    "train stream=mt10 arrangement=independent": TRAIN,
    "train stream=bed_diffusion method=er": BED,
    "train stream=bed_language": BED,
    "train stream=bed_language method=er": BED,
    "metrics outputs/bed_language-sequential-seed0": [],
    "report outputs/bed_language-sequential-seed0 outputs/bed_language-er-seed0": [],
    "train stream=bed_language tracking.trackers=tensorboard tracking.project=alphabets name=tracked": BED,
    "report outputs/cw10-er-seed0 outputs/...": [],
    "train stream=metaworld_demo method=sequential train_seed=0,1,2": [*TRAIN, "stream.name=seeds"],
    "train stream=metaworld_demo method=er train_seed=0,1,2": [*TRAIN, "stream.name=seeds"],
    "resume outputs/cw10-er-seed0": ["--conf", CONF, "plugins=[toy_world]"],
    "report outputs/cw10-* --figures outputs/paper": [],
    "report outputs/metaworld_demo-*": [],
    "compare outputs/metaworld_demo-*": [],
    "compare outputs/cw10-*": [],
    "compare outputs/*-[012]": [],
    "metrics outputs/cw10-er-seed0": [],
    "evaluate outputs/cw10-er-seed0 tasks=push evaluation.episodes=50": [*TOY, "tasks=red"],
    "evaluate user/policy suite=libero_object evaluation.replan_every=10": [*TOY, "output_dir=hub"],
    "evaluate random suite=robosuite record=true": [*TOY, "output_dir=random"],
    "list streams": [],
    "collect stream=cw10": TRAIN,
    "train stream=datasets stream.datasets=[my/dataset,/a/folder] policy=act method=er": [*TOY, *LEARN, *ACT],
    f"train {PLUGIN} stream=bed_policy_regression method=anchored method.strength=0.1": BED,
    f"train {PLUGIN} stream=reach_3 method=anchored policy.image_size=32 demonstrations.hold=2": [
        *LEARN, "evaluation.episodes=2", "evaluation.workers=1", "device=cpu", "threads=1",
    ],
    f"train {PLUGIN} stream=reach_3 method=anchored policy=my_plugin demonstrations.hold=2": [
        *LEARN, "evaluation.episodes=2", "evaluation.workers=1", "device=cpu", "threads=1",
    ],
    'train stream=metaworld_demo method=er "method.memory={budget: 25 MB, selection: herding, split: similarity}"': [
        *TRAIN, "stream.name=herding",
    ],
    f"train stream=metaworld_demo method=er {COPIES}": [*TRAIN, "stream.name=copies"],
    "memory outputs/metaworld_demo-er-seed0 --export outputs/memory": ["--plugins", "toy_world"],
    "check stream=datasets stream.datasets=[my/dataset,/a/folder]": CACHE,
    f"check stream=datasets {CUBES_AND_DRAWER}": CACHE,
    f"check stream=datasets {CUBES_AND_DRAWER} 'stream.tasks=[open the drawer,lift the cube]'": CACHE,
    f"check stream=datasets {CUBES_AND_DRAWER} "
    "'stream.experiences=[{name: first, tasks: [open the drawer, lift the cube]}]'": CACHE,
    f"check {CUBES} 'cameras=[top]'": CACHE,
    f"check {CUBES} 'cameras={{camera1: top, camera2: wrist}}'": CACHE,
    f"check {CUBES} 'cameras={{camera1: [cam_high, top]}}'": CACHE,
    f"train stream=datasets {CUBES_AND_DRAWER} method=er name=cubes": LEARN,
    f"train {CUBES} policy=act name=act training.learning_rate=1e-5 training.batch_size=8 training.steps=20000": [
        *LEARN, *ACT,
    ],
    "report outputs/cubes": [],
    "train stream=datasets stream.datasets=~/data/arm data.held_out=0.1 name=arm": [*LEARN, *NANO],
    f"train {CUBES} warm_start=outputs/act normalisation=checkpoint name=more": LEARN,
    f"train stream=datasets {CUBES_AND_DRAWER} method=er "
    "'method.memory={budget: 200 MB, unit: trajectory}' name=two": [
        *LEARN, *NANO,
    ],
    "memory outputs/two --export outputs/two-memory": [],
    "train stream=datasets stream.datasets=~/data/lid warm_start=outputs/two normalisation=checkpoint method=er "
    "'method.memory={budget: 200 MB, unit: trajectory, reuse: outputs/two-memory}' name=three": LEARN,
    "train stream=datasets stream.datasets=~/data/sim suite=metaworld": [*TOY, *LEARN, "policy=tiny", "name=sim"],
}  # fmt: skip
"""Arguments that are added to a command; the last of several values counts."""

SLOW = {
    "train --conf my_conf stream=kitchen method=er": SMALL,
    "train experiment=comparison method=er train_seed=0 name=er-0": SMALL,
    "bench methods rows=[step-ewc,step-er]": ["quick=true", "output=bench.json"],
    "gallery metaworld --output docs/tasks": ["--output", "gallery"],
    "gallery metaworld --output docs/tasks --profiles drawer-open": ["--output", "gallery"],
}
"""Commands that need a simulator or minutes."""

NOT_RUN = {
    "new my_plugin": "another test has imported a package of this name; in test_new_plugin.py",
    "trial outputs/arm --count 5": "asks a person; in test_trial.py",
    "doctor": "asks the machine; in test_doctor.py",
    "report outputs/lines-sequential outputs/lines-er": "the runs of an example; in test_examples.py",
    "check stream=libero_10 suite.order=3 data.datasets=user/libero": "needs a dataset on the hub; with a local one in "
    "test_streams_of_datasets",
    "bench methods rows=[ewc,gem] peer_python=/somewhere/avalanche/bin/python": "needs an environment with avalanche",
}

TRAIN_CUBES = f"train stream=datasets {CUBES_AND_DRAWER} method=er name=cubes"
TRAIN_ACT = next(line for line in QUICK if "name=act" in line)
TRAIN_TWO = next(line for line in QUICK if "name=two" in line)
EXPORT_TWO = "memory outputs/two --export outputs/two-memory"
COMES_AFTER = {
    "metrics outputs/bed_language-sequential-seed0": ["train stream=bed_language"],
    "report outputs/bed_language-sequential-seed0 outputs/bed_language-er-seed0": [
        "train stream=bed_language",
        "train stream=bed_language method=er",
    ],
    "report outputs/cubes": [TRAIN_CUBES],
    f"train {CUBES} warm_start=outputs/act normalisation=checkpoint name=more": [TRAIN_ACT],
    EXPORT_TWO: [TRAIN_TWO],
    next(line for line in QUICK if "name=three" in line): [TRAIN_TWO, EXPORT_TWO],
}
"""What a command needs from others; tests may run in any order and in several processes."""

STANDS_FOR = {
    "outputs/...": "outputs/points-joint-seed0",
    "outputs/metaworld_demo-*": "outputs/er-0",
    "user/policy": "outputs/cw10-er-seed0/checkpoints/002/pretrained_model",
    "outputs/metaworld_demo-er-seed0": "outputs/cw10-er-seed0",
}
"""What a word of a command is in this test."""


def pages():
    """README and docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def shown():
    """Every ``$ vla-cl ...`` line, without its comment."""
    for page in pages():
        for line in page.read_text().splitlines():
            if found := re.match(r"\s*\$ vla-cl (.*)", line):
                yield re.sub(r"\s+#.*", "", found[1]).strip()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, point_datasets):
    """A folder as it is after the first commands: some finished runs, and two datasets."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "method=er", *TRAIN, "stream.name=cw10"]) == 0
        assert main(["train", "arrangement=joint", *TRAIN]) == 0
    write_named_files(folder)
    shutil.copytree(folder / "outputs" / "cw10-er-seed0", folder / "outputs" / "er-0")
    shutil.copytree(point_datasets[0], folder / "first")
    shutil.copytree(point_datasets[1], folder / "second")
    shutil.copytree(point_datasets[0], folder / "data" / "sim")
    for name, instruction in (("cubes", "lift the cube"), ("drawer", "open the drawer"), ("lid", "lift the lid")):
        episodes, cameras = [(instruction, 6), (instruction, 6)], ("observation.images.top", "observation.images.wrist")
        make_dataset(folder / "data" / name, episodes=episodes, cameras=cameras)
    make_dataset(folder / "data" / "arm", episodes=[("wipe the table", 6)] * 5, cameras=cameras)
    return folder


@pytest.fixture(scope="module")
def done():
    """Commands that have been run, and in which folder."""
    return set()


def write_named_files(folder):
    """Every file that README and docs show in full, by the name in its first line."""
    for page in pages():
        for name, text in named_files(page.read_text()):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


def arguments(line, extra, folder):
    line = line.replace("[my/dataset,/a/folder]", f"[{folder / 'first'},{folder / 'second'}]")
    words = [STANDS_FOR.get(word, word) for word in shlex.split(line)]
    expanded = []
    for word in words:
        is_pattern = word.startswith("outputs/") and set(word) & set("*[")
        expanded += sorted(str(path.relative_to(folder)) for path in folder.glob(word)) if is_pattern else [word]
    return [*expanded, *extra]


def test_every_command_that_is_shown_has_an_entry():
    listed = [*QUICK, *SLOW, *NOT_RUN]
    assert sorted(set(shown())) == sorted(listed)


@pytest.mark.parametrize("line", QUICK)
def test_a_command_as_shown_on_the_toy_suite(line, outputs, done, monkeypatch, capsys):
    monkeypatch.chdir(outputs)
    monkeypatch.syspath_prepend(outputs)
    monkeypatch.setenv("HOME", str(outputs))
    for needed in (*COMES_AFTER.get(line, ()), line):
        if (outputs, needed) not in done:
            status = main(arguments(needed, QUICK[needed], outputs))
            assert status == 0, capsys.readouterr().err
            done.add((outputs, needed))


@pytest.mark.slow
@pytest.mark.parametrize("line", SLOW)
def test_a_command_as_shown(line, tmp_path, monkeypatch, capsys):
    write_named_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    status = main(arguments(line, SLOW[line], tmp_path))
    assert status == 0, capsys.readouterr().err
