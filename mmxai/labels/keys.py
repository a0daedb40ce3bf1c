"""Which sample of a store a name in a label file means."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from typing import TYPE_CHECKING

from mmxai.errors import DataError

if TYPE_CHECKING:
    from mmxai.store.reader import Store


def sample_numbers(store: Store, names: Iterable[str], where: str, *, stems: bool = False) -> dict[str, int]:
    """Name -> data set index, of those names that the store has.

    A name is a sample's key (a path or identifier as harvested; with `stems` its file name without suffix),
    or its number. Keys go first, and all names of a file are of one sort. DataError where the
    store has none of them, or where several samples have a name.
    """
    names = list(dict.fromkeys(names))
    by_key: dict[str, int] = {}
    numbers: set[int] = set()
    several: set[str] = set()
    for sample in store.samples:
        key = PurePath(sample.key).stem if stems else sample.key
        if key in by_key:
            several.add(key)
        by_key[key] = sample.sample
        numbers.add(sample.sample)
    if unclear := [name for name in names if name in several]:
        raise DataError(
            f"{where}: got {unclear[0]!r}, as several samples of {store.path} are called, expected names "
            "that tell samples apart; name them by sample number"
        )
    found = {name: by_key[name] for name in names if name in by_key}
    if not found:
        found = {n: int(n) for n in names if n.isdecimal() and int(n) in numbers}
    if not found:
        raise DataError(
            f"{where}: got {len(names)} samples such as {names[0] if names else 'none'!r}, none of which is "
            f"in {store.path}; expected keys such as {next(iter(by_key), 'none')!r}, or sample numbers"
        )
    return found
