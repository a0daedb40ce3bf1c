"""Codes of dictionaries as a store: every method that reads one takes their units as it takes neurons.

The new store has the old one's samples, parts, row table and row space, and a site `<site>.<kind>` of K
codes a dictionary. Its statistics hold the highest and lowest rows of each unit, one a sample: the exemplars.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmxai.errors import ArgumentError, NonFiniteError
from mmxai.kernels.crc32c import crc32c
from mmxai.share import share
from mmxai.stats import StatsAccumulator
from mmxai.store import Plan, SiteSpec, StoreWriter
from mmxai.store.derived import parts_to_make, rows_of_part, samples_of_part
from mmxai.store.select import RowFilter, select_rows
from mmxai.types import ROW_COLUMNS

if TYPE_CHECKING:
    from mmxai.methods.decompose.dictionary import Dictionary
    from mmxai.store.reader import Store

_ROWS = 2048
_SAMPLE = ROW_COLUMNS.index("sample")


def encode_store(
    dictionaries: Sequence[Dictionary],
    store: Store,
    out: str | Path,
    *,
    exemplars: int = 16,
    part_of: str | None = None,
) -> Path:
    """Write the codes of every row of `store`, bfloat16, to a new store `out`; go on with it where it is
    there.

    dictionaries: of one site and its token types, each kind once. exemplars: rows kept of each end of a unit.
    part_of: this worker's share, 'i/n'. NonFiniteError where an activation is NaN or inf.
    """
    site, tokens = _shared(dictionaries)
    keep = RowFilter.parse(tokens, None, (0.8, 0.1, 0.1))
    space = store[site].space
    select_rows(store.view, space, keep)  # raises where none is left
    plan = _plan(dictionaries, store, keep, exemplars)
    with StoreWriter.open(out, plan) as writer:
        for part in parts_to_make(writer, store, *share(part_of)):
            _encode_part(dictionaries, store, writer, part, keep, exemplars)
        if store.view.snapshot.end is not None:
            writer.finish(store.view.snapshot.end)
    return Path(out)


def codes_site(dictionary: Dictionary) -> str:
    """The name of a dictionary's site in a store of codes."""
    return f"{dictionary.site}.{dictionary.kind}"


def _shared(dictionaries: Sequence[Dictionary]) -> tuple[str, str | None]:
    """Site and token types. ArgumentError where they are not one."""
    found = {(d.site, d.tokens) for d in dictionaries}
    kinds = [d.kind for d in dictionaries]
    if len(found) != 1 or len(set(kinds)) < len(kinds):
        raise ArgumentError(
            f"encode: got dictionaries of kinds {kinds} and (site, tokens) {sorted(map(str, found))}, "
            "expected at least one, all of one site and its token types, each kind once"
        )
    return found.pop()


def _plan(dictionaries: Sequence[Dictionary], store: Store, keep: RowFilter, exemplars: int) -> Plan:
    source, space = store.plan, store[dictionaries[0].site].space
    identity: dict[str, Any] = {
        "source": source.hash,
        "dictionaries": {codes_site(d): fingerprint(d) for d in dictionaries},
        "tokens": None if keep.tokens is None else list(keep.tokens),
        "statistics": {"k": exemplars, "exemplars": "sample", "bottom": True},
    }
    identity |= {name: source.identity[name] for name in ("data", "model") if name in source.identity}
    return Plan(
        samples=source.samples,
        samples_per_part=source.samples_per_part,
        order=source.order,
        seed=source.seed,
        sites=tuple(SiteSpec(codes_site(d), d.units, "bfloat16", space) for d in dictionaries),
        rows_per_sample={space: source.rows_per_sample[space]},
        identity=identity,
        notes={"source": Path(store.path).name, "of": dict(source.notes)},
    )


def fingerprint(dictionary: Dictionary) -> str:
    """A checksum of what decides the codes, hexadecimal."""
    value = crc32c(dictionary.kind.encode())
    for tensor in (dictionary.directions, dictionary.offset, dictionary.encoder):
        if tensor is not None:
            value = crc32c(tensor.view(torch.uint8).numpy(), value)
    return f"{value:08x}"


def _encode_part(
    dictionaries: Sequence[Dictionary],
    store: Store,
    writer: StoreWriter,
    part: int,
    keep: RowFilter,
    exemplars: int,
) -> None:
    source = store[dictionaries[0].site]
    rows, who = rows_of_part(store, source.space, part, keep)
    stats = {
        codes_site(d): StatsAccumulator(d.units, exemplars, bottom=True, per_sample=True)
        for d in dictionaries
    }
    with writer.part(part) as attempt:
        for start in range(0, len(rows), _ROWS):
            block, owner = rows[start : start + _ROWS], who[start : start + _ROWS]
            x = source.gather(block, torch.float32)
            if not x.isfinite().all():
                row = int(block[int((~x.isfinite().all(1)).nonzero()[0])])
                raise NonFiniteError(
                    f"encode: got NaN or inf in row {row} (part {part}) of {source.name}, expected finite "
                    "rows; harvest again, or leave that token type out with tokens="
                )
            codes = {codes_site(d): d.encode_dense(x).to(torch.bfloat16) for d in dictionaries}
            for name, dense in codes.items():
                stats[name].update(dense, attempt.num_rows(source.space), owner[:, _SAMPLE].long())
            attempt.write(source.space, owner, codes)
        states = {f"{site}/{k}": v for site, own in stats.items() for k, v in own.state(part).items()}
        attempt.commit(
            samples_of_part(store, part), states, {"command": "decompose", "torch": torch.__version__}
        )
