"""Linear probes of all sites, penalties, folds and tasks, against one fit each by scikit-learn and himalaya.

Ours reads the rows of a store as it goes and gives the coefficients of every fit; rivals have the rows of one
site in memory, the folds' rows chosen before the clock runs, and their time is that of the site times the
number of sites. Times are the best of three, of sides that take turns. A rival has as many threads as it is
quickest with, 1 or the default, tried on a fit; ours has the default, with BLAS on one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmxai.bench.cases._probe_data import STORE, Work, write
from mmxai.bench.cases._probe_equal import coef_error, held_out_r2, objectives_apart
from mmxai.bench.cases._probe_ours import Side
from mmxai.bench.figures import Figure, Timing, UnequalWorkError, interleave, seconds_text
from mmxai.bench.floors import multiply_rate, operations_floor
from mmxai.bench.machine import PACKAGE
from mmxai.bench.options import Options
from mmxai.bench.peers import Peer, Rival, running
from mmxai.linalg.gram import FoldedGram

TESTS = (
    *(f"tests/linalg/test_{name}.py" for name in ("gram", "solve", "lapack", "threads", "lbfgs", "logistic")),
    "tests/methods/probe/test_closed.py",
    "tests/bench/test_probe.py",
)
GPU = False
TARGETS = {
    "probe_vs_sklearn": ">= 20",
    "probe_logistic_vs_sklearn": ">= 8",
    "probe_coef_error": "<= 1e-4",
}
PENALTIES = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)
FULL = Work(sites=13, rows=10_000, width=768, classes=10, folds=5, penalties=PENALTIES)
QUICK = Work(sites=2, rows=300, width=24, classes=3, folds=3, penalties=(0.1, 10.0))
ITERATIONS = 1000
"""The most that scikit-learn's logistic regression takes; its tolerance is its default."""
REPEATS = 3
_MOST_R2_APART = 1e-3

Rivals = Mapping[Peer, Rival]


def run(options: Options) -> list[Figure]:
    work = QUICK if options.quick else FULL
    with options.warm() as folder:
        print(f"probe: {work}", file=sys.stderr, flush=True)
        write(folder, work)
        job = {
            "store": str(folder / STORE), "folder": str(folder), "data": str(folder / "rows.f32"),
            "width": work.width, "classes": work.classes, "folds": work.folds,
            "penalties": list(work.penalties), "threads": torch.get_num_threads(),
            "iterations": ITERATIONS, "found": "sklearn",
        }  # fmt: skip
        rate = multiply_rate()
        with running(options, "probe", job) as rivals:
            figures = _ridge(work, Side(job), rivals, rate, options)
            figures += _logistic(work, Side(job), rivals, rate, options)
        return [*figures, *(_memory(work, job, folder, what) for what in ("ridge", "logistic"))]


def _ridge(work: Work, ours: Side, rivals: Rivals, rate: float, options: Options) -> list[Figure]:
    timings = _timed("ridge", ours, rivals, options, float64=ours.ridge_float64)
    # A triangle of each fold's products, and of each factorisation; solutions of every target.
    own = work.rows * work.width**2
    solved = work.folds * len(work.penalties) * (work.width**3 / 3 + 4 * work.width**2 * work.classes)
    floor = operations_floor(work.sites * (own + solved), rate)
    figures = [
        _alone("probe_ridge_sites_per_second", work, timings["ours"], floor),
        _alone("probe_ridge_float64_sites_per_second", work, timings["float64"], floor),
    ]
    ours.ridge(1)
    coef, intercept = ours.found["ridge"]
    how = f"; our products of rows in {ours.product}"
    if ours.rounding is not None:
        how += f" (float32 changes coefficients by {ours.rounding:.1g}, estimated from the first rows)"
    for peer, rival in rivals.items():
        threads = rival.answer()["threads"]["ridge"]
        figures.append(_against(f"probe_vs_{peer.key}", work, peer, timings, floor, threads, how))
        if peer.key == "himalaya":
            r2 = held_out_r2(ours, coef, intercept)
            theirs = rival.answer()["r2"]
            if not abs(r2 - theirs) <= _MOST_R2_APART:
                raise UnequalWorkError(f"probe: himalaya's held-out R² is {theirs:.4f}, ours {r2:.4f}")
            continue
        name = f"probe_float64_vs_{peer.key}"
        how64 = "; all products in float64"
        figures.append(_against(name, work, peer, timings, floor, threads, how64, "float64"))
        rival.run("exact")
        answer = rival.answer()
        exact, single = np.load(answer["exact_coef"]), np.load(answer["ridge_coef"])
        detail = (
            f"the largest |difference| over |coefficients| of {work.fits} fits of a site, to {peer.name} in "
            f"float64; {peer.name} in float32 {coef_error(single, exact):.2g}"
        )
        error = coef_error(coef, exact)
        figures.append(_figure("probe_coef_error", error, detail, "0"))
    return figures


