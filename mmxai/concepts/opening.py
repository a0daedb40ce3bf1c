"""`open_concepts`: concepts of a store's pictures from whatever annotates them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmxai.concepts.broden import INDEX, BrodenConcepts
from mmxai.concepts.coco import CocoConcepts
from mmxai.concepts.folder import FolderConcepts
from mmxai.concepts.joined import JoinedConcepts
from mmxai.concepts.layouts import LAYOUTS
from mmxai.concepts.tables import BoxConcepts, TableConcepts
from mmxai.concepts.types import Concepts
from mmxai.concepts.world import WorldConcepts
from mmxai.errors import ArgumentError, DataError
from mmxai.labels.boxes import BOX
from mmxai.labels.keys import NotInStoreError
from mmxai.labels.reading import WORLD, read_world
from mmxai.labels.table import read_csv

if TYPE_CHECKING:
    from mmxai.store.reader import Store


def open_concepts(source: str | Path | Sequence[str | Path], store: Store) -> Concepts:
    """Concepts of the pictures of `store` from

    - a folder that `mmxai shapes` wrote: that world;
    - a JSON file of COCO's or LVIS's instances, or a folder with `annotations/instances*.json`;
    - a folder with `index.csv`: Broden's;
    - a folder of label maps, PNGs of numbers (`names.csv`: number,name[,category][,red,green,blue]);
      `voc:FOLDER`, `ade20k:FOLDER`, `cocostuff:FOLDER` for maps as those data sets write them;
    - a CSV file `sample,label` (a column a category): labels of whole pictures; `sample,x0,y0,x1,y1,label`:
      boxes;
    - several of these, in a sequence: all that any of them says.

    DataError says what is wrong with a source.
    """
    if not isinstance(source, str | Path):
        if not source:
            raise ArgumentError("concepts: got no source, expected one or more")
        opened = [open_concepts(one, store) for one in source]
        return opened[0] if len(opened) == 1 else JoinedConcepts(opened)
    layout, _, rest = str(source).partition(":")
    if rest and layout in LAYOUTS:
        folder = Path(rest)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder, expected the label maps of {layout}")
        return FolderConcepts(folder, store, layout)
    path = Path(source)
    if path.is_dir():
        return _folder(path, store)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder, expected concepts")
    if path.suffix.lower() == ".json":
        return CocoConcepts(path, store)
    if path.suffix.lower() != ".csv":
        raise DataError(f"{path}: expected a .json (COCO, LVIS) or .csv file, or a folder")
    return BoxConcepts(path, store) if set(read_csv(path)[0]) & set(BOX) else TableConcepts(path, store)


def _folder(path: Path, store: Store) -> Concepts:
    if (path / WORLD).is_file():
        return WorldConcepts(read_world(path, store))
    if (path / INDEX).is_file():
        return BrodenConcepts(path, store)
    if files := sorted((path / "annotations").glob("instances*.json")):
        return _coco(files, store)
    return FolderConcepts(path, store)


def _coco(files: Sequence[Path], store: Store) -> Concepts:
    """Of the files of a folder, train's and val's, those that have pictures of the store."""
    found: list[Concepts] = []
    others: list[NotInStoreError] = []
    for path in files:
        try:
            found.append(CocoConcepts(path, store))
        except NotInStoreError as error:
            others.append(error)
    if not found:
        raise others[0]
    return found[0] if len(found) == 1 else JoinedConcepts(found)
