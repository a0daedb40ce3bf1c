"""How much a site takes while it is probed, and what goes into `ProbeConfig.memory` at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mmxai.errors import ArgumentError
from mmxai.kernels._threads import thread_count
from mmxai.linalg.gram import FoldedGram
from mmxai.linalg.logistic import bytes_needed
from mmxai.methods.probe.choosing import PROBABILISTIC
from mmxai.methods.probe.design import TEST, Design, Known
from mmxai.methods.probe.options import ProbeConfig
from mmxai.results import number

if TYPE_CHECKING:
    from mmxai.store.reader import Store

_READ = 3  # batches that a reader holds


class Needs(NamedTuple):
    """Bytes of a site: `held` from its first row to its last score, `working` on a thread that is at it."""

    held: int
    working: int


def in_closed_form(known: Known, config: ProbeConfig) -> bool:
    """Whether it is fitted from moments: all is, but by logistic regression only numbers are."""
    return config.method != "logistic" or known.task.kind == "regression"


def budget(config: ProbeConfig) -> float:
    """Bytes for sites; by logistic regression half, and the other half may hold a site's rows."""
    return config.memory * (1 << 30) / (2 if config.method == "logistic" else 1)


def groups(
    store: Store, design: Design, config: ProbeConfig, sites: Sequence[str]
) -> Iterator[tuple[list[str], int]]:
    """As many sites at a time as memory holds, and on how many threads; ArgumentError where it does not hold
    one. Sites leave room for all threads, but no more than half of it."""
    most, threads = budget(config), thread_count(None)
    group, held, working = list[str](), 0, 0

    def ready() -> tuple[list[str], int]:
        return group, int(min(threads, (most - held) // working))

    for site in sites:
        needs = needs_of(store, design, config, site)
        if sum(needs) > most:
            raise ArgumentError(
                f"probe: got memory={config.memory:g} (GiB), and {site}, {store[site].width:,} wide, takes "
                f"{number(sum(needs) / most * config.memory)}; expected as much, or fewer folds or kept items"
            )
        widest = max(working, needs.working)
        room = max(widest, min(threads * widest, most / 2))
        if group and held + needs.held + room > most:
            yield ready()
            group, held, working = [], 0, 0
        group.append(site)
        held, working = held + needs.held, max(working, needs.working)
    yield ready()


def needs_of(store: Store, design: Design, config: ProbeConfig, site: str) -> Needs:
    width, penalties = store[site].width, len(config.penalties)
    held, working = config.batch * width * 4 * _READ, 0
    for cohort in design.cohorts:
        kept, rows = int(cohort.kept.sum()), int((cohort.fold != TEST).sum())
        targets = sum(k.task.width for k in cohort.known)
        held += kept * width * 4 + int(cohort.measured.sum()) * targets * 4
        # Probes of a fold, and scores of all kept items; then either fits, or a task's scores in float64.
        own = 16 * penalties * width * targets + 4 * penalties * kept * targets
        looked_at = penalties if config.method in PROBABILISTIC else 1
        choosing = 32 * looked_at * kept * max(k.task.width for k in cohort.known)
        fits = 0
        if closed := sum(k.task.width for k in cohort.known if in_closed_form(k, config)):
            if rows < width:  # kept as they are, and rows x rows is factorised
                held += 8 * rows * (width + closed)
                fits += 8 * rows * (width + closed + 3 * rows)
            else:
                sums = FoldedGram.bytes_needed(width, closed, config.folds, threads=0)
                held += sums
                fits += FoldedGram.bytes_needed(width, closed, config.folds) - sums
        if classes := [c for k in cohort.known if not in_closed_form(k, config) for c in classes_of(k)]:
            fits += bytes_needed(width, classes, penalties, config.folds, total=True, rows=config.batch)
        working = max(working, own + max(fits, choosing))
    return Needs(held, working)


def classes_of(known: Known) -> list[int]:
    """Of each of its problems by logistic regression: a label is one of two classes."""
    return [2] * known.task.width if known.task.kind == "multilabel" else [known.task.width]