def _logistic(work: Work, ours: Side, rivals: Rivals, rate: float, options: Options) -> list[Figure]:
    rivals = {peer: rival for peer, rival in rivals.items() if peer.key == "sklearn"}
    timings = _timed("logistic", ours, rivals, options)
    ours.logistic(1)
    floor = operations_floor(work.sites * ours.passes * 4 * work.rows * (work.width + 1) * work.classes, rate)
    floor += f", {ours.passes / work.fits:.3g} passes a fit"
    figures = [_alone("probe_logistic_sites_per_second", work, timings["ours"], floor)]
    for peer, rival in rivals.items():
        answer = rival.answer()
        theirs = np.load(answer["logistic_coef"]), np.load(answer["logistic_intercept"])
        apart = objectives_apart(ours, ours.found["logistic"], theirs)
        if not apart.max() <= 1e-4:
            raise UnequalWorkError(
                f"probe: an objective of ours is {apart.max():.2g} above scikit-learn's, relative"
            )
        detail = (
            f"; our objective less theirs, relative: {apart.min():.2g} to {apart.max():.2g}, median "
            f"{np.median(apart):.2g}"
        )
        threads = answer["threads"]["logistic"]
        figures.append(_against(f"probe_logistic_vs_{peer.key}", work, peer, timings, floor, threads, detail))
    return figures


def _timed(
    what: str, ours: Side, rivals: Rivals, options: Options, **more: Callable[[], object]
) -> dict[str, Timing]:
    works: dict[str, Callable[[], object]] = {"ours": getattr(ours, what), **more}
    works |= {peer.key: partial(rival.run, what) for peer, rival in rivals.items()}
    return interleave(works, options.repeats(REPEATS), warmup=0 if what == "logistic" else 1)


def _alone(name: str, work: Work, timing: Timing, floor: str) -> Figure:
    best = min(timing.seconds)
    return _figure(name, work.sites / best, f"{work}: {timing}, {work.fits} fits a site", floor)


def _against(
    name: str, work: Work, peer: Peer, timings: Mapping[str, Timing], floor: str, threads: int, detail: str,
    mine: str = "ours",
) -> Figure:  # fmt: skip
    theirs, own = min(timings[peer.key].seconds), min(timings[mine].seconds)
    text = (
        f"{work}: {peer.does}, one site {seconds_text(theirs)} times {work.sites}, scaled, "
        f"threads: {threads} (the quicker here of 1 and the default); ours {seconds_text(own)}, all sites "
        f"from the store, on {torch.get_num_threads()}; best of {len(timings[mine].seconds)}{detail}"
    )
    return _figure(name, work.sites * theirs / own, text, floor)


def _memory(work: Work, job: Mapping[str, Any], folder: Path, what: str) -> Figure:
    """Growth of a fresh process that does all sites."""
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    command = [sys.executable, "-m", "mmxai.bench.cases._probe_ours", str(file), what, str(job["threads"])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=PACKAGE.parent)
    grown = int(done.stdout.splitlines()[-1]) / 2**20
    rows = 4 * work.sites * work.rows * work.width / 2**20
    if what == "ridge":
        needed = job["threads"] * FoldedGram.bytes_needed(work.width, 2 * work.classes, work.folds)
        floor = f"{needed / 2**20:,.0f} MiB: moments of a site, and work on them, on {job['threads']} threads"
    else:
        needed = 8 * work.fits * work.classes * work.width
        floor = f"{needed / 2**20:,.0f} MiB: a site's coefficients in float64"
    return _figure(
        f"probe_{what}_peak_mib", grown, f"growth of a process that does all sites of {rows:,.0f} MiB", floor
    )


def _figure(name: str, value: float, detail: str, floor: str) -> Figure:
    return Figure(name, float(value), TARGETS.get(name), detail, floor)
