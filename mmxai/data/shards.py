"""WebDataset shards: uncompressed tar files whose members, grouped by name, are samples."""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmxai.data.columns import TEXT_NAMES, to_json
from mmxai.data.decode import IMAGE_SUFFIXES
from mmxai.data.sample import Sample
from mmxai.data.source import Source, checked, fingerprint
from mmxai.errors import DataError, UnreadableSampleError

_IMAGE_FIELDS = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
_TEXT_FIELDS = ("txt", "text", "caption")
_NUMBER_FIELDS = ("cls", "cls2", "index")

_Members = dict[str, tuple[int, int]]  # field -> offset and size in the shard


class TarSource(Source):
    """Samples of tar shards, by number: the headers are scanned once, members are read where they lie.

    As in WebDataset, a member's name up to the first dot of its last part is the key and the rest the field;
    neighbours of one key are one sample. Image field: `image_column`, else the first of the usual image
    suffixes. Text field: `text_column` (a member, or a name inside the json member), else txt, text,
    caption, or a common text name inside the json. The json member's values and cls become columns. Members
    that are none of these are counted in `ignored`.
    """

    def __init__(
        self, paths: Sequence[str | Path], image_column: str | None = None, text_column: str | None = None
    ):
        self._paths = [Path(p) for p in paths]
        self._image, self._text = image_column, text_column
        self._samples: list[tuple[int, str, _Members]] = []
        self.ignored: Counter[str] = Counter()
        for shard, path in enumerate(self._paths):
            self._scan(shard, path)
        if not self._samples:
            raise DataError(
                f"{self._paths[0]}: got a tar file without samples, expected members like 0001.jpg"
            )
        fields = {field for _, _, members in self._samples for field in members}
        self._check_fields(fields)
        for _, _, members in self._samples:
            used = {self._image_field(members), self._text_field(members), *_NUMBER_FIELDS, "json"}
            self.ignored.update(set(members) - used)
        self._fingerprint = fingerprint(
            f"{key}\t{field}\t{size}"
            for _, key, members in self._samples
            for field, (_, size) in members.items()
        )

    def _scan(self, shard: int, path: Path) -> None:
        try:
            with tarfile.open(path, mode="r:") as tar:
                for member in tar:
                    if not member.isreg():
                        continue
                    folder, name = os.path.split(member.name.removeprefix("./"))
                    stem, dot, field = name.partition(".")
                    if not stem or not dot:
                        self.ignored[name] += 1  # hidden files and members without a field
                        continue
                    key = f"{folder}/{stem}" if folder else stem
                    if not self._samples or self._samples[-1][:2] != (shard, key):
                        self._samples.append((shard, key, {}))
                    self._samples[-1][2][field.lower()] = (member.offset_data, member.size)
        except tarfile.TarError as error:
            raise DataError(
                f"{path}: got {error}, expected a whole uncompressed tar (gunzip compressed shards first)"
            ) from error

    def _check_fields(self, fields: set[str]) -> None:
        for wanted in (self._image, self._text):
            if wanted is not None and wanted not in fields and "json" not in fields:
                raise DataError(
                    f"{self._paths[0]}: got no field {wanted!r}, expected one of {sorted(fields)}"
                )
        known = {*_IMAGE_FIELDS, *_TEXT_FIELDS, "json", self._image, self._text}
        if not fields & known:
            raise DataError(
                f"{self._paths[0]}: got members with the fields {sorted(fields)}, expected an image "
                f"({', '.join(_IMAGE_FIELDS)}), txt or json; name yours with image_column= or text_column="
            )

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "kind": "tar",
            "name": [path.name for path in self._paths],
            "count": len(self),
            "fingerprint": self._fingerprint,
            "columns": {"image": self._image, "text": self._text},
        }

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        shard, key, members = self._samples[checked(index, len(self))]
        columns: dict[str, Any] = {}
        with self._paths[shard].open("rb") as file:

            def read(field: str) -> bytes:
                offset, size = members[field]
                file.seek(offset)
                data = file.read(size)
                if len(data) != size:
                    raise UnreadableSampleError(
                        f"{key}.{field}: got {len(data)} bytes, expected {size}; the shard was cut after "
                        "it was opened",
                        key=key,
                    )
                return data

            image_field, text_field = self._image_field(members), self._text_field(members)
            image = read(image_field) if image_field else None
            text = _text(read(text_field), key) if text_field else None
            if "json" in members:
                columns.update(_object(read("json"), key))
            for field in _NUMBER_FIELDS:
                if field in members:
                    columns[field] = _number(_text(read(field), key))
        if text_field is None:
            text = self._text_in(columns)
        return Sample(key, image, text, columns)

    def _image_field(self, members: Mapping[str, Any]) -> str | None:
        wanted = (self._image,) if self._image is not None else _IMAGE_FIELDS
        return next((field for field in members if field in wanted), None)

    def _text_field(self, members: Mapping[str, Any]) -> str | None:
        wanted = (self._text,) if self._text is not None else _TEXT_FIELDS
        return next((field for field in members if field in wanted), None)

    def _text_in(self, columns: dict[str, Any]) -> str | None:
        names = (self._text,) if self._text is not None else TEXT_NAMES
        name = next((n for n in names if isinstance(columns.get(n), str)), None)
        return None if name is None else columns.pop(name)


def _text(data: bytes, key: str) -> str:
    try:
        return data.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UnreadableSampleError(f"{key}: got {error}, expected UTF-8", key=key) from error


def _object(data: bytes, key: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise UnreadableSampleError(f"{key}.json: got {error}, expected JSON", key=key) from error
    value = to_json(value, key, "json")  # json.loads accepts NaN
    return value if isinstance(value, dict) else {"json": value}


def _number(text: str) -> int | str:
    return int(text) if text.strip().lstrip("-").isdecimal() else text
