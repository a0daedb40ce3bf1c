"""Activation stores: legal Zarr v3 that is also plain memory maps (FORMAT.md). Names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmxai.store.compact import compact
    from mmxai.store.create import create_store
    from mmxai.store.plan import Plan, SiteSpec
    from mmxai.store.reader import Store, open_store
    from mmxai.store.snapshot import Snapshot, read_commits
    from mmxai.store.verify import VerifyReport, verify
    from mmxai.store.writer import PartWriter, StoreWriter

_HOMES = {
    "PartWriter": "writer",
    "Plan": "plan",
    "SiteSpec": "plan",
    "Snapshot": "snapshot",
    "Store": "reader",
    "StoreWriter": "writer",
    "VerifyReport": "verify",
    "compact": "compact",
    "create_store": "create",
    "open_store": "reader",
    "read_commits": "snapshot",
    "verify": "verify",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmxai.store' has no attribute {name!r}")
    value = getattr(import_module(f"mmxai.store.{_HOMES[name]}"), name)
    # `verify` and `compact` are also submodules: importing them has just bound the module to the name.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
