"""The rows of ``vla-cl bench methods``: one for every method's step, and the comparisons with other implementations."""

from __future__ import annotations

from collections.abc import Mapping

from vla_cl.bench.method_grounds import GENERATING
from vla_cl.bench.method_theory import SLACK, SMALLER_SLACK
from vla_cl.bench.rows import Row
from vla_cl.config.compose import choices

_OTHERS: Mapping[str, Row] = {
    "ewc-avalanche": Row("<= 3 % of a step, >= 30x less", "vla_cl.bench.avalanche:ewc", "all", 2),
    "gem-avalanche": Row(">= 3x", "vla_cl.bench.avalanche:gem", "all", 3),
    "gem-avalanche-perceptron": Row(">= 3x", "vla_cl.bench.avalanche:gem", "all", 0.5),
    "fisher": Row(">= 15x", "vla_cl.bench.fisher:fisher", "all", 1),
    "fisher-small": Row(">= 15x", "vla_cl.bench.fisher:fisher", "all", 0.5),
    "lwf-cached": Row("<= 1.03x", "vla_cl.bench.cached_teacher:lwf_cached", "all", 3),
    "replay-samples": Row(">= 50x", "vla_cl.bench.sample_loading:samples", "all", 2),
    "replay-first-epoch": Row(">= 3x", "vla_cl.bench.sample_loading:first_epoch", "all", 2),
}


def rows() -> Mapping[str, Row]:
    """A step of every method of ``conf/method``, ``step-<method>`` or ``step-<method>-<bed>``, then the comparisons."""
    steps = {
        f"step-{name}{bed and '-'}{bed}": Row(
            f"<= {SMALLER_SLACK.get(name, SLACK)} of theory", "vla_cl.bench.method_steps:step", "all", 1
        )
        for name in choices("method")
        for bed in GENERATING.get(name, [""])
    }
    return {**steps, **_OTHERS}
