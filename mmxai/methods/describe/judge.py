"""The judge: a dual encoder that says how like each of a store's pictures is to each word."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from mmxai.data import Skipped, Source, load_samples, open_data
from mmxai.errors import ArgumentError, DataError
from mmxai.models.near_texts import embed_texts

if TYPE_CHECKING:
    from mmxai.models import Model
    from mmxai.models.inputs import Encoded
    from mmxai.store.reader import Store

PIECE = 1024
"""Pictures or words of a file of the cache: what an interrupted run loses at most."""

_TEXTS = "text.embeds"

Say = Callable[[str], object]


@dataclass(frozen=True)
class Judged:
    """What a judge made of pictures and words.

    samples int64 `[N]`, ascending: numbers of the store's samples; images float32 `[N, J]` and texts float32
    `[W, J]`, of norm 1; words: what the texts are of, `template` around each. judge: the model's name.
    studied: whether it is the model whose activations the store holds.
    """

    samples: np.ndarray
    images: torch.Tensor
    words: tuple[str, ...]
    texts: torch.Tensor
    judge: str = ""
    studied: bool = False
    template: str = "{}"

    def __post_init__(self) -> None:
        n, w = len(self.samples), len(self.words)
        if len(self.images) != n or len(self.texts) != w or self.images.shape[1:] != self.texts.shape[1:]:
            raise ArgumentError(
                f"judged: got pictures {tuple(self.images.shape)} of {n} samples and texts "
                f"{tuple(self.texts.shape)} of {w} words, expected (N, J) and (W, J)"
            )
        if n > 1 and (np.diff(self.samples) <= 0).any():
            raise ArgumentError("judged: got samples that do not ascend, expected each once, ascending")

    def of(self, samples: np.ndarray) -> torch.Tensor:
        """Pictures float32 `[n, J]` of some of the samples."""
        place = np.searchsorted(self.samples, samples).clip(max=max(0, len(self.samples) - 1))
        if not len(self.samples) or (self.samples[place] != samples).any():
            raise ArgumentError(
                "judged: got samples that the judge has not seen, expected those of its store"
            )
        return self.images[torch.from_numpy(place)]


def look(
    model: Model,
    store: Store,
    data: Any,
    words: Sequence[str],
    *,
    template: str = "{}",
    cache: str | Path | None = None,
    batch: int = 32,
    workers: int = 2,
    say: Say = lambda what: None,
) -> Judged:
    """Show a judge the pictures that `store` was harvested from, and words.

    model: any model with `text.embeds` and a picture tower's `embeds`. data: what `open_data` takes; each
    picture is compared with what the store says of it. template: "{}" stands for the word. cache: a folder
    where embeddings are kept, 1,024 a file, and found again by whoever asks the same.
    """
    tower = tower_of(model)
    words = list(dict.fromkeys(word for word in words if word.strip()))
    if len(words) < 2 or "{}" not in template:
        raise ArgumentError(
            f"describe: got {len(words)} different words and template {template!r}, expected two words at "
            "least and a template with {} in it"
        )
    stored = {s.sample: s.hash for s in store.samples if s.skipped is None}
    samples = np.sort(np.array(list(stored), np.int64))
    source = open_data(data)
    if not isinstance(source, Source):
        raise ArgumentError(f"data {data!r}: got a stream, expected data whose samples can be asked for")
    if len(samples) and samples[-1] >= len(source):
        raise DataError(
            f"data: got {len(source)} samples, expected {samples[-1] + 1} at least, the data that "
            f"{store.path} was harvested from"
        )
    fed = model.inputs_identity()
    own = {"weights": model.identity["weights"], "dtype": model.identity["dtype"]}
    seen = [own, fed.get(tower), [(int(s), stored[int(s)]) for s in samples]]
    read = [own, fed.get("text"), template, words]
    folder = None if cache is None else Path(cache)

    def show(start: int, stop: int) -> torch.Tensor:
        say(f"{model.name}: pictures {start:,} to {stop - 1:,} of {len(samples):,}")
        return _show(model, tower, source, samples[start:stop], stored, batch, workers)

    def tell(start: int, stop: int) -> torch.Tensor:
        say(f"{model.name}: words {start:,} to {stop - 1:,} of {len(words):,}")
        return embed_texts(model, [template.replace("{}", word) for word in words[start:stop]])

    width = model.sites()[_TEXTS]
    images = torch.cat(list(_pieces(folder, "pictures", seen, len(samples), width, show)))
    texts = torch.cat(list(_pieces(folder, "words", read, len(words), width, tell)))
    same = model.identity["weights"] == (store.plan.identity.get("model") or {}).get("weights")
    return Judged(samples, images, tuple(words), texts, model.name, same, template)


def tower_of(model: Model) -> str:
    """The picture tower of a dual encoder; ArgumentError of any other model."""
    sites = model.sites() if model.towers else {}
    found = [
        name for name in model.towers
        if model.modality(name) == "image" and sites.get(f"{name}.embeds") == sites.get(_TEXTS, -1)
    ]  # fmt: skip
    if len(found) != 1:
        raise ArgumentError(
            f"judge {model.name!r}: got a model without embeddings of pictures and texts in one space, "
            "expected a dual encoder, as a CLIP with both projections"
        )
    return found[0]


def _show(
    model: Model, tower: str, source: Source, samples: np.ndarray, stored: dict[int, str], batch: int,
    workers: int,
) -> torch.Tensor:  # fmt: skip
    """Embeddings float32 `[n, J]` of some samples' pictures, of norm 1."""
    site = f"{tower}.embeds"
    found: list[torch.Tensor] = []
    waiting: list[Encoded] = []
    loader = load_samples(
        source, samples.tolist(), encode=lambda sample: model.encode(sample, [tower]), workers=workers,
        prefetch=2 * batch,
    )  # fmt: skip
    with closing(loader):
        for index, encoded in loader:
            assert not isinstance(encoded, Skipped)  # a picture that cannot be read stops the loader
            if encoded.digest != stored[index]:
                raise DataError(
                    f"data: got another sample {index} ({encoded.key!r}) than was harvested, expected the "
                    "very data that the store is of"
                )
            waiting.append(encoded)
            if len(waiting) == batch or index == samples[-1]:
                run = model.run(model.collate(waiting), capture=[site], stop=True)
                found.append(run.acts[site][:, 0].float().cpu())
                waiting = []
    return normalize(torch.cat(found), dim=1)


