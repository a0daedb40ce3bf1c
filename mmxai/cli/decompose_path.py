"""Split what a model puts out, exactly, into what heads, MLPs, the embedding and biases contribute:
CLIP's image or text embedding, a language model's logits (direct logit attribution), a ViT's output.

MODEL's activations at the token that is read out stream into a store, which is resumed where it is there;
the rest reads that. Contributions are shares of the output, and what speaks for each of --texts (CLIP) or
--tokens (language models; without them, for the token that comes next). With --labels, of samples, terms are
replaced by their means: what is lost of zero-shot accuracy, beside random sets of as many.

examples:
  mmxai decompose path shapes-clip world/images --texts 'a red object' 'a blue object'
  mmxai decompose path shapes-clip world/images --labels world --task colour --template 'a {} object'
  mmxai decompose path llama/ prompts.txt --tokens he she
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from mmxai.cli import OK
from mmxai.errors import ArgumentError


@dataclass
class Config:
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder or hub id of the model."""
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """The data set: pictures or texts."""
    tower: str | None = None
    """Whose output; default: vision, where the model has one."""
    out: str = "paths"
    """Folder for the page index.html, contributions.json, contributions.csv, neurons.csv, ablation_*.json."""
    store: str | None = None
    """Where the rows go; default: paths.zarr in --out."""
    limit: int | None = None
    """Only the first so many samples."""
    texts: tuple[str, ...] = ()
    """CLIP: texts, whose products with the output are split; of two also the difference."""
    tokens: tuple[str, ...] = ()
    """Language models: tokens (as text), whose logits less the mean logit are split; of two also the
    difference. Default: of each text the token that the model says next."""
    labels: str | None = None
    """Classes of samples, for ablation: a CSV of sample,label, or the folder that `mmxai shapes` wrote."""
    task: str | None = None
    """Which column of the labels."""
    template: str = "{}"
    """The text of a class, {} its name."""
    ablate: tuple[str, ...] = ()
    """Globs of terms (vision.5.z.*), a set each; default: the heads and the MLP of each block, and the
    heads that tell the labels best."""
    draws: int = 20
    """Random sets of as many terms beside each."""
    live: int = 0
    """Ablate in runs of the whole model, too, on so many of the labelled samples."""
    live_draws: int = 3
    """Random sets there; each costs a run."""
    check: int = 32
    """Samples on which the sum is held against the model's own output."""
    device: str | None = None
    """Where the model runs; default: cuda where there is one, else cpu."""
    image_column: str | None = None
    """Column with the images, where its name does not tell."""
    text_column: str | None = None
    """Column with the texts, where its name does not tell."""


def run(config: Config) -> int:
    from mmxai.cli import _paths
    from mmxai.data import open_data
    from mmxai.harvesting import HarvestReport, harvest
    from mmxai.methods.path import Path as Split
    from mmxai.methods.path import contributions
    from mmxai.models import load_model
    from mmxai.report.path import path_page
    from mmxai.store import open_store

    source = open_data(config.data, image_column=config.image_column, text_column=config.text_column)
    model = load_model(config.model, device=config.device)
    tower = config.tower or ("vision" if "vision" in model.towers else next(iter(model.towers), None))
    path = Split(model, tower)
    targets, names = _paths.targets_of(path, config)
    _paths.refuse(path, config)
    checked = _paths.check(path, source, config.check)
    print(
        f"sum against the model's own output: off by {checked.error:.1e} of its length at most, in "
        f"{checked.compared} samples"
    )
    out = Path(config.out)
    where = config.store or str(out / "paths.zarr")
    harvested = harvest(
        model, source, sites=tuple(path.sites), tokens=path.tokens, store=where, store_dtype="float32",
        limit=config.limit, long="truncate" if model.modality(path.tower) == "text" else "error",
    )  # fmt: skip
    print(harvested)
    if not isinstance(harvested, HarvestReport) or harvested.elsewhere:
        raise ArgumentError(f"{where}: got a store that is not complete, expected all parts; run it again")
    with open_store(where) as store:
        found = contributions(path, path.batches(store), targets, names)
        found = replace(found, error=checked.error, compared=checked.compared)
        print(f"\n{found}")
        ablations = [] if config.labels is None else _paths.ablations(path, store, config)
    found.save(out / "contributions.json")
    found.to_pandas().to_csv(out / "contributions.csv", index=False)
    found.neurons().to_csv(out / "neurons.csv", index=False)
    for stale in out.glob("ablation_*.json"):  # of an earlier run, of other texts or sets
        stale.unlink()
    for ablation in ablations:
        print(f"\n{ablation}")
        ablation.save(out / f"ablation_{ablation.how.replace(' ', '_')}.json")
    title = f"Paths to the output of {model.name}"
    print(f"\nwritten to {path_page(found, out / 'index.html', title=title, ablations=ablations)}")
    return OK
