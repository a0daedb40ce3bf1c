"""Verify on your own checkpoint, in a minute, that every site means what the documentation says.

Recomputes each site from the model's weights, checks that hooks are removed and that the row table fits.
Exit status 0: every check passed. 1: the table names what did not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from mmxai.cli import OK, PROBLEM


@dataclass
class Config:
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder or hub id of the model."""
    device: str | None = None
    """Where the model runs; default: cuda where there is one, else cpu."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = None
    """Data type of the model's weights; default: float32 on a CPU, the checkpoint's own on a GPU."""
    revision: str | None = None
    """Revision of a hub id."""


def run(config: Config) -> int:
    from mmxai.models import load_model
    from mmxai.models.check import check

    report = check(
        load_model(config.model, device=config.device, dtype=config.dtype, revision=config.revision)
    )
    print(report)
    return PROBLEM if report.problems else OK
