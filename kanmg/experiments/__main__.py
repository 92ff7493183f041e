"""`python -m kanmg.experiments NAME`."""

from __future__ import annotations

import sys

from kanmg.experiments.command import main

if __name__ == "__main__":
    sys.exit(main())