def _pieces(
    folder: Path | None, what: str, asked: Any, count: int, width: int,
    make: Callable[[int, int], torch.Tensor],
) -> Iterator[torch.Tensor]:  # fmt: skip
    """float32 `[count, width]` piece by piece, each made, or read where it was made before."""
    key = blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=8).hexdigest()
    for start in range(0, count, PIECE):
        stop = min(start + PIECE, count)
        path = None if folder is None else folder / f"{what}-{key}-{start // PIECE:05d}.safetensors"
        if path is not None and path.is_file():
            yield _read(path, (stop - start, width))
            continue
        made = make(start, stop)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            staged = path.with_suffix(".tmp")
            save_file({"embeds": made}, staged)
            staged.replace(path)
        yield made


def _read(path: Path, shape: tuple[int, int]) -> torch.Tensor:
    try:
        found = load_file(path)["embeds"]
    except (SafetensorError, KeyError) as error:
        raise DataError(f"{path}: {error!r}, expected embeddings; remove the file") from error
    if found.dtype != torch.float32 or tuple(found.shape) != shape:
        raise DataError(
            f"{path}: got {found.dtype} of shape {tuple(found.shape)}, expected float32 {shape}; remove it"
        )
    return found


def read_words(path: str | Path) -> list[str]:
    """The words of a list, one a line; empty lines and repetitions are left out."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {error}, expected text in UTF-8, a word a line") from error
    words = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not words:
        raise DataError(f"{path}: got no word, expected one a line")
    return words
