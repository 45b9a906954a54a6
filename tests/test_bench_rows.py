"""The rows themselves, in tiny size: equality gates and counts, never times."""

import pytest

from vla_cl.bench import episodes, evaluations, faults, memory, pictures, resets, stepping
from vla_cl.bench.counting_suite import MAX_STEPS, CountingPolicy, CountingSuite
from vla_cl.bench.rows import RowSettings
from vla_cl.types import EpisodeRequest


@pytest.fixture
def settings(tmp_path):
    return RowSettings(
        name="row", quick=True, checkpoint=None, libero_assets=None, peer_python=None, workspace=tmp_path
    )


def figure(result, who):
    return next(figure.value for figure in result.figures if figure.who == who)


def test_no_env_step_is_executed_in_vain(settings):
    result = episodes.early_end(settings)
    assert result.gate.passed, result.gate.detail
    assert figure(result, "executed") == figure(result, "sum of lengths")
    assert "20 episodes, 10 early" in result.gate.detail


def test_every_kind_of_fault_happens_and_changes_nothing(settings):
    result = faults.faults(settings)
    assert result.gate.passed, result.gate.detail
    assert "1 kill, 1 memory, 1 segfault, 1 stop; 0 rows differ; 1 hangs observed" in result.gate.detail
    assert figure(result, "left behind") == 0, result.notes


def test_a_leak_is_seen(tmp_path):
    before = faults.Resources.now()
    with (tmp_path / "open").open("w"):
        assert before.leaked(faults.Resources.now()) == {"file descriptors": 1}
    assert before.leaked(faults.Resources.now()) == {}


def test_half_of_the_counted_episodes_end_early(tmp_path):
    suite, policy = CountingSuite(tmp_path), CountingPolicy()
    environment = suite.make_environment(suite.tasks()[0])
    lengths = []
    for state in range(10):
        environment.reset(state)
        steps, ended = 0, False
        while not ended:
            for action in policy.act([environment.observe()])[0]:
                ended, steps = environment.step(action).ended, steps + 1
                if ended:
                    break
        lengths.append(steps)
    environment.close()
    assert [length == MAX_STEPS for length in lengths] == [state % 2 == 0 for state in range(10)]
    assert (tmp_path / "steps").stat().st_size == sum(lengths)


@pytest.mark.sim
def test_metaworlds_steps_equal_those_of_a_gym_loop(settings):
    result = stepping.metaworld_state(settings)
    assert result.gate.passed, result.gate.detail
    assert "in 500 env steps" in result.gate.detail


@pytest.mark.sim
def test_the_look_changes_no_state(settings):
    result = pictures.metaworld(settings)
    assert result.gate.passed and result.ratio.turns == 2


@pytest.mark.sim
def test_memory_of_an_environment_is_measured(settings):
    import multiprocessing

    from vla_cl.bench.suites import metaworld_suite

    suite = metaworld_suite(64, "fast")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        steady, peak = pool.apply(memory.our_growth, (suite, suite.tasks()[0], 2))
    assert 2**20 < steady <= peak < 2**30


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize(
    "row", [evaluations.metaworld_10, resets.robosuite_reset, stepping.robosuite_step, pictures.robosuite]
)
def test_both_sides_of_a_slow_row_are_equal(settings, row):
    result = row(settings)
    assert result.gate.passed, result.gate.detail


@pytest.mark.sim
@pytest.mark.slow
def test_layouts_and_a_kill_change_no_row(settings):
    result = episodes.layouts(settings)
    assert result.gate.passed, result.gate.detail


@pytest.mark.sim
def test_the_policy_sees_the_frames_that_are_noted(tmp_path):
    """Padding repeats an observation object; each decision is noted once."""
    from vla_cl.rollout.engine import Engine

    suite = CountingSuite(tmp_path)
    policy = evaluations.Watching(CountingPolicy())
    requests = [EpisodeRequest(suite.tasks()[0], "report", state) for state in range(3)]
    with Engine(suite, 1, 2, replan_every=10, call_size=4) as engine:
        found = engine.run(policy, requests, progress=False)
    assert len(policy.pictures) == sum(episode.decisions for episode in found)
