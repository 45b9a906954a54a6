"""Which episode a free slot takes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from vla_cl.types import EpisodeRequest


class PendingEpisodes:
    """Requests that no slot has taken, by task, so that few environments have to be built.

    The order affects time only, never a result: every episode starts from its own initial state.
    """

    def __init__(self, requests: Sequence[EpisodeRequest]) -> None:
        self._task_ids = [request.task.id for request in requests]
        self._indices: dict[str, deque[int]] = {}
        for index in range(len(requests)):
            self.add(index)

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return bool(self._indices)

    def add(self, index: int) -> None:
        """Put a request back, to be tried again after the others of its task."""
        self._indices.setdefault(self._task_ids[index], deque()).append(index)

    def take(self, idle_here: Collection[str], held_anywhere: Collection[str]) -> int:
        """The request's position for a slot.

        Prefers a task whose environment the worker has unused; then one that no worker has met; then the longest.

        Args:
            idle_here: Task ids of the environments that the slot's worker holds unused.
            held_anywhere: Task ids that some worker runs or holds.

        Raises:
            IndexError: Nothing is left.
        """
        if not self._indices:
            raise IndexError("no episode is left")
        choices = [task_id for task_id in self._indices if task_id in idle_here]
        choices = choices or [task_id for task_id in self._indices if task_id not in held_anywhere]
        task_id = choices[0] if choices else max(self._indices, key=lambda task_id: len(self._indices[task_id]))
        index = self._indices[task_id].popleft()
        if not self._indices[task_id]:
            del self._indices[task_id]
        return index
