"""Pictures of a published site: a few on one WebP sheet, and what is said of them in a file beside it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from mmxai.report.dissect.data import compact, write_data
from mmxai.report.pictures import inverse

if TYPE_CHECKING:
    from mmxai.store.reader import Store
    from mmxai.store.samples import StoredSample

Images = Callable[[int], Image.Image]

PER_SHEET, COLUMNS = 16, 4
FOLDER = "pictures"

_SMALL = 96 * 96  # pixels up to which pictures are kept as they are, without loss
_SAID = 160  # characters of a caption


@dataclass(frozen=True)
class Sheets:
    """How pictures are laid out. `lossless`: they are small, and stay as they are."""

    side: int
    lossless: bool

    def encoded(self, images: Sequence[Image.Image]) -> bytes:
        """One sheet, row by row."""
        rows = -(-len(images) // COLUMNS)
        wide = min(len(images), COLUMNS)
        sheet = Image.new("RGB", (wide * self.side, rows * self.side), (128, 128, 128))
        for i, image in enumerate(images):
            sheet.paste(self.fitted(image), (i % COLUMNS * self.side, i // COLUMNS * self.side))
        buffer = io.BytesIO()
        if self.lossless:
            sheet.save(buffer, "webp", lossless=True, quality=50, method=4)
        else:
            sheet.save(buffer, "webp", quality=75, method=4)
        return buffer.getvalue()

    def fitted(self, image: Image.Image) -> Image.Image:
        """The picture no larger than a place on the sheet."""
        made, size = image.convert("RGB"), self.size(image.size)
        return made if made.size == size else made.resize(size, Image.Resampling.LANCZOS, reducing_gap=2)

    def size(self, size: Sequence[int]) -> tuple[int, int]:
        """What `fitted` makes of a picture of `size` (W, H)."""
        scale = min(1.0, self.side / max(size))
        return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def sheets_of(sizes: Iterable[Sequence[int]], side: int) -> Sheets:
    """Sheets for pictures of these sizes, at most `side` long."""
    every = list(sizes)
    largest = max((max(size) for size in every), default=16)
    small = all(w * h <= _SMALL for w, h in every)
    fitting = -(-largest // 16) * 16
    return Sheets(fitting if small else min(side, fitting), small)


def estimate(images: Images, samples: Sequence[int], sheets: Sheets) -> float:
    """Bytes a picture, from some of them: whole sheets of pictures spread over all."""
    step = max(1, len(samples) // (3 * PER_SHEET))
    drawn = samples[::step][: 3 * PER_SHEET]
    total = 0
    for start in range(0, len(drawn), PER_SHEET):
        total += len(sheets.encoded([images(s) for s in drawn[start : start + PER_SHEET]]))
    return total / max(1, len(drawn))


def write_sheets(
    out: Path,
    store: Store,
    samples: Sequence[int],
    images: Images | None,
    sheets: Sheets,
    licences: Sequence[int],
    progress: Callable[[], object],
) -> None:
    """Picture i of `samples` is number i % PER_SHEET of sheet i // PER_SHEET; `licences`: of each, its number
    in the site's list. Without `images` only what is said of them is written."""
    for number, start in enumerate(range(0, len(samples), PER_SHEET)):
        own = samples[start : start + PER_SHEET]
        if images is not None:
            path = out / FOLDER / f"{number}.webp"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sheets.encoded([images(s) for s in own]))
        said = [_said(store.samples[s], licences[start + i], sheets) for i, s in enumerate(own)]
        write_data(out, f"{FOLDER}/{number}", said)
        progress()


def shown_key(sample: StoredSample) -> str:
    """The sample's key; of one that is a path from a machine's root, the last part."""
    key = sample.key
    return (
        key.replace("\\", "/").rpartition("/")[2] if key.startswith(("/", "\\")) or key[1:3] == ":\\" else key
    )


def _said(sample: StoredSample, licence: int, sheets: Sheets) -> list[Any]:
    """Key, size, licence, size on the sheet, tiles (grid -> picture, and the grid's shape), caption."""
    assert sample.size is not None
    tiles = []
    for tile in sample.tiles:
        back = inverse(tile["affine"])
        tiles.append([*(compact(v, 6) for v in back or (0, 0, 0, 0, 0, 0)), *tile["grid"]])
    text = (sample.text or "")[:_SAID]
    return [shown_key(sample), *sample.size, licence, *sheets.size(sample.size), tiles, text]
