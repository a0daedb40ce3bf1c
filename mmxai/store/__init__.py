"""Activation stores: legal Zarr v3 that is also plain memory maps (FORMAT.md). Names load on first use.

`mmxai.store.verify.verify` and `mmxai.store.compact.compact` are reached through their modules.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmxai.store.create import create_store
    from mmxai.store.part import PartWriter
    from mmxai.store.plan import Plan, SiteSpec
    from mmxai.store.reader import Store, open_store
    from mmxai.store.snapshot import Snapshot, read_commits
    from mmxai.store.writer import StoreWriter

_HOMES = {
    "PartWriter": "part",
    "Plan": "plan",
    "SiteSpec": "plan",
    "Snapshot": "snapshot",
    "Store": "reader",
    "StoreWriter": "writer",
    "create_store": "create",
    "open_store": "reader",
    "read_commits": "snapshot",
}

__all__ = [
    "PartWriter",
    "Plan",
    "SiteSpec",
    "Snapshot",
    "Store",
    "StoreWriter",
    "create_store",
    "open_store",
    "read_commits",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmxai.store' has no attribute {name!r}")
    return getattr(import_module(f"mmxai.store.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
