"""Any gymnasium environment that is registered the LeRobot way, an ``EnvConfig``, as a suite.

A policy sees and does here what it sees and does in ``lerobot-eval``: observations go through LeRobot's own
``preprocess_observation`` and the environment's processors, actions through its postprocessor, an initial state is
``reset(seed=...)``, success is ``info["is_success"]``. What differs: an episode ends with its first success, also where
the environment itself would go on.

The configuration says most of what has to be known; what it leaves open (see `LeRobotGym`) is asked of environments
built for the purpose and closed again.

Non-obvious behaviour: such environments draw in every step, whether anybody looks or not, so unlike our own suites they
gain nothing from a policy that decides rarely. Reading a configuration imports LeRobot, and with it torch.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vla_cl.envs.lerobot_gym_environment import (
    ACTION_KEY,
    STATE_KEY,
    GymEnvironment,
    Processors,
    World,
    make_vectors,
    picture_sizes,
    said_instruction,
)
from vla_cl.envs.lookup import SEEDS, first_states
from vla_cl.interfaces import Suite
from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError, Split, SuiteSpec, Task

if TYPE_CHECKING:
    from gymnasium.vector import SyncVectorEnv
    from lerobot.envs.configs import EnvConfig


_NOT_HERE: Mapping[str, str] = {
    "gym_manipulator": "it steps a robot's own rig",
    "libero": "it asks questions on the terminal when it is imported; use suite=libero_10, libero_goal, ...",
    "libero_plus": "it asks questions on the terminal when it is imported",
}
"""Types of LeRobot that cannot be used as a suite, with the reason."""

PIXELS = 4096
"""Largest side of a picture that an environment may be asked for."""


@dataclass(frozen=True)
class _Sizes:
    """What an environment shows and takes."""

    cameras: Mapping[str, tuple[int, int]]
    state_size: int
    action_size: int


@dataclass(frozen=True)
class _Answers:
    """What has to be known of the environments."""

    worlds: Sequence[World]
    sizes: _Sizes
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]


class LeRobotGym(Suite):
    """The environments of one ``EnvConfig``: ``<name>/<task>``, or several where its ``create_envs`` gives several."""

    def __init__(
        self,
        type: str,
        fields: Mapping[str, Any] | None = None,
        module: str | None = None,
        plugins: Sequence[str] = (),
        instruction: str | None = None,
        action_range: Sequence[float] | None = None,
        render_profile: str | None = None,
        control_mode: str | None = None,
        image_orientation: str | None = None,
        rebuild: bool = False,
    ) -> None:
        """Declare the suite; neither LeRobot nor a simulator is imported yet.

        Args:
            type: Registered name of the configuration, as in ``lerobot-eval --env.type=<type>``.
            fields: Of the configuration's class, as in ``--env.<field>=<value>``.
            module: What has to be imported for a third party's configuration to be registered.
            plugins: Packages, beside ``vla_cl``, that ``module`` may come from.
            instruction: What the policy is told. None: what the environment says (``task_description``, else ``task``,
                else nothing), as in ``lerobot-eval``; then one has to be built to ask it.
            action_range: Smallest and largest entry of an action. None: that of the environment's action space; then
                one has to be built. With ``instruction`` and this given, most configurations say the rest.
            render_profile: Look of the pictures, if there is more than one.
            control_mode: What an action means (see `vla_cl.types.InterfaceSpec`); by default the configuration's field
                of this name, if it has one.
            image_orientation: How the pictures are turned, if known.
            rebuild: Build a new environment for every episode; for environments whose ``reset(seed=...)`` depends on
                the episodes before.

        Raises:
            ConfigurationError: ``module`` is not from an allowed package, or ``action_range`` is not a range.
        """
        if module is not None:
            _check_module(module, plugins)
        if action_range is not None and not (len(action_range) == 2 and action_range[0] < action_range[1]):
            raise ConfigurationError(f"action_range is [smallest, largest], got {list(action_range)}")
        self.name = type
        self.type = type
        self.fields = dict(fields or {})
        self.module = module
        self.instruction = instruction
        self.action_range = action_range
        self.render_profile = render_profile
        self.control_mode = control_mode
        self.image_orientation = image_orientation
        self.rebuild = rebuild

    def __getstate__(self) -> dict[str, object]:
        """Without LeRobot's object: a worker makes its own, after it has imported the module that registers it."""
        return {key: value for key, value in vars(self).items() if key != "configuration"}

    @cached_property
    def configuration(self) -> EnvConfig:
        """LeRobot's configuration.

        Raises:
            ConfigurationError: There is no such type (the nearest is named), it cannot be a suite, it does not take
                these fields, or a picture would have more than `PIXELS` a side.
        """
        import draccus

        _check_sides(self.type, self.fields)
        if self.module is not None:
            _import_plugin(self.module, self.type)
        kind = _configuration_class(self.type)
        try:
            configuration: EnvConfig = draccus.decode(kind, self.fields)
        except (draccus.utils.DecodingError, TypeError, ValueError) as error:
            raise ConfigurationError(f"environment {self.type!r} does not accept these fields: {error}") from error
        return configuration

    @property
    def spec(self) -> SuiteSpec:
        """From the configuration's features where it says it all, else from an environment.

        Raises:
            ConfigurationError: The environment shows what policies here cannot take.
        """
        known = self._declared or self._asked
        sizes = known.sizes
        return SuiteSpec(
            cameras=sizes.cameras,
            state_size=sizes.state_size,
            action_size=sizes.action_size,
            render_profile=self.render_profile,
            control_mode=self.control_mode or getattr(self.configuration, "control_mode", None),
            image_orientation=self.image_orientation,
            fps=self.configuration.fps,
            action_low=known.action_low,
            action_high=known.action_high,
        )

    def tasks(self) -> Sequence[Task]:
        """From the configuration where it says it all: one environment, its time limit, and an instruction is given."""
        return [world.task for world in (self._declared or self._asked).worlds]

    def initial_states(self, split: Split, count: int) -> Sequence[int]:
        """Consecutive seeds: report from 1000, where ``lerobot-eval`` starts, train from 100000, select from 200000.

        Raises:
            ConfigurationError: ``count`` is negative or larger than the split.
        """
        return first_states(SEEDS, split, count, f"suite {self.name!r}")

    def make_environment(self, task: Task) -> GymEnvironment:
        """Build the world of a task. A configuration of several builds them all, and all but one are closed.

        Raises:
            ConfigurationError: The suite has no such task, or the environment's package is not installed.
        """
        for world in (self._declared or self._asked).worlds:
            if world.task.id == task.id:
                return GymEnvironment(self.configuration, self.spec, world, self.rebuild)
        raise ConfigurationError(
            f"suite {self.name!r} has no task {task.id!r}; there are {', '.join(t.id for t in self.tasks())}"
        )

    def fingerprint(self) -> Mapping[str, object]:
        """Adds the configuration's type and fields, and the versions of gymnasium, LeRobot and the environment."""
        packages = ("gymnasium", "lerobot", self.configuration.package_name.partition(".")[0])
        distributions = importlib.metadata.packages_distributions()
        versions = {
            package: importlib.metadata.version(distributions[package][0])
            for package in packages
            if package in distributions
        }
        return {**super().fingerprint(), "type": self.type, "fields": self.fields, **versions}

    @cached_property
    def _declared(self) -> _Answers | None:
        """What the configuration and the settings say together, if that is everything; else None.

        Features are not always true (LeRobot's ``pusht`` declares 384 x 384 pixels and shows 96 x 96), so they are only
        relied on where nothing has to be asked; and a rollout stops at the first picture that belies them.
        """
        sizes = self._declared_sizes()
        limit = self.configuration.gym_kwargs.get("max_episode_steps")
        if sizes is None or limit is None or self.instruction is None or self.action_range is None:
            return None
        if _makes_its_own(self.configuration, "create_envs"):
            return None
        task = Task(f"{self.name}/{self.configuration.task or self.type}", self.instruction, int(limit))
        low, high = ((float(end),) * sizes.action_size for end in self.action_range)
        return _Answers([World(self.type, 0, task)], sizes, low, high)

    def _declared_sizes(self) -> _Sizes | None:
        """What the features declare; None where a processor of the environment's own may change it."""
        from lerobot.configs.types import FeatureType
        from lerobot.envs.utils import env_to_policy_features

        if _makes_its_own(self.configuration, "get_env_processors"):
            return None
        try:
            features = env_to_policy_features(self.configuration)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"the features of environment {self.type!r} have no place in its features_map, or the wrong shape "
                f"({error}); correct its EnvConfig"
            ) from error
        cameras = {k: (f.shape[1], f.shape[2]) for k, f in features.items() if f.type is FeatureType.VISUAL}
        others = sorted(key for key in features if key not in (*cameras, STATE_KEY, ACTION_KEY))
        if others:
            raise ConfigurationError(
                f"environment {self.type!r} shows {', '.join(others)}, but policies here take pictures and one "
                f"{STATE_KEY}; choose fields.obs_type=pixels_agent_pos, or what this environment calls it"
            )
        state = features.get(STATE_KEY)
        return _Sizes(cameras, state.shape[0] if state else 0, features[ACTION_KEY].shape[0])

    @cached_property
    def _asked(self) -> _Answers:
        """What environments say that are built for it and closed again."""
        made = make_vectors(self.configuration)
        try:
            worlds = [
                World(group, index, self._describe(group, index, vector, alone=len(made) == 1))
                for (group, index), vector in made.items()
            ]
            vector = next(iter(made.values()))
            raw, _ = vector.envs[0].reset(seed=0)
            images, state = Processors(self.configuration).observe(vector.envs[0], raw)
            space: Any = vector.single_action_space
            sizes = _Sizes(picture_sizes(images), len(state), space.shape[0])
            return _Answers(worlds, sizes, tuple(map(float, space.low)), tuple(map(float, space.high)))
        finally:
            for vector in made.values():
                vector.close()

    def _describe(self, group: str, index: int, vector: SyncVectorEnv, alone: bool) -> Task:
        several = f"{group}-{index}"
        name = (self.configuration.task or self.type) if alone else several
        instruction = self.instruction if self.instruction is not None else said_instruction(vector)
        return Task(f"{self.name}/{name}", instruction, int(vector.call("_max_episode_steps")[0]))


