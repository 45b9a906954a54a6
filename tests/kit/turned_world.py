"""The toy suite with a scene that shows how it is turned, and conventions that differ. Worker processes import it."""

import numpy as np
from toy_world import PointEnvironment, PointSuite

from vla_cl.types import ConfigurationError, Observation, SuiteSpec


class SceneEnvironment(PointEnvironment):
    def __init__(self, task, suite):
        super().__init__(task)
        self.suite = suite

    def observe(self):
        seen = super().observe()
        picture = seen.images["observation.image"].copy()
        picture[:5, :9] = (200, 0, 0)
        picture[9:, :4] = (0, 160, 0)
        if self.suite.even:
            picture[:] = 90
        if self.suite.image_orientation == "upright_mirrored":
            picture = np.ascontiguousarray(picture[:, ::-1])
        return Observation({"observation.image": picture}, seen.state, seen.instruction)


class SceneSuite(PointSuite):
    """``even``: a picture in which nothing can be seen; ``installed``: whether its simulator is."""

    def __init__(
        self,
        render_profile="plain",
        control_mode="relative_position",
        image_orientation="upright",
        even=False,
        installed=True,
    ):
        super().__init__(render_profile)
        self.control_mode, self.image_orientation = control_mode, image_orientation
        self.even, self.installed = even, installed

    @property
    def spec(self):
        spec = vars(super().spec) | {"control_mode": self.control_mode, "image_orientation": self.image_orientation}
        return SuiteSpec(**spec)

    def make_environment(self, task):
        if not self.installed:
            raise ConfigurationError("the scene is not installed; run `pip install scene`")
        return SceneEnvironment(task, self)
