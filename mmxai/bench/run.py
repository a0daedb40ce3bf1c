"""Run cases: tests first, then figures, printed and written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from mmxai.bench import document, table
from mmxai.bench.cases import CASES, load
from mmxai.bench.figures import CannotRunError
from mmxai.bench.gate import GREEN, run_tests
from mmxai.bench.machine import checkout, machine, slug
from mmxai.bench.options import Options
from mmxai.errors import ArgumentError

MISSED = 1


def run_cases(names: Sequence[str], options: Options, *, json: Path | None = None, save: bool = False) -> int:
    """Run `names` in order; 1 where a figure missed its target.

    json: write this run's figures to that file. save: also put them into `benchmarks/results`, in the
    machine's file.
    """
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise ArgumentError(f"no case {unknown[0]!r}; expected {', '.join(CASES)}")
    kept = results_file() if save else None
    if kept is not None and options.quick:
        raise ArgumentError("got --quick with --save: a quick run measures nothing worth keeping")
    fresh, missed = document.new(), False
    for name in names:
        case = load(name)
        try:
            if case.GPU and not torch.cuda.is_available():
                raise CannotRunError("torch sees no CUDA GPU; on a machine with one, `make gpu` measures it")
            tests = run_tests(case.TESTS)
            if tests != GREEN:
                print(f"tests first: {tests}")
            figures = case.run(options)
        except CannotRunError as reason:
            print(f"{name}: cannot run here: {reason}")
            continue
        print(table.terminal(figures, quick=options.quick), flush=True)
        document.add(fresh, name, figures, tests, quick=options.quick)
        missed |= any(f.verdict == "MISSED" for f in figures)
        if json is not None:  # after every case, so that a long run cut short leaves what it measured
            document.write(json, fresh)
        if kept is not None:
            document.write(kept, document.merge(kept, fresh))
    return MISSED if missed and not options.quick else 0


def results_folder() -> Path:
    root = checkout()
    if root is None:
        raise ArgumentError(
            "benchmarks/results is part of a checkout, and this is an installed package; use --json"
        )
    return root / "benchmarks" / "results"


def results_file() -> Path:
    """This machine's file of figures in the checkout."""
    return results_folder() / f"{slug(machine())}.json"
