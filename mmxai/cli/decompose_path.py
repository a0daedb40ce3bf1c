"""Split what a model puts out, exactly, into what heads, MLPs, the embedding and biases contribute:
CLIP's image or text embedding, a language model's logits (direct logit attribution), a ViT's output.

MODEL's activations at the token that is read out stream into a store, which is resumed where it is there; the
rest reads that. Contributions are shares of the output, and with --texts (CLIP) or --tokens (language models)
what speaks for each of them. With --labels, of samples, terms are replaced by their means: what is lost of
zero-shot accuracy, beside random sets of as many.

examples:
  mmxai decompose path shapes-clip world/images --texts 'a red object' 'a blue object'
  mmxai decompose path shapes-clip world/images --labels world --task colour --template 'a {} object'
  mmxai decompose path llama/ prompts.txt --tokens ' he' ' she'
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mmxai.cli import OK
from mmxai.errors import ArgumentError

if TYPE_CHECKING:
    import torch

    from mmxai.data import Source, Stream
    from mmxai.methods.path import Ablation, Contributions, Targets
    from mmxai.methods.path import Path as Split
    from mmxai.models import Model
    from mmxai.store import Store


@dataclass
class Config:
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder or hub id of the model."""
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """The data set: pictures or texts."""
    tower: str | None = None
    """Whose output; default: vision, where the model has one."""
    out: str = "paths"
    """Folder for contributions.json, contributions.csv, contributions.png, and ablation.json."""
    store: str | None = None
    """Where the rows go; default: paths.zarr in --out."""
    limit: int | None = None
    """Only the first so many samples."""
    texts: tuple[str, ...] = ()
    """CLIP: texts, whose products with the output are split."""
    tokens: tuple[str, ...] = ()
    """Language models: tokens (as text), whose logits less the mean logit are split."""
    labels: str | None = None
    """Classes of samples, for ablation: a CSV of sample,label, or the folder that `mmxai shapes` wrote."""
    task: str | None = None
    """Which column of the labels."""
    template: str = "{}"
    """The text of a class, {} its name."""
    ablate: tuple[str, ...] = ()
    """Globs of terms (vision.5.z.*), a set each; default: the heads and the MLP of each block."""
    draws: int = 20
    """Random sets of as many terms beside each."""
    check: int = 32
    """Samples on which the sum is held against the model's own output."""
    device: str | None = None
    """Where the model runs; default: cuda where there is one, else cpu."""
    image_column: str | None = None
    """Column with the images, where its name does not tell."""
    text_column: str | None = None
    """Column with the texts, where its name does not tell."""


def run(config: Config) -> int:
    from mmxai.data import open_data
    from mmxai.harvesting import HarvestReport, harvest
    from mmxai.methods.path import Path as Split
    from mmxai.models import load_model
    from mmxai.store import open_store

    source = open_data(config.data, image_column=config.image_column, text_column=config.text_column)
    model = load_model(config.model, device=config.device)
    tower = config.tower or ("vision" if "vision" in model.towers else next(iter(model.towers), None))
    path = Split(model, tower)
    targets, names = _targets(path, config)
    print(
        f"sum against the model's own output: off by {_check(path, source, config.check):.1e} of its length"
    )
    where = config.store or str(Path(config.out) / "paths.zarr")
    harvested = harvest(
        model, source, sites=tuple(path.sites), tokens=path.tokens, store=where, store_dtype="float32",
        limit=config.limit, long="truncate" if model.modality(path.tower) == "text" else "error",
    )  # fmt: skip
    print(harvested)
    if not isinstance(harvested, HarvestReport) or harvested.elsewhere:
        raise ArgumentError(f"{where}: got a store that is not complete, expected all parts; run it again")
    with open_store(where) as store:
        found = _contributions(path, store, targets, names)
        _write(found, Path(config.out))
        print(f"\n{found}")
        if config.labels is not None:
            ablation = _ablation(path, store, config)
            ablation.save(Path(config.out) / "ablation.json")
            print(f"\n{ablation}")
    print(f"\nwritten to {config.out}")
    return OK


