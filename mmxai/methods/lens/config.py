"""Options of `mmxai lens`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmxai.errors import ArgumentError, DataError


@dataclass
class LensConfig:
    sites: tuple[str, ...] = ()
    """States to look at: globs of resid_pre, resid_mid, resid_post, attn_out, mlp_out, ln_final, z for every
    single head, and v for what attention hands on. Default: the residual stream of every block; of a CLIP's
    pictures also v."""
    tower: str | None = None
    """Whose end is the lens; default: text of a language model, vision of a CLIP."""
    k: int = 5
    """Tokens that are kept of each state."""
    target: tuple[str, ...] = ()
    """Tokens (of a CLIP: texts of the bank) whose probability and rank are followed; or the word next, each
    position's next token. Default: next for texts."""
    against: Literal["output", "tokens"] = "output"
    """What states are held against: the tower's own output, or, for an encoder of texts, which has none in
    words, its token embeddings."""
    texts: tuple[str, ...] = ()
    """Of a CLIP the bank: texts, or a file with one a line."""
    tuned: str | None = None
    """A folder that `mmxai tune` wrote: states are translated by it first."""
    generate: int = 0
    """Of a model: so many tokens that it says behind each text are looked at, too."""
    tokens: str | None = None
    """Of a store: types of rows with commas between, or last."""
    samples: int | None = None
    """Of a store: the first so many samples."""
    transfer: bool = True
    """Hold every two blocks against each other, too."""

    def asked(self) -> str | tuple[str, ...] | None:
        """What `lens` takes as targets."""
        if "next" in self.target and len(self.target) > 1:
            raise ArgumentError(f"--target: got {list(self.target)}, expected next alone, or tokens")
        return "next" if self.target == ("next",) else self.target or None

    def bank(self) -> list[str] | None:
        """The texts, a file of them read; None where there are none."""
        if not self.texts:
            return None
        path = Path(self.texts[0])
        if len(self.texts) == 1 and path.suffix in (".txt", ".csv", ".tsv"):
            if not path.is_file():
                raise DataError(f"--texts {path}: no such file, expected one with a text a line, or texts")
            found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        else:
            found = list(self.texts)
        found = list(dict.fromkeys(text for text in found if text))
        if not found:
            raise DataError(f"--texts {path}: got no texts, expected a text a line")
        return found
