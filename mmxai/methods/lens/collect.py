"""What passes leave behind: averages of all rows, and everything of the first ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from mmxai.errors import ArgumentError
from mmxai.methods.lens.curves import Tally
from mmxai.methods.lens.passes import Found
from mmxai.methods.lens.results import LensResult
from mmxai.types import Rows

if TYPE_CHECKING:
    from mmxai.methods.lens.targets import Targets
    from mmxai.models.unembedding import Unembedding


class Collector:
    """keep: rows of which everything is kept. final: whether there is a final state to compare with."""

    def __init__(
        self, model: str, unembed: Unembedding, states: list[str], targets: Targets, keep: int,
        final: bool, seed: int,
    ):  # fmt: skip
        self.model, self.unembed, self.states, self.targets = model, unembed, states, targets
        self.keep, self.seed = keep, seed
        self.tally = Tally(len(states), targets.names, final)
        self.seen = self.held = 0
        self._found: list[Found] = []
        self._rows: list[torch.Tensor] = []
        self._asked: list[torch.Tensor] = []
        self._samples: dict[int, dict[str, Any]] = {}

    def add(
        self, found: Found, rows: Rows, targets: torch.Tensor, samples: Mapping[int, dict[str, Any]]
    ) -> None:
        """samples: what is known of the samples of these rows."""
        self.tally.add(found, rows)
        self.seen += len(rows)
        if (room := min(len(rows), self.keep - self.held)) > 0:
            self._found.append(found.first(room))
            self._rows.append(rows.table[:room])
            self._asked.append(targets[:room])
            self.held += room
            kept = set(rows.sample[:room].tolist())
            self._samples |= {i: known for i, known in samples.items() if i in kept}

    def result(self) -> LensResult:
        if not self.seen:
            raise ArgumentError("lens: got no rows, expected one at least")
        found = Found.join(self._found)
        rows, asked = torch.cat(self._rows), torch.cat(self._asked)
        # A picture's placeholder has a number past some models' unembeddings: it is no token of theirs.
        given = rows[:, 5]
        ids = torch.cat([found.ids.flatten(), asked.flatten().int(), given]).unique().tolist()
        notes = []
        if found.kl is None:
            notes.append("KL and agreement need the last block's output, which is not among what was read")
        return LensResult(
            self.model, self.unembed.tower, self.states, rows, found.ids, found.logprobs, found.entropy,
            found.kl, found.best, self.targets.names, asked, found.target_logprobs, found.target_ranks,
            self.tally.curves(self.seed), self.seen,
            {i: self.unembed.names(i) for i in ids if 0 <= i < self.unembed.size}, self._samples, notes,
        )  # fmt: skip
