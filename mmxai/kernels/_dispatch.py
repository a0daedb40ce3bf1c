"""Choosing the backend of an op.

A backend of an op exists if its file `_<backend>.py` exists beside the op's `reference.py`. Whether this
machine can run that backend at all is asked here, once; where an op wants more of it than its backend does,
the file of a compiled one says so in `unavailable() -> None | reason`. Whether it takes these arguments is
declared by `supports(...) -> None | reason`. `auto` passes over a backend only for such a reason, one asked
for by name runs or raises, and whatever a running kernel raises reaches the caller.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from mmxai.errors import BackendError
from mmxai.kernels import _native

ORDER = {"cpu": ("cpu", "numba", "reference"), "cuda": ("cuda", "triton", "reference")}
"""Backends in order of preference, by the device the data is on."""

COMPILED = ("cpu", "cuda")
"""Backends that are compiled extensions, which may have been compiled without an op."""

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class OpStatus:
    """One line of `mmxai info`: can `backend` run `op` on `device` here, and is it what `auto` takes?"""

    op: str
    device: str
    backend: str
    available: bool
    reason: str | None
    selected: bool


@cache
def unavailable(backend: str) -> str | None:
    """Why this machine cannot run `backend` at all, or None."""
    if backend == "cpu":
        return _native.cpu().reason
    if backend == "cuda":
        return _native.cuda().reason
    if backend in ("numba", "triton") and importlib.util.find_spec(backend) is None:
        return f"the package {backend} is not installed"
    return None


class Op:
    """An op's backends. `skipped`: what `auto` passed over in its last choice, and why."""

    def __init__(self, name: str):
        self.name = name
        self.skipped: dict[str, str] = {}
        self._modules: dict[str, ModuleType] = {}
        self._listed: dict[str, list[str]] = {}

    def backends(self, device: str) -> list[str]:
        """Those that exist for data on `device` ("cpu" or "cuda"), in order of preference."""
        order: tuple[str, ...] = ORDER[device]
        if device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
            order = (*order, "triton")  # last: slow, and there to be tested
        folder = _FOLDER / self.name
        return [b for b in order if b == "reference" or (folder / f"_{b}.py").exists()]

    def pick(self, backend: str, device: str, *args: Any) -> ModuleType:
        """The module that will run the op on `args`: the one named, or the first that can."""
        if backend != "auto":
            reason = self._refusal(backend, device, args)
            if reason is not None:
                raise BackendError(
                    f'{self.name}: backend "{backend}" cannot run: {reason}; choose another or backend="auto"'
                )
            return self._module(backend)
        self.skipped = {}
        for candidate in self._existing(device):
            reason = self._refusal(candidate, device, args)
            if reason is None:
                return self._module(candidate)
            self.skipped[candidate] = reason
        raise BackendError(f"{self.name}: no backend takes these arguments: {self.skipped}")

    def unavailable(self, backend: str) -> str | None:
        """Why this machine cannot run `backend` of this op, whatever the arguments, or None."""
        reason = unavailable(backend)
        if reason is not None or backend not in COMPILED:
            return reason
        own: Callable[[], str | None] | None = getattr(self._module(backend), "unavailable", None)
        return own() if own else None

    def _refusal(self, backend: str, device: str, args: tuple[Any, ...]) -> str | None:
        existing = self._existing(device)
        if backend not in existing:
            return f"for data on {device} there are {', '.join(existing)}"
        return self.unavailable(backend) or self._module(backend).supports(*args)

    def _existing(self, device: str) -> list[str]:
        if device not in self._listed:
            self._listed[device] = self.backends(device)
        return self._listed[device]

    def _module(self, backend: str) -> ModuleType:
        if backend not in self._modules:
            file = "reference" if backend == "reference" else f"_{backend}"
            self._modules[backend] = importlib.import_module(f"mmxai.kernels.{self.name}.{file}")
        return self._modules[backend]


def status() -> list[OpStatus]:
    """Every op and backend, on the CPU and on CUDA devices."""
    lines = []
    for name in sorted(p.parent.name for p in _FOLDER.glob("*/reference.py")):
        for device in ORDER:
            op = Op(name)
            backends = op.backends(device)
            reasons = {b: op.unavailable(b) for b in backends}
            if device == "cuda":
                if backends == ["reference"]:
                    continue
                if _native.cuda_devices() == 0:
                    reasons = {b: r or "no CUDA device" for b, r in reasons.items()}
            first = next((b for b in backends if reasons[b] is None), None)
            lines += [OpStatus(name, device, b, reasons[b] is None, reasons[b], b == first) for b in backends]
    return lines
