"""The comparison with pykan that `make bench` runs: speed of one loss and gradient, then KAN-1 from start to end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = ("speed.py", "kan1.py")


def main() -> int:
    """Run the scripts one after the other, each in a process of its own."""
    codes = []
    for script in SCRIPTS:
        command = [sys.executable, str(Path(__file__).with_name(script)), *sys.argv[1:]]
        codes.append(subprocess.run(command, check=False).returncode)  # noqa: S603
        print()
    return max(codes)


if __name__ == "__main__":
    raise SystemExit(main())
