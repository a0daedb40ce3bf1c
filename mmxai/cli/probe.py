"""Linear probes of every site of a store: what can be read off it, layer by layer, beside control tasks.

LABELS is a CSV file (sample,label or a column a task; sample is a key of the store or a number), a CSV file
of boxes (sample,x0,y0,x1,y1,label in pixels of the original pictures), a folder of masks (<key or
number>.png, a pixel a label's number), a folder that `mmxai shapes` wrote, or the word shapes, where Python
harvested that world. Boxes and masks are labels of patches: a patch has the label that covers at least
--overlap of it.

examples:
  mmxai probe acts.zarr --labels labels.csv --pool cls
  mmxai probe acts.zarr --labels boxes.csv --sites 'vision.*.mlp_post' --overlap 0.25
  mmxai probe acts.zarr --labels topics.csv --pool last --method logistic
  mmxai probe acts.zarr --labels world/ --tasks colour shape
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mmxai.cli import OK
from mmxai.errors import ArgumentError
from mmxai.methods.probe.options import ProbeConfig

if TYPE_CHECKING:
    from mmxai.labels import Labels
    from mmxai.store import Store

_WORLD = "shapes"


@dataclass
class Config:
    store: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """The store of activations."""
    labels: str
    """What is known of its samples or patches."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    regression: tuple[str, ...] = ()
    """Columns of LABELS that hold numbers."""
    multilabel: tuple[str, ...] = ()
    """Columns of LABELS with several labels a sample, `|` between them or a row each."""
    out: str = "probe"
    """Folder for probe.json (figures), probe.safetensors (directions) and index.html."""


def run(config: Config) -> int:
    from mmxai.methods.probe.run import probe
    from mmxai.report.probe import probe_page
    from mmxai.store import open_store

    out = Path(config.out)
    _check_out(out)
    with open_store(config.store) as store:
        labels = _labels(config, store)
        report = probe(store, labels, config.probe, say=lambda what: print(f"... {what}", flush=True))
    print(report)
    report.save(out / "probe.json")
    print(f"\nwritten to {probe_page(report, out / 'index.html', title=f'Probes of {store.path.name}')}")
    return OK


def _check_out(out: Path) -> None:
    """Before the work rather than after it."""
    there = next(path for path in (out, *out.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ArgumentError(f"--out {out}: got {there}, expected a folder that can be written to")


def _labels(config: Config, store: Store) -> Labels:
    from mmxai.cli._harvested import world_of
    from mmxai.labels import WorldLabels, read_labels

    if config.labels != _WORLD or Path(_WORLD).exists():
        return read_labels(config.labels, store, regression=config.regression, multilabel=config.multilabel)
    world = world_of(store)
    if world is None:
        raise ArgumentError(
            f"--labels {_WORLD}: got a store that was not harvested from the shapes world, expected a "
            "file or folder of labels"
        )
    return WorldLabels(world)
