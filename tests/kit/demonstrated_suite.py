"""The toy suite with an expert that knows the way, except from the initial states in ``hopeless``.

In a module of its own, because worker processes import it.
"""

import numpy as np
from toy_suite import ToySuite

from vla_cl.interfaces import Expert


class ToyExpert(Expert):
    def __init__(self, hopeless):
        self.hopeless = hopeless

    def act(self, environment):
        if environment.initial_state in self.hopeless:
            return np.zeros(2, np.float32)
        return np.clip((environment.target - environment.position) / 0.1, -1, 1).astype(np.float32)


class DemonstratedSuite(ToySuite):
    def __init__(self, folder=None, faults=None, hopeless=()):
        super().__init__(folder, faults)
        self.hopeless = hopeless

    def make_expert(self, task):
        return ToyExpert(self.hopeless)


class SmallSuite(DemonstratedSuite):
    """Has only four initial states."""

    def initial_states(self, split, count):
        from vla_cl.types import ConfigurationError

        if count > 4:
            raise ConfigurationError(f"there are 4, asked for {count}")
        return super().initial_states(split, count)
