"""Linear probes: `probe` over a store, `ProbeReport`, directions to steer with."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmxai.methods.probe.directions import Directions as Directions
    from mmxai.methods.probe.directions import load_directions as load_directions
    from mmxai.methods.probe.erasers import load_erasers as load_erasers
    from mmxai.methods.probe.linear_probe import LinearProbe as LinearProbe
    from mmxai.methods.probe.options import ProbeConfig as ProbeConfig
    from mmxai.methods.probe.results import ProbeReport as ProbeReport
    from mmxai.methods.probe.run import probe as probe

_HOMES = {
    "Directions": "mmxai.methods.probe.directions",
    "LinearProbe": "mmxai.methods.probe.linear_probe",
    "ProbeConfig": "mmxai.methods.probe.options",
    "ProbeReport": "mmxai.methods.probe.results",
    "load_directions": "mmxai.methods.probe.directions",
    "load_erasers": "mmxai.methods.probe.erasers",
    "probe": "mmxai.methods.probe.run",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmxai.methods.probe' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
