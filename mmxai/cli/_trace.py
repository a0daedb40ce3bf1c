"""What `mmxai trace` makes of its options: a picture, a prompt, what is corrupted, and the question."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mmxai.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from mmxai.cli.trace import Config
    from mmxai.methods.trace.corrupting import Asked
    from mmxai.methods.trace.question import Question
    from mmxai.models import Model

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_OF_PICTURES = ("box", "mask", "corrupt", "other")
_OF_PROMPTS = ("subject", "counterfactual")
_OF_ANSWERS = ("answer", "foil")


def given(config: Config) -> tuple[Image.Image | None, str | None]:
    """The picture and the prompt, told apart by how many there are and by --texts. Raises ArgumentError."""
    about = list(config.about)
    if config.facts is not None:
        _none_of(config, ("texts", *_OF_ANSWERS, *_OF_PROMPTS, *_OF_PICTURES), "--facts")
        if about:
            raise ArgumentError(f"got {about} and --facts, expected one of them: prompts are in the file")
        return None, None
    if config.limit is not None:
        raise ArgumentError("got --limit without --facts, expected both")
    if config.texts:
        _none_of(config, (*_OF_ANSWERS, *_OF_PROMPTS), "--texts")
        if len(about) != 1:
            raise ArgumentError(f"got {about} and --texts, expected one picture to compare with the texts")
        return opened(about[0], "the picture"), None
    if len(about) not in (1, 2):
        raise ArgumentError(
            f"got {about} behind the model, expected a picture and a question, or a prompt; put a question "
            "of several words in quotes"
        )
    if config.answer is None:
        raise ArgumentError("got no --answer, expected what the model says there; of a CLIP give --texts")
    if len(about) == 2:
        _none_of(config, _OF_PROMPTS, "a picture")
        return opened(about[0], "the picture"), _said(about[1])
    if about[0].lower().endswith(_SUFFIXES):
        raise ArgumentError(
            f"got the picture {about[0]!r} alone, expected a question behind it, in quotes; or --texts, of a "
            "CLIP"
        )  # fmt: skip
    _none_of(config, _OF_PICTURES, "a prompt without a picture")
    return None, _said(about[0])


def question(config: Config, model: Model, picture: Image.Image | None, prompt: str | None) -> Question:
    """The study that is asked for. Raises ArgumentError."""
    from mmxai.methods.trace.clip_question import clip_question
    from mmxai.methods.trace.picture_question import picture_question
    from mmxai.methods.trace.text_question import text_question

    if config.draws < 1 or not config.sigma > 0:
        raise ArgumentError(
            f"--draws, --sigma: got {config.draws} and {config.sigma}, expected at least 1 and above 0"
        )
    if config.facts is not None:
        return _of_facts(config, model)
    if picture is None:
        return text_question(
            model, prompt or "", answer=config.answer or "", foil=config.foil, subject=config.subject,
            counterfactual=config.counterfactual, sigma=config.sigma, draws=config.draws,
            window=config.window, seed=config.seed,
        )  # fmt: skip
    asked = _asked(config, picture)
    if prompt is None:
        return clip_question(
            model,
            picture,
            config.texts,
            asked=asked,
            window=config.window,
            grid=config.grid,
            seed=config.seed,
        )
    return picture_question(
        model, picture, prompt, answer=config.answer or "", foil=config.foil, asked=asked,
        window=config.window, grid=config.grid, seed=config.seed,
    )  # fmt: skip


def _of_facts(config: Config, model: Model) -> Question:
    from mmxai.methods.trace.facts_question import facts_question

    if config.limit is not None and config.limit < 1:
        raise ArgumentError(f"--limit: got {config.limit}, expected at least 1")
    assert config.facts is not None
    return facts_question(
        model, config.facts, limit=config.limit, window=config.window, sigma=config.sigma, draws=config.draws,
        seed=config.seed,
    )  # fmt: skip


def opened(path: str, what: str) -> Image.Image:
    """A picture file, upright and RGB. ArgumentError that says what is there instead."""
    from mmxai.data import Sample

    file = Path(path)
    if not file.is_file():
        there = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
        # Capitals are what is mistaken most easily.
        same = [name for name in there if name.lower() == file.name.lower()]
        near = same or difflib.get_close_matches(file.name, there, 2)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ArgumentError(f"{what}: got {path!r}, where no file is, expected a picture file{hint}")
    image = Sample(path, image=file.read_bytes()).image
    assert image is not None  # bytes either decode or raise
    return image


def writable(out: Path) -> None:
    """ArgumentError, before the work rather than after it, where nothing can be written."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ArgumentError(f"--out {out}: got {there}, expected a folder that can be written to")


def _asked(config: Config, picture: Image.Image) -> Asked:
    """What becomes of the picture."""
    from mmxai.methods.trace.corrupting import HOW, Asked

    if config.other is not None and config.corrupt is not None:
        raise ArgumentError("got --other and --corrupt, expected one of them")
    where, how = _region(config, picture), config.corrupt or "mean"
    file = config.other or (None if how in HOW else how)
    if config.other is None and file is not None and not Path(file).is_file():
        near = difflib.get_close_matches(file, HOW, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ArgumentError(f"--corrupt: got {file!r}, expected {', '.join(HOW)}, or a picture file{hint}")
    other = None if file is None else opened(file, "--other" if config.other else "--corrupt")
    # Another picture is a counterfactual as a whole; a file for the region takes its place there alone.
    place = None if config.other is not None else where
    return Asked(
        how if other is None else "other", where, other, Path(file or "").name, config.sigma, config.draws,
        config.seed, whole=place is None,
    )  # fmt: skip


def _region(config: Config, picture: Image.Image) -> np.ndarray | None:
    from mmxai.methods.trace.pictures import region

    if config.box is not None and config.mask is not None:
        raise ArgumentError("got --box and --mask, expected one of them")
    if config.mask is not None:
        return region(picture.size, mask=opened(config.mask, "--mask"))
    return None if config.box is None else region(picture.size, box=config.box)


def _said(prompt: str) -> str:
    if not prompt.strip():
        raise ArgumentError(f"got the prompt {prompt!r}, expected words")
    return prompt


def _none_of(config: Config, options: tuple[str, ...], what: str) -> None:
    if wrong := [f"--{o}" for o in options if getattr(config, o) not in (None, ())]:
        raise ArgumentError(f"got {', '.join(wrong)} with {what}, expected none of these there")
