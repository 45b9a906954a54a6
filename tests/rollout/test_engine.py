import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from toy_suite import CAMERA, ToyPolicy, ToySuite, comparable, requests

from vla_cl.rollout.engine import Engine
from vla_cl.types import ConfigurationError, EpisodeRequest, InterfaceSpec, Outcome

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def expected():
    with Engine(ToySuite(), workers=1, slots_per_worker=1, replan_every=3) as engine:
        return comparable(engine.run(ToyPolicy(), requests(), progress=False))


def run(suite, policy=None, **settings):
    settings = {"workers": 2, "slots_per_worker": 2, "replan_every": 3} | settings
    with Engine(suite, **settings) as engine:
        return engine.run(policy or ToyPolicy(), requests(), progress=False)


def test_reference_has_successes_and_failures(expected):
    outcomes = Counter(row[3] for row in expected)
    assert outcomes[Outcome.SUCCESS] >= 3
    assert outcomes[Outcome.FAILURE] >= 3
    assert [row[0] for row in expected] == [request.task.id for request in requests()]
    assert all(row[5] == -(-row[4] // 3) for row in expected), "a decision every three env steps"


@pytest.mark.parametrize(("workers", "slots", "batch"), [(1, 4, None), (2, 1, None), (2, 2, 4), (2, 4, 3)])
def test_results_do_not_depend_on_the_layout_or_the_order(expected, workers, slots, batch):
    order = np.random.default_rng(0).permutation(len(expected))
    shuffled = [requests()[index] for index in order]
    policy = ToyPolicy()
    with Engine(ToySuite(), workers, slots, replan_every=3, batch_size=batch) as engine:
        episodes = engine.run(policy, shuffled, progress=False)
        assert policy.sizes == {engine.call_size}
    assert comparable(episodes) == [expected[index] for index in order]


def test_workers_are_kept_for_the_next_run_and_close_every_environment(tmp_path, expected):
    seen = []
    with Engine(ToySuite(tmp_path), workers=2, slots_per_worker=2, replan_every=3) as engine:
        first = engine.run(ToyPolicy(), requests(), progress=seen.append)
        pids = engine.worker_pids
        second = engine.run(ToyPolicy(), requests(), progress=False)
        assert engine.worker_pids == pids
        assert engine.run(ToyPolicy(), [], progress=False) == []
    assert comparable(first) == comparable(second) == expected
    assert sorted(map(repr, comparable(seen))) == sorted(map(repr, expected))
    assert len(list(tmp_path.glob("closed-*"))) == len(list(tmp_path.glob("built-*")))


def test_environments_are_kept_for_the_next_run(tmp_path, expected):
    with Engine(ToySuite(tmp_path), workers=1, slots_per_worker=1, replan_every=3, idle_environments=3) as engine:
        for _ in range(2):
            assert comparable(engine.run(ToyPolicy(), requests()[::-1], progress=False)) == expected[::-1]
    assert len(list(tmp_path.glob("built-*"))) == 3


def test_film_does_not_change_results_and_has_first_and_last_frame(expected):
    with Engine(ToySuite(), workers=1, slots_per_worker=4, replan_every=3) as engine:
        episodes = engine.run(ToyPolicy(), requests(film=True), progress=False)
        assert engine.film_fps == 15
    assert comparable(episodes) == expected
    for episode in episodes:
        assert episode.frames is not None
        shown = episode.frames[:, 0, 0, 0].tolist()
        assert shown == sorted({*range(0, episode.env_steps, 2), episode.env_steps})


def test_exceptions_are_retried(tmp_path, expected):
    suite = ToySuite(tmp_path, {("red", 1): ("raise", 1), ("blue", 5): ("raise", 2)})
    assert comparable(run(suite)) == expected
    assert len(list(tmp_path.glob("fault-*"))) == 3


def test_third_exception_is_an_error_with_its_traceback(tmp_path, expected):
    episodes = run(ToySuite(tmp_path, {("green", 2): ("raise", 99)}))
    crashed = episodes[8]
    assert (crashed.task, crashed.initial_state, crashed.outcome) == ("toy/green", 2, Outcome.ERROR)
    assert (crashed.env_steps, crashed.decisions) == (4, 2)
    assert "ArithmeticError: the toy simulator is unstable" in (crashed.error or "")
    assert len(list(tmp_path.glob("fault-*"))) == 3
    others = comparable(episodes)
    assert others[:8] + others[9:] == expected[:8] + expected[9:]


def test_killed_workers_are_replaced(tmp_path, expected):
    suite = ToySuite(tmp_path, {("red", 0): ("kill", 2), ("green", 3): ("kill", 1)})
    assert comparable(run(suite, slots_per_worker=3)) == expected
    assert len(list(tmp_path.glob("fault-*"))) == 3


def test_an_episode_that_always_kills_its_worker_is_an_error_and_alone(tmp_path, expected):
    episodes = run(ToySuite(tmp_path, {("red", 0): ("kill", 99)}), slots_per_worker=4)
    assert episodes[0].outcome is Outcome.ERROR
    assert episodes[0].error == "the worker process died, exit code -9"
    assert comparable(episodes)[1:] == expected[1:]


@pytest.mark.parametrize("kind", ["hang", "stop"])
def test_hanging_worker_is_replaced(tmp_path, expected, kind):
    assert comparable(run(ToySuite(tmp_path, {("blue", 1): (kind, 1)}), deadline=5.0)) == expected
    assert len(list(tmp_path.glob("fault-*"))) == 1


@pytest.mark.parametrize("kind", ["segv", "memory"])
def test_crashing_worker_is_replaced(tmp_path, expected, kind):
    assert comparable(run(ToySuite(tmp_path, {("red", 1): (kind, 2), ("blue", 1): (kind, 1)}))) == expected
    assert len(list(tmp_path.glob("fault-*"))) == 3


class Contradictory(ToySuite):
    @property
    def spec(self):
        return replace(super().spec, cameras={CAMERA: (9, 8)})


def test_pictures_that_contradict_the_spec_are_an_error():
    policy = ToyPolicy(spec=InterfaceSpec({CAMERA: (9, 8)}, 2, 2, "fast"))
    with Engine(Contradictory(), workers=1, slots_per_worker=1, replan_every=3) as engine:
        (episode,) = engine.run(policy, requests()[:1], progress=False)
    assert episode.outcome is Outcome.ERROR
    assert "the suite's spec promises pictures {'observation.image': (9, 8, 3)}" in (episode.error or "")


def test_worker_killed_from_outside(expected):
    with Engine(ToySuite(), workers=2, slots_per_worker=2, replan_every=3) as engine:
        policy = ToyPolicy(lambda calls: os.kill(engine.worker_pids[0], signal.SIGKILL) if calls in (3, 9) else None)
        assert comparable(engine.run(policy, requests(), progress=False)) == expected
        os.kill(engine.worker_pids[0], signal.SIGKILL)  # and between two runs
        assert comparable(engine.run(ToyPolicy(), requests(), progress=False)) == expected


def test_workers_ignore_ctrl_c(expected):
    with Engine(ToySuite(), workers=2, slots_per_worker=2, replan_every=3) as engine:

        def interrupt_workers(calls):
            for pid in engine.worker_pids if calls == 0 else ():
                os.kill(pid, signal.SIGINT)

        assert comparable(engine.run(ToyPolicy(interrupt_workers), requests(), progress=False)) == expected


@pytest.fixture
def ctrl_c():
    """Python's own reaction to Ctrl-C, also where the tests run in the background, with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_workers_and_the_engine_can_start_again(expected):
    def interrupt(calls):
        if calls == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with Engine(ToySuite(), workers=2, slots_per_worker=2, replan_every=3) as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.run(ToyPolicy(interrupt), requests(), progress=False)
        assert active_children() == []
        assert comparable(engine.run(ToyPolicy(), requests(), progress=False)) == expected


def test_nothing_leaks(tmp_path):
    def held():
        return [set(map(str, Path(folder).iterdir())) for folder in ("/proc/self/fd", "/dev/shm")], active_children()

    run(ToySuite())  # multiprocessing's own helper process starts once and stays
    before = held()
    run(ToySuite(tmp_path, {("red", 1): ("kill", 1), ("blue", 1): ("raise", 1)}))
    assert held() == before


def test_workers_end_with_their_parent():
    script = (
        "import time\n"
        "from toy_suite import *\n"
        "from vla_cl.rollout.engine import Engine\n"
        "if __name__ == '__main__':\n"
        "    engine = Engine(ToySuite(), 2, 1, 3)\n"
        "    engine.run(ToyPolicy(), requests(), progress=False)\n"
        "    print(*engine.worker_pids, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=HERE, text=True) as parent:
        assert parent.stdout is not None
        pids = parent.stdout.readline().split()
        parent.kill()
    assert len(pids) == 2
    end = time.monotonic() + 120  # of a loaded machine; they live for ever if they do not see it
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < end, "workers outlive their parent"
        time.sleep(0.05)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Unstartable(ToySuite):
    def __setstate__(self, state):
        raise RuntimeError("this suite does not arrive")


@pytest.mark.filterwarnings("default")
def test_workers_that_cannot_start_are_an_error():
    with pytest.raises(RuntimeError, match="rollout workers cannot start"):
        run(Unstartable())
    assert active_children() == []


def test_policy_that_does_not_fit_is_refused_before_anything_starts():
    engine = Engine(ToySuite(), workers=1, slots_per_worker=1, replan_every=3)
    policy = ToyPolicy(spec=InterfaceSpec({"observation.image": (8, 9)}, 2, 7))
    with pytest.raises(ConfigurationError, match="actions of 7 numbers, the suite takes 2"):
        engine.run(policy, requests())
    with pytest.raises(ConfigurationError, match="workers=0"):
        Engine(ToySuite(), workers=0)
    assert engine.worker_pids == []


def test_actions_that_are_not_finite_are_an_error():
    class Diverged(ToyPolicy):
        def act(self, observations):
            return super().act(observations) * np.nan

    with Engine(ToySuite(), workers=1, slots_per_worker=1, replan_every=3) as engine:
        (episode,) = engine.run(Diverged(), requests()[:1], progress=False)
    assert episode.outcome is Outcome.ERROR
    assert "the policy gave the action [nan, nan] at env step 0" in (episode.error or "")


def test_chunks_of_another_shape_are_refused():
    class Short(ToyPolicy):
        def act(self, observations):
            return super().act(observations)[:, :4]

    with (
        Engine(ToySuite(), 1, 2, 3) as engine,
        pytest.raises(ValueError, match=r"Short.act returned the shape \(4, 4, 2\)"),
    ):
        engine.run(Short(), requests(), progress=False)


def test_the_bar_shows_success(capsys):
    with Engine(ToySuite(), workers=1, slots_per_worker=2, replan_every=3) as engine:
        episodes = engine.run(ToyPolicy(), requests(), progress=True)
    successes = sum(episode.outcome is Outcome.SUCCESS for episode in episodes)
    assert f"success {successes}/18" in capsys.readouterr().err


class RefusingSuite(ToySuite):
    def make_environment(self, task):
        raise ConfigurationError("off-screen rendering cannot start; apt-get install -y libegl1")


def test_what_the_machine_cannot_do_stops_the_evaluation_in_one_sentence():
    suite = RefusingSuite()
    with Engine(suite, workers=1) as engine, pytest.raises(ConfigurationError, match="install -y libegl1"):
        engine.run(ToyPolicy(), [EpisodeRequest(suite.tasks()[0], "report", 0)], progress=False)
