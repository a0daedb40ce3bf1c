"""`open_data`: from whatever a person calls their data to a `Source` or a `Stream`."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from mmxai.data.decode import IMAGE_SUFFIXES
from mmxai.data.folder import FolderSource, read_file
from mmxai.data.objects import IterableStream, MapSource
from mmxai.data.sample import Sample
from mmxai.data.shards import TarSource
from mmxai.data.source import Source, Stream, limited
from mmxai.data.tables import JsonArray, JsonLines, Table, TextFile
from mmxai.errors import DataError

_TABLES: dict[str, type[Table] | type[JsonLines]] = {
    ".csv": Table,
    ".tsv": Table,
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
}
_SNIFF = 1 << 16


def open_data(
    spec: Any, *, image_column: str | None = None, text_column: str | None = None, limit: int | None = None
) -> Source | Stream:
    """Open a data set.

    `spec`: path of a folder of images, one image, a text file (a sample a line), `.csv` / `.tsv` / `.jsonl` /
    `.json` (an array) with an image column (paths relative to the file), a text column or both, WebDataset
    shards (`.tar`; `shard-{000..012}.tar` and `shards/*.tar` name many); or a Python object: sequence,
    torch or Hugging Face dataset, iterable, of strings (texts), pictures, `pathlib.Path`, mappings, tuples
    or `Sample`.

    `image_column`, `text_column`: which column (member, key) holds what, where the common names do not tell.
    `limit`: only the first samples. Raises `DataError`.
    """
    if isinstance(spec, (Source, Stream)):
        return limited(spec, limit)
    if isinstance(spec, (str, Path)):
        return limited(_open_path(Path(spec).expanduser(), image_column, text_column), limit)
    if isinstance(spec, Mapping) or hasattr(spec, "iloc"):
        hint = "give a table's rows, as frame.to_dict('records')"
        if isinstance(spec, Mapping):
            hint = f"choose one of {list(spec)[:8]}, as data[...]"
        raise DataError(f"data: got a {type(spec).__name__}, expected one data set; {hint}")
    if hasattr(spec, "__len__") and hasattr(spec, "__getitem__"):
        return limited(MapSource(spec, image_column, text_column), limit)
    if isinstance(spec, Iterable):
        return limited(IterableStream(spec, image_column, text_column), limit)
    raise DataError(f"data: got a {type(spec).__name__}, expected a path, a sequence or an iterable")


def _open_path(path: Path, image_column: str | None, text_column: str | None) -> Source:
    suffix = path.suffix.lower()
    if not os.path.exists(path):  # unlike Path.exists, a text in place of a path does not make it raise
        shards = _expand(str(path))
        if shards is None:
            raise DataError(
                f"{str(path)[:200]}: got no such file or folder{_nearest(path)}, expected an existing path"
            )
        return TarSource(shards, image_column, text_column)
    if path.is_dir():
        return FolderSource(path)
    if suffix == ".tar":
        return TarSource([path], image_column, text_column)
    if suffix in _TABLES:
        return _TABLES[suffix](path, image_column, text_column)
    if suffix == ".json":
        return JsonArray(path, image_column, text_column)
    if suffix in IMAGE_SUFFIXES:
        return MapSource([Sample(path.name, read_file(path, path.name))])
    if not _looks_like_text(path):
        raise DataError(
            f"{path}: got a binary file with suffix {suffix!r}, expected a folder of images, text, CSV, "
            "TSV, JSON lines or an uncompressed tar; unpack compressed files first"
        )
    return TextFile(path)


def _expand(pattern: str) -> list[Path] | None:
    """Paths of a pattern with {000..012}, {a,b}, * or ?; None where it is no pattern."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    if len(parts) == 1 and not glob.has_magic(pattern):
        return None
    choices = [[part] if i % 2 == 0 else _alternatives(part) for i, part in enumerate(parts)]
    paths = []
    for name in map("".join, product(*choices)):
        found = sorted(map(Path, glob.glob(name))) if glob.has_magic(name) else [Path(name)]
        if not found or not found[0].is_file():
            raise DataError(
                f"{pattern}: got no file {name}{_nearest(Path(name))}, expected every shard to exist"
            )
        paths += found
    others = [path.name for path in paths if path.suffix.lower() != ".tar"]
    if others:
        raise DataError(
            f"{pattern}: got {others[:3]}, expected .tar shards only; give other data by one path"
        )
    return paths


def _alternatives(inside: str) -> list[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if numbers is None:
        return inside.split(",")
    first, last = numbers.groups()
    return [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]


def _nearest(path: Path) -> str:
    """What exists beside a path that does not."""
    missing, parent = path.name, path.parent
    while not os.path.isdir(parent) and parent != parent.parent:
        missing, parent = parent.name, parent.parent
    close = difflib.get_close_matches(missing, [p.name for p in parent.iterdir()], n=1)
    return f" (did you mean {parent / close[0]}?)" if close else f" (nothing like it in {parent})"


def _looks_like_text(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_SNIFF)
    return b"\0" not in head and not head.startswith((b"\x1f\x8b", b"PK\x03\x04", b"\x89PNG", b"\xff\xd8"))
