"""Causal tracing: which states of a model carry its answer, by putting them back into a corrupted run.

Of a multimodal language model a picture and a question; of a language model a prompt; of a CLIP a picture
and --texts. Corrupted are the region of --box or --mask (else the whole picture), another picture (--other),
another prompt (--counterfactual) or the words of --subject. States of the clean run are put back, block by
block, at each token and patch: what brings the answer back carries it. What it will take is said before it
starts; above 1,000 interventions most are estimated first and only the foremost run (--exact runs all).

examples:
  mmxai trace llava/ bus.jpg "What colour is the bus?" --answer red --foil yellow --box 40 60 210 170
  mmxai trace llava/ bus.jpg "What colour is the bus?" --answer red --foil blue --other blue_bus.jpg
  mmxai trace gpt2/ "The Eiffel Tower is in" --answer Paris --foil Rome --counterfactual "The Colosseum is in"
  mmxai trace gpt2/ "The Eiffel Tower is in" --answer Paris --foil Rome --subject "Eiffel Tower"
  mmxai trace gpt2/ --facts known_1000.json --limit 200
  mmxai trace shapes-clip circle.png --texts "a red circle" "a blue circle" --box 8 8 30 30
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mmxai.cli import OK
from mmxai.errors import ArgumentError

if TYPE_CHECKING:
    from mmxai.methods.trace.question import Planned, Question


@dataclass
class Config:
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder or hub id of the model."""
    about: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[IMAGE] [QUESTION]")] = ()
    """A picture and a question, a prompt alone, or with --texts a picture alone."""
    answer: str | None = None
    """The answer whose way through the model is traced; scored whole, behind the question."""
    foil: str | None = None
    """An answer to compare it with: the difference of their logits is measured. Without: its probability."""
    texts: tuple[str, ...] = ()
    """CLIP: the text whose cosine with the picture is measured, or two, whose difference is."""
    box: tuple[float, float, float, float] | None = None
    """The object in question: x0 y0 x1 y1 in pixels of the picture."""
    mask: str | None = None
    """The object in question as a picture of equal size: what is above 0."""
    corrupt: str | None = None
    """What becomes of the region, or the picture: blur, mean (fill), noise (on embeddings of its patches),
    pixels (noise on pixels), drop (no picture), or a file whose picture takes its place. Default: mean."""
    other: str | None = None
    """A counterfactual picture of equal size, that differs in what is asked about."""
    subject: str | None = None
    """Words of the prompt whose embeddings get noise."""
    counterfactual: str | None = None
    """Another prompt of as many tokens, with another answer."""
    facts: str | None = None
    """Instead of a prompt: a file of facts as ROME's known_1000.json; those that the model knows are traced
    with noise on their subjects, by role of the token."""
    limit: int | None = None
    """Only the first so many facts."""
    sigma: float = 3.0
    """Noise: its standard deviation, in those of what it is put on."""
    draws: int = 10
    """Noise: how many times it is drawn."""
    window: int | None = None
    """Blocks whose attention or MLP outputs are restored together; default: a fifth of them."""
    grid: int = 8
    """Most squares a side of a map over the picture."""
    exact: bool = False
    """Run every intervention, however many."""
    best: int = 500
    """How many run where most are estimated."""
    keep: str | None = None
    """Folder in which clean and corrupted states and the values found stay, so that the same command goes on
    where it was stopped."""
    memory: int = 1024
    """MiB that states and batches may take."""
    seed: int = 0
    """Of noise and of random rows."""
    out: str = "trace"
    """Folder for the page index.html, trace.json and trace.csv."""
    device: str | None = None
    """Where the model runs; default: cuda where there is one, else cpu."""


def run(config: Config) -> int:
    from tqdm import tqdm

    from mmxai.cli import _trace
    from mmxai.models import load_model
    from mmxai.report.trace import trace_page

    picture, prompt = _trace.given(config)
    out = Path(config.out)
    _trace.writable(out)
    model = load_model(config.model, device=config.device)
    question = _trace.question(config, model, picture, prompt)
    planned = _plan(config, question)
    with tqdm(total=sum(p.cells for p in planned), unit=" cells", disable=None) as bar:
        found = question.run(
            planned, progress=lambda done, of: bar.update(max(0, done - bar.n)),
            keep=None if config.keep is None else Path(config.keep),
        )  # fmt: skip
    print(found)
    found.save(out / "trace.json")
    found.to_pandas().to_csv(out / "trace.csv", index=False)
    page = trace_page(
        found, out / "index.html", title=f"Causal tracing of {model.name}", picture=question.picture,
        corrupted=question.corrupted, where=question.where,
    )  # fmt: skip
    print(f"\nwritten to {page}")
    return OK


def _plan(config: Config, question: Question) -> list[Planned]:
    """What will run, and what it will take, printed."""
    from mmxai.methods.trace.prefilter import DEFAULT_ABOVE

    if config.best < 1 or config.memory < 1:
        raise ArgumentError(
            f"--best, --memory: got {config.best} and {config.memory}, expected at least 1 of each"
        )
    question.budget = config.memory * 2**20
    few = config.exact or question.cells <= DEFAULT_ABOVE
    planned = question.studies(None if few else config.best)
    costs = [p.study.predict() for p in planned]
    forwards, seconds = sum(c.forwards for c in costs), sum(c.seconds for c in costs)
    how = "all run" if few else f"{config.best:,} run, the others estimated (--exact runs all)"
    print(
        f"{question.cells:,} interventions, {how}: about {forwards:,} forwards, {seconds:.3g} s", flush=True
    )
    return planned
