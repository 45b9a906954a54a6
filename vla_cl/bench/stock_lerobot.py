"""LeRobot's own ``eval_policy`` on one task, as ``lerobot-eval`` calls it, watched without being changed.

Environments are built once and kept between turns, so only rollouts are timed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIRST_SEED = 1000  # lerobot-eval's default

EpisodeResult = tuple[bool, int, float]
"""Success, length in env steps, sum of the rewards in the order in which they came."""


@dataclass
class Turn:
    """One side's evaluation of a few episodes.

    Attributes:
        seconds: Wall time.
        episodes: In the order of the initial states.
        frames: SHA-256 of each picture that the policy saw at a decision, and how often.
        decisions: Chunks that episodes asked the policy for.
    """

    seconds: float
    episodes: list[EpisodeResult]
    frames: Counter[str] = field(default_factory=Counter)
    decisions: int = 0


@dataclass(frozen=True)
class StockSettings:
    """How LeRobot is run.

    Attributes:
        environment: Its registered name, ``metaworld`` or ``libero``.
        fields: Of the environment's configuration.
        batch_size: Environments side by side; None for LeRobot's automatic choice.
        max_steps: Time limit of an episode, in env steps.
        replan_every: The policy's ``n_action_steps``.
        threads: Of torch; None for torch's choice.
    """

    environment: str
    fields: dict[str, Any]
    batch_size: int | None
    max_steps: int
    replan_every: int
    threads: int | None = None


class StockEvaluation:
    """``lerobot-eval`` without videos."""

    def __init__(self, checkpoint: Path, settings: StockSettings, episodes: int) -> None:
        """Load the policy and make the environments as ``lerobot-eval`` does.

        Args:
            checkpoint: A LeRobot policy folder; its policy is registered with LeRobot.
            settings: How LeRobot is run.
            episodes: Episodes of each turn, which the automatic batch size depends on.
        """
        from lerobot.configs.default import EvalConfig
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.envs.factory import make_env, make_env_config, make_env_pre_post_processors
        from lerobot.policies.factory import make_policy, make_pre_post_processors

        config = PreTrainedConfig.from_pretrained(str(checkpoint))
        config.pretrained_path, config.device = str(checkpoint), "cpu"
        config.n_action_steps = settings.replan_every
        evaluation = EvalConfig(n_episodes=episodes, batch_size=settings.batch_size or 0)
        env_config = make_env_config(settings.environment, **settings.fields)
        with contextlib.redirect_stdout(io.StringIO()):
            made = make_env(env_config, n_envs=evaluation.batch_size, use_async_envs=evaluation.use_async_envs)
        (self._environments,) = next(iter(made.values())).values()
        self.batch_size = int(evaluation.batch_size)
        self._episodes = episodes
        with contextlib.redirect_stdout(io.StringIO()):
            self._policy = make_policy(cfg=config, env_cfg=env_config)
        self._policy.eval()
        self._before, self._after = make_pre_post_processors(
            policy_cfg=config,
            pretrained_path=str(checkpoint),
            preprocessor_overrides={"device_processor": {"device": "cpu"}},
        )
        self._env_before, self._env_after = make_env_pre_post_processors(env_cfg=env_config, policy_cfg=config)
        self._watch = _Watch(self._environments, settings.max_steps, self._env_before)
        predict = self._policy.predict_action_chunk

        def watched(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - LeRobot's signature
            self._watch.decision()
            return predict(*arguments, **options)

        self._policy.predict_action_chunk = watched
        self._settings = settings

    def turn(self, first: int) -> Turn:
        """Roll out initial states ``first``, ``first + 1``, ... (their seeds are `FIRST_SEED` higher)."""
        import torch
        from lerobot.scripts.lerobot_eval import eval_policy

        watch = self._watch
        watch.begin(self._episodes)
        self._put_to_state(first)
        began = time.perf_counter()
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):  # its bars of progress
            info = eval_policy(
                env=watch,
                policy=self._policy,
                env_preprocessor=watch.preprocess,
                env_postprocessor=self._env_after,
                preprocessor=self._before,
                postprocessor=self._after,
                n_episodes=self._episodes,
                start_seed=FIRST_SEED + first,
            )
        seconds = time.perf_counter() - began - watch.own_seconds
        episodes = []
        for position, reported in enumerate(info["per_episode"]):
            length, reward = watch.lengths[position], watch.rewards[position]
            if not np.isclose(reward, reported["sum_reward"], rtol=1e-5):
                raise RuntimeError(f"LeRobot reports a return of {reported['sum_reward']}, its steps gave {reward}")
            episodes.append((bool(reported["success"]), length, reward))
        return Turn(seconds, episodes, watch.frames(), watch.decisions)

    def warm_up(self) -> None:
        """Two env steps of each episode: environments are built, and everything has run once."""
        self._watch.max_steps = 2
        self.turn(0)
        self._watch.max_steps = self._settings.max_steps

    def close(self) -> None:
        """End its environments and their processes."""
        self._environments.close()

    def _put_to_state(self, first: int) -> None:
        """LIBERO's wrapper counts its initial states itself; begin with the right one."""
        if self._settings.environment != "libero":
            return
        values = [first + index for index in range(self.batch_size)]
        if hasattr(self._environments, "_ensure"):
            self._environments._ensure()
            self._environments._env.set_attr("init_state_id", values)
        else:
            for environment, value in zip(self._environments.envs, values, strict=True):
                environment.unwrapped.init_state_id = value


