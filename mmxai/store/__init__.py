"""Activation stores: legal Zarr v3 that is also plain memory maps (FORMAT.md). Names load on first use.

`mmxai.store.verify.verify` and `mmxai.store.compact.compact` are reached through their modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmxai._lazy import lazy

if TYPE_CHECKING:
    from mmxai.store.create import create_store as create_store
    from mmxai.store.part import PartWriter as PartWriter
    from mmxai.store.plan import Plan as Plan
    from mmxai.store.plan import SiteSpec as SiteSpec
    from mmxai.store.reader import Store as Store
    from mmxai.store.reader import open_store as open_store
    from mmxai.store.snapshot import Snapshot as Snapshot
    from mmxai.store.snapshot import read_commits as read_commits
    from mmxai.store.writer import StoreWriter as StoreWriter

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

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
