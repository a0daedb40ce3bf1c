"""SAEs of other libraries, in and out: `read_sae`, `write_sae`, `mmxai sae convert`."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from mmxai.errors import ArgumentError, SAEFormatError
from mmxai.methods.sae.files import DOCUMENT
from mmxai.methods.sae.interop.plain import Plain
from mmxai.methods.sae.model import SAE, load_sae

MMXAI = "mmxai"
LAYOUTS = ("saelens", "sparsify", "dictionary_learning", "prisma")
"""Modules here, in the order in which they are asked whether a path is theirs."""


class Layout(Protocol):
    def recognises(self, path: Path) -> bool: ...

    def read(self, path: Path) -> Plain: ...

    def write(self, sae: Plain, path: Path) -> None: ...


def layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise ArgumentError(f"got layout {name!r}, expected one of {', '.join((MMXAI, *LAYOUTS))}")
    return cast(Layout, import_module(f"mmxai.methods.sae.interop.{name}"))


def detect(path: str | Path) -> str:
    """Whose layout lies at `path`: 'mmxai' or one of LAYOUTS; SAEFormatError where it is nobody's."""
    path = Path(path)
    if (path / DOCUMENT).is_file():
        return MMXAI
    for name in LAYOUTS:
        if layout(name).recognises(path):
            return name
    held: object = "another file" if path.exists() else "nothing there"
    if path.is_dir():
        held = sorted(p.name for p in path.iterdir())[:10]
    raise SAEFormatError(
        f"{path}: got {held}, expected sae.json (mmxai), cfg.json with sae_weights.safetensors (SAELens) or "
        "sae.safetensors (sparsify), ae.pt (dictionary_learning) or another .pt (ViT-Prisma)"
    )


def read_sae(
    path: str | Path, name: str = "auto", *, site: str | None = None, site_out: str | None = None
) -> SAE:
    """The SAE at `path`, of any layout (`name`: 'auto' looks).

    `site`, `site_out`: what its sites are called here, where the layout does not tell or tells other names.
    Pickles are read with `weights_only=True` in a process of their own. Raises SAEFormatError.
    """
    path = Path(path)
    name = detect(path) if name == "auto" else name
    if name == MMXAI:
        if site is not None or site_out is not None:
            raise ArgumentError("got --site with an SAE of mmxai, expected none: it knows its own")
        return load_sae(path)
    found = layout(name).read(path)
    if site_out is not None and not found.transcoder:
        raise ArgumentError(f"got site_out {site_out!r} for an SAE, expected it with a transcoder alone")
    try:
        return replace(found, site_in=site or found.site_in, site_out=site_out or found.site_out).sae()
    except ArgumentError as error:
        raise SAEFormatError(f"{path}: {error}") from error


def write_sae(sae: SAE, path: str | Path, name: str) -> None:
    """`sae` in folder `path` in the layout `name`; ArgumentError where that layout cannot hold it."""
    if name == MMXAI:
        sae.save(path)
    else:
        layout(name).write(Plain.of(sae), Path(path))