def _check_sides(kind: str, fields: Mapping[str, Any]) -> None:
    """Refuse pictures that no memory holds, before anything draws them."""
    for name, value in fields.items():
        if re.search(r"height|width|size|resolution|pixels", name) is None:
            continue
        for side in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            if isinstance(side, int | float) and not isinstance(side, bool) and not 0 < side <= PIXELS:
                raise ConfigurationError(
                    f"environment {harmless(kind, 40)!r} is asked for {harmless(name, 40)}={side!r:.24}; a side "
                    f"has 1 to {PIXELS} pixels"
                )


def _makes_its_own(configuration: EnvConfig, method: str) -> bool:
    """Whether the configuration's class overrides a method of LeRobot's."""
    from lerobot.envs.configs import EnvConfig

    return getattr(type(configuration), method) is not getattr(EnvConfig, method)


def _check_module(module: str, plugins: Sequence[str]) -> None:
    """Refuse to import what the user has not allowed."""
    allowed = ("vla_cl", *plugins)
    if not re.fullmatch(r"[A-Za-z_][\w.]*", module) or module.partition(".")[0] not in allowed:
        raise ConfigurationError(
            f"module {module!r} is not in an allowed package ({', '.join(allowed)}); list its package under `plugins`"
        )


def _import_plugin(module: str, kind: str) -> None:
    """Let a third party register its configuration."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"module {module!r}, which should register the environment {kind!r}, cannot be imported ({error}); install "
            "its package, or correct `module`"
        ) from error


def _configuration_class(kind: str) -> type[EnvConfig]:
    """The class that is registered under this name."""
    from lerobot.envs.configs import EnvConfig, HubEnvConfig

    if kind in _NOT_HERE:
        raise ConfigurationError(f"environment {kind!r} of LeRobot cannot be used as a suite: {_NOT_HERE[kind]}")
    known: dict[str, type[EnvConfig]] = EnvConfig.get_known_choices()
    if kind not in known:
        near = difflib.get_close_matches(kind, known, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it knows {', '.join(sorted(known))};"
        raise ConfigurationError(
            f"LeRobot knows no environment of type {kind!r}; {hint} a third party's needs `module`, the module that "
            "registers it"
        )
    if issubclass(known[kind], HubEnvConfig):
        raise ConfigurationError(
            f"environments of type {kind!r} run code that is downloaded from the hub, which is not supported; install "
            "the environment's package and give its `module`"
        )
    return known[kind]
