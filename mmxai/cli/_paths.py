"""What `mmxai decompose path` makes of its options: targets, a check of the sum, ablations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mmxai.cli._harvested import again
from mmxai.errors import ArgumentError
from mmxai.labels import read_labels
from mmxai.methods.path import Targets, ablate, ablate_whole, class_margins, contributions
from mmxai.models.metrics import number_samples
from mmxai.models.near_texts import embed_texts
from mmxai.types import Batch

if TYPE_CHECKING:
    from mmxai.cli.decompose_path import Config
    from mmxai.data import Sample, Source, Stream
    from mmxai.methods.path import Ablation, Contributions
    from mmxai.methods.path import Path as Split
    from mmxai.models.inputs import Inputs
    from mmxai.store import Store

_BATCH = 32
_BEST = (2, 4, 8)
_WRONG = 1e-2  # of the output's length: half precision is off by less, a wrong adapter by more


def check(path: Split, source: Source | Stream, number: int) -> Contributions:
    """The split of the first samples beside the model's own output. Raises ArgumentError where wrong."""
    if path.model.modality(path.tower) == "text":
        path.model.set_texts(path.tower, long="truncate")  # as they are harvested
    samples = enumerate(islice(iter(source), number))
    found = contributions(path, (path.read(inputs) for inputs in _inputs(path, samples)))
    if found.error is None or not found.error <= _WRONG:
        raise ArgumentError(
            f"{path.model.name}: the terms do not sum to the model's output (off by {found.error} of its "
            "length): it is made otherwise than its adapter says"
        )
    return found


def targets_of(path: Split, config: Config) -> tuple[Targets | Callable[[Batch], Targets] | None, list[str]]:
    """What is split beside the output itself, and what that is called."""
    model = path.model
    if config.texts and config.tokens:
        raise ArgumentError("got --texts and --tokens, expected one of them: of a CLIP, or a language model")
    if config.texts:
        return _with_difference(path.towards(_embedded(path, config.texts)), config.texts)
    if not config.tokens:
        if not path.logits:
            return None, []
        return path.foremost, ["the token said next" if model.modality(path.tower) == "text" else "its class"]
    pipeline = model.feeds.texts(path.tower)
    if pipeline is None or not path.logits:
        raise ArgumentError(f"--tokens: {model.name} has no tokenizer or no logits, expected both")
    cut = {text: list(pipeline.tokenize(text)) for text in config.tokens}
    if wrong := [
        f"{t!r} is {[pipeline.decode([i]) for i in ids]}" for t, ids in cut.items() if len(ids) != 1
    ]:
        raise ArgumentError(
            f"--tokens: {', '.join(wrong)}; expected a token each; try with, or without, a space in front"
        )
    ids = torch.tensor([cut[text][0] for text in config.tokens])
    return _with_difference(path.outputs(ids, centred=True), config.tokens)


def refuse(path: Split, config: Config) -> None:
    """Options that cannot be, before anything is harvested. Raises ArgumentError."""
    for name, least in (("check", 1), ("draws", 1), ("live_draws", 1), ("live", 0), ("limit", 1)):
        value = getattr(config, name)
        if value is not None and value < least:
            raise ArgumentError(f"--{name.replace('_', '-')}: got {value}, expected at least {least}")
    if config.labels is None:
        if alone := [name for name in ("task", "ablate", "live") if getattr(config, name)]:
            raise ArgumentError(f"got --{', --'.join(alone)} without --labels, expected the samples' classes")
        return
    if not Path(config.labels).exists():
        raise ArgumentError(f"--labels {config.labels}: no such file or folder")
    if "{}" not in config.template:
        raise ArgumentError(f"--template: got {config.template!r}, expected {{}} where the class's name goes")
    _embedded(path, ["a"])
    _sets(path, config.ablate)


def ablations(path: Split, store: Store, config: Config) -> list[Ablation]:
    """Of the direct path, and of the whole model where that was asked for."""
    labels = read_labels(config.labels or "", store)
    classes = [t for t in labels.tasks if t.kind == "classes" and t.level == "sample"]
    task = next((t for t in classes if config.task in (None, t.name)), None)
    if task is None or (config.task is None and len(classes) > 1):
        raise ArgumentError(
            f"--task: got {config.task}, expected one of the tasks of samples: "
            f"{', '.join(t.name for t in classes)}"
        )
    numbers = store.rows[path.tower].sample.unique().numpy()
    known = dict(zip(numbers.tolist(), labels.values(task, numbers).tolist(), strict=True))
    texts = _embedded(path, [config.template.replace("{}", name) for name in task.names])
    sets, towards = _sets(path, config.ablate), path.towards(texts)
    if not config.ablate:
        margins = class_margins(path, lambda: path.batches(store), towards, known)
        order = [path.terms[i] for i in (-margins).argsort()]
        heads = [t.name for t in order if t.kind == "head"]
        sets |= {f"the {n} heads that tell {task.name} best": heads[:n] for n in _BEST}
    found = [ablate(path, lambda: path.batches(store), towards, known, sets, draws=config.draws)]
    if config.live:
        samples = again(path.model, config.data, store, tuple(path.sites)).samples
        few = [number for number, label in known.items() if label >= 0][: config.live]

        def batches() -> Iterator[Inputs]:
            return _inputs(path, ((n, samples[n]) for n in few))

        found.append(ablate_whole(path, batches, texts, known, sets, draws=config.live_draws))
    return found


def _inputs(path: Split, samples: Iterable[tuple[int, Sample]]) -> Iterator[Inputs]:
    """Batches of samples with their numbers."""
    rest = iter(samples)
    while few := list(islice(rest, _BATCH)):
        inputs = path.model.collate([path.model.encode(sample, [path.tower]) for _, sample in few])
        number_samples(inputs, torch.tensor([number for number, _ in few]))
        yield inputs


def _with_difference(targets: Targets, names: Sequence[str]) -> tuple[Targets, list[str]]:
    """Of two, the first less the second, too."""
    if len(names) != 2:
        return targets, list(names)
    read, offset = (torch.cat([t, t[:1] - t[1:]]) for t in (targets.read, targets.offset))
    return Targets(read, offset), [*names, f"{names[0]} less {names[1]}"]


def _embedded(path: Split, texts: Sequence[str]) -> torch.Tensor:
    if path.tower != "vision" or not {"text.embeds", "vision.embeds"} <= set(path.model.sites()):
        raise ArgumentError(
            f"{path.model.name}, {path.tower}: texts and labels are compared with embedded pictures, "
            "expected a CLIP and its vision tower"
        )
    return embed_texts(path.model, tuple(texts))


def _sets(path: Split, globs: Sequence[str]) -> dict[str, list[str]]:
    """Name -> terms: those of each glob, or the heads and the MLP of each block."""
    sets: dict[str, list[str]] = {}
    for glob in globs:
        sets[glob] = [t.name for t in path.terms if fnmatchcase(t.name, glob)]
        if not sets[glob]:
            raise ArgumentError(
                f"--ablate: got {glob!r}, which matches no term, expected as {path.terms[1].name}"
            )
    for term in path.terms if not globs else ():
        if term.kind in ("head", "mlp"):
            what = "heads" if term.kind == "head" else "MLP"
            sets.setdefault(f"{what} of block {term.block}", []).append(term.name)
    return sets
