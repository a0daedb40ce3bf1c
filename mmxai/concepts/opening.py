"""`open_concepts`: concepts of a store's pictures from whatever annotates them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmxai.concepts.types import Concepts
from mmxai.concepts.world import WorldConcepts
from mmxai.errors import DataError
from mmxai.labels.reading import WORLD, read_world

if TYPE_CHECKING:
    from mmxai.store.reader import Store


def open_concepts(source: str | Path | Sequence[str | Path], store: Store) -> Concepts:
    """Concepts of the pictures of `store` from

    - a folder that `mmxai shapes` wrote.
    """
    path = Path(source)  # type: ignore[arg-type]
    if (path / WORLD).is_file():
        return WorldConcepts(read_world(path, store))
    raise DataError(f"{path}: no concepts there")
