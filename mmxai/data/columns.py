"""Rows of named values -> samples: which column is the picture, which the text, and the rest as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmxai.data.folder import read_file
from mmxai.data.sample import Sample
from mmxai.errors import DataError, UnreadableSampleError

IMAGE_NAMES = ("image", "img", "image_path", "path", "file_name", "filename", "file", "filepath")
TEXT_NAMES = ("text", "caption", "sentence", "prompt", "content")


@dataclass(frozen=True)
class Columns:
    """Names of the columns that hold the picture and the text; None: there is none."""

    image: str | None
    text: str | None

    @classmethod
    def choose(cls, names: Sequence[str], image: str | None, text: str | None, *, where: str) -> Columns:
        """The named columns, or the first common names among `names` (`where` is for the message)."""
        for wanted in (image, text):
            if wanted is not None and wanted not in names:
                raise DataError(f"{where}: got no column {wanted!r}, expected one of {list(names)}")
        lower = {name.lower(): name for name in reversed(names)}
        if image is None:
            image = next((lower[n] for n in IMAGE_NAMES if n in lower and lower[n] != text), None)
        if text is None:
            text = next((lower[n] for n in TEXT_NAMES if n in lower and lower[n] != image), None)
        if image is None and text is None:
            raise DataError(
                f"{where}: got columns {list(names)}, expected an image column ({', '.join(IMAGE_NAMES)}) "
                f"or a text column ({', '.join(TEXT_NAMES)}); name yours with image_column= or text_column="
            )
        return cls(image, text)

    @property
    def identity(self) -> dict[str, Any]:
        return {"image": self.image, "text": self.text}

    def sample(self, row: Mapping[str, Any], key: str, base: Path) -> Sample:
        """`row` as a sample. Image paths are relative to `base`, and become the key."""
        image, text = row.get(self.image or ""), row.get(self.text or "")
        if text is not None and not isinstance(text, str):
            raise DataError(
                f"{key}: got {type(text).__name__} in text column {self.text!r}, expected a string; name "
                "the text column with text_column="
            )
        rest = {n: to_json(v, key, n) for n, v in row.items() if n not in (self.image, self.text)}
        if isinstance(image, (str, Path)) and str(image):
            key = str(image)
        return Sample(key, to_image(image, key, base), text, rest)


def to_image(value: Any, key: str, base: Path) -> Image.Image | bytes | None:
    """A picture however data sets hand it out: Pillow, path, file bytes, {"bytes", "path"}, uint8 array."""
    if value is None or isinstance(value, (Image.Image, bytes)):
        return value
    if isinstance(value, (str, Path)):
        if not str(value):
            raise UnreadableSampleError(
                f"{key}: got an empty image path, expected the path of an image", key=key
            )
        return read_file(base / value, key)
    if isinstance(value, Mapping) and ("bytes" in value or "path" in value):
        return value["bytes"] if value.get("bytes") else to_image(value.get("path"), key, base)
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.shape[2:] in ((), (3,), (4,)):
        return Image.fromarray(value)
    shape = f" {value.dtype} of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    raise DataError(
        f"{key}: got {type(value).__name__}{shape} as the picture, expected a PIL image, a path, the bytes "
        "of an image file or a uint8 array [H, W, 3] (pixels before the model's own normalisation)"
    )


def to_json(value: Any, key: str, column: str) -> Any:
    """A column's value as JSON; NaN and infinity, which JSON lacks, become None."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): to_json(v, key, column) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v, key, column) for v in value]
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays
        return to_json(value.tolist(), key, column)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise DataError(
        f"{key}: got {type(value).__name__} in column {column!r}, expected JSON (numbers, strings, lists); "
        "drop or convert that column"
    )
