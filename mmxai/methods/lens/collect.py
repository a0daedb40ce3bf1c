"""What passes leave behind: averages of all rows, and everything of the first ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from mmxai.errors import ArgumentError
from mmxai.methods.lens.curves import Tally
from mmxai.methods.lens.passes import Found, look
from mmxai.methods.lens.results import LensResult
from mmxai.types import Rows

if TYPE_CHECKING:
    from mmxai.methods.lens.states import Stack
    from mmxai.methods.lens.targets import Targets
    from mmxai.models.unembedding import Unembedding


class Collector:
    """keep: rows of which everything is kept. final: whether there is a final state to compare with."""

    def __init__(
        self, model: str, unembed: Unembedding, states: list[str], targets: Targets, k: int, keep: int,
        final: bool, seed: int,
    ):  # fmt: skip
        self.model, self.unembed, self.states, self.targets = model, unembed, states, targets
        self.k, self.keep, self.seed = k, keep, seed
        self.tally = Tally(len(states), targets.names, final)
        self.seen = self.held = 0
        self._found: list[Found] = []
        self._rows: list[torch.Tensor] = []
        self._asked: list[torch.Tensor] = []
        self._samples: dict[int, dict[str, Any]] = {}

    def add(
        self,
        stack: Stack,
        acts: Mapping[str, torch.Tensor],
        rows: Rows,
        targets: torch.Tensor,
        final: tuple[torch.Tensor, str] | None,
        backend: str,
    ) -> None:
        if not len(rows):
            return
        found = look(stack, acts, targets, final, k=self.k, backend=backend)
        self.tally.add(found, rows)
        self.seen += len(rows)
        if (room := min(len(rows), self.keep - self.held)) > 0:
            self._found.append(found.first(room))
            self._rows.append(rows.table[:room])
            self._asked.append(targets[:room])
            self.held += room

    def know(self, samples: Mapping[int, dict[str, Any]]) -> None:
        """What is known of samples of kept rows."""
        kept = {int(s) for table in self._rows[-1:] for s in table[:, 0].unique()}
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
