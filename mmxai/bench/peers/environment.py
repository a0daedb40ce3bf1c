"""A virtual environment a peer."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import torch

from mmxai.bench.machine import checkout
from mmxai.errors import MmxaiError


class PeerInstallError(MmxaiError):
    """A peer's packages could not be installed."""


def root() -> Path:
    """`.peers` of a checkout; the user's cache for an installed package."""
    if (source := checkout()) is not None:
        return source / ".peers"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmxai" / "peers"


def environment(
    name: str, packages: Sequence[str], folder: Path | None = None, *, without: Sequence[str] = ()
) -> Path:
    """The Python of the environment of a peer, made by venv and pip where it is not there yet.

    `without`: requirements of `packages` that are taken out again, as torchvision, whose usual build is for
    CUDA and cannot be imported beside a torch that is not. Made anew where the pins or this Python changed.
    pip's own settings (index, cache) apply. Of two processes that want it, one makes it and the other waits.
    """
    home = (folder or root()) / name
    home.parent.mkdir(parents=True, exist_ok=True)
    with open(home.with_name(f"{name}.lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _made(name, packages, without, home)


def _made(name: str, packages: Sequence[str], without: Sequence[str], home: Path) -> Path:
    version = torch.__version__.partition("+")[0]
    pins = [package.format(torch=version) for package in packages]
    stamp = home / "mmxai.json"
    wanted = {"python": sys.version, "packages": pins} | ({"without": list(without)} if without else {})
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return python
    print(
        f"peer {name}: making {home} with {', '.join(pins) or 'nothing in it'}", file=sys.stderr, flush=True
    )
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=bool(pins), symlinks=os.name != "nt")
    if pins:
        command = [str(python), "-m", "pip", "install", "--quiet", *pins]
        if subprocess.run(command, stdout=sys.stderr).returncode != 0:
            raise PeerInstallError(f"peer {name}: pip could not install {', '.join(pins)} (see above)")
    if without:
        subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *without], check=True)
    stamp.write_text(json.dumps(wanted))
    return python
