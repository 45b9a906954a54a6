"""The instructions of a LeRobotDataset, in the layouts that its writers have had."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pyarrow as pa

from vla_cl.data.column_values import integers
from vla_cl.data.dataset_info import REMEDY
from vla_cl.trust.paths import inside
from vla_cl.trust.tables import read_table
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

TEXT_COLUMNS = ("task", "__index_level_0__", "index", "instruction")
"""Where the text stands: LeRobot 0.6 names the index of its table ``task``, older versions left it without a name."""

TASKS_BYTES = 64 * 2**20
"""Most bytes of the table once unpacked: half a million instructions of a hundred letters."""

_VISIBLE = "LMNPS"  # Unicode's letters, marks, numbers, punctuation and symbols

LONGEST = 4096
"""Characters of an instruction."""


def read_tasks(root: Path) -> dict[int, str]:
    """Task number to instruction, in the order of the numbers.

    Raises:
        ConfigurationError: There is no table, it has another layout, or numbers come twice with different texts.
    """
    path = inside(root, "meta/tasks.parquet", f"the dataset {short(root)}")
    if not path.exists() and (root / "meta" / "tasks.jsonl").exists():
        raise ConfigurationError(
            f"the dataset {short(root)} says v3 but has the task table of v2.1 (tasks.jsonl); its conversion did not "
            "end: start again from a fresh copy"
        )
    what = f"the task table of the dataset {short(root)}"
    table = read_table(path, "the task table of the dataset", REMEDY, most=TASKS_BYTES)
    text_column = next((name for name in TEXT_COLUMNS if name in table.column_names and _is_text(table[name])), None)
    if text_column is None or "task_index" not in table.column_names:
        names = harmless(", ".join(table.column_names), 80)
        raise ConfigurationError(f"{what} needs the columns `task` (text) and `task_index`, it has {names}; {REMEDY}")
    found: dict[int, str] = {}
    numbers = integers(table["task_index"], f"task_index in {what}")
    for number, text in zip(numbers.tolist(), table[text_column].to_pylist(), strict=True):
        said = text if isinstance(text, str) else ""
        if found.setdefault(number, said) != said:
            raise ConfigurationError(f"{what} gives task {number} two different texts; {REMEDY}")
    return dict(sorted(found.items()))


def require_text(root: Path, number: int, text: str) -> str:
    """The instruction of a task that has frames.

    Raises:
        ConfigurationError: It is empty or absurdly long.
    """
    if not any(unicodedata.category(letter)[0] in _VISIBLE for letter in text):
        raise ConfigurationError(
            f"task {number} of the dataset {short(root)} has frames but no text, so a policy cannot be told it; write "
            "its instruction into meta/tasks.parquet"
        )
    if len(text) > LONGEST:
        raise ConfigurationError(
            f"the instruction of task {number} of the dataset {short(root)} has {len(text)} characters, at most "
            f"{LONGEST} are read; shorten it in meta/tasks.parquet"
        )
    return text


def _is_text(column: pa.ChunkedArray) -> bool:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
