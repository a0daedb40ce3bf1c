"""What a site is and which arrays hold it (FORMAT.md, "Arrays" and "Profiles")."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmxai.errors import ArgumentError
from mmxai.store import layout
from mmxai.types import ROW_COLUMNS, TOKEN_TYPES

PROFILES = ("int8", "topk")
"""What a site may be stored as beside a float dtype: encoded, in several arrays."""


class Piece(NamedTuple):
    """One array of a site; `name` is "" where it is the only one."""

    name: str
    width: int
    dtype: str

    @property
    def row_bytes(self) -> int:
        return self.width * layout.ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class SiteSpec:
    """A site as stored: `width` features of `dtype` a row, in row space `space`.

    `dtype`: a float dtype; or "int8", with a scale a row and the columns `outliers` kept apart (None: not
    decided yet, a plan refuses it); or "topk", the `k` values of largest magnitude of each row.
    """

    name: str
    width: int
    dtype: str
    space: str
    k: int | None = None
    outliers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        layout.check_name(self.name, "site")
        layout.check_name(self.space, "row space")

        def refuse(got: str, expected: str) -> None:
            raise ArgumentError(f"site {self.name}: got {got}, expected {expected}")

        if not isinstance(self.width, int) or self.width < 1:
            refuse(f"width {self.width!r}", "an integer >= 1")
        if self.dtype not in (*layout.FLOAT_DTYPES, *PROFILES):
            refuse(f"dtype {self.dtype!r}", f"one of {(*layout.FLOAT_DTYPES, *PROFILES)}")
        if self.dtype == "topk" and not (isinstance(self.k, int) and 1 <= self.k <= self.width):
            refuse(f"dtype 'topk' with k={self.k!r}", f"an integer in [1, {self.width}]")
        if self.dtype != "topk" and self.k is not None:
            refuse(f"k={self.k!r} with dtype {self.dtype!r}", "none; k belongs to dtype 'topk'")
        if self.outliers is not None:
            if self.dtype != "int8":
                refuse(f"outlier columns with dtype {self.dtype!r}", "none; they belong to dtype 'int8'")
            object.__setattr__(self, "outliers", tuple(int(c) for c in self.outliers))
            rising = all(a < b for a, b in zip(self.outliers, self.outliers[1:], strict=False))
            if not rising or not all(0 <= c < self.width for c in self.outliers):
                refuse(f"outlier columns {self.outliers}", f"ascending numbers in [0, {self.width})")

    @property
    def encoded(self) -> bool:
        return self.dtype in PROFILES

    @property
    def decided(self) -> bool:
        """Whether all that a plan needs to know is known."""
        return self.dtype != "int8" or self.outliers is not None

    @property
    def row_dtype(self) -> str:
        """The float dtype of the site's rows, as they are written and read."""
        return "bfloat16" if self.encoded else self.dtype

    @property
    def storage(self) -> str:
        """How the site is stored, for people: "bfloat16", "int8 + 3 columns", "top 64"."""
        if self.dtype == "topk":
            return f"top {self.k}"
        return f"int8 + {len(self.outliers)} columns" if self.outliers else self.dtype

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The arrays that hold the site; the first decides their chunks."""
        if self.dtype == "int8":
            kept = (Piece("outliers", len(self.outliers), "bfloat16"),) if self.outliers else ()
            return (Piece("values", self.width, "int8"), Piece("scale", 1, "float32"), *kept)
        if self.dtype == "topk":
            k, index = self.k or 0, "uint16" if self.width <= layout.UINT16_COLUMNS else "int32"
            return Piece("values", k, "bfloat16"), Piece("indices", k, index)
        return (Piece("", self.width, self.dtype),)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, over all its arrays."""
        return sum(piece.row_bytes for piece in self.pieces)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of `pieces`."""
        return tuple(layout.array_path(self.name, piece.name) for piece in self.pieces)

    def chunk_rows(self, part_rows: int) -> int:
        """R of every array of the site, in parts of at most `part_rows` rows."""
        return layout.chunk_rows(self.pieces[0].row_bytes, part_rows)

    def arrays(self, chunk: int, capacity: int) -> Iterator[ArraySpec]:
        for piece, path in zip(self.pieces, self.paths, strict=True):
            mark: dict[str, Any] = {"kind": piece.name or "site", "space": self.space}
            if piece.name == "outliers":
                mark["columns"] = list(self.outliers or ())
            second = "feature" if piece.width == self.width else "entry"
            yield ArraySpec(path, self.space, piece.width, piece.dtype, chunk, capacity, second, mark)

    def group_document(self) -> dict[str, Any]:
        """zarr.json of the group that an encoded site is."""
        return layout.group_document({"mmxai": {"kind": "site", "space": self.space, **self.to_json()}})

    def to_json(self) -> dict[str, Any]:
        """What the plan says of the storage, without name and space."""
        out: dict[str, Any] = {"width": self.width, "dtype": self.dtype}
        if self.k is not None:
            out["k"] = self.k
        if self.outliers is not None:
            out["outliers"] = list(self.outliers)
        return out


@dataclass(frozen=True)
class ArraySpec:
    """One array of the store: a piece of a site, or the row table of a space.

    `second`: name of its second dimension; `mark`: its attributes `mmxai`.
    """

    path: str
    space: str
    width: int
    dtype: str
    chunk: int
    capacity: int
    second: str
    mark: dict[str, Any]

    @classmethod
    def of_rows(cls, space: str, chunk: int, capacity: int) -> ArraySpec:
        mark = {"kind": "rows", "columns": list(ROW_COLUMNS), "token_types": list(TOKEN_TYPES)}
        return cls(layout.rows_path(space), space, len(ROW_COLUMNS), "int32", chunk, capacity, "column", mark)

    @property
    def row_bytes(self) -> int:
        return self.width * layout.ITEM_BYTES[self.dtype]

    def document(self, parts: int) -> dict[str, Any]:
        """zarr.json of this array when it has `parts` parts."""
        return layout.array_document(
            parts=parts, shard_rows=self.capacity, chunk=self.chunk, width=self.width, dtype=self.dtype,
            second=self.second, attributes={"mmxai": self.mark},
        )  # fmt: skip

    def index(self, rows: int) -> bytes:
        return layout.shard_index(rows, self.chunk, self.capacity, self.row_bytes)

    def file_bytes(self, rows: int) -> int:
        return layout.shard_bytes(rows, self.chunk, self.capacity, self.row_bytes)
