"""`python -m benchmarks CASE [--json FILE] [--dir FOLDER]`; without a case, the list of cases."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

CASES = {
    "store": "durable write, random rows, shuffled epochs, against a raw write, np.memmap and zarr-python",
    "harvest": "a harvest against the bare forward pass, and its peak memory",
    "shapes": "pictures, captions, twins and training batches of the shapes world a second, on one core",
    "table": "prints the figures kept in benchmarks/results as Markdown",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("case", nargs="?", choices=CASES)
    parser.add_argument("--json", metavar="FILE", help="write figures, machine and commit as JSON")
    parser.add_argument(
        "--dir", metavar="FOLDER", help="where warm stores go (default: a tmpfs where there is one)"
    )
    parser.add_argument("--disk", metavar="FOLDER", help="where cold stores go (default: the current folder)")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)  # memory is measured in a fresh process
    args = parser.parse_args()
    if args.case is None:
        for name, what in CASES.items():
            print(f"{name:<10} {what}")
        return 0
    return import_module(f"benchmarks.{args.case}").main(args)


if __name__ == "__main__":
    sys.exit(main())
