"""Linear probes: `probe` over a store, `ProbeReport`, directions to steer with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmxai._lazy import lazy

if TYPE_CHECKING:
    from mmxai.methods.probe.directions import Directions as Directions
    from mmxai.methods.probe.directions import load_directions as load_directions
    from mmxai.methods.probe.erasers import load_erasers as load_erasers
    from mmxai.methods.probe.linear_probe import LinearProbe as LinearProbe
    from mmxai.methods.probe.options import ProbeConfig as ProbeConfig
    from mmxai.methods.probe.results import ProbeReport as ProbeReport
    from mmxai.methods.probe.run import probe as probe

_HOMES = {
    "Directions": "directions",
    "LinearProbe": "linear_probe",
    "ProbeConfig": "options",
    "ProbeReport": "results",
    "load_directions": "directions",
    "load_erasers": "erasers",
    "probe": "run",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
