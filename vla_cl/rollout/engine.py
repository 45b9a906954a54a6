"""Evaluation by rollouts: worker processes step simulators while one policy in this process decides for all of them.

A worker runs several slots, each with one episode. A slot that needs a chunk of actions shows an observation and
waits; the engine collects those who wait into a batch, asks the policy, and sends every slot the first ``replan_every``
actions of its chunk. With more slots than the batch holds, workers step some while the policy decides for others.

No result depends on the layout: an episode starts from its own numbered initial state, the policy is always called with
the same number of observations, and an episode whose worker died is rolled out again from its start.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

import numpy as np

from vla_cl.interfaces import Policy, Suite
from vla_cl.rollout.compatibility import check_interface
from vla_cl.rollout.pool import available_memory
from vla_cl.rollout.progress import ProgressBar
from vla_cl.rollout.schedule import PendingEpisodes
from vla_cl.rollout.supervision import Answer, WorkerHandle, WorkerProcesses
from vla_cl.rollout.worker import Begin, DecisionDue, Execute, Finished, Refused, WorkerSettings
from vla_cl.types import ConfigurationError, Episode, EpisodeRequest, Observation, Outcome

Progress = bool | Callable[[Episode], None]
"""True shows a bar; a function is called with every episode that ends, and only it is given the film."""

CALL_SIZE = 4
"""Observations in one call of the policy, always: matrix products of another size may differ in their last bits, and
one bit can decide an episode. The place of an observation in the call makes no difference."""

START_DEADLINE = 900.0
"""Seconds that a worker may need until it reads commands, whatever the deadline of a command is."""

_FILM_FPS = 15  # enough for people, and a third to a fifth of what most simulators step
_SHARE_OF_MEMORY = 0.25  # of what is available, for environments that wait for their next episode


class Engine:
    """Rolls policies out in a suite; a context manager. Workers start at the first `run` and keep their environments.

    Args:
        suite: Pickled to every worker.
        workers: Number of processes.
        slots_per_worker: Episodes that a worker runs at the same time.
        replan_every: Actions executed of every chunk.
        batch_size: Observations to collect before the policy is asked; by default half of the slots, so that the other
            half is stepped meanwhile. Speed only: no result depends on it.
        call_size: Observations in one call of the policy, always exactly this many: a batch is cut and padded to it.
            Results may depend on it in their last bits, so compare only evaluations of the same.
        max_attempts: How often an episode is tried before its outcome is an error.
        deadline: Seconds after which a worker that answers nothing is killed and replaced. Building an environment,
            or a whole chunk of env steps, must fit in.
        start_deadline: The same for its start: a machine under load, or a network disk full of libraries, is slow, but
            does not hang.
        film_every: A filmed episode is filmed every so many env steps; by default about 15 times a second.
        idle_environments: How many environments not in use a worker keeps; by default as many as memory allows.
        memory: Bytes that all workers together may occupy while they keep environments that nobody uses; by default a
            quarter of what is available.
        check_render_profile: Refuse a policy that learnt from pictures of another look.

    Raises:
        ConfigurationError: A number is not positive.
    """

    def __init__(
        self,
        suite: Suite,
        workers: int = 2,
        slots_per_worker: int = 2,
        replan_every: int = 4,
        *,
        batch_size: int | None = None,
        call_size: int = CALL_SIZE,
        max_attempts: int = 3,
        deadline: float = 300.0,
        start_deadline: float = START_DEADLINE,
        film_every: int | None = None,
        idle_environments: int | None = None,
        memory: int | None = None,
        check_render_profile: bool = True,
    ) -> None:
        self.suite = suite
        self.workers = workers
        self.slots_per_worker = slots_per_worker
        self.replan_every = replan_every
        self.batch_size = batch_size if batch_size is not None else max(1, workers * slots_per_worker // 2)
        self.call_size = call_size
        self.max_attempts = max_attempts
        self.deadline = deadline
        self.start_deadline = start_deadline
        self.film_every = film_every if film_every is not None else max(1, round(suite.spec.fps / _FILM_FPS))
        self.memory = memory if memory is not None else int(available_memory() * _SHARE_OF_MEMORY)
        self.check_render_profile = check_render_profile
        numbers = "workers slots_per_worker replan_every batch_size call_size max_attempts film_every"
        for name in (*numbers.split(), "deadline", "start_deadline"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name}={getattr(self, name)} is not possible: give a number above 0")
        share = self.memory // workers
        self._processes = WorkerProcesses(
            WorkerSettings(suite, slots_per_worker, self.film_every, idle_environments, share)
        )

    def __enter__(self) -> Self:
        """Nothing is started yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every worker."""
        self.close()

    @property
    def film_fps(self) -> float:
        """The rate at which the frames of a filmed episode play in simulated time."""
        return (self.suite.spec.fps or _FILM_FPS) / self.film_every

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers that run now."""
        return self._processes.pids

    def run(self, policy: Policy, requests: Sequence[EpisodeRequest], progress: Progress = True) -> list[Episode]:
        """Roll out every request; the episodes come back in the order of the requests.

        An environment that raises, and a worker that dies or hangs, cost the episode an attempt; after ``max_attempts``
        its outcome is `Outcome.ERROR`. What the policy raises is raised here.

        Raises:
            ConfigurationError: The policy does not fit the suite (see `check_interface`); nothing has started then.
                Or a world cannot be built with these settings on this machine.
            RuntimeError: Workers cannot start.
        """
        check_interface(
            policy.spec,
            self.suite.spec,
            self.replan_every,
            policy.chunk_size,
            check_render_profile=self.check_render_profile,
        )
        if not requests:
            return []
        with ProgressBar(len(requests), shown=progress is True) as bar:
            report = progress if callable(progress) else bar.advance
            try:
                return _Run(self, self._processes, policy, requests, report, not callable(progress)).episodes()
            except BaseException:  # Ctrl-C as well: half-done episodes must not meet the next run
                self._processes.kill()
                raise

    def close(self) -> None:
        """End every worker and free what belongs to it; a later `run` starts new ones."""
        self._processes.stop()


