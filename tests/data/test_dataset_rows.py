"""Rows of other writers against their metadata: read rightly, or refused in one sentence."""

import shutil

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_checks import EPISODES, TOTAL, read, read_rightly, refused
from odd_datasets import (
    data_file,
    edit_info,
    edit_rows,
    edit_table,
    episodes_file,
    make_dataset,
    set_column,
)


def drop_rows(root, places):
    edit_rows(data_file(root), lambda table: table.filter(pa.array([row not in places for row in range(len(table))])))


def columns(root):
    return pq.read_table(data_file(root)).to_pandas()


def rows(name, values):
    """A change: other values in a column of the data file."""
    return lambda root: set_column(data_file(root), name, values)


def without(name):
    return lambda root: edit_rows(data_file(root), lambda table: table.drop_columns(name))


def episodes(**values):
    return lambda root: edit_table(episodes_file(root), lambda table: table.assign(**values))


def declared(key, **values):
    return lambda root: edit_info(root, lambda info: info["features"][key].update(values))


def twice(root):
    edit_rows(data_file(root), lambda table: pa.concat_tables([table, table]))


NAN, INFINITE = float("nan"), float("inf")
PLAIN = [0.0] * 4
ROWS = {
    "fewer rows": (lambda root: drop_rows(root, [10]), ["11 frames", "10"]),
    "a lost episode": (lambda root: drop_rows(root, range(6, 11)), ["no frame of episode 1"]),
    "no row at all": (lambda root: drop_rows(root, range(11)), ["hold 0"]),
    "rows twice": (twice, ["hold 22"]),
    "another file": (lambda root: shutil.copy(data_file(root), data_file(root).with_name("file-001.parquet")), ["22"]),
    "index descending": (rows("index", list(range(10, -1, -1))), ["timestamp goes"]),
    "index repeated": (rows("index", [0] * 11), ["two rows have the index 0"]),
    "index repeated once": (rows("index", [*range(10), 9]), ["index 9"]),
    "index mixed": (rows("index", [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5]), ["episode"]),
    "index missing": (without("index"), ["index"]),
    "no time": (without("timestamp"), ["timestamp"]),
    "time descending": (rows("timestamp", [1.0 - n / 10 for n in range(11)]), ["timestamp goes"]),
    "time that is none": (rows("timestamp", [NAN] * 11), ["timestamp nan"]),
    "time in milliseconds": (rows("timestamp", [100.0 * n for n in range(11)]), ["10 fps"]),
    "half the rate": (lambda root: edit_info(root, lambda info: info.update(fps=20)), ["20 fps", "0.1 s apart"]),
    "frame_index repeated": (rows("frame_index", [0] * 11), ["frame_index goes"]),
    "an unknown episode": (rows("episode_index", [0] * 6 + [5] * 5), ["episode 5"]),
    "one episode only": (rows("episode_index", [0] * 11), ["timestamp goes"]),
    "lengths swapped": (episodes(length=[5, 6], dataset_to_index=[5, 12]), ["episode 0 has 6 frames"]),
    "another length": (episodes(length=[6, 9]), ["episode 1"]),
    "an episode twice": (episodes(episode_index=[0, 0]), ["twice"]),
    "no length": (lambda root: edit_table(episodes_file(root), lambda table: table.drop(columns="length")), ["length"]),
    "an unknown task": (rows("task_index", [0] * 10 + [9]), ["task 9", "episode 1, frame 4"]),
    "a negative task": (rows("task_index", [-1] * 11), ["task -1"]),
    "action too short": (rows("action", [[0.0, 1.0]] * 11), ["action has 2 numbers", "4 by"]),
    "action a number": (rows("action", [0.0] * 11), ["action has 1 numbers"]),
    "action of two lengths": (rows("action", [PLAIN] * 7 + [[0.0] * 3] * 4), ["different lengths"]),
    "action with holes": (rows("action", [[0.0, None, 1.0, 2.0]] * 11), ["empty places"]),
    "action without a row": (rows("action", [PLAIN] * 10 + [None]), ["empty"]),
    "action as text": (rows("action", [["a"] * 4] * 11), ["string"]),
    "action missing": (without("action"), ["action"]),
    "action not a number": (rows("action", [PLAIN] * 7 + [[0, 0, NAN, 0]] * 4), ["episode 1, frame 1 is nan", "4 fr"]),
    "action without end": (rows("action", [PLAIN] * 10 + [[INFINITE] * 4]), ["episode 1, frame 4 is inf"]),
    "action beyond float32": (rows("action", [[1e300] * 4] * 11), ["1e+300"]),
    "state not a number": (rows("observation.state", [[NAN] * 4] * 11), ["observation.state of episode 0, frame 0"]),
    "state missing": (without("observation.state"), ["observation.state"]),
    "no action declared": (lambda root: edit_info(root, lambda info: info["features"].pop("action")), ["no feature"]),
    "an absurd action": (declared("action", shape=[10**9]), ["1000000000"]),
    "a shape of text": (declared("action", shape="four"), ["shape"]),
}


