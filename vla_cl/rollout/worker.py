"""What runs inside a worker process: environments, stepped on command. Knows no policy and imports no torch.

The conversation over the pipe: each `Begin` and each `Execute` is answered by exactly one `DecisionDue`, `Finished` or
`Refused`, in the order they were sent. So the parent always knows which command a silent worker is busy with.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from vla_cl.interfaces import Environment, Suite
from vla_cl.types import ConfigurationError, EpisodeRequest, Observation, Outcome, Task


@dataclass(frozen=True)
class Begin:
    """Command: reset an environment for this episode in this slot."""

    slot: int
    request: EpisodeRequest


@dataclass(frozen=True)
class Execute:
    """Command: execute these actions, float32 (replan_every, A), one after another."""

    slot: int
    actions: NDArray[np.float32]


@dataclass(frozen=True)
class Stop:
    """Command: close every environment and exit. Not answered."""


@dataclass(frozen=True)
class Ready:
    """First message of a worker: the suite has arrived and commands are read."""


@dataclass(frozen=True)
class DecisionDue:
    """Answer: the slot waits for its next chunk."""

    slot: int
    observation: Observation


@dataclass(frozen=True)
class Refused:
    """Answer: this machine or these settings cannot do it (no renderer, say); the message is for the user."""

    slot: int
    message: str


@dataclass(frozen=True)
class Finished:
    """Answer: the slot's episode is over and the slot is free.

    Attributes:
        error: The traceback if the episode crashed, else None.
        frames: uint8 (T, H, W, 3) if the episode was filmed and did not crash.
        idle_tasks: Task ids of the environments that the worker now holds unused, one entry per environment.
    """

    slot: int
    outcome: Outcome
    env_steps: int
    total_reward: float
    error: str | None
    frames: NDArray[np.uint8] | None
    idle_tasks: tuple[str, ...]


class EnvironmentPool:
    """Environments that are not in use, kept for the next episode of their task: building one can take seconds."""

    def __init__(self, suite: Suite, capacity: int) -> None:
        self._suite = suite
        self._capacity = capacity
        self._idle: deque[tuple[str, Environment]] = deque()  # least recently used first

    @property
    def idle_tasks(self) -> tuple[str, ...]:
        """The task id of each environment held."""
        return tuple(task_id for task_id, _ in self._idle)

    def take(self, task: Task) -> Environment:
        """An environment of this task: one that is held, or a new one."""
        for entry in self._idle:
            if entry[0] == task.id:
                self._idle.remove(entry)
                return entry[1]
        return self._suite.make_environment(task)

    def give_back(self, task: Task, environment: Environment) -> None:
        """Keep an environment; beyond the capacity the one unused for longest is closed."""
        self._idle.append((task.id, environment))
        while len(self._idle) > self._capacity:
            self._idle.popleft()[1].close()

    def close(self) -> None:
        """Close every environment held."""
        while self._idle:
            self._idle.popleft()[1].close()


class RunningEpisode:
    """One episode in one slot, from reset to its end."""

    def __init__(self, request: EpisodeRequest, environment: Environment, film_every: int) -> None:
        self.request = request
        self.environment = environment
        self.env_steps = 0
        self.total_reward = 0.0
        self.success = False
        self._film_every = film_every
        self._frames: list[NDArray[np.uint8]] = []

    @property
    def frames(self) -> NDArray[np.uint8] | None:
        """The film so far, uint8 (T, H, W, 3), or None if the episode is not filmed."""
        return np.stack(self._frames) if self._frames else None

    def start(self) -> Observation:
        """Reset and observe."""
        self.environment.reset(self.request.initial_state)
        self._film(last=True)
        return self.environment.observe()

    def execute(self, actions: NDArray[np.float32]) -> Observation | None:
        """Execute a chunk without rendering; None when the episode has ended, else what the policy sees next.

        Raises:
            FloatingPointError: The policy gave an action that is not finite.
        """
        for action in actions:
            if not np.isfinite(action).all():
                raise FloatingPointError(f"the policy gave the action {action.tolist()} at env step {self.env_steps}")
            transition = self.environment.step(action)
            self.env_steps += 1
            self.total_reward += float(transition.reward)
            self.success = transition.success
            # The environment keeps the time limit; counting here as well means a faulty one cannot run for ever.
            ended = transition.ended or transition.success or self.env_steps >= self.request.task.max_steps
            self._film(last=ended)
            if ended:
                return None
        return self.environment.observe()

    def _film(self, last: bool) -> None:
        if self.request.film and (last or self.env_steps % self._film_every == 0):
            self._frames.append(self.environment.film())


class Worker:
    """Executes commands in the order in which they come."""

    def __init__(self, suite: Suite, connection: Connection, idle_environments: int, film_every: int) -> None:
        self._pool = EnvironmentPool(suite, idle_environments)
        self._connection = connection
        self._film_every = film_every
        self._episodes: dict[int, RunningEpisode] = {}

    def serve(self, commands: SimpleQueue[Begin | Execute | Stop]) -> None:
        """Answer every command until `Stop` comes."""
        self._connection.send(Ready())
        while not isinstance(command := commands.get(), Stop):
            self._connection.send(self._answer(command))
        for episode in self._episodes.values():
            episode.environment.close()
        self._pool.close()

    def _answer(self, command: Begin | Execute) -> DecisionDue | Finished | Refused:
        try:
            observation = self._begin(command) if isinstance(command, Begin) else self._execute(command)
            return DecisionDue(command.slot, observation) if observation is not None else self._finish(command.slot)
        except ConfigurationError as error:  # no other episode would fare better: the evaluation cannot be done
            return Refused(command.slot, str(error))
        except Exception:  # noqa: BLE001 - whatever a simulator raises becomes a row of the table, with its traceback
            return self._give_up(command.slot, traceback.format_exc())

    def _begin(self, command: Begin) -> Observation:
        environment = self._pool.take(command.request.task)
        episode = self._episodes[command.slot] = RunningEpisode(command.request, environment, self._film_every)
        return episode.start()

    def _execute(self, command: Execute) -> Observation | None:
        return self._episodes[command.slot].execute(command.actions)

    def _finish(self, slot: int) -> Finished:
        episode = self._episodes[slot]
        outcome = Outcome.SUCCESS if episode.success else Outcome.FAILURE
        frames = episode.frames
        del self._episodes[slot]
        self._pool.give_back(episode.request.task, episode.environment)
        return Finished(slot, outcome, episode.env_steps, episode.total_reward, None, frames, self._pool.idle_tasks)

    def _give_up(self, slot: int, error: str) -> Finished:
        """Report a crash; the environment is in an unknown state, so it is closed and not used again."""
        episode = self._episodes.pop(slot, None)
        if episode is None:  # there is none: building it failed
            return Finished(slot, Outcome.ERROR, 0, 0.0, error, None, self._pool.idle_tasks)
        try:
            episode.environment.close()
        except Exception:  # noqa: BLE001 - a broken simulator may not even close; both tracebacks are reported
            error += f"\nand then, while closing the environment:\n{traceback.format_exc()}"
        return Finished(
            slot, Outcome.ERROR, episode.env_steps, episode.total_reward, error, None, self._pool.idle_tasks
        )


def worker_main(suite: Suite, connection: Connection, idle_environments: int, film_every: int) -> None:
    """Entry point of a worker process."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to the whole terminal; the parent ends its workers itself
    commands: SimpleQueue[Begin | Execute | Stop] = SimpleQueue()
    threading.Thread(target=_read_commands, args=(connection, commands), daemon=True).start()
    Worker(suite, connection, idle_environments, film_every).serve(commands)


def _read_commands(connection: Connection, commands: SimpleQueue[Begin | Execute | Stop]) -> None:
    """Read commands at once, so that the parent never blocks on a pipe that is full, which could be a deadlock.

    If the parent vanishes without a word, the process ends here, whatever it is doing: there is nobody to answer.
    """
    while True:
        try:
            command = connection.recv()
        except (EOFError, OSError):
            os._exit(1)
        commands.put(command)
        if isinstance(command, Stop):
            return