class _Watch:
    """Between LeRobot's loop and its vectorised environment: notes rewards, lengths and pictures, limits the length."""

    def __init__(self, environments: Any, max_steps: int, preprocess: Any) -> None:  # noqa: ANN401 - LeRobot's objects
        self._environments, self.max_steps, self._preprocess = environments, max_steps, preprocess
        self.begin(0)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._environments, name)

    def begin(self, episodes: int) -> None:
        """A new turn of so many episodes; what a last batch has beyond them is not noted."""
        self._episodes = episodes
        self.rewards: list[float] = []
        self.lengths: list[int] = []
        self.decisions = 0
        self.own_seconds = 0.0
        self._pictures: list[NDArray[np.uint8]] = []
        self._running: list[bool] = []
        self._observation: dict[str, Any] = {}

    def reset(self, **options: Any) -> Any:  # noqa: ANN401
        """The environment's; a batch of episodes begins."""
        count = self._environments.num_envs
        self.rewards += [0.0] * count
        self.lengths += [0] * count
        self._running = [True] * count
        return self._environments.reset(**options)

    def step(self, actions: NDArray[np.float32]) -> Any:  # noqa: ANN401
        """The environment's; adds up rewards of episodes that have not ended."""
        answer = self._environments.step(actions)
        _, rewards, terminated, truncated, _ = answer
        offset = len(self.rewards) - len(self._running)
        for index, runs in enumerate(self._running):
            if runs:
                self.rewards[offset + index] += float(rewards[index])
                self.lengths[offset + index] += 1
                self._running[index] = not (terminated[index] or truncated[index])
        return answer

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        """The environment's, except for the time limit, which LeRobot fixes for Meta-World."""
        if name == "_max_episode_steps":
            return [self.max_steps] * self._environments.num_envs
        return self._environments.call(name, *arguments, **options)

    def preprocess(self, observation: dict[str, Any]) -> dict[str, Any]:
        """The environment's processor; what comes out is what the policy is shown."""
        self._observation = self._preprocess(observation)
        return self._observation

    def decision(self) -> None:
        """The policy is asked for a chunk: keep the pictures of those episodes that still run."""
        began = time.perf_counter()
        offset = len(self.rewards) - len(self._running)
        asking = [index for index, runs in enumerate(self._running) if runs and offset + index < self._episodes]
        self.decisions += len(asking)
        for key, batch in sorted(self._observation.items()):
            if key.startswith("observation.image"):
                pictures = (batch * 255).round().byte().permute(0, 2, 3, 1).numpy()
                self._pictures += [pictures[index].copy() for index in asking]
        self.own_seconds += time.perf_counter() - began

    def frames(self) -> Counter[str]:
        """Hashes of the pictures kept."""
        return hashes(self._pictures)


def hashes(pictures: Sequence[NDArray[np.uint8]]) -> Counter[str]:
    """SHA-256 of pictures, uint8 (H, W, 3), and how often each occurs."""
    return Counter(hashlib.sha256(np.ascontiguousarray(picture).data).hexdigest() for picture in pictures)
