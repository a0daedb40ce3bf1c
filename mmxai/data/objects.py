"""Data sets that are Python objects: sequences, iterables, torch and Hugging Face datasets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from mmxai.data.columns import Columns, to_image, to_json
from mmxai.data.decode import IMAGE_SUFFIXES
from mmxai.data.sample import Sample
from mmxai.data.source import Source, Stream, checked
from mmxai.errors import DataError, UnreadableSampleError


class _Items:
    """Turns items into samples; the columns are chosen at the first item that has any.

    str: a text. `pathlib.Path`, bytes of an image file, PIL image, uint8 array: a picture. Mapping: columns.
    Tensor, mapping of tensors: model inputs that are ready (a lone floating one is `pixel_values`, an integer
    one `input_ids`). Tuple: picture and text by type, one further value becomes the column `label`, several
    `column_<place>`.
    """

    def __init__(self, image_column: str | None, text_column: str | None):
        self._wanted = (image_column, text_column)
        self._columns: Columns | None = None

    @property
    def identity(self) -> dict[str, Any]:
        return {"columns": {"image": self._wanted[0], "text": self._wanted[1]}}

    def sample(self, item: Any, index: int) -> Sample:
        key = str(index)
        if isinstance(item, Sample):
            return item
        if isinstance(item, str):
            _not_a_path(item)
            return Sample(key, text=item)
        if isinstance(item, torch.Tensor):
            return Sample(key, tensors={_argument(item): item})
        if isinstance(item, Mapping) and item and all(isinstance(v, torch.Tensor) for v in item.values()):
            return Sample(key, tensors=item)
        if isinstance(item, Mapping):
            if self._columns is None:
                self._columns = Columns.choose(list(item), *self._wanted, where=f"sample {index}")
            return self._columns.sample(item, key, Path())
        if isinstance(item, (tuple, list)):
            return _from_tuple(item, key)
        if isinstance(item, Path):
            key = item.name
        return Sample(key, to_image(item, key, Path()))


class MapSource(Source):
    """Anything with `len()` and `[i]`: lists, torch map-style datasets, Hugging Face datasets, worlds.

    Its identity holds the object's own `identity` (a mapping) or Hugging Face `_fingerprint` where it has
    one; otherwise the type and the length, and a changed data set shows only in the samples' digests.
    """

    def __init__(self, items: Any, image_column: str | None = None, text_column: str | None = None):
        self._items = items
        if not len(items):
            raise DataError(f"data: got an empty {type(items).__name__}, expected at least one sample")
        self._convert = _Items(image_column, text_column)
        self._convert.sample(self._raw(0), 0)  # so that a hopeless data set fails now

    @property
    def identity(self) -> dict[str, Any]:
        out = {
            "kind": "sequence",
            "name": type(self._items).__name__,
            "count": len(self),
            **self._convert.identity,
        }
        own, mark = getattr(self._items, "identity", None), getattr(self._items, "_fingerprint", None)
        if isinstance(own, Mapping):
            out["identity"] = dict(own)
        elif isinstance(mark, str):
            out["fingerprint"] = mark
        return out

    def __len__(self) -> int:
        return len(self._items)

    def _raw(self, index: int) -> Any:
        try:
            return self._items[index]
        except UnidentifiedImageError as error:  # Hugging Face decodes on access
            key = str(index)
            raise UnreadableSampleError(f"sample {key}: {error}, expected an image file", key=key) from error

    def __getitem__(self, index: int) -> Sample:
        index = checked(index, len(self))
        return self._convert.sample(self._raw(index), index)


class IterableStream(Stream):
    """Any iterable. A second pass needs one that begins again (not a generator)."""

    def __init__(self, items: Iterable[Any], image_column: str | None = None, text_column: str | None = None):
        self._items = items
        self._wanted = (image_column, text_column)
        self._spent = False

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "kind": "iterable",
            "name": type(self._items).__name__,
            "count": None,
            **_Items(*self._wanted).identity,
        }

    def __iter__(self) -> Iterator[Sample]:
        iterator = iter(self._items)
        if iterator is self._items:
            if self._spent:
                raise DataError(
                    f"data: got a {type(self._items).__name__} that was read already, expected data that "
                    "can be read again; make a new one, or give a list"
                )
            self._spent = True
        convert = _Items(*self._wanted)
        return map(
            convert.sample, iterator, count()
        )  # unlike a generator, goes on after an unreadable sample


def _from_tuple(item: tuple[Any, ...] | list[Any], key: str) -> Sample:
    image: Any = None
    text: str | None = None
    tensors: dict[str, torch.Tensor] = {}
    rest: dict[str, Any] = {}
    for place, value in enumerate(item):
        if image is None and _is_picture(value):
            image = to_image(value, key, Path())
        elif not tensors and isinstance(value, torch.Tensor) and value.ndim:
            tensors[_argument(value)] = value
        elif text is None and isinstance(value, str):
            text = value
        else:
            rest[f"column_{place}"] = to_json(value, key, f"column_{place}")
    if image is None and text is None and not tensors:
        kinds = ", ".join(type(value).__name__ for value in item)
        raise DataError(
            f"sample {key}: got ({kinds}), expected a picture (PIL image, path, uint8 array [H, W, 3]), "
            "a string or a tensor in it"
        )
    if len(rest) == 1:
        rest = {"label": next(iter(rest.values()))}
    return Sample(key, image, text, rest, tensors=tensors)


def _argument(tensor: torch.Tensor) -> str:
    """The argument that transformers gives a lone input."""
    return "pixel_values" if tensor.is_floating_point() else "input_ids"


def _is_picture(value: Any) -> bool:
    if isinstance(value, (Image.Image, Path, bytes)):
        return True
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (2, 3)


def _not_a_path(text: str) -> None:
    """A list of path strings would be read as texts; refuse instead."""
    if text.lower().endswith(IMAGE_SUFFIXES) and "\n" not in text and Path(text).is_file():
        raise DataError(
            f"data: got the string {text!r}, which names an image file, expected pathlib.Path objects for "
            "pictures and strings for texts"
        )
