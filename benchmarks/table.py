"""The measured figures of `benchmarks/results` as the Markdown table of the README."""

from __future__ import annotations

import argparse
import json

from benchmarks.harness import ROOT


def main(args: argparse.Namespace) -> int:
    print("| figure | value | target | |\n|---|---|---|---|")
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        document = json.loads(path.read_text())
        for figure in document["details"].values():
            target = figure["target"] or "reported"
            cells = (f"`{figure['name']}`", f"{figure['value']:.3g}", target, figure["detail"])
            print(f"| {' | '.join(cells)} |")
    return 0