@pytest.mark.parametrize("fault", ROWS)
def test_rows_that_contradict_the_metadata(root, fault):
    change, words = ROWS[fault]
    change(root)
    refused(root, *words)


def as_lists(values):
    return {
        "list of float64": pa.array(values, pa.list_(pa.float64())),
        "large list": pa.array(values, pa.large_list(pa.float32())),
        "fixed-size list": pa.array(values, pa.list_(pa.float32(), 4)),
        "list of integers": pa.array([[int(number) for number in row] for row in values], pa.list_(pa.int64())),
        "list of lists": pa.array([[row[:2], row[2:]] for row in values], pa.list_(pa.list_(pa.float32()))),
    }


@pytest.mark.parametrize("kind", list(as_lists([[0.0] * 4])))
def test_actions_in_columns_of_any_type(root, kind):
    values = [[float(row), -1.0, 2.0, 3.0] for row in range(TOTAL)]
    set_column(data_file(root), "action", as_lists(values)[kind])
    assert read(root).actions.tolist() == values


@pytest.mark.parametrize(
    "kind", [pa.float64(), pa.int32(), pa.bool_(), pa.list_(pa.float32()), pa.list_(pa.float32(), 1)]
)
def test_a_state_and_an_action_of_one_number(tmp_path, kind):
    root = make_dataset(tmp_path / "d", EPISODES, state=1, action=1)
    plain = [row % 2 for row in range(TOTAL)]
    values = [[float(value)] for value in plain] if pa.types.is_nested(kind) else pa.array(plain).cast(kind).to_pylist()
    for name in ("observation.state", "action"):
        set_column(data_file(root), name, pa.array(values, kind))
    frames = read(root)
    assert frames.actions.tolist() == frames.states.tolist() == [[float(value)] for value in plain]


@pytest.mark.parametrize("kind", [pa.int32(), pa.float64(), pa.uint64(), pa.list_(pa.int64(), 1)])
def test_numbers_of_rows_in_columns_of_any_type(root, pristine, kind):
    for name in ("index", "episode_index", "task_index", "frame_index"):
        plain = columns(root)[name].tolist()
        values = [[value] for value in plain] if pa.types.is_nested(kind) else plain
        set_column(data_file(root), name, pa.array(values, kind))
    read_rightly(root, pristine["image"])


def test_rows_in_any_order_and_numbers_with_gaps(root, pristine):
    """Episodes were removed: their numbers, and those of the frames, have gaps; rows lie in any order."""
    set_column(data_file(root), "episode_index", [3] * 6 + [8] * 5)
    set_column(data_file(root), "index", [40 + row for row in range(6)] + [90 + row for row in range(5)])
    edit_table(episodes_file(root), lambda table: table.assign(episode_index=[3, 8]))
    order = np.random.default_rng(0).permutation(TOTAL)
    edit_rows(data_file(root), lambda table: table.take(order))
    read_rightly(root, pristine["image"])


def test_without_frame_numbers_they_are_counted(root, pristine):
    edit_rows(data_file(root), lambda table: table.drop_columns("frame_index"))
    read_rightly(root, pristine["image"])


def test_an_episode_of_one_row(root):
    keep = [0, 1, 2, 3, 4, 5, 6]
    edit_rows(data_file(root), lambda table: table.take(keep))
    edit_info(root, lambda info: info.update(total_frames=7))
    edit_table(episodes_file(root), lambda table: table.assign(length=[6, 1], dataset_to_index=[6, 7]))
    frames = read(root)
    assert frames.batch(np.array([6]))["action_is_pad"].tolist() == [[False, True]]


def test_a_missing_data_file_is_told_by_its_episodes(tmp_path):
    root = make_dataset(tmp_path / "d", EPISODES)
    table = pq.read_table(data_file(root))
    for number, part in enumerate((slice(0, 6), slice(6, 11))):
        rows = datasets.Dataset(table.slice(part.start, part.stop - part.start))
        rows.to_parquet(root / "data" / "chunk-000" / f"file-{number:03d}.parquet")
    assert len(read(root)) == TOTAL
    (root / "data" / "chunk-000" / "file-001.parquet").unlink()
    refused(root, "promises 11 frames", "hold 6", "no frame of episode 1")
