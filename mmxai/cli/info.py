"""What a store holds; without a store, what this installation can run and why.

examples:
  mmxai info
  mmxai info acts.zarr
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import tyro

from mmxai.cli import OK

_PACKAGES = (
    "torch", "triton", "zarr", "zarrs", "tensorstore", "numpy", "numba", "transformers", "safetensors",
    "pillow",
)  # fmt: skip


@dataclass
class Config:
    store: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[STORE]")] = None
    """Path of a store."""


def run(config: Config) -> int:
    print(_installation() if config.store is None else _store(config.store))
    return OK


def _store(path: str) -> str:
    from mmxai.store import open_store

    with open_store(path) as store:
        return str(store)


def _installation() -> str:
    import torch

    from mmxai import __version__
    from mmxai.kernels import status

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    lines = [
        f"mmxai {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"threads {torch.get_num_threads()}, GPU {gpu}",
        "",
        *(f"{name:<14}{_version(name)}" for name in _PACKAGES),
        "",
        f"{'op':<10}{'backend':<12}",
    ]
    for s in status():
        why = "selected" if s.selected else "available" if s.available else s.reason
        lines.append(f"{s.op:<10}{s.backend:<12}{why}")
    return "\n".join(lines)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