def _check(path: Split, source: Source | Stream, number: int) -> float:
    """The largest relative error over the first samples; ArgumentError where the split is wrong."""
    from mmxai.methods.path import contributions

    samples = [path.model.encode(sample, [path.tower]) for sample in islice(iter(source), max(1, number))]
    batches = (path.read(path.model.collate(samples[i : i + 32])) for i in range(0, len(samples), 32))
    error = contributions(path, batches).error
    if error is None or error > 1e-2:
        raise ArgumentError(
            f"{path.model.name}: the terms do not sum to the model's output (off by {error} of its "
            "length): it is made otherwise than its adapter says"
        )
    return error


def _targets(path: Split, config: Config) -> tuple[Targets | None, list[str]]:
    if config.texts and config.tokens:
        raise ArgumentError("got --texts and --tokens, expected one of them: of a CLIP, or a language model")
    if config.texts:
        return path.towards(_texts(path.model, config.texts)), list(config.texts)
    if config.tokens:
        import torch

        pipeline = path.model.feeds.texts(path.tower)
        if pipeline is None or path.network.matrix is None:
            raise ArgumentError(f"--tokens: {path.model.name} has no tokenizer or no logits, expected both")
        ids = [pipeline.tokenize(text) for text in config.tokens]
        if wrong := [t for t, i in zip(config.tokens, ids, strict=True) if len(i) != 1]:
            raise ArgumentError(f"--tokens: got {wrong}, which are not one token, expected a token each")
        return path.outputs(torch.tensor([i[0] for i in ids]), centred=True), list(config.tokens)
    return None, []


def _texts(model: Model, texts: tuple[str, ...]) -> torch.Tensor:
    from mmxai.models.near_texts import embed_texts

    if not {"text.embeds", "vision.embeds"} <= set(model.sites()):
        raise ArgumentError(f"--texts: {model.name} embeds no texts beside pictures, expected a CLIP")
    return embed_texts(model, texts)


def _contributions(path: Split, store: Store, targets: Targets | None, names: list[str]) -> Contributions:
    from mmxai.methods.path import contributions

    return contributions(path, path.batches(store), targets, names)


def _ablation(path: Split, store: Store, config: Config) -> Ablation:
    from mmxai.labels import read_labels
    from mmxai.methods.path import ablate

    labels = read_labels(config.labels or "", store)
    classes = [t for t in labels.tasks if t.kind == "classes" and t.level == "sample"]
    task = next((t for t in classes if config.task in (None, t.name)), None)
    if task is None or (config.task is None and len(classes) > 1):
        raise ArgumentError(
            f"--task: got {config.task}, expected one of the tasks of samples: "
            f"{', '.join(t.name for t in classes)}"
        )
    samples = store.rows[path.tower].sample.unique().numpy()
    known = dict(zip(samples.tolist(), labels.values(task, samples).tolist(), strict=True))
    texts = tuple(config.template.format(name) for name in task.names)
    targets = path.towards(_texts(path.model, texts))
    sets = _sets(path, config.ablate)
    return ablate(path, lambda: path.batches(store), targets, known, sets, draws=config.draws)


def _sets(path: Split, globs: tuple[str, ...]) -> Mapping[str, list[str]]:
    if globs:
        found = {glob: [t.name for t in path.terms if fnmatchcase(t.name, glob)] for glob in globs}
        if empty := [glob for glob, terms in found.items() if not terms]:
            raise ArgumentError(
                f"--ablate: got {empty}, which match no term, expected as {path.terms[1].name}"
            )
        return found
    sets: dict[str, list[str]] = {}
    for term in path.terms:
        if term.kind in ("head", "mlp"):
            what = "heads" if term.kind == "head" else "MLP"
            sets.setdefault(f"{what} of block {term.block}", []).append(term.name)
    return sets


def _write(found: Contributions, out: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    found.save(out / "contributions.json")
    found.to_pandas().to_csv(out / "contributions.csv", index=False)
    shown = [None, *range(min(5, len(found.targets)))]
    figure, axes = plt.subplots(
        len(shown), figsize=(7, 2.8 * len(shown)), squeeze=False, layout="constrained"
    )
    for ax, target in zip(axes[:, 0], shown, strict=True):
        found.plot(ax, target)
    figure.savefig(out / "contributions.png", dpi=110)
    plt.close(figure)
