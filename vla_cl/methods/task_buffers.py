"""What a network keeps outside its parameters, as each task left it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_BUFFER = "buffer."


class TaskBuffers:
    """Copies of the buffers that tasks changed: running statistics, codebooks, singular vectors, averages, counters.

    Only what differs after a task from before it is copied, bit for bit. State in Python attributes of a network cannot
    be seen and is not kept.

    Args:
        module: The network; its buffers are those of before the first task.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._last: dict[str, Tensor | None] = {n: buffer.detach().clone() for n, buffer in module.named_buffers()}
        # What each number of learnt tasks left, from 0 on; of a buffer only where it changed, and what was before that.
        # None: there was no such buffer.
        self._kept: list[dict[str, Tensor | None]] = [{}]
        self._aside: dict[str, Tensor | None] = {}

    def note(self) -> None:
        """Copy what the task that ends now has changed."""
        now: dict[str, Tensor | None] = dict(self._module.named_buffers())
        left: dict[str, Tensor | None] = {}
        for name in now.keys() | self._last.keys():
            before, after = self._last.get(name), now.get(name)
            if _same(before, after):
                continue
            self._kept[0].setdefault(name, before)
            left[name] = None if after is None else after.detach().clone()
        self._kept.append(left)
        self._last.update(left)

    def serve(self, number: int) -> None:
        """Put in what the ``number``-th task left, the first being 1."""
        now = dict(self._module.named_buffers())
        self._aside = {name: None if name not in now else now[name].detach().clone() for name in self._kept[0]}
        for name in self._kept[0]:
            self._put(name, next(kept[name] for kept in reversed(self._kept[: number + 1]) if name in kept))

    def put_back(self) -> None:
        """As before `serve`."""
        for name, value in self._aside.items():
            self._put(name, value)
        self._aside = {}

    @property
    def bytes(self) -> int:
        """Of the copies."""
        return sum(value.numel() * value.element_size() for value in self._tensors().values())

    def state_dict(self) -> dict[str, Tensor]:
        """The copies, ``buffer.<number of tasks learnt>.<name>``."""
        return {_BUFFER + name: value for name, value in self._tensors().items()}

    def absent(self) -> list[list[object]]:
        """Where a buffer did not exist: the number of tasks learnt, and its name."""
        return [[n, name] for n, kept in enumerate(self._kept) for name, value in kept.items() if value is None]

    def shapes(self) -> dict[str, list[int]]:
        """The shape of each copy, ``<number of tasks learnt>.<name>``; plain data."""
        return {name: list(value.shape) for name, value in self._tensors().items()}

    def load(self, state: Mapping[str, Tensor], absent: object, shapes: object, tasks: int) -> None:
        """Continue with copies, after ``tasks`` tasks. What a saved model lacks (buffers that are not saved) is put in.

        Raises:
            ValueError: They are not those of so many tasks, or not those that `absent` and `shapes` told of.
        """
        found = {key.removeprefix(_BUFFER): list(value.shape) for key, value in state.items()}
        if found != shapes:
            raise ValueError(f"the checkpoint tells of the buffers {str(shapes)[:80]}, but holds {str(found)[:80]}")
        if not isinstance(absent, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in absent):
            raise ValueError(f"buffers that are absent have a number and a name; got {str(absent)[:80]}")
        kept: list[dict[str, Tensor | None]] = [{} for _ in range(tasks + 1)]
        for key, value in state.items():
            number, _, name = key.removeprefix(_BUFFER).partition(".")
            kept[_number(number, tasks)][name] = value.clone()
        for before, missing in absent:
            kept[_number(str(before), tasks)][str(missing)] = None
        if stray := sorted({name for left in kept for name in left} - kept[0].keys()):
            raise ValueError(f"the checkpoint holds buffers without their beginnings: {stray[:5]}")
        self._kept = kept
        for left in kept:
            self._last.update(left)
        for name in _not_saved(self._module) & kept[0].keys():
            self._put(name, self._last[name])

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{n}.{name}": value
            for n, kept in enumerate(self._kept)
            for name, value in kept.items()
            if value is not None
        }

    @torch.no_grad()
    def _put(self, name: str, value: Tensor | None) -> None:
        place, _, leaf = name.rpartition(".")
        owner = self._module.get_submodule(place)
        present = owner._buffers.get(leaf)
        if value is None:
            owner._buffers[leaf] = None
        elif present is None or present.is_inference() or (present.shape, present.dtype) != (value.shape, value.dtype):
            device = next(self._module.parameters()).device if present is None else present.device
            owner._buffers[leaf] = value.to(device, copy=True)
        else:
            present.copy_(value)  # in place: others may refer to it


def _same(before: Tensor | None, after: Tensor | None) -> bool:
    """Whether two buffers have the same bits."""
    if before is None or after is None:
        return before is after
    if (before.shape, before.dtype) != (after.shape, after.dtype):
        return False
    return torch.equal(*(value.detach().reshape(-1).contiguous().view(torch.uint8) for value in (before, after)))


def _not_saved(module: nn.Module) -> set[str]:
    """Names of the buffers that a saved model lacks."""
    return {
        f"{place}.{name}" if place else name
        for place, part in module.named_modules()
        for name in part._non_persistent_buffers_set
    }


def _number(text: str, tasks: int) -> int:
    if not text.isdecimal() or int(text) > tasks:
        raise ValueError(f"the checkpoint holds buffers of task {text!r}, but {tasks} tasks were learnt")
    return int(text)
