"""Locks, semaphores and queues while those who hold them are killed, for as long as one likes.

Two holders of a lock, a lost permit, and an item that is lost or comes twice after it was acknowledged end this with
an error. What was counted is printed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from coordination_parts import storm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long to go on (default: 120)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what is done and who is killed")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.seconds:g} seconds", flush=True)
    with tempfile.TemporaryDirectory(prefix="treadle-soak-") as folder:
        counts = storm(Path(folder), options.seconds, options.seed)
    for name, count in counts._asdict().items():
        print(f"{name.replace('_', ' '):>20} {count:8,}")
    print("nothing was held twice, nothing was lost, nothing came twice")


if __name__ == "__main__":
    main()
