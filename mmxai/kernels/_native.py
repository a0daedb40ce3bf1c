"""The compiled extensions: which were built, which of the two CPU builds this machine takes, and why not.

`MMXAI_CPU=base|v3|none` overrides the choice (for tests). What the build could not compile it wrote, with the
compiler's words, to `mmxai/_build.json`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from mmxai.errors import ArgumentError, BackendError

_V3_FLAGS = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "sse4_2", "popcnt", "xsave"}


@dataclass(frozen=True)
class Native:
    """A compiled extension (`name` "base", "v3" or "cuda"), or the reason that there is none."""

    module: ModuleType | None
    name: str | None
    reason: str | None

    def loaded(self) -> ModuleType:
        """The module, for backends already known to be available."""
        if self.module is None:
            raise BackendError(f"mmxai's compiled extension: {self.reason}")
        return self.module


@cache
def cpu() -> Native:
    """The CPU extension for this machine."""
    wish = os.environ.get("MMXAI_CPU", "auto")
    if wish not in ("auto", "base", "v3", "none"):
        raise ArgumentError(f"MMXAI_CPU: got {wish!r}, expected base, v3 or none (or unset it)")
    if wish == "none":
        return Native(None, None, "MMXAI_CPU=none")
    if wish == "auto":
        wish = "v3" if _cpu_is_v3() and _built("_cpu_v3") else "base"
    return _load(f"_cpu_{wish}", wish)


@cache
def cuda() -> Native:
    """The CUDA extension; it has a reason not to run where there is no device."""
    native = _load("_cuda", "cuda")
    if native.module is not None and cuda_devices() == 0:
        return Native(None, "cuda", "no CUDA device")
    return native


@cache
def cuda_devices() -> int:
    """CUDA devices that torch sees."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _built(extension: str) -> bool:
    return importlib.util.find_spec(f"mmxai.{extension}") is not None


def _load(extension: str, name: str) -> Native:
    if not _built(extension):
        return Native(None, None, _build_report().get(extension, f"mmxai.{extension} was not compiled"))
    try:
        return Native(importlib.import_module(f"mmxai.{extension}"), name, None)
    except ImportError as error:  # built elsewhere: a runtime library is missing on this machine
        return Native(None, None, f"mmxai.{extension} cannot be loaded: {error}")


def _build_report() -> dict[str, str]:
    path = Path(__file__).parent.parent / "_build.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _cpu_is_v3() -> bool:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False
    flags = next((line.split(":", 1)[1] for line in text.splitlines() if line.startswith("flags")), "")
    return set(flags.split()) >= _V3_FLAGS
