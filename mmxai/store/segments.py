"""Segment files: the commits, samples and statistics of many parts in one safetensors file.

Only the segment with the highest number counts; each holds every part that was committed when it was made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mmxai.errors import StoreFormatError
from mmxai.kernels.crc32c import crc32c
from mmxai.store import layout, sealed
from mmxai.store.commit import SEGMENTS, FileRecord, PartRecord
from mmxai.store.plan import Plan

SEGMENT_NAME = re.compile(r"(0|[1-9][0-9]*)\.safetensors")
STATS_PREFIX = "stats/"


def numbers(root: Path) -> list[int]:
    """Numbers of the segments present, ascending."""
    directory = root / SEGMENTS
    if not directory.is_dir():  # the making of the store was interrupted
        return []
    found = (SEGMENT_NAME.fullmatch(p.name) for p in directory.iterdir())
    return sorted(int(m[1]) for m in found if m)


def segment_path(root: Path, number: int) -> Path:
    return root / SEGMENTS / f"{number}.safetensors"


def join(texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Byte strings as one uint8 array and int64 offsets `[n + 1]`."""
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(t) for t in texts], out=offsets[1:])
    return np.frombuffer(b"".join(texts), np.uint8), offsets


def encode(
    plan: Plan, records: list[PartRecord], samples: list[bytes], stats: Mapping[str, np.ndarray]
) -> bytes:
    """The bytes of a segment of these parts (ascending)."""
    spaces, arrays = list(plan.spaces), list(plan.arrays)
    tensors: dict[str, np.ndarray] = {
        "part": np.array([r.part for r in records], np.int64),
        "attempt": np.array([int(r.attempt, 16) for r in records], np.uint64),
        "first": np.array([r.first for r in records], np.int64),
        "samples": np.array([r.samples for r in records], np.int64),
        "rows": np.array([[r.rows[s] for s in spaces] for r in records], np.int64).reshape(-1, len(spaces)),
        "digest": np.frombuffer(bytes.fromhex("".join(r.digest for r in records)), np.uint8),
    }
    tensors["samples_text"], tensors["samples_offset"] = join(samples)
    producers = [sealed.canonical(r.producer) for r in records]
    tensors["producer_text"], tensors["producer_offset"] = join(producers)
    for i, array in enumerate(arrays):
        files = [next(f for f in r.files if f.key == layout.shard_key(array, r.part)) for r in records]
        tensors[f"index/{i}"] = np.array([f.crc32c for f in files], np.uint32)
        chunks = [f.chunks for f in files if f.chunks is not None]
        tensors[f"chunks/{i}"] = np.concatenate([np.empty(0, np.uint32), *chunks]).astype(np.uint32)
    tensors |= {STATS_PREFIX + name: np.ascontiguousarray(value) for name, value in stats.items()}
    about = {
        "format": layout.FORMAT,
        "plan": plan.hash,
        "spaces": spaces,
        "arrays": arrays,
        "crc32c": {name: crc32c(value) for name, value in tensors.items()},
    }
    return save(tensors, metadata={"mmxai": sealed.dump(about).decode()})


class Segment:
    """An open segment; tensors are read, and their checksums compared, on first use."""

    def __init__(self, path: Path, plan: Plan):
        self.path, self._plan = path, plan
        self._loaded: dict[str, np.ndarray] = {}
        try:
            self._file = safe_open(path, framework="np")
            about = (self._file.metadata() or {}).get("mmxai", "")
            self._names = list(self._file.keys())
        except SafetensorError as error:
            raise StoreFormatError(f"{path}: got a damaged segment ({error})") from error
        self._about: dict[str, Any] = sealed.load(about.encode(), path)
        if self._about["format"] != layout.FORMAT or self._about["plan"] != plan.hash:
            raise StoreFormatError(
                f"{path}: got format {self._about['format']}, plan {self._about['plan']}, "
                f"expected {layout.FORMAT}, {plan.hash}; it belongs to another store"
            )
        self.parts = self.tensor("part")
        self._at = {int(p): i for i, p in enumerate(self.parts)}
        self._spaces, self._arrays = self._about["spaces"], self._about["arrays"]

    def __contains__(self, part: int) -> bool:
        return part in self._at

    def tensor(self, name: str) -> np.ndarray:
        """A tensor of the segment; StoreFormatError when its bytes are damaged."""
        if name not in self._loaded:
            try:
                value = self._file.get_tensor(name)
            except SafetensorError as error:
                raise StoreFormatError(f"{self.path}: got a damaged segment ({error})") from error
            if crc32c(value) != self._about["crc32c"].get(name):
                raise StoreFormatError(f"{self.path}: tensor {name} differs from its checksum; it is damaged")
            self._loaded[name] = value
        return self._loaded[name]

    def attempt(self, part: int) -> str:
        return f"{int(self.tensor('attempt')[self._at[part]]):016x}"

    def rows(self, space: str) -> np.ndarray:
        """Valid rows a part in `space`, int64, aligned with `parts`."""
        return self.tensor("rows")[:, self._spaces.index(space)]

    def samples_text(self, part: int) -> bytes:
        return self._text("samples", part)

    def chunks(self, part: int, array: str) -> np.ndarray:
        """CRC-32C of every present inner chunk of a shard, uint32."""
        spec = self._plan.arrays[array]
        ends = self._ends(spec.space, spec.chunk)
        i = self._at[part]
        return self.tensor(f"chunks/{self._arrays.index(array)}")[ends[i] : ends[i + 1]]

    def record(self, part: int) -> PartRecord:
        """The commit record of a folded part; its files are the shards alone."""
        i = self._at[part]
        rows = {s: int(self.rows(s)[i]) for s in self._spaces}
        files = []
        for k, array in enumerate(self._arrays):
            spec = self._plan.arrays[array]
            size = spec.file_bytes(rows[spec.space])
            index = int(self.tensor(f"index/{k}")[i])
            files.append(FileRecord(layout.shard_key(array, part), size, index, self.chunks(part, array)))
        return PartRecord(
            part=part,
            attempt=self.attempt(part),
            plan=self._plan.hash,
            first=int(self.tensor("first")[i]),
            samples=int(self.tensor("samples")[i]),
            digest=self.tensor("digest").reshape(len(self.parts), -1)[i].tobytes().hex(),
            rows=rows,
            files=tuple(files),
            producer=json.loads(self._text("producer", part)),
        )

    def stats(self) -> dict[str, np.ndarray]:
        """The merged statistics of all parts of the segment, by `<site>/<name>`."""
        names = [n for n in self._about["crc32c"] if n.startswith(STATS_PREFIX)]
        return {n.removeprefix(STATS_PREFIX): self.tensor(n) for n in names}

    def check(self) -> list[str]:
        """Every damage found in the file, in words."""
        problems = []
        for name in self._about["crc32c"]:
            try:
                self.tensor(name)
            except StoreFormatError as error:
                problems.append(str(error))
        return problems

    def _text(self, name: str, part: int) -> bytes:
        offsets, i = self.tensor(f"{name}_offset"), self._at[part]
        return self.tensor(f"{name}_text")[offsets[i] : offsets[i + 1]].tobytes()

    def _ends(self, space: str, chunk: int) -> np.ndarray:
        key = f"ends {space} {chunk}"
        if key not in self._loaded:
            self._loaded[key] = np.concatenate([[0], np.cumsum(-(-self.rows(space) // chunk))])
        return self._loaded[key]
