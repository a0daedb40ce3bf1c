"""The sample table: what each sample was, by its index in the data set."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmxai.errors import CorruptPartError
from mmxai.store.commit import record_key, samples_key
from mmxai.store.view import View

if TYPE_CHECKING:
    import pandas

_PARTS_KEPT = 32
_FIELDS = ["sample", "key", "hash", "text", "size", "tiles", "skipped", "truncated"]


@dataclass(frozen=True)
class StoredSample:
    """One sample as harvested: enough to show it again and to find its pixels in the grid.

    `tiles`: a dict a tile, `affine` [a, b, c, d, e, f] (gx = a*x + b*y + c, gy = d*x + e*y + f from original
    pixels to grid cells) and `grid` [h, w]. `skipped`: why it has no rows, else None. `truncated`:
    how many tokens a text had that was cut to the model's context, else None. `prompt`, `placement`: what a
    multimodal LLM was given and where the picture is in it; `generated`: what it said (FORMAT.md, Samples).
    """

    sample: int
    key: str
    hash: str
    text: str | None = None
    size: tuple[int, int] | None = None
    tiles: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    skipped: str | None = None
    truncated: int | None = None
    prompt: str | None = None
    placement: list[list[int]] = field(default_factory=list)
    generated: dict[str, Any] | None = None

    def tile_in(self, space: str, number: int = 0) -> dict[str, Any]:
        """Tile `number` with its affine and grid in cells of a row space.

        Tiles of a wrapped network are stored in pixels of its input; its row space `module.<H>x<W>` says how
        many cells those make.
        """
        tile = self.tiles[number]
        kind, _, shape = space.partition(".")
        if kind != "module" or "x" not in shape:
            return tile
        height, width = (int(n) for n in shape.split("x"))
        sy, sx = height / tile["grid"][0], width / tile["grid"][1]
        scales = (sx, sx, sx, sy, sy, sy)
        affine = [s * v for s, v in zip(scales, tile["affine"], strict=True)]
        return {"affine": affine, "grid": [height, width]}

    @classmethod
    def parse(cls, line: bytes) -> StoredSample:
        fields = json.loads(line)
        size = fields.get("size")
        return cls(
            sample=fields["sample"],
            key=fields["key"],
            hash=fields["hash"],
            text=fields.get("text"),
            size=None if size is None else (size[0], size[1]),
            tiles=fields.get("tiles") or [],
            columns=fields.get("columns") or {},
            skipped=fields.get("skipped"),
            truncated=fields.get("truncated"),
            prompt=fields.get("prompt"),
            placement=fields.get("placement") or [],
            generated=fields.get("generated"),
        )


class SampleTable:
    """`store.samples[i]` is the data set's sample i. Iteration goes in stored order, part by part."""

    def __init__(self, view: Callable[[], View]):
        self._view = view
        self._lines: OrderedDict[tuple[str, int], list[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Samples committed, the skipped ones among them."""
        return int(self._view().snapshot.samples.sum())

    def __getitem__(self, sample: int) -> StoredSample:
        """IndexError where the data set has no such sample or its part is not committed."""
        view = self._view()
        sample = int(sample)
        try:
            position = view.plan.position_of(sample)
        except IndexError:
            raise IndexError(f"samples: got {sample}, expected 0 <= sample < {view.plan.samples}") from None
        snapshot = view.snapshot
        # By the records: parts of appended stores may hold fewer samples than the plan allows.
        at = int(np.searchsorted(snapshot.first, position, side="right")) - 1
        if at >= 0 and position < snapshot.first[at] + snapshot.samples[at]:
            return self._parse(view, int(snapshot.parts[at]), position - int(snapshot.first[at]))
        part = position // view.plan.samples_per_part
        if part in snapshot.damaged:
            raise CorruptPartError(
                f"sample {sample}: the record of its part {part} is damaged: {snapshot.damaged[part]}",
                part=part, key=record_key(part),
            )  # fmt: skip
        raise IndexError(f"samples: {sample} is not committed; the store has {len(self)} samples so far")

    def __iter__(self) -> Iterator[StoredSample]:
        view = self._view()
        for part in view.snapshot.parts:
            for line in range(len(self._part(view, int(part)))):
                yield self._parse(view, int(part), line)

    def to_pandas(self) -> pandas.DataFrame:
        """A row a sample, indexed by `sample`; the input's other columns follow under their own names."""
        import pandas

        records = [
            {name: getattr(s, name) for name in _FIELDS}
            | {k: v for k, v in s.columns.items() if k != "sample"}
            for s in self
        ]
        columns = None if records else _FIELDS
        return pandas.DataFrame(records, columns=columns).set_index("sample").sort_index()

    def _parse(self, view: View, part: int, line: int) -> StoredSample:
        try:
            return StoredSample.parse(self._part(view, part)[line])
        except (ValueError, KeyError, IndexError) as error:
            raise CorruptPartError(
                f"part {part}: line {line} of its samples cannot be read ({error!r})",
                part=part, key=samples_key(part),
            ) from error  # fmt: skip

    def _part(self, view: View, part: int) -> list[bytes]:
        key = view.snapshot.attempt(part), part
        with self._lock:
            if key not in self._lines:
                # JSON escapes line ends within text, and bytes split at "\n" and "\r" alone.
                self._lines[key] = view.snapshot.samples_text(part).splitlines()
                if len(self._lines) > _PARTS_KEPT:
                    self._lines.popitem(last=False)
            self._lines.move_to_end(key)
            return self._lines[key]

    def __repr__(self) -> str:
        return f"SampleTable({len(self):,} samples)"
