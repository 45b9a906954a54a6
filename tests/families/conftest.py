"""The family of ``examples/`` is the one of somebody else's, outside the package, that these tests learn."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
