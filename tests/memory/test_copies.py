import json

import numpy as np
import pytest
import torch
from remembered_data import PictureData, TableData, TableModel, same
from tiny_model import TinyData, experience

from vla_cl.memory.encodings import H264, Jpeg, Raw, codec
from vla_cl.memory.record import Record, pack
from vla_cl.memory.replay_memory import ReplayMemory
from vla_cl.types import ConfigurationError


def copying(folder, **settings):
    memory = ReplayMemory.from_settings({"keep": "copy", **settings})
    memory.keep_in(folder)
    return memory


def on_disk(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize("unit", ["frame", "window", "trajectory"])
def test_a_raw_copy_gives_the_same_batches(tmp_path, unit, history):
    data = PictureData(history=history, instructions=("go", "stop"))
    memory = copying(tmp_path, samples_per_task=15, unit=unit, **({"window": 4} if unit == "window" else {}))
    memory.remember(experience(), data, 0)
    assert len(memory) == 15
    rows = np.asarray([14, 0, 5, 5, 9, 6])
    same(memory.fetch(np.column_stack([np.zeros(6, np.int64), rows])), data.batch(rows))
    copy = memory.tasks["e0"].data
    same(copy.batch(np.arange(len(copy))), data.batch(copy.source_rows))
    assert copy.bytes_per_sample == data.bytes_per_sample
    assert copy.episode_of_row.tolist() == data.episode_of_row[copy.source_rows].tolist()
    assert np.array_equal(copy.notes("action"), data.actions[copy.source_rows])


def test_any_batch_can_be_copied(tmp_path):
    data = TinyData()
    memory = copying(tmp_path, samples_per_task=5)
    memory.remember(experience(), data, 0)
    rows = memory.everything()[:, 1]
    same(memory.fetch(memory.everything()), data.batch(rows))
    assert memory.tasks["e0"].data.notes("action") is None


def test_a_copy_is_read_as_the_index_would_be(tmp_path):
    index, copy = ReplayMemory.from_settings({"samples_per_task": 6}), copying(tmp_path, samples_per_task=6)
    for memory in (index, copy):
        for number in range(2):
            memory.remember(experience(number), PictureData(seed=number), 3)
    for step in range(3):
        same(index.sample(7, 1, step), copy.sample(7, 1, step))


def test_a_picture_that_several_samples_observe_is_written_once(tmp_path):
    plain, history = PictureData(episodes=(10,)), PictureData(episodes=(10,), history=True)
    rows = np.arange(10)
    sizes = [len(pack(data.batch(rows), {}, Raw())) for data in (plain, history)]
    assert sizes[1] - sizes[0] < 200


def test_methods_own_keys_are_not_copied(tmp_path):
    batch = {**TinyData().batch(np.arange(2)), "method.note": torch.zeros(2)}
    path = tmp_path / "unit"
    path.write_bytes(pack(batch, {}, Raw()))
    assert set(Record.open(path).read(np.arange(2))) == {"x", "y", "index", "task"}


@pytest.mark.parametrize(
    ("settings", "largest_error"),
    [
        ({"encoding": "jpeg"}, 3.0),
        ({"encoding": "jpeg", "quality": 60}, 12.0),
        ({"encoding": "h264", "unit": "trajectory", "crf": 10}, 12.0),
        ({"encoding": "h264", "unit": "window", "window": 4}, 16.0),
    ],
)
def test_lossy_copies_are_near_and_smaller(tmp_path, settings, largest_error):
    data = PictureData(episodes=(20, 20), size=64)
    memory = copying(tmp_path, samples_per_task=40, **settings)
    memory.remember(experience(), data, 0)
    rows = np.asarray([3, 39, 20, 19])
    picks = np.column_stack([np.zeros(4, np.int64), rows])
    copied, original = memory.fetch(picks), data.batch(rows)
    key = "observation.image"
    assert copied[key].dtype == torch.uint8
    assert copied[key].shape == original[key].shape
    difference = (copied[key].float() - original[key].float()).abs().mean((1, 2, 3))
    assert (difference < largest_error).all()
    same({**copied, key: original[key]}, original)
    assert memory.memory_bytes() == on_disk(tmp_path) < 0.5 * 40 * data.bytes_per_sample


def test_h264_is_repeatable_and_takes_odd_sizes():
    pictures = PictureData(episodes=(9,), size=33).pictures
    pieces = H264().encode(pictures)
    generator = np.random.default_rng(0)
    for size in generator.integers(1, 6, (20, 2)) * 16:  # an encoder must not see what others left in the memory
        H264().encode(generator.integers(0, 255, (3, 3, *size), dtype=np.uint8))
        assert pieces == H264().encode(pictures)
    assert H264().decode(pieces, (3, 33, 33)).shape == pictures.shape
    one = H264().decode(H264().encode(pictures[:1]), (3, 33, 33))
    assert one.shape == (1, 3, 33, 33)


def test_jpeg_pieces_are_read_alone():
    pictures = PictureData(episodes=(4,)).pictures
    pieces = Jpeg().encode(pictures)
    assert np.array_equal(Jpeg().decode(pieces[2:3], (3, 16, 16))[0], Jpeg().decode(pieces, (3, 16, 16))[2])
    with pytest.raises(ConfigurationError, match="known: raw, jpeg, h264, features"):
        codec("png")


class _Model(TableModel):
    def features(self, batch):
        return batch["observation.image"].float().mean((2, 3))


def test_features_take_the_place_of_pictures(tmp_path):
    data = PictureData()
    memory = copying(tmp_path, samples_per_task=15, encoding="features", unit="trajectory")
    memory.remember(experience(), data, 0, _Model())
    batch = memory.fetch(memory.everything())
    assert "observation.image" not in batch
    expected = _Model().features(data.batch(np.arange(15))).half()
    assert torch.equal(batch["features"], expected)
    with pytest.raises(ConfigurationError, match="can be read"):
        memory.sample(2, 0, 0)
    other = copying(tmp_path / "other", samples_per_task=15, encoding="features")
    with pytest.raises(ConfigurationError, match="needs a model with features"):
        other.remember(experience(), data, 0)


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_the_budget_of_copies_is_what_the_disk_holds(tmp_path, encoding):
    memory = copying(tmp_path, budget=28_000, encoding=encoding, unit="trajectory")
    for number in range(4):
        memory.remember(experience(number), PictureData(episodes=(8, 8, 8, 8), seed=number), 5)
        memory.settle()
        assert memory.memory_bytes() == memory.store.bytes_on_disk() == on_disk(tmp_path) <= 28_000
    assert all(len(task.rows) for task in memory.tasks.values())
    sizes = [task.sizes.max() for task in memory.tasks.values()]
    assert memory.memory_bytes() > 28_000 - sum(sizes)


def test_copies_survive_their_source_and_a_restart(tmp_path):
    memory = copying(tmp_path, budget=30_000, unit="window", window=3)
    for number in range(2):
        memory.remember(experience(number), PictureData(seed=number), 5)
    index = json.loads(json.dumps(memory.index()))
    other = copying(tmp_path, budget=30_000, unit="window", window=3)
    other.restore(index, iter(()))
    assert other.index() == memory.index()
    same(other.sample(9, 1, 2), memory.sample(9, 1, 2))
    for each in (memory, other):
        each.remember(experience(2), PictureData(seed=2), 5)
    assert other.index() == memory.index()


def test_files_wait_until_the_next_checkpoint(tmp_path):
    memory = copying(tmp_path, budget=9_000)
    memory.remember(experience(0), PictureData(), 5)
    before = memory.index()
    memory.remember(experience(1), PictureData(seed=1), 5)
    killed = copying(tmp_path, budget=9_000)  # before a checkpoint of the second experience was written
    killed.restore(before, iter(()))
    killed.remember(experience(1), PictureData(seed=1), 5)
    assert killed.index() == memory.index()
    memory.settle()
    late = copying(tmp_path, budget=9_000)
    with pytest.raises(ConfigurationError, match="use another checkpoint"):
        late.restore(before, iter(()))
    late.restore(before, iter([(experience(0), PictureData())]))  # made again from the data
    assert late.index() == before


@pytest.mark.parametrize("lost", ["file", "half a file", "journal"])
def test_what_a_store_has_lost_is_made_again_from_the_data(tmp_path, lost):
    memory, again = copying(tmp_path, samples_per_task=4), copying(tmp_path / "new", samples_per_task=4)
    memory.remember(experience(), PictureData(), 0)
    path = memory.store.path(memory.tasks["e0"].files[1])
    if lost == "file":
        path.unlink()
    elif lost == "half a file":
        path.write_bytes(path.read_bytes()[:99])
    else:
        (tmp_path / "journal.jsonl").unlink()
    again.keep_in(tmp_path)
    with pytest.raises(ConfigurationError, match=r"use another checkpoint|is damaged"):
        again.restore(memory.index(), iter(()))
    again.restore(memory.index(), iter([(experience(), PictureData())]))
    assert again.index() == memory.index()
    again.store.verify(memory.tasks["e0"].files)
    picks = again.everything()
    same(again.fetch(picks), PictureData().batch(picks[:, 1]))


def test_an_experience_of_which_nothing_is_left_needs_no_data(tmp_path):
    memory, again = (copying(tmp_path, budget=9_000, unit="trajectory") for _ in range(2))
    memory.remember(experience(0), PictureData(), 0)
    with pytest.warns(UserWarning, match="nothing of e1 is remembered"):
        memory.remember(experience(1), PictureData(episodes=(12,), size=32), 0)
    again.restore(json.loads(json.dumps(memory.index())), iter(()))
    assert again.index() == memory.index()
    for each in (memory, again):
        each.remember(experience(2), PictureData(seed=2), 0)
    assert again.index() == memory.index()


def test_a_copy_needs_a_folder(tmp_path):
    memory = ReplayMemory.from_settings({"samples_per_task": 3, "keep": "copy"})
    with pytest.raises(ConfigurationError, match="needs a folder"):
        memory.remember(experience(), TableData(np.zeros((3, 1))), 0)
    ready = copying(tmp_path, samples_per_task=3)
    ready.remember(experience(), TinyData(), 0)
    with pytest.raises(ConfigurationError, match="its folder was not given"):
        memory.restore(ready.index(), iter(()))
