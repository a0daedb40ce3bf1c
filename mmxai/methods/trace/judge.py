"""From a run, or from states of the last block, to what the metric says of each sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from mmxai.capture.hooks import Edit
from mmxai.errors import ArgumentError
from mmxai.methods.trace.inputs import repeated
from mmxai.methods.trace.metrics import BoundMetric
from mmxai.models.finishing import finish, reading_rows
from mmxai.models.inputs import Inputs
from mmxai.models.metrics import Metric
from mmxai.models.model import Model, Run
from mmxai.models.recording import record
from mmxai.models.resume import Recording

Edits = Mapping[str, Edit | Sequence[Edit]]


class Judge(Protocol):
    """Scores batches of one shape; any number of copies of it at once.

    needs: sites that the metric reads.
    """

    samples: int
    needs: tuple[str, ...]

    @property
    def metric(self) -> Metric:
        """(run, inputs) -> float `[copies * samples]`, differentiable."""
        ...

    def plain(
        self, model: Model, inputs: Inputs, edit: Edits, capture: Sequence[str]
    ) -> tuple[torch.Tensor, Run]:
        """Run the model: float32 `[copies * samples]`, and the run with the captured sites."""
        ...

    def recorded(
        self, model: Model, tower: str, inputs: Inputs, edit: Edits, capture: Sequence[str]
    ) -> tuple[torch.Tensor, Run, Recording]:
        """`plain`, with a recording of a tower's blocks."""
        ...

    def every(self, tower: str) -> bool:
        """Does `finished` want what every block of the tower gave, or what the last did?"""
        ...

    def finished(
        self, model: Model, states: list[torch.Tensor], start: int, recording: Recording, inputs: Inputs
    ) -> torch.Tensor:
        """Of blocks' outputs `[C * n, T - start, D]`, rows before `start` being the recording's."""
        ...


class TokenJudge:
    """Of metrics that read logits at some rows: nothing is unembedded elsewhere."""

    def __init__(self, metric: BoundMetric):
        self.metric, self.samples, self.needs = metric, metric.samples, metric.needs

    def plain(
        self, model: Model, inputs: Inputs, edit: Edits, capture: Sequence[str]
    ) -> tuple[torch.Tensor, Run]:
        run, logits = self._read(model, lambda: model.run(inputs, capture=capture, edit=edit))
        return self.metric.scored(logits), run

    def recorded(
        self, model: Model, tower: str, inputs: Inputs, edit: Edits, capture: Sequence[str]
    ) -> tuple[torch.Tensor, Run, Recording]:
        found: list[Recording] = []

        def go() -> Run:
            run, recording = record(model, tower, inputs, edit=edit, capture=capture)
            found.append(recording)
            return run

        run, logits = self._read(model, go)
        return self.metric.scored(logits), run, found[0]

    def logits(self, model: Model, inputs: Inputs) -> torch.Tensor:
        """`[n, K, V]` at the rows read."""
        return self._read(model, lambda: model.run(inputs))[1]

    def every(self, tower: str) -> bool:
        return tower != "text"

    def finished(
        self, model: Model, states: list[torch.Tensor], start: int, recording: Recording, inputs: Inputs
    ) -> torch.Tensor:
        last = states[-1]
        rows = self.metric.rows.to(last.device)
        copies = len(last) // len(rows)
        if recording.tower.name != "text":
            # The language tower reads what this one made: it runs, whole.
            whole = _whole(states, start, recording)
            again = repeated(inputs, copies)
            _, logits = self._read(model, lambda: finish(model, {recording.tower.name: whole}, again))
            return self.metric.scored(logits)
        index = (rows - start).clamp(min=0).repeat(copies, 1)[..., None]
        picked = last.gather(1, index.expand(-1, -1, last.shape[-1]))
        if bool((rows < start).any()):
            before = recording.states[-1].gather(1, rows[..., None].expand(-1, -1, last.shape[-1]))
            picked = torch.where(
                (rows < start).repeat(copies, 1)[..., None], before.repeat(copies, 1, 1), picked
            )
        # Any tokens do, for the blocks do not look at them; one of the prompts' own is no picture's place.
        token = inputs.tensors["input_ids"][:1, :1]
        few = model.prepare({"input_ids": token.expand(picked.shape[:2]).contiguous()})
        return self.metric.scored(finish(model, {"text": [picked]}, few).out.logits)

    def _read(self, model: Model, go: Callable[[], Run]) -> tuple[Run, torch.Tensor]:
        rows = self.metric.rows
        with reading_rows(model, rows) as few:
            run = go()
        logits = _logits(run)
        if not few:
            index = rows.repeat(len(logits) // len(rows), 1).to(logits.device)
            logits = logits.gather(1, index[..., None].expand(-1, -1, logits.shape[-1]))
        return run, logits


class OutputJudge:
    """Of any metric of a run: `mmxai.models.metrics`, or a function (run, inputs) -> `[samples]`."""

    def __init__(self, metric: Metric, samples: int):
        self.metric, self.samples = metric, samples
        self.needs: tuple[str, ...] = tuple(getattr(metric, "needs", ()))

    def plain(
        self, model: Model, inputs: Inputs, edit: Edits, capture: Sequence[str]
    ) -> tuple[torch.Tensor, Run]:
        run = model.run(inputs, capture=[*capture, *self.needs], edit=edit)
        return self._scored(run, inputs), run

    def recorded(
        self, model: Model, tower: str, inputs: Inputs, edit: Edits, capture: Sequence[str]
    ) -> tuple[torch.Tensor, Run, Recording]:
        run, recording = record(model, tower, inputs, edit=edit, capture=[*capture, *self.needs])
        return self._scored(run, inputs), run, recording

    def every(self, tower: str) -> bool:
        return True

    def finished(
        self, model: Model, states: list[torch.Tensor], start: int, recording: Recording, inputs: Inputs
    ) -> torch.Tensor:
        copies = len(states[-1]) // recording.samples
        whole = {recording.tower.name: _whole(states, start, recording)}
        again = repeated(inputs, copies)
        return self._scored(finish(model, whole, again, capture=self.needs), again)

    def _scored(self, run: Run, inputs: Inputs) -> torch.Tensor:
        values = self.metric(run, inputs).float()
        if values.ndim != 1 or len(values) % self.samples:
            raise ArgumentError(
                f"metric: got {tuple(values.shape)} of {self.samples} samples, expected a value a sample"
            )
        return values.detach()


def _whole(states: list[torch.Tensor], start: int, recording: Recording) -> list[torch.Tensor]:
    """All rows of every block's output, those before `start` as recorded."""
    if not start:
        return states
    copies = len(states[-1]) // recording.samples
    return [
        torch.cat([recorded[:, :start].repeat(copies, 1, 1), x], 1)
        for recorded, x in zip(recording.states[1:], states, strict=True)
    ]


def _logits(run: Run) -> torch.Tensor:
    logits: Any = getattr(run.out, "logits", None)
    if logits is None:
        raise ArgumentError(
            f"metric: got a model whose output is {type(run.out).__name__}, expected logits of a language "
            "model; for CLIP give metric=mmxai.models.metrics.similarity or another"
        )
    found: torch.Tensor = logits
    return found
