"""Measure mmxai on this machine: ratios inside one run, each beside its floor.

Without a case, lists the cases. In a checkout the tests of what is measured run first, and nothing is timed
when they are red; an installed package has no tests, and says so. `table` prints the kept figures.
Exit status 0: every target met. 1: one missed, or red tests.

examples:
  mmxai bench
  mmxai bench stats --json stats.json
  mmxai bench store --peers
  mmxai bench table --write docs/figures.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mmxai.cli import OK
from mmxai.errors import ArgumentError


@dataclass
class Config:
    cases: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[CASE ...]")] = ()
    """Which cases, in this order; or 'table'."""
    json: str | None = None
    """Write this run's figures, its machine and commit to this file."""
    save: bool = False
    """Put the figures into this machine's file in benchmarks/results (in a checkout)."""
    peers: tuple[str, ...] | None = None
    """Measure rivals as well, each in a virtual environment of its own under .peers: those named, or all."""
    quick: bool = False
    """Tiny shapes, two repeats: shows that a case runs, measures nothing."""
    dir: str | None = None
    """Where files go that should stay in memory. Default: a tmpfs where there is one."""
    disk: str | None = None
    """Where files go that must reach a disk. Default: the current folder."""
    write: str | None = None
    """With 'table': put it between the marker lines of this Markdown file, which say whether all figures or
    those with a target."""


def run(config: Config) -> int:
    if not config.cases:
        print(_list())
        return OK
    if config.cases == ("table",):
        return _table(config.write)
    if config.write is not None:
        raise ArgumentError(f"got --write with {' '.join(config.cases)}; it goes with the case 'table'")
    from mmxai.bench import Options
    from mmxai.bench.run import run_cases

    options = Options(config.quick, config.dir, config.disk, config.peers)
    json = None if config.json is None else Path(config.json)
    return run_cases(config.cases, options, json=json, save=config.save)


def _list() -> str:
    from mmxai.bench.cases import CASES
    from mmxai.bench.peers import peers_of

    width = max(map(len, [*CASES, "table"]))
    lines = []
    for name, what in CASES.items():
        lines.append(f"{name:<{width}}  {what}")
        if rivals := ", ".join(peer.name for peer in peers_of(name)):
            lines.append(f"{'':<{width}}  peers: {rivals}")
    return "\n".join(
        [*lines, f"{'table':<{width}}  prints the figures kept in benchmarks/results as Markdown"]
    )


def _table(path: str | None) -> int:
    from mmxai.bench.run import results_folder
    from mmxai.bench.table import of_folder, write_between

    if path is None:
        print(of_folder(results_folder()))
    else:
        write_between(Path(path), results_folder())
    return OK
