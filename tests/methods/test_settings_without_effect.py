"""Settings under which a method could change nothing in a stream are refused before it is learnt."""

import inspect

import pytest
from method_presets import method_presets

from vla_cl.config.compose import build, part_class
from vla_cl.interfaces import Method
from vla_cl.types import ConfigurationError

PRESETS = method_presets()
LATER = [name for name, settings in PRESETS.items() if "from_task" in settings]


def made(name, **changes):
    return build({**PRESETS[name], **changes}, Method)


def test_there_are_methods_that_begin_with_a_later_task():
    assert {"layer_freezing", "slca", "mofo", "hft", "weight_merging", "retain"} <= set(LATER)


@pytest.mark.parametrize("name", LATER)
def test_a_first_edited_task_behind_the_stream_is_refused(name):
    for experiences in (2, 3, 5):
        made(name, from_task=experiences).require_length(experiences)
        message = rf"method\.from_task is {experiences + 1}, but the stream has {experiences} experiences"
        with pytest.raises(ConfigurationError, match=message):
            made(name, from_task=experiences + 1).require_length(experiences)


@pytest.mark.parametrize("name", LATER)
def test_a_stream_of_one_experience_may_grow_by_a_second(name):
    made(name, from_task=1).require_length(1)
    made(name, from_task=2).require_length(1)
    with pytest.raises(ConfigurationError, match=r"from_task is 3, but the stream has 1 experience, so"):
        made(name, from_task=3).require_length(1)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_acts_in_a_stream_of_any_length(name):
    for experiences in (1, 2, 10):
        made(name).require_length(experiences)


def test_a_schedule_that_freezes_nothing_in_the_stream_is_refused():
    made("osft", rank_schedule=[0, 0.5]).require_length(1)
    made("osft", rank_schedule=[0, 0, 0.5]).require_length(3)
    made("osft", effective_rank=0.0).require_length(3)  # as documented, sequential fine-tuning
    for schedule, experiences in (([0, 0], 2), ([0], 5), ([0, 0], 1), ([0, 0, 0.5], 2)):
        with pytest.raises(ConfigurationError, match=rf"rank_schedule is 0 for all of {experiences} experience"):
            made("osft", rank_schedule=schedule).require_length(experiences)


IDLE = [
    ("weight_merging", {"mode": "average", "share": 0.7}, "share=0.7", "mode=average"),
    ("retain", {"mode": "average", "shares": {"head.*": 0.5}}, "shares={'head.*': 0.5}", "mode=average"),
    ("ewc", {"fisher": "steps", "samples": 5}, "samples=5", "fisher=steps"),
    ("ewc", {"fisher": "falling_steps", "samples": None}, "samples=null", "fisher=falling_steps"),
    ("ewc_trace", {"batch_size": 32}, "batch_size=32", "fisher=steps"),
    ("ewc_llmcl", {"measured_in": "training"}, "measured_in=training", "fisher=falling_steps"),
    ("er", {"memory": {"budget": 100}, "samples_per_task": 10}, "samples_per_task=10", "memory={'budget': 100}"),
    ("mir", {"memory": {"budget": 100}, "samples_per_task": 10}, "samples_per_task=10", "memory={'budget': 100}"),
    ("agem", {"memory": {"budget": 100}, "samples_per_task": 10}, "samples_per_task=10", "memory={'budget': 100}"),
    ("gem", {"memory": {"budget": 100}, "samples_per_task": 10}, "samples_per_task=10", "memory={'budget': 100}"),
    ("der", {"memory": {"budget": 100}, "samples_per_task": 10}, "samples_per_task=10", "memory={'budget': 100}"),
    ("der_pp", {"temperature": 3.0}, "temperature=3.0", "compare=squared_error"),
    ("der", {"label_batch": "independent"}, "label_batch=independent", "beta=0.0"),
    ("der_pp", {"alpha": 0.0, "label_batch": "independent"}, "label_batch=independent", "alpha=0.0"),
    ("der_pp", {"alpha": 0.0, "draws_per_sample": 2}, "draws_per_sample=2", "alpha=0.0"),
    ("der_pp", {"alpha": 0.0, "precision": "float16"}, "precision=float16", "alpha=0.0"),
    ("der_pp", {"alpha": 0.0, "compare": "distance"}, "compare=distance", "alpha=0.0"),
    ("cama", {"alpha": 0.0, "recent": 3}, "recent=3", "alpha=0.0"),
    ("lwf", {"cache": "never", "cache_precision": "float16"}, "cache_precision=float16", "cache=never"),
    ("lwf", {"cache": "never", "cache_megabytes": 5.0}, "cache_megabytes=5.0", "cache=never"),
    ("m2distill", {"outputs_strength": 0.0, "temperature": 3.0}, "temperature=3.0", "outputs_strength=0.0"),
    ("lamol", {"samples": 5, "samples_share": 0.3}, "samples_share=0.3", "samples=5"),
    ("generative_distillation", {"strength": 0.0, "temperature": 3.0}, "temperature=3.0", "strength=0.0"),
    ("layer_freezing", {"frozen": ["head.*"], "first_share": 0.3}, "first_share=0.3", "frozen=['head.*']"),
    ("mir", {"candidates": 1.0, "virtual_learning_rate": 0.5}, "virtual_learning_rate=0.5", "candidates=1.0"),
    ("lwf", {"cache_megabytes": 0.0, "cache": "always"}, "cache=always", "cache_megabytes=0.0"),
    ("osft", {"effective_rank": 0.5, "tasks": 3}, "tasks=3", "effective_rank=0.5"),
    ("osft", {"rank_schedule": [0, 0.5], "tasks": 3}, "tasks=3", "rank_schedule=[0, 0.5]"),
]


@pytest.mark.parametrize(("name", "changes", "idle", "because"), IDLE, ids=[f"{case[0]}-{case[2]}" for case in IDLE])
def test_a_setting_that_another_one_takes_the_effect_from_is_refused(name, changes, idle, because):
    with pytest.raises(ConfigurationError) as caught:
        made(name, **changes)
    message = str(caught.value)
    assert f"method.{idle} has no effect with method.{because}; " in message
    assert len(message) < 300
    setting = idle.partition("=")[0]
    made(
        name,
        **{
            **changes,
            setting: inspect.signature(part_class(PRESETS[name]["class"], Method)).parameters[setting].default,
        },
    )


@pytest.mark.parametrize(
    ("settings", "idle", "because"),
    [
        ({"split": "proportional"}, "split=proportional", "without method.memory.budget"),
        ({"split": "similarity"}, "split=similarity", "without method.memory.budget"),
        ({"window": 8}, "window=8", "with method.memory.unit=frame"),
        ({"window": 8, "unit": "trajectory"}, "window=8", "with method.memory.unit=trajectory"),
        ({"quality": 50}, "quality=50", "with method.memory.encoding=raw"),
        ({"crf": 5, "keep": "copy", "encoding": "jpeg"}, "crf=5", "with method.memory.encoding=jpeg"),
        (
            {"quality": 5, "keep": "copy", "encoding": "h264", "unit": "window"},
            "quality=5",
            "with method.memory.encoding=h264",
        ),
    ],
)
def test_a_setting_of_the_memory_without_effect_is_refused(settings, idle, because):
    with pytest.raises(ConfigurationError) as caught:
        made("er", memory={"samples_per_task": 5, **settings})
    assert f"method.memory.{idle} has no effect {because}; " in str(caught.value)
