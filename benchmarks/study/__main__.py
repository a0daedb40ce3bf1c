"""Train SAEs of every architecture and from every kind of store, dissect networks, trace an answer; write the
tables of docs/sae.md, docs/dissect_results.md and docs/trace_shapes.md.

Goes on where it was stopped. Figures are kept beside the pages (docs/sae_study.json), which are made of them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from benchmarks.study.pages import PAGES, write_between
from benchmarks.study.parts import PARTS
from benchmarks.study.sites import QUICK, Size

DOCS = Path(__file__).parents[2] / "docs"
PAGE = {"dissected": "dissect_results.md", "traced": "trace_shapes.md"}


@dataclass
class Config:
    folder: Annotated[str, tyro.conf.Positional]
    """Where stores and runs are kept, about 3 GB."""
    parts: tuple[str, ...] = tuple(PARTS)
    size: Size = field(default_factory=Size)
    """Give each size a folder of its own."""
    threads: int = 2
    quick: bool = False
    """Tiny: shows that it runs, writes nothing."""


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    folder, size = Path(config.folder), config.size
    if config.quick:
        folder, size = folder / "quick", QUICK
    folder.mkdir(parents=True, exist_ok=True)
    for part in config.parts:
        rows = PARTS[part](folder, size)
        if config.quick:
            print(json.dumps({part: rows}, indent=1))
            continue
        page = DOCS / PAGE.get(part, "sae.md")
        kept = page.with_name(f"{page.stem.partition('_')[0]}_study.json")
        known = json.loads(kept.read_text()) if kept.exists() else {}  # now: another part may have ended
        known[part] = {"size": asdict(size), "rows": rows}
        kept.write_text(json.dumps(known, indent=1) + "\n")
        write_between(page, part, PAGES[part](rows, DOCS))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
