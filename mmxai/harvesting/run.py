"""`harvest`: stream a model's activations over a data set into a store."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mmxai.capture.engine import Extractor, Statistics
from mmxai.capture.select import Selection
from mmxai.data import Skipped, Source, Stream, contexts, limited, open_data
from mmxai.errors import ArgumentError
from mmxai.harvesting.batching import fastest_batch
from mmxai.harvesting.config import HarvestConfig
from mmxai.harvesting.feed import Feed, Peeked, first_of
from mmxai.harvesting.planning import Estimate, make_plan
from mmxai.harvesting.report import HarvestReport, size
from mmxai.harvesting.sink import WriterThread
from mmxai.models import Model, load_model
from mmxai.models.inputs import Encoded
from mmxai.store import Plan, StoreWriter
from mmxai.store.commit import PLAN

_BOS: dict[str, Any] = {"auto": "auto", "always": True, "never": False}


def harvest(
    model: Model | str,
    data: Any,
    config: HarvestConfig | None = None,
    *,
    progress: bool | None = None,
    **options: Any,
) -> HarvestReport | Estimate:
    """Write the activations of `model` at `sites` over `data` to the Zarr store `store`; resume it if there.

    model: a `Model`, or what `load_model` takes. data: what `open_data` takes: a folder of images, a text,
    CSV or JSON-lines file, tar shards, any sequence or iterable. options: the fields of `HarvestConfig`
    (`sites=`, `store=`, `tokens=`, `per_sample=`, ...), over those of `config`. progress: a bar on
    stderr; by default where that is a terminal.

    Interrupted by anything, the same call goes on where it stopped; several workers may run it at once.
    Returns a `HarvestReport`, or with `dry_run=True` an `Estimate`. Raises `MmxaiError`s that say what to do.
    """
    config = _config(config, options)
    model = load_model(model) if isinstance(model, str) else model
    with _texts_restored(model):
        return _harvest(model, data, config, progress)


def _harvest(
    model: Model, data: Any, config: HarvestConfig, progress: bool | None
) -> HarvestReport | Estimate:
    source = open_data(data)
    if not model.towers:  # a wrapped network learns its shapes from the first sample
        source = source if isinstance(source, Source) else Peeked(source)
        model.collate([model.encode(first_of(source), [])])
    sites = model.resolve(config.sites)
    towers = towers_of(model, sites)
    if config.generate is not None and (config.generate < 1 or "text" not in towers):
        raise ArgumentError(
            f"generate: got {config.generate} for sites of {towers or 'modules'}, expected a positive number "
            "of tokens and sites of a language model; leave it out"
        )
    source = cut_source(model, source, towers, config)
    selection = Selection.parse(config.tokens, config.per_sample, config.pool, config.seed)
    stored = Plan.load(Path(config.store) / PLAN) if (Path(config.store) / PLAN).is_file() else None
    batch_size = _batch_size(model, source, towers, sites, config, stored)
    plan, estimate = make_plan(model, source, towers, sites, selection, config, stored, batch_size)
    if config.dry_run:
        return estimate
    if not estimate.differences:  # else opening the store says what differs
        estimate.check_free()
    with StoreWriter.open(config.store, plan) as store:
        if config.batch_size == "auto":  # of workers that begin a store at once, one has chosen for all
            batch_size = int(store.plan.notes.get("batch_size", batch_size))
        statistics = Statistics(config.stats_k, config.bottom, config.exemplars == "sample")
        dtype = getattr(torch, plan.sites[0].row_dtype)
        extract = Extractor(model, sites, selection, dtype, statistics if config.stats else None)
        before = len(store.committed())
        report = HarvestReport(config.store, batch_size=batch_size, resumed=before)
        bar = tqdm(
            total=plan.samples,
            unit=" samples",
            disable=not (sys.stderr.isatty() if progress is None else progress),
            initial=min(before * plan.samples_per_part, plan.samples or sys.maxsize),
            desc=f"harvest, {before} parts resumed" if before else "harvest",
            dynamic_ncols=True,
        )
        with bar:
            _run(model, store, source, towers, extract, config, report, bar)
        report.parts = store.parts
        done = len(store.committed())
        report.others = done - before - report.written
        report.elsewhere = 0 if report.parts is None else report.parts - done
    return report


@contextmanager
def _texts_restored(model: Model) -> Iterator[None]:
    """How the model feeds texts is the caller's; a harvest changes it for itself alone."""
    before = {t: model.text_settings(t) for t in model.towers if model.modality(t) == "text"}
    try:
        yield
    finally:
        for tower, settings in before.items():
            model.set_texts(tower, **settings)


def towers_of(model: Model, sites: Sequence[str]) -> list[str]:
    """The towers that must be fed for `sites`; all of them for `module:` sites, which may lie anywhere."""
    spaces = {model.space_of(site).partition(".")[0] for site in sites}
    return [t for t in model.towers if t in spaces or not spaces <= set(model.towers)]


