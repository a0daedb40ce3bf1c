"""Words for the units of a site: neurons, heads, residual dimensions, latents, channels (CLIP-Dissect).

A judge, any CLIP or other dual encoder, says how like each picture is to each word of a list; a unit's words
are those whose likeness goes best with its values. Labels are evaluated on pictures that they were not chosen
on, beside labels chosen on permuted pictures. --words: files of a word or phrase a line. The judge's
embeddings are kept in the output folder, so that the next run, or one that was stopped, finds them there.

examples:
  mmxai describe acts.zarr --words 20k.txt --judge clip/ --data pictures/ --sites 'vision.*.mlp_post'
  mmxai describe codes.zarr --words broden.txt --judge clip/ --data pictures/ --pool max
  mmxai describe resnet.zarr --words labels.txt --judge clip/ --data pictures/ --template 'a photo of a {}'
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from mmxai.cli import OK
from mmxai.errors import ArgumentError
from mmxai.methods.describe.config import DescribeConfig


@dataclass
class Config:
    store: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """The store of activations."""
    words: tuple[str, ...]
    """Word lists."""
    judge: str
    """The dual encoder: a folder or hub id, as of `mmxai harvest`."""
    data: str | None = None
    """The data set that was harvested; a shapes world harvested from Python is known without it."""
    template: str = "{}"
    """What the judge reads, {} standing for the word."""
    describe: DescribeConfig = field(default_factory=DescribeConfig)
    device: str | None = None
    """Where the judge runs."""
    batch: int = 32
    """Pictures at a time."""
    workers: int = 2
    """Threads that decode pictures."""
    cache: str | None = None
    """Folder for the judge's embeddings. Default: judge/ in the output folder."""
    out: str = "describe"
    """Folder for describe.json (figures), descriptions.csv, in the columns that CLIP-Dissect publishes, and
    pages/, a page a layer to be searched by word."""
    images: bool = True
    """Whether pages show the pictures in which units are highest."""


def run(config: Config) -> int:
    from mmxai.cli._harvested import world_of
    from mmxai.cli._shown import pictures_of
    from mmxai.methods.describe import describe, look, read_words
    from mmxai.models import load_model
    from mmxai.report.describe import describe_pages
    from mmxai.store import open_store

    if not config.words or config.batch < 1:
        raise ArgumentError(
            f"describe: got {len(config.words)} word lists and batch={config.batch}, expected at least 1 "
            "of each"
        )
    words = list(dict.fromkeys(word for path in config.words for word in read_words(path)))
    out = Path(config.out)
    with open_store(config.store) as store:
        data = config.data or world_of(store)
        if data is None:
            raise ArgumentError("describe: got no --data, expected the data set that was harvested")
        judged = look(
            load_model(config.judge, device=config.device), store, data, words, template=config.template,
            cache=config.cache or out / "judge", batch=config.batch, workers=config.workers, say=_say,
        )  # fmt: skip
        found = describe(store, judged, config.describe, say=_say)
        print(found)
        for name, one in found.sites.items():
            if len(tests := one.tests()):
                print(f"\n{name}: with labels missing and extra\n{tests.to_string(index=False)}")
        print(f"\nall figures: {found.save(out / 'describe.json')}")
        table = out / "descriptions.csv"
        found.to_pandas().to_csv(table, index=False)
        print(f"a row a unit: {table}")
        images = pictures_of(data, store) if config.images else None
        print(f"pages: {describe_pages(found, store, out / 'pages', images=images, progress=_say)}")
    return OK


def _say(what: str) -> None:
    print(f"... {what}", flush=True)
