"""Every dataset of the corpus is learnt right, or refused in one sentence before anything is learnt."""

import resource
import shutil
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from odd_corpus import CASES, EPISODE_TASKS, FRONT, LENGTH, TASKS, WRIST, Refused
from odd_datasets import make_dataset, numbered
from sentences import length

from vla_cl.config.compose import compose
from vla_cl.data.frames import Frames
from vla_cl.data.source import Source
from vla_cl.run.data_check import check_data
from vla_cl.types import ConfigurationError

SIZES = {FRONT: (24, 32), WRIST: (16, 16)}
SECONDS, MEMORY_MIB, SENTENCE = 5.0, 1024, 300


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    episodes = [(task, LENGTH) for task in EPISODE_TASKS]
    return {name: make_dataset(root / name, episodes, SIZES, video=name == "filmed") for name in ("stored", "filmed")}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    root = tmp_path_factory.mktemp("cache")
    return compose(["stream=datasets", f"cache_dir={root}", f"output_dir={root / 'run'}"])


def given(settings, *roots, **more):
    stream = settings["stream"] | {"datasets": [str(root) for root in roots]}
    return settings | {"stream": stream} | more


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_learnt_right_or_refused(case, bases, settings, tmp_path):
    root = tmp_path / "dataset"
    shutil.copytree(bases[case.base], root)
    case.change(root)
    before, began = snapshot(tmp_path), time.process_time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chosen = given(settings, root, **case.settings)
    if isinstance(case.expected, Refused):
        require_sentence(chosen, case.expected.words)
    else:
        examined = check_data(chosen)
        require_learnt(examined.found, root, case.expected, tmp_path / "cache", bases[case.base])
        said = " ".join(examined.notes)
        assert all(word in said for word in case.expected.notes)
        shutil.rmtree(tmp_path / "cache")
    assert time.process_time() - began < SECONDS  # processor time: what else runs here does not count
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024 < MEMORY_MIB
    assert snapshot(tmp_path) == before


def require_sentence(chosen, words):
    with pytest.raises(ConfigurationError) as caught:
        check_data(chosen)
    sentence = str(caught.value)
    assert [word for word in words if word not in sentence] == [], sentence
    assert length(sentence) <= SENTENCE, length(sentence)
    assert "\n" not in sentence
    assert not any(unicodedata.category(character) in ("Cc", "Cf") for character in sentence)


def require_learnt(found, root, expected, cache, base):
    """Instructions, actions, states and pictures of every task are those that were written."""
    assert tuple(task.instruction for task in found.stream.tasks) == expected.tasks
    assert len({task.id for task in found.stream.tasks}) == len(expected.tasks)
    assert all(len(f"{task.name}-20000-success.mp4".encode()) < 255 for task in found.stream.tasks)
    whole = Frames([Source(base)], cache, [0, 1])
    everything = whole.batch(np.arange(len(whole)))
    for task, written in zip(found.stream.tasks, TASKS, strict=True):
        data = Frames(found.recorded[task.id], cache, [0, 1])
        rows = np.flatnonzero(np.repeat([name == written for name in EPISODE_TASKS], LENGTH))
        batch = data.batch(np.arange(len(data)))
        assert batch["task"] == [task.instruction] * len(rows)
        for key in ("action", "action_is_pad"):
            assert np.array_equal(batch[key], everything[key][rows]), key
        if data.spec.state_size:
            assert np.array_equal(batch["observation.state"], everything["observation.state"][rows])
        require_pictures(
            batch, dict(found.recorded[task.id][0].cameras or {key: key for key in data.spec.cameras}), rows
        )


def require_pictures(batch, names, rows):
    assert names
    for new, old in names.items():
        written = np.stack([numbered(row // LENGTH, row % LENGTH, SIZES[old]) for row in rows])
        seen = batch[new].numpy().transpose(0, 2, 3, 1).astype(int)
        assert np.abs(seen - written).max() <= 4, new  # a film's colours are rounded


def snapshot(folder: Path):
    return sorted((str(path), path.stat().st_size) for path in folder.rglob("*") if path.is_file())
