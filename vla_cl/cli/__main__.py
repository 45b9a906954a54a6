"""`python -m vla_cl.cli` is `vla-cl`."""

import os
import sys

from vla_cl.cli.main import main

if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
