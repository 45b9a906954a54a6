"""A suite without a simulator, a point that has to reach a target, drawn small; and a policy that looks at it.

Faults can be asked for. In a module of its own, because worker processes import it.
"""

import os
import resource
import signal
import time
import zlib
from pathlib import Path

import numpy as np

from vla_cl.interfaces import Environment, Policy, Suite
from vla_cl.types import EpisodeRequest, InterfaceSpec, Observation, SuiteSpec, Task, Transition

CAMERA = "observation.image"
CAMERAS = {CAMERA: (8, 9)}


class ToyEnvironment(Environment):
    def __init__(self, suite, task):
        self.suite, self.task = suite, task
        self.episodes = 0

    def reset(self, initial_state):
        random = np.random.default_rng([zlib.crc32(self.task.id.encode()), initial_state])
        self.initial_state, self.steps = initial_state, 0
        self.position, self.target = random.uniform(-1, 1, 2), random.uniform(-1, 1, 2)

    def step(self, action):
        self.steps += 1
        if self.steps == 5:
            self.suite.misbehave(self.task, self.initial_state)
        self.position = np.clip(self.position + 0.1 * action.astype(np.float64), -1, 1)
        distance = float(np.linalg.norm(self.position - self.target))
        success = distance < 0.2
        return Transition(-distance, success, success or self.steps >= self.task.max_steps)

    def observe(self):
        image = np.zeros((8, 9, 3), np.uint8)
        image[0, :2, 0] = np.round((self.position + 1) * 127)
        image[0, :2, 1] = np.round((self.target + 1) * 127)
        return Observation({CAMERA: image}, self.state(), self.task.instruction)

    def state(self):
        return self.position.astype(np.float32)

    def film(self):
        return np.full((7, 9, 3), self.steps, np.uint8)

    def close(self):
        if self.suite.folder is not None:
            (self.suite.folder / f"closed-{os.getpid()}-{time.monotonic_ns()}").touch()


class ToySuite(Suite):
    """``faults``: (task name, initial state) to (what happens, how often); counted in ``folder``, across processes."""

    name = "toy"

    def __init__(self, folder=None, faults=None):
        self.folder, self.faults = folder, faults or {}

    @property
    def spec(self):
        return SuiteSpec(CAMERAS, 2, 2, "fast", fps=30, action_low=(-1.0, -1.0), action_high=(1.0, 1.0))

    def tasks(self):
        return [Task(f"toy/{name}", f"reach the {name} target", max_steps=30) for name in ("red", "green", "blue")]

    def initial_states(self, split, count):
        return list(range(count))

    def make_environment(self, task):
        if self.folder is not None:
            (self.folder / f"built-{os.getpid()}-{time.monotonic_ns()}-{task.name}").touch()
        return ToyEnvironment(self, task)

    def misbehave(self, task, initial_state):
        kind, times = self.faults.get((task.name, initial_state), ("", 0))
        for attempt in range(times):
            try:
                (self.folder / f"fault-{task.name}-{initial_state}-{attempt}").touch(exist_ok=False)
            except FileExistsError:
                continue
            if kind == "raise":
                raise ArithmeticError("the toy simulator is unstable")
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "segv":
                os.kill(os.getpid(), signal.SIGSEGV)
            if kind == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            if kind == "hang":
                time.sleep(1000)
            if kind == "memory":
                resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
                np.ones(2**30)


class ToyPolicy(Policy):
    """Goes to the target that it sees, more or less; ``before_act`` is called with the number of calls so far."""

    camera, action_size = CAMERA, 2

    def __init__(self, before_act=lambda calls: None, spec=None):
        self.before_act, self.calls, self.sizes = before_act, 0, set()
        self._spec = spec or InterfaceSpec(CAMERAS, 2, 2, "fast")

    @property
    def spec(self):
        return self._spec

    @property
    def chunk_size(self):
        return 5

    def act(self, observations):
        self.before_act(self.calls)
        self.calls += 1
        self.sizes.add(len(observations))
        return np.stack([self._chunk(observation) for observation in observations])

    def _chunk(self, observation):
        image = observation.images[self.camera]
        random = np.random.default_rng([zlib.crc32(image.tobytes()), zlib.crc32(observation.instruction.encode())])
        direction = (image[0, : self.action_size, 1].astype(float) - image[0, : self.action_size, 0]) / 127
        return (direction * 0.7 + random.normal(0, 0.8, (self.chunk_size, self.action_size))).astype(np.float32)

    module = device = property(lambda self: None)

    def loss(self, batch, draw):
        raise NotImplementedError

    def features(self, batch):
        raise NotImplementedError

    def save(self, folder: Path):
        raise NotImplementedError


def requests(states=6, film=False):
    return [EpisodeRequest(task, "report", state, film) for task in ToySuite().tasks() for state in range(states)]


def comparable(episodes):
    """All of an episode that must not depend on the layout."""
    return [
        (e.task, e.split, e.initial_state, e.outcome, e.env_steps, e.decisions, e.total_reward, e.error)
        for e in episodes
    ]