@dataclass
class _Attempt:
    """An episode that is being tried in a slot."""

    index: int
    started: float = field(default_factory=time.monotonic)
    decisions: int = 0


class _Lane:
    """A worker and its slots, for one run."""

    def __init__(self, handle: WorkerHandle, slots: int) -> None:
        self.handle = handle
        self.free = deque(range(slots))
        self.attempts: dict[int, _Attempt] = {}


class _Run:
    """One call of `Engine.run`."""

    def __init__(
        self,
        engine: Engine,
        processes: WorkerProcesses,
        policy: Policy,
        requests: Sequence[EpisodeRequest],
        report: Callable[[Episode], None],
        keep_films: bool,
    ) -> None:
        self._engine = engine
        self._keep_films = keep_films  # films of a long evaluation would fill the memory
        self._processes = processes
        self._policy = policy
        self._requests = requests
        self._report = report
        self._pending = PendingEpisodes(requests)
        self._waiting: deque[tuple[_Lane, DecisionDue]] = deque()
        self._failed_attempts = [0] * len(requests)
        self._failed_starts = 0
        self._results: dict[int, Episode] = {}
        self._lanes = [
            _Lane(handle, engine.slots_per_worker) for handle in processes.running(min(engine.workers, len(requests)))
        ]

    def episodes(self) -> list[Episode]:
        """Everything, in the order of the requests."""
        while len(self._results) < len(self._requests):
            self._hand_out()
            running = sum(len(lane.attempts) for lane in self._lanes)
            if len(self._waiting) >= min(self._engine.batch_size, running):
                self._decide()
                self._listen(patience=0.0)
            else:
                self._listen(patience=min(0.5, self._engine.deadline / 4))
        return [self._results[index] for index in range(len(self._requests))]

    def _hand_out(self) -> None:
        """Fill the free slots, one worker after the other, so that few episodes are spread over all workers."""
        while self._pending and any(lane.free for lane in self._lanes):
            for lane in self._lanes:
                if self._pending and lane.free:
                    self._begin(lane)

    def _begin(self, lane: _Lane) -> None:
        held = {self._requests[attempt.index].task.id for each in self._lanes for attempt in each.attempts.values()}
        held.update(task_id for each in self._lanes for task_id in each.handle.idle_tasks)
        index = self._pending.take(lane.handle.idle_tasks, held)
        request = self._requests[index]
        if request.task.id in lane.handle.idle_tasks:
            lane.handle.idle_tasks.remove(request.task.id)
        slot = lane.free.popleft()
        lane.attempts[slot] = _Attempt(index)
        lane.handle.send(Begin(slot, request))

    def _decide(self) -> None:
        """Ask the policy for those who have waited longest."""
        batch = [self._waiting.popleft() for _ in range(min(self._engine.batch_size, len(self._waiting)))]
        for start in range(0, len(batch), self._engine.call_size):
            self._call(batch[start : start + self._engine.call_size])

    def _call(self, batch: Sequence[tuple[_Lane, DecisionDue]]) -> None:
        """One call of the policy, padded with copies of the first observation."""
        size = self._engine.call_size
        observations = [
            Observation(lane.handle.pictures.read(due.slot), due.state, due.instruction) for lane, due in batch
        ]
        observations += observations[:1] * (size - len(batch))
        chunks = np.asarray(self._policy.act(observations), dtype=np.float32)
        expected = (size, self._policy.chunk_size, self._policy.spec.action_size)
        if chunks.shape != expected:
            raise ValueError(f"{type(self._policy).__name__}.act returned the shape {chunks.shape}, not {expected}")
        for (lane, due), chunk in zip(batch, chunks, strict=False):  # what is left over answers the padding
            lane.attempts[due.slot].decisions += 1
            lane.handle.send(Execute(due.slot, chunk[: self._engine.replan_every]))

    def _listen(self, patience: float) -> None:
        """Take what workers have said, and replace those that died or hang."""
        for handle, answer in self._processes.answers(patience):
            lane = next(lane for lane in self._lanes if lane.handle is handle)
            if answer is None:
                self._replace(lane, f"the worker process died, exit code {handle.exit_code()}")
            else:
                self._take(lane, answer)
        for lane in list(self._lanes):
            if lane.handle.overdue(self._engine.deadline, self._engine.start_deadline):
                patience = self._engine.deadline if lane.handle.ready else self._engine.start_deadline
                self._replace(lane, f"the worker process gave no sign of life for {patience:g} s")

    def _take(self, lane: _Lane, answer: Answer) -> None:
        self._failed_starts = 0
        if isinstance(answer, Refused):
            raise ConfigurationError(answer.message)
        if isinstance(answer, DecisionDue):
            self._waiting.append((lane, answer))
            return
        attempt = lane.attempts.pop(answer.slot)
        lane.free.append(answer.slot)
        if answer.error is not None:
            self._fail(attempt, answer.error, answer)
        else:
            self._record(attempt, answer)

    def _replace(self, lane: _Lane, reason: str) -> None:
        """Start another worker in place of a dead or hanging one; its episodes begin anew.

        Only the episode that the worker was busy with has failed; if it was busy with none, all have: no telling which.
        """
        handle = lane.handle
        guilty = set(list(handle.outstanding)[:1] or lane.attempts)
        if not handle.ready:
            guilty = set()
            self._failed_starts += 1
        if self._failed_starts >= self._engine.max_attempts:
            raise RuntimeError(f"rollout workers cannot start: {reason}; what they printed above says why")
        attempts, lane.attempts = lane.attempts, {}
        self._waiting = deque(entry for entry in self._waiting if entry[0] is not lane)
        self._lanes[self._lanes.index(lane)] = _Lane(self._processes.replace(handle), self._engine.slots_per_worker)
        for slot, attempt in attempts.items():
            if slot in guilty:
                self._fail(attempt, reason, None)
            else:
                self._pending.add(attempt.index)

    def _fail(self, attempt: _Attempt, error: str, message: Finished | None) -> None:
        """Try the episode again, or record the error if it was tried often enough."""
        self._failed_attempts[attempt.index] += 1
        if self._failed_attempts[attempt.index] < self._engine.max_attempts:
            self._pending.add(attempt.index)
        else:
            self._record(attempt, message, error)

    def _record(self, attempt: _Attempt, message: Finished | None, error: str | None = None) -> None:
        request = self._requests[attempt.index]
        episode = Episode(
            task=request.task.id,
            split=request.split,
            initial_state=request.initial_state,
            outcome=message.outcome if message is not None else Outcome.ERROR,
            env_steps=message.env_steps if message is not None else 0,
            decisions=attempt.decisions,
            total_reward=message.total_reward if message is not None else 0.0,
            seconds=time.monotonic() - attempt.started,
            error=error,
            frames=message.frames if message is not None else None,
        )
        self._report(episode)
        self._results[attempt.index] = episode if self._keep_films else replace(episode, frames=None)
