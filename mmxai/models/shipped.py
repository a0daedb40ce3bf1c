"""Models that ship with mmxai: folders of `mmxai/trained`, each with a README.md saying how it was made."""

from __future__ import annotations

from pathlib import Path

_TRAINED = Path(__file__).parent.parent / "trained"


def shipped_models() -> dict[str, Path]:
    """Name -> folder, for `load_model(name)` or `from_pretrained(folder)`."""
    return {p.parent.name: p.parent for p in sorted(_TRAINED.glob("*/config.json"))}
