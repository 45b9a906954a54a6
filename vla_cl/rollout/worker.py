"""What runs inside a worker process: environments, stepped on command. Knows no policy and imports no torch.

The conversation over the pipe: each `Begin` and each `Execute` is answered by exactly one `DecisionDue`, `Finished` or
`Refused`, in the order they were sent. So the parent always knows which command a silent worker is busy with. Pictures
do not go through the pipe (see `vla_cl.rollout.shared_pictures`).
"""

from __future__ import annotations

import os
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from vla_cl.interfaces import Environment, Suite
from vla_cl.rollout.lifeline import end_with_parent
from vla_cl.rollout.pool import EnvironmentPool
from vla_cl.rollout.shared_pictures import SharedPictures
from vla_cl.types import ConfigurationError, EpisodeRequest, Observation, Outcome, Transition


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
    """Answer: the slot waits for its next chunk; its pictures lie in the shared memory."""

    slot: int
    state: NDArray[np.float32]
    instruction: str


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
        # The environment keeps the time limit; cutting here as well means a faulty one cannot run for ever.
        actions = actions[: self.request.task.max_steps - self.env_steps]
        finite = np.isfinite(actions).all(axis=1)
        usable = len(actions) if finite.all() else int(finite.argmin())
        if self._run(actions[:usable]):
            return None
        if usable < len(actions):
            raise FloatingPointError(
                f"the policy gave the action {actions[usable].tolist()} at env step {self.env_steps}"
            )
        return self.environment.observe()

    def _run(self, actions: NDArray[np.float32]) -> bool:
        """Whether the episode ended; one action at a time if it is filmed."""
        for part in actions[:, None] if self.request.film else (actions,):
            ended = any(self._count(transition) for transition in self.environment.execute(part))
            self._film(last=ended)
            if ended:
                return True
        return False

    def _count(self, transition: Transition) -> bool:
        """Add a transition to the episode; whether it has ended."""
        self.env_steps += 1
        self.total_reward += float(transition.reward)
        self.success = transition.success
        return transition.ended or transition.success or self.env_steps >= self.request.task.max_steps

    def _film(self, last: bool) -> None:
        if self.request.film and (last or self.env_steps % self._film_every == 0):
            self._frames.append(self.environment.film())


class Worker:
    """Executes commands in the order in which they come."""

    def __init__(
        self, pool: EnvironmentPool, pictures: SharedPictures, connection: Connection, film_every: int
    ) -> None:
        self._pool = pool
        self._pictures = pictures
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
            if observation is None:
                return self._finish(command.slot)
            self._pictures.write(command.slot, observation.images)
            return DecisionDue(command.slot, observation.state, observation.instruction)
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


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker is given at its start.

    Attributes:
        suite: Builds environments.
        slots: Episodes at the same time.
        film_every: A filmed episode is filmed every so many env steps.
        idle_environments: Unused environments kept at most; None for as many as the memory holds.
        memory: Bytes the process may occupy while it keeps unused environments.
    """

    suite: Suite
    slots: int
    film_every: int
    idle_environments: int | None
    memory: int


def worker_main(
    settings: WorkerSettings, pictures: SharedPictures, connection: Connection, started_in_main_thread: bool
) -> None:
    """Entry point of a worker process; see `end_with_parent`."""
    end_with_parent(started_in_main_thread)
    commands: SimpleQueue[Begin | Execute | Stop] = SimpleQueue()
    threading.Thread(target=_read_commands, args=(connection, commands), daemon=True).start()
    pool = EnvironmentPool(settings.suite, settings.idle_environments, settings.memory)
    Worker(pool, pictures, connection, settings.film_every).serve(commands)


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
