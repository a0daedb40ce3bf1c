"""The pictures of a folder of pages: each sample's is a file of its own, written when first shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mmxai.report.pictures import picture_bytes

if TYPE_CHECKING:
    from mmxai.store.samples import StoredSample

FOLDER = "pictures"


class PictureFiles:
    """`images`: sample index -> the original picture; None shows none."""

    def __init__(self, out: Path, images: Callable[[int], Image.Image] | None):
        self._folder, self._images = out / FOLDER, images
        self._known: dict[int, str] = {}
        self.nbytes = 0

    def address(self, sample: StoredSample, above: str = "") -> str | None:
        """Where the picture of `sample` is, as seen from a page whose folder is left by `above` ("../")."""
        if self._images is None or sample.size is None:
            return None
        index = sample.sample
        if index not in self._known:
            content, kind = picture_bytes(self._images(index))
            self._folder.mkdir(parents=True, exist_ok=True)
            self._known[index] = f"{FOLDER}/{index}.{kind}"
            (self._folder / f"{index}.{kind}").write_bytes(content)
            self.nbytes += len(content)
        return above + self._known[index]

    def tidy(self) -> None:
        """Remove pictures of an earlier call that no page shows now."""
        shown = {Path(path).name for path in self._known.values()}
        for file in self._folder.glob("*"):
            if file.stem.isdecimal() and file.name not in shown:
                file.unlink()
