"""Writes episodes into a store until it is killed; says after each that it is on the disk."""

import sys
from pathlib import Path

from vla_cl.memory.store import TrajectoryStore


def content(number):
    return bytes([number % 251]) * (20_000 + 977 * number)


if __name__ == "__main__":
    store = TrajectoryStore(Path(sys.argv[1]))
    for number in range(int(sys.argv[2]), 100_000):
        store.append(f"{number:06d}", content(number))
        print(number, flush=True)
