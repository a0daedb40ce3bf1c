"""SoftWPMI of many neurons, pictures and words: CLIP-Dissect's loop over neurons, and the memory of ours.

Both sides get the judge's similarities and the neurons' activations, and keep nothing from one call to the
next. Run as a script it measures the memory of ours in a process of its own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property

import torch

from mmxai.bench.memory import status
from mmxai.methods.describe.scores import soft_wpmi

SCALE, TOP, FIRST, LAST, FLOOR = 10.0, 100, 0.998, 0.97, 1e-7
DEPTH, ROWS = 32, 1000


@dataclass(frozen=True)
class Labelling:
    """How many of each; `top` pictures speak for a neuron."""

    neurons: int
    pictures: int
    words: int
    top: int = TOP
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.neurons:,} neurons, {self.pictures:,} pictures, {self.words:,} words, top {self.top}"

    @cached_property
    def similarities(self) -> torch.Tensor:
        """Cosines as of a dual encoder, 0.25 with a deviation of 0.05, float32 `[pictures, words]`."""
        g = torch.Generator().manual_seed(0)
        pictures, words = (torch.randn(n, DEPTH, generator=g) for n in (self.pictures, self.words))
        found = torch.empty(self.pictures, self.words)
        torch.mm(pictures, words.T, out=found)
        return found.mul_(0.05 / DEPTH**0.5).add_(0.25).to(self.device)

    @cached_property
    def activations(self) -> torch.Tensor:
        """float32 `[pictures, neurons]`, no two of a neuron alike: of ties torch's top-k takes any."""
        g = torch.Generator().manual_seed(1)
        order = torch.rand(self.neurons, self.pictures, generator=g).argsort(1)
        return order.float().T.contiguous().to(self.device)

    @property
    def weights(self) -> torch.Tensor:
        """What each of a neuron's pictures weighs, the first most, float32 `[top, 1]`."""
        return (FIRST - torch.arange(self.top, device=self.device) / self.top * (FIRST - LAST))[:, None]


def ours(work: Labelling) -> torch.Tensor:
    """float32 `[neurons, words]`."""
    return soft_wpmi(
        work.similarities,
        work.activations,
        top=work.top,
        temperature=SCALE,
        first=FIRST,
        last=LAST,
        floor=FLOOR,
    )


def once(work: Labelling) -> tuple[torch.Tensor, torch.Tensor]:
    """What CLIP-Dissect's `soft_wpmi` does before its loop: probabilities `[pictures, words]` and tops."""
    return (SCALE * work.similarities).softmax(1), work.activations.topk(work.top, dim=0).indices


def of_words(work: Labelling, words: int, dtype: torch.dtype) -> torch.Tensor:
    """Its scores of the first words, in another precision."""
    p = [(SCALE * rows.to(dtype)).softmax(1)[:, :words] for rows in work.similarities.split(ROWS)]
    tops = work.activations.topk(work.top, dim=0).indices
    return less_marginal(given(torch.cat(p), tops, work, work.neurons))


def given(p: torch.Tensor, tops: torch.Tensor, work: Labelling, neurons: int) -> torch.Tensor:
    """Its loop, over the first neurons: log p(neuron | word) `[neurons, words]`. Rows are taken as it takes
    them, by `gather` with an index for every number."""
    weights, found = work.weights.to(p.dtype), []
    for neuron in range(neurons):
        rows = p.gather(0, tops[:, neuron : neuron + 1].expand(-1, p.shape[1]))
        found.append(torch.log(1 + weights * (rows - 1) + FLOOR).sum(0, keepdim=True))
    return torch.cat(found)


def given_by_rows(p: torch.Tensor, tops: torch.Tensor, work: Labelling, neurons: int) -> torch.Tensor:
    """The same loop with an index a row: what a reader would make of it first."""
    weights, found = work.weights.to(p.dtype), []
    for neuron in range(neurons):
        found.append(torch.log(1 + weights * (p[tops[:, neuron]] - 1) + FLOOR).sum(0, keepdim=True))
    return torch.cat(found)


def less_marginal(found: torch.Tensor) -> torch.Tensor:
    """What it does behind its loop."""
    return found - (found.logsumexp(0, keepdim=True) - torch.tensor(len(found)).log())


def main(arguments: list[str]) -> None:
    neurons, pictures, words, top, threads = map(int, arguments)
    torch.set_num_threads(threads)
    ours(Labelling(neurons, pictures, words, top))
    print(status("VmHWM"))


if __name__ == "__main__":
    main(sys.argv[1:])
