"""Check every byte of a store against its checksums and name each damaged part.

Exit status 0: whole. 1: damaged or incomplete files; the undamaged parts still read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from mmxai.cli import OK, PROBLEM


@dataclass
class Config:
    store: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """Path of the store."""
    quick: bool = False
    """Check that files are there and of the recorded size, without reading them."""


def run(config: Config) -> int:
    from mmxai.store.verify import verify

    report = verify(config.store, deep=not config.quick)
    print(report)
    return PROBLEM if report.problems else OK
