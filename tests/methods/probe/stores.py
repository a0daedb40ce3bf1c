"""Stores whose rows hold known labels in known directions."""

import numpy as np
import torch

from mmxai.store import create_store
from mmxai.types import TOKEN_CODES, Rows

A, B, TEXT, POOLED = "vision.0.resid_post", "vision.1.resid_post", "text.0.resid_post", "vision.embeds"
CLASSES, PATCHES = 4, 5


def truth(samples, seed=0):
    """Of each sample a class, two labels and a number; of each word a token id."""
    draw = np.random.default_rng(seed)
    return {
        "class": draw.integers(0, CLASSES, samples),
        "labels": (draw.random((samples, 2)) < 0.4).astype(int),
        "number": draw.normal(size=samples),
        "words": draw.integers(0, 30, (samples, PATCHES)),
    }


def make(path, samples=300, widths=(16, 24), noise=0.5, seed=0, part=64):
    """Every row of A has the truth of its sample in it, of B a tenth as strong on an offset. A sample has a
    class token and PATCHES patches, and as many words."""
    known = truth(samples, seed)
    draw = torch.Generator().manual_seed(seed)
    code = torch.cat(
        [
            torch.nn.functional.one_hot(torch.from_numpy(known["class"]), CLASSES).float(),
            torch.from_numpy(known["labels"]).float(),
            torch.from_numpy(known["number"]).float()[:, None],
        ], 1,
    )  # fmt: skip
    per = PATCHES + 1
    of = torch.arange(samples).repeat_interleave(per)
    at = torch.arange(per).repeat(samples) - 1
    patch = at >= 0
    rows = Rows.make(
        sample=of, position=at + 1, image=0, y=torch.where(patch, 0, -1), x=torch.where(patch, at, -1),
        token_type=torch.where(patch, TOKEN_CODES["patch"], TOKEN_CODES["cls"]),
    )  # fmt: skip
    words = Rows.make(
        sample=torch.arange(samples).repeat_interleave(PATCHES),
        position=torch.arange(PATCHES).repeat(samples),
        token_id=torch.from_numpy(known["words"]).flatten(), token_type=TOKEN_CODES["text"],
    )  # fmt: skip
    acts = {}
    for site, width, strength, offset in ((A, widths[0], 1.0, 0.0), (B, widths[1], 0.1, 30.0)):
        into = torch.randn(code.shape[1], width, generator=draw)
        hidden = noise * torch.randn(len(of), width, generator=draw)
        acts[site] = strength * code[of] @ into + hidden + offset
    of_word = torch.randn(30, 16, generator=draw)
    acts[TEXT] = of_word[words.token_id.long()] + noise * torch.randn(len(words), 16, generator=draw)
    acts[POOLED] = acts[A].view(samples, per, -1)[:, 0]
    spaces = {
        "vision": {A: widths[0], B: widths[1]}, "text": {TEXT: 16}, "vision.pooled": {POOLED: widths[0]},
    }  # fmt: skip
    tables = {"vision": rows, "text": words, "vision.pooled": Rows.make(sample=torch.arange(samples))}
    tile = {"affine": [1, 0, 0, 0, 1, 0], "grid": [1, PATCHES]}
    stored = [{"key": f"k{i}", "size": [PATCHES, 1], "tiles": [tile]} for i in range(samples)]
    with create_store(path, spaces, dtype="float32", samples_per_part=part, durable=False) as writer:
        writer.write(stored, acts, tables)
    return path


def write_labels(path, samples, seed=0):
    """A CSV of all that `truth` knows of samples."""
    known = truth(samples, seed)
    lines = ["sample,class,labels,number"]
    for i in range(samples):
        names = "|".join(n for n, v in zip("pq", known["labels"][i], strict=True) if v) or "none"
        lines.append(f"k{i},c{known['class'][i]},{names},{float(known['number'][i])!r}")
    path.write_text("\n".join(lines) + "\n")
    return path
