"""Fold the commit records, sample tables and statistics of many parts into one segment file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from mmxai.cli import OK


@dataclass
class Config:
    store: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """Path of the store; nothing else may be writing to it."""


def run(config: Config) -> int:
    from mmxai.store.compact import compact

    print(f"{compact(config.store)} parts folded")
    return OK
