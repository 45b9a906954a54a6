"""Success matrix to metrics: one pure function per published definition. Needs numpy only.

A metric's name includes its convention, because one matrix has an "NBT" of .541 (LIBERO) and of .601 (CLARE). Undefined
is NaN, never 0, and nothing that was not measured is guessed.

* `matrix`: what was measured, `ScoreMatrix`, and its file ``matrix.json``;
* `checks`: what its numbers must satisfy;
* `measurements`: the same by position of the stream, with curves and a reference;
* `definitions`: the formulas; `weights`: those that are weighted sums;
* `table`: all metrics; `terms`: what their intervals rest on; `interval`: the intervals;
* `reasons`: why one is undefined;
* `estimate`: value and interval of every metric; `seeds`: over training seeds;
* `text`: what ``vla-cl metrics`` prints.
"""

from vla_cl.metrics.definitions import (
    average_incremental,
    chaudhry_forgetting,
    clare_auc,
    clare_fwt,
    clare_nbt,
    cw_forgetting,
    cw_forward_transfer,
    cw_performance,
    final_average,
    gem_bwt,
    gem_fwt,
    iscil_auc,
    iscil_bwt,
    iscil_fwt,
    learning_accuracy,
    libero_auc,
    libero_fwt,
    libero_nbt,
    libero_task_fwt,
    mammoth_forgetting,
    simple_recipe_nbt,
    tail_bwt,
    tail_fwt,
)
from vla_cl.metrics.estimate import Estimate, compute_all
from vla_cl.metrics.interval import mean_interval, wilson_interval
from vla_cl.metrics.matrix import ScoreMatrix, load_matrix
from vla_cl.metrics.table import HEADLINE, HEADLINE_FORGETTING, METRICS, Metric
from vla_cl.metrics.text import describe, format_matrix, format_table, results_to_json

__all__ = [
    "HEADLINE",
    "HEADLINE_FORGETTING",
    "METRICS",
    "Estimate",
    "Metric",
    "ScoreMatrix",
    "average_incremental",
    "chaudhry_forgetting",
    "clare_auc",
    "clare_fwt",
    "clare_nbt",
    "compute_all",
    "cw_forgetting",
    "cw_forward_transfer",
    "cw_performance",
    "describe",
    "final_average",
    "format_matrix",
    "format_table",
    "gem_bwt",
    "gem_fwt",
    "iscil_auc",
    "iscil_bwt",
    "iscil_fwt",
    "learning_accuracy",
    "libero_auc",
    "libero_fwt",
    "libero_nbt",
    "libero_task_fwt",
    "load_matrix",
    "mammoth_forgetting",
    "mean_interval",
    "results_to_json",
    "simple_recipe_nbt",
    "tail_bwt",
    "tail_fwt",
    "wilson_interval",
]
