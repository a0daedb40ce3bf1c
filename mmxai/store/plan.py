"""The plan: which rows exist and where they go. Pure functions of JSON; FORMAT.md, "Plan"."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmxai.errors import ArgumentError, StoreFormatError
from mmxai.store import layout, sealed
from mmxai.store.permute import Permutation
from mmxai.store.spec import ArraySpec, SiteSpec
from mmxai.types import ROW_COLUMNS

RESERVED = ("samples", "samples_per_part", "order", "seed", "sites", "spaces")
MAX_ROWS_PER_SAMPLE = 1 << 31


@dataclass(frozen=True)
class Plan:
    """Which samples go to which part, and the arrays that hold them.

    `samples` None: the length is unknown (streams, tools that append). `rows_per_sample`: row space ->
    most rows one sample can have. `identity`: JSON that decides which rows exist (model, data,
    selection); a store is resumed only under an equal one. `notes`: JSON worth keeping, never compared.
    """

    samples: int | None
    samples_per_part: int
    order: str
    seed: int
    sites: tuple[SiteSpec, ...]
    rows_per_sample: Mapping[str, int]
    identity: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def refuse(got: str, expected: str) -> None:
            raise ArgumentError(f"plan: got {got}, expected {expected}")

        if self.samples is not None and not 0 <= self.samples < 1 << 62:
            refuse(f"samples={self.samples!r}", "None or an integer >= 0")
        if self.samples_per_part < 1:
            refuse(f"samples_per_part={self.samples_per_part!r}", "an integer >= 1")
        if self.order not in ("permuted", "sequential"):
            refuse(f"order={self.order!r}", "'permuted' or 'sequential'")
        if self.order == "permuted" and self.samples is None:
            refuse("order='permuted' without a number of samples", "order='sequential'")
        if not self.sites:
            refuse("no sites", "at least one")
        undecided = [s.name for s in self.sites if not s.decided]
        if undecided:
            refuse(f"int8 sites {undecided} without outlier columns", "them named, () for none")
        names = [s.name for s in self.sites]
        if len(set(names)) < len(names):
            refuse(f"sites {names}", "each name once")
        missing = {s.space for s in self.sites} ^ set(self.rows_per_sample)
        if missing:
            refuse(
                f"row spaces {sorted(missing)} in only one of sites and rows_per_sample", "the same in both"
            )
        for space, most in self.rows_per_sample.items():
            if not 1 <= most <= MAX_ROWS_PER_SAMPLE:
                refuse(f"rows_per_sample[{space!r}]={most!r}", f"an integer in [1, {MAX_ROWS_PER_SAMPLE}]")
        taken = sorted(set(self.identity) & set(RESERVED))
        if taken:
            refuse(f"identity keys {taken}", f"none of {list(RESERVED)}")
        # Through JSON at once, so that a plan equals itself read back.
        for name in ("identity", "notes"):
            object.__setattr__(self, name, json.loads(sealed.canonical(getattr(self, name))))
        object.__setattr__(self, "rows_per_sample", dict(self.rows_per_sample))

    @property
    def parts(self) -> int | None:
        """Number of parts, None while the length is unknown."""
        return None if self.samples is None else -(-self.samples // self.samples_per_part)

    @property
    def spaces(self) -> tuple[str, ...]:
        """Row spaces, in the order of the sites."""
        return tuple(dict.fromkeys(s.space for s in self.sites))

    def site(self, name: str) -> SiteSpec:
        return self._sites[name]

    def sites_of(self, space: str) -> tuple[SiteSpec, ...]:
        return tuple(s for s in self.sites if s.space == space)

    def capacity(self, space: str) -> int:
        """C: rows of a part in `space`."""
        return self._spaces[space][1]

    def chunk_rows(self, site: str) -> int:
        """R: rows of an inner chunk of `site`."""
        return self._site_chunk(self.site(site))

    @cached_property
    def arrays(self) -> dict[str, ArraySpec]:
        """Every array by path: those of the sites, then the row tables."""
        out = [a for s in self.sites for a in s.arrays(self._site_chunk(s), self.capacity(s.space))]
        out += [ArraySpec.of_rows(space, chunk, rows) for space, (chunk, rows) in self._spaces.items()]
        return {array.path: array for array in out}

    @cached_property
    def _sites(self) -> dict[str, SiteSpec]:
        return {s.name: s for s in self.sites}

    @cached_property
    def _spaces(self) -> dict[str, tuple[int, int]]:
        """Space -> (chunk rows of its row table, capacity)."""
        out = {}
        for space in self.spaces:
            rows = self.rows_per_sample[space] * self.samples_per_part
            chunks = [self._site_chunk(s) for s in self.sites_of(space)]
            row_bytes = len(ROW_COLUMNS) * layout.ITEM_BYTES["int32"]
            # Not above the sites' chunks, unless for alignment: the table must not widen the capacity.
            table = layout.chunk_rows(row_bytes, rows, max(chunks))
            out[space] = table, layout.capacity(rows, [*chunks, table])
        return out

    def _site_chunk(self, site: SiteSpec) -> int:
        return site.chunk_rows(self.rows_per_sample[site.space] * self.samples_per_part)

    def first_of(self, part: int) -> int:
        """First plan position of `part`."""
        self._check_part(part)
        return part * self.samples_per_part

    def samples_of(self, part: int) -> np.ndarray:
        """Data set indices of the samples of `part`, int64, in the order they are stored.

        In a plan of unknown length: those of a full part.
        """
        first = self.first_of(part)
        end = first + self.samples_per_part
        if self.samples is not None:
            end = min(end, self.samples)
        positions = np.arange(first, end, dtype=np.int64)
        return positions if self._permutation is None else self._permutation(positions)

    def position_of(self, sample: int) -> int:
        """Plan position of the data set's sample `sample`; its part is `position // samples_per_part`."""
        if sample < 0 or (self.samples is not None and sample >= self.samples):
            raise IndexError(f"plan of {self.samples} samples: got sample {sample}")
        return sample if self._permutation is None else int(self._permutation.inverse([sample])[0])

    @cached_property
    def _permutation(self) -> Permutation | None:
        if self.order == "sequential" or self.samples is None:
            return None
        return Permutation(self.samples, self.seed)

    def _check_part(self, part: int) -> None:
        if part < 0 or (self.parts is not None and part >= self.parts):
            raise IndexError(f"plan of {self.parts} parts: got part {part}")

    @cached_property
    def identity_json(self) -> dict[str, Any]:
        """All that decides which rows exist, and where: what `hash` covers."""
        return {
            "samples": self.samples,
            "samples_per_part": self.samples_per_part,
            "order": self.order,
            "seed": self.seed,
            "spaces": {
                space: {"rows_per_sample": self.rows_per_sample[space], "capacity": rows, "chunk_rows": chunk}
                for space, (chunk, rows) in self._spaces.items()
            },
            "sites": {
                s.name: {**s.to_json(), "space": s.space, "chunk_rows": self._site_chunk(s)}
                for s in self.sites
            },
            **self.identity,
        }

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON of `identity_json`, hexadecimal."""
        return hashlib.sha256(sealed.canonical(self.identity_json)).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return {
            "format": layout.FORMAT,
            "hash": self.hash,
            "identity": self.identity_json,
            "notes": dict(self.notes),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plan:
        """The plan of `to_json`; StoreFormatError where this version would lay it out differently."""
        if document.get("format") != layout.FORMAT:
            raise StoreFormatError(
                f"plan: got store format {document.get('format')!r}, expected {layout.FORMAT}; "
                "open it with the version of mmxai that wrote it"
            )
        try:
            whole = document["identity"]
            plan = cls(
                samples=whole["samples"],
                samples_per_part=whole["samples_per_part"],
                order=whole["order"],
                seed=whole["seed"],
                sites=tuple(
                    SiteSpec(name, s["width"], s["dtype"], s["space"], s.get("k"), s.get("outliers"))
                    for name, s in whole["sites"].items()
                ),
                rows_per_sample={space: s["rows_per_sample"] for space, s in whole["spaces"].items()},
                identity={k: v for k, v in whole.items() if k not in RESERVED},
                notes=document["notes"],
            )
            claimed = document["hash"]
        except (KeyError, TypeError, AttributeError, ArgumentError) as error:
            raise StoreFormatError(f"plan: got a damaged plan ({error!r})") from error
        changes = differences(whole, plan.identity_json)
        if changes or plan.hash != claimed:
            raise StoreFormatError(
                f"plan {claimed}: got a layout that this version would make otherwise: {'; '.join(changes)}"
            )
        return plan

    def dump(self) -> bytes:
        """The bytes of plan.json."""
        return sealed.dump(self.to_json(), indent=1)

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read plan.json at `path`."""
        return cls.from_json(sealed.load(path.read_bytes(), path))

    def differences(self, other: Plan) -> list[str]:
        """What `other`, the plan asked for, has otherwise than this stored plan, leaf by leaf."""
        return differences(self.identity_json, other.identity_json)


def differences(stored: Any, asked: Any) -> list[str]:
    """Each leaf in which two JSON values differ: "selection.per_sample: store has 32, this run asks 64"."""
    old, new = dict(_leaves(stored, "")), dict(_leaves(asked, ""))
    out = []
    for path in dict.fromkeys([*old, *new]):
        was, now = old.get(path, "nothing"), new.get(path, "nothing")
        if was != now:
            out.append(f"{path}: store has {was}, this run asks {now}")
    return out


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    items: Any = ()
    if isinstance(value, Mapping):
        items = ((f"{path}.{k}" if path else str(k), v) for k, v in value.items())
    elif isinstance(value, list):
        items = ((f"{path}[{i}]", v) for i, v in enumerate(value))
    if not value or items == ():
        yield path, json.dumps(value)
        return
    for below, v in items:
        yield from _leaves(v, below)
