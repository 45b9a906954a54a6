"""Datasets of the hub: what metadata and settings tell is refused before data and videos are downloaded."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import DryRunError
from odd_datasets import edit_info, make_dataset

from vla_cl.config.compose import compose
from vla_cl.data import preflight
from vla_cl.run import root as run
from vla_cl.run.check import check
from vla_cl.types import ConfigurationError

CONF = Path(__file__).parent / "conf"
SMALL = ["training.steps=2", "training.batch_size=4", "device=cpu", "threads=1"]
POINT = ["plugins=[toy_world]", "suite=point", "stream.check_orientation=false"]
IMAGE = {"observation.image": (16, 16)}
ON_THE_HUB = "user/robot"


class Hub:
    """Stands in for the hub: copies folders of a dataset, and notes which were asked for."""

    def __init__(self, source, home):
        self.source, self.home = source, home
        self.fetched, self.asked, self.offline, self.listed = [], [], False, True

    def __call__(self, name, dry_run=False, allow_patterns=(), **_):
        assert name == ON_THE_HUB
        folders = [pattern.partition("/")[0] for pattern in allow_patterns]
        self.asked.append(folders)
        target = self.home / "snapshot"
        if not dry_run:
            self.fetched += folders
            for folder in folders:
                if (self.source / folder).is_dir() and not (target / folder).exists():
                    shutil.copytree(self.source / folder, target / folder)
            return str(target)
        if self.offline:
            raise DryRunError("no connection")
        if not self.listed:
            return "unknown"
        files = [path for folder in folders for path in (self.source / folder).rglob("*") if path.is_file()]
        missing = [not (target / path.relative_to(self.source)).exists() for path in files]
        return [SimpleNamespace(file_size=path.stat().st_size, will_download=out)
                for path, out in zip(files, missing, strict=True)]  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("hub") / "robot", [("wave", 6), ("lift", 6)], IMAGE, 2, 2)


@pytest.fixture
def hub(source, tmp_path, monkeypatch):
    found = Hub(shutil.copytree(source, tmp_path / "there"), tmp_path / "home")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found)
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "home"))
    return found


def settings(tmp_path, *overrides, datasets=(ON_THE_HUB,)):
    policy = [] if any(item.startswith(("policy", "warm_start")) for item in overrides) else ["policy=tiny"]
    places = [f"cache_dir={tmp_path / 'cache'}", f"output_dir={tmp_path / 'run'}"]
    chosen = compose([*policy, *SMALL, "stream=datasets", *places, *overrides], folders=[CONF])
    chosen["stream"]["datasets"] = list(map(str, datasets))
    return chosen


def refusal(hub, chosen):
    with pytest.raises(ConfigurationError) as caught:
        check(chosen)
    assert len(str(caught.value)) <= 300
    assert set(hub.fetched) == {"meta"}
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["policy.type=nonsense"], "nonsense"),
        (["policy.type=act", "policy.nonsense=1"], "nonsense"),
        (["warm_start=/nowhere"], "/nowhere"),
        (["training.batch_size=0"], "batch_size"),
        (["output_dir=/dev/null/x"], "output_dir"),
        (["cache_dir=/dev/null"], "cache_dir"),
        (["device=cuda:9"], "cuda"),
        (["method.nonsense=3"], "nonsense"),
        (["cameras={top: nose}"], "nose"),
        (["stream.tasks=[fly]"], "no dataset holds"),
        (["tracking.trackers=[clearml]"], "clearml"),
        ([*POINT], "0 of 2 tasks can be evaluated"),
    ],
)
def test_what_settings_and_metadata_tell_is_refused_before_the_download(overrides, word, hub, tmp_path):
    try:
        chosen = settings(tmp_path, *overrides)
    except ConfigurationError as refused:  # even earlier
        assert word in str(refused)
        assert hub.fetched == []
        return
    assert word in refusal(hub, chosen)
    assert hub.asked == [["meta"]]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"cameras": {"observation.images.top": (16, 16)}}, "same cameras"),
        ({"cameras": {"observation.image": (16, 20)}}, "picture size"),
        ({"state": 3}, "state size"),
        ({"action": 3}, "action size"),
        ({"fps": 20}, "rate (fps)"),
    ],
)
def test_another_kind_of_dataset_is_refused_before_the_download(change, word, hub, tmp_path):
    other = make_dataset(tmp_path / "other", [("push", 4)], **({"cameras": IMAGE, "state": 2, "action": 2} | change))
    for datasets in ([other, ON_THE_HUB], [ON_THE_HUB, other]):
        assert word in refusal(hub, settings(tmp_path, datasets=datasets))


def test_a_broken_dataset_on_this_disk_is_refused_before_the_download(hub, tmp_path):
    broken = make_dataset(tmp_path / "broken", [("push", 4)], IMAGE, 2, 2, action_of=lambda *_: (float("nan"), 0))
    assert "is nan" in refusal(hub, settings(tmp_path, datasets=[ON_THE_HUB, broken]))


def test_metadata_that_contradict_each_other_are_refused_before_the_download(hub, tmp_path):
    edit_info(hub.source, lambda info: info.update(total_episodes=99))
    assert "99 episodes" in refusal(hub, settings(tmp_path))


def test_a_download_that_the_disk_cannot_hold_is_not_begun(hub, tmp_path, monkeypatch):
    def nearly_full(_):
        return SimpleNamespace(free=2 * 6 * 16 * 16 * 3 + 500)  # enough for the decoded pictures alone

    monkeypatch.setattr(preflight.shutil, "disk_usage", nearly_full)
    sentence = refusal(hub, settings(tmp_path))
    assert "datasets of the hub need" in sentence
    assert "HF_LEROBOT_HOME" in sentence


@pytest.mark.parametrize("listed", [True, False])
def test_what_nothing_speaks_against_is_downloaded_and_learnt(listed, hub, tmp_path):
    hub.listed = listed
    folder = run.train(settings(tmp_path))
    assert {"meta", "data", "videos"} <= set(hub.fetched)
    assert len(list(folder.glob("checkpoints/[0-9]*/pretrained_model"))) == 2
    if listed:
        hub.offline = True
        assert len(check(settings(tmp_path)).found.stream) == 2


def test_pictures_of_unknown_size_are_downloaded_before_they_are_compared(hub, tmp_path):
    edit_info(hub.source, lambda info: info["features"]["observation.image"].update(shape=None))
    assert check(settings(tmp_path)).reports[0].spec.cameras == {"observation.image": (16, 16)}
    assert "data" in hub.fetched


def test_what_data_tell_is_refused_after_the_download(hub, tmp_path):
    shutil.rmtree(hub.source / "data")
    with pytest.raises(ConfigurationError, match="has no folder data/"):
        check(settings(tmp_path))


def test_nothing_is_downloaded_for_a_command_that_records(hub, tmp_path):
    with pytest.raises(ConfigurationError, match="nothing to collect"):
        run.collect_command(settings(tmp_path))
    assert set(hub.fetched) == {"meta"}
