"""Which sample of a store a name in a label file means."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath, PurePosixPath
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


class NotInStoreError(DataError):
    """Annotations of other pictures than a store's: none of them is in it."""


_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


def sample_files(store: Store, names: Iterable[str], where: str, *, numbers: bool = False) -> dict[str, int]:
    """File name of a picture -> data set index, of those names that the store has.

    Names may have more or fewer leading folders than the store's keys, and another picture suffix or none:
    `val2017/7.jpg` is `7.jpg`, `coco/val2017/7.jpg` and `7`. numbers: where none is a key, names may be
    sample numbers. DataError where a name fits two samples, NotInStoreError where none of the names any.
    """
    by_name: dict[str, list[tuple[tuple[str, ...], int]]] = {}
    example, known = "none", set()
    for sample in store.samples:
        parts = _parts(sample.key)
        by_name.setdefault(parts[-1], []).append((parts, sample.sample))
        example = sample.key
        known.add(sample.sample)
    found: dict[str, int] = {}
    names = list(dict.fromkeys(names))
    for name in names:
        parts = _parts(name)
        near = [(own, number) for own, number in by_name.get(parts[-1], ()) if _ends_alike(own, parts)]
        if len(near) > 1:
            near = [(own, number) for own, number in near if own == parts] or near
        if len(near) > 1:
            raise DataError(
                f"{where}: {name!r} fits {len(near)} samples of {store.path}, such as "
                f"{['/'.join(own) for own, _ in near[:2]]}, expected names that tell samples apart"
            )
        if near:
            found[name] = near[0][1]
    if not found and numbers:
        found = {n: int(_parts(n)[-1]) for n in names if _parts(n)[-1].isdecimal()}
        found = {name: number for name, number in found.items() if number in known}
    if not found:
        raise NotInStoreError(
            f"{where}: got {len(names)} pictures such as {names[0] if names else 'none'!r}, none of which is "
            f"in {store.path}; expected file names of its samples, such as {example!r}"
        )
    twice = len(found) - len(set(found.values()))
    if twice:
        raise DataError(f"{where}: {twice} samples of {store.path} are named twice, expected one name each")
    return found


def _parts(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name.replace("\\", "/"))
    last = path.stem if path.suffix.lower() in _SUFFIXES else path.name
    return (*(p for p in path.parent.parts if p not in ("/", ".", "..")), last)


def _ends_alike(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    shared = min(len(a), len(b))
    return a[-shared:] == b[-shared:]
