"""Every hostile or damaged artefact: policy folders, runs, tables, memories, archives, videos and pictures."""

import hostile_files
import hostile_policies
import hostile_runs
from hostile_cases import CASES

__all__ = ["CASES", "hostile_files", "hostile_policies", "hostile_runs"]