def cut_source(
    model: Model, source: Source | Stream, towers: Sequence[str], config: HarvestConfig
) -> Source | Peeked:
    """The data set, cut into contexts and limited where the options say so."""
    texts = [t for t in towers if model.modality(t) == "text"]
    cuts = config.pack or config.stride is not None or config.long == "split"
    if not texts and (cuts or config.context is not None):
        raise ArgumentError(
            f"got context, stride, pack or long='split' for sites of {list(towers) or 'modules'}, expected a "
            f"text tower; leave them out"
        )
    if cuts and len(towers) > 1:
        raise ArgumentError(
            f"got stride, pack or long='split' for towers {list(towers)}, expected a text tower alone: a "
            f"picture has no contexts; harvest one tower at a time, or use long='truncate'"
        )
    asked = cuts and model.pictures_in_text
    if asked and isinstance(source, Source) and len(source) and first_of(source).has_image:
        raise ArgumentError(
            "got stride, pack or long='split' for prompts with pictures, expected texts alone: contexts "
            "would lack the pictures; leave them out"
        )
    for tower in texts:
        pipeline = model.set_texts(tower, context=config.context, bos=_BOS[config.bos], long=config.long)
        if cuts and pipeline is not None:
            source = contexts(source, pipeline, stride=config.stride, pack=config.pack)
    source = limited(source, config.limit)
    return source if isinstance(source, Source) else Peeked(source)


def _config(config: HarvestConfig | None, options: dict[str, Any]) -> HarvestConfig:
    known = HarvestConfig.__dataclass_fields__
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ArgumentError(f"harvest: got options {unknown}, expected some of {sorted(known)}")
    if isinstance(options.get("sites"), str):
        options["sites"] = (options["sites"],)
    if "store" in options:
        options["store"] = str(options["store"])
    for name in ("tokens", "pool"):
        if isinstance(options.get(name), (list, tuple)):
            options[name] = ",".join(map(str, options[name]))
    return replace(config or HarvestConfig(), **options)


def _batch_size(
    model: Model,
    source: Source | Peeked,
    towers: Sequence[str],
    sites: Sequence[str],
    config: HarvestConfig,
    stored: Plan | None,
) -> int:
    if config.batch_size != "auto":
        if config.batch_size < 1:
            raise ArgumentError(f"batch_size: got {config.batch_size}, expected at least 1 or 'auto'")
        return config.batch_size
    if stored is not None and isinstance(stored.notes.get("batch_size"), int):
        return int(stored.notes["batch_size"])
    return fastest_batch(model, source, towers, sites)


def _run(
    model: Model,
    store: StoreWriter,
    source: Source | Peeked,
    towers: Sequence[str],
    extract: Extractor,
    config: HarvestConfig,
    report: HarvestReport,
    bar: Any,
) -> None:
    clock, start = report.clock, time.perf_counter()
    prefetch = max(4 * config.workers, 2 * report.batch_size)
    feed = Feed(store, source, lambda sample: model.encode(sample, towers), config, prefetch)
    producer = {
        "torch": torch.__version__,
        "device": str(model.device),
        "batch_size": report.batch_size,
        "command": "harvest",
    }
    sink = WriterThread(store, extract.buffers, report, producer=producer)
    records: list[dict[str, Any]] = []
    batch: list[Encoded] = []
    theirs: list[dict[str, Any]] = []  # the records of the batch
    rows = nbytes = 0
    try:
        with sink:
            waited = time.perf_counter()
            for part, item, last in feed:
                clock.wait_data += time.perf_counter() - waited
                records.append(item.record())
                if isinstance(item, Skipped):
                    report.skipped += 1
                else:
                    batch.append(item)
                    theirs.append(records[-1])
                # A batch never crosses a part: whoever makes a part makes the same batches, hence bytes.
                if batch and (last or len(batch) == report.batch_size):
                    begun = time.perf_counter()
                    inputs = model.collate(batch)
                    if config.generate:
                        inputs, said = model.continued(inputs, config.generate)
                        for i, one in enumerate(theirs):
                            one["generated"] = {"ids": said.ids[i].tolist()}
                            if said.texts is not None:
                                one["generated"]["text"] = said.texts[i]
                    packed = extract(inputs)
                    clock.forward += time.perf_counter() - begun
                    sink.write(part, packed)
                    rows += sum(len(p.rows) for p in packed)
                    nbytes += sum(p.nbytes for p in packed)
                    report.samples += len(batch)
                    batch, theirs = [], []
                if last:
                    sink.finish(part, records, extract.take_states())
                    records = []
                bar.update()
                if bar.n % 64 == 0:
                    seconds = time.perf_counter() - start
                    bar.set_postfix_str(f"{rows / seconds:,.0f} rows/s, {size(nbytes)}", refresh=False)
                waited = time.perf_counter()
    finally:
        feed.close()
        clock.decode, report.read = feed.loader.seconds, feed.loader.bytes
        clock.capture = extract.seconds
        clock.wall = time.perf_counter() - start
