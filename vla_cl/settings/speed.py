"""Settings that decide where things lie and how fast they are computed, and nothing of the result."""

from __future__ import annotations

WHERE_AND_HOW_FAST = (
    *("output_dir", "name", "cache_dir", "device", "threads", "tracking", "family.device"),
    *("demonstrations.workers", "training.save_every"),
    *(f"evaluation.{name}" for name in ("workers", "slots_per_worker", "batch_size", "deadline")),
)
"""A resumed run may change them, and so may the seeds of one method; a name stands for all settings under it."""


def is_among(setting: str, names: tuple[str, ...]) -> bool:
    """Whether a setting, by its dotted name, is one of these or lies under one of them."""
    return any(setting == name or setting.startswith(f"{name}.") for name in names)
