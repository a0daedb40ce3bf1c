"""How a tuned lens is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from mmxai.errors import ArgumentError

Optimiser = Literal["adamw", "sgd"]


@dataclass(frozen=True)
class TunedLensConfig:
    """Settings of `tune_lens`.

    sites: names or globs of stored states of the stream, `resid_pre` or `resid_post` (none: all there are);
    the last one is the target and left out. tokens: token types to keep (None: all). splits: shares of
    samples that train, that are held out, and that are left alone. penalties: of the closed-form start, as
    shares of the mean diagonal of the centred X'X; the one of least held-out KL is taken, or none where the
    plain lens is better.
    steps, batch (rows a step), lr (falls to 0, linearly), optimiser, momentum (of SGD, Nesterov's), decay
    (towards the plain lens): of the descent; 0 steps keep the start. eval_every, eval_rows: steps between
    looks at held-out KL, and its rows. patience: looks without gain after which a site is done.
    save_every: steps between checkpoints. block_bytes: of a block of logits `[rows, vocabulary]`, float32; a
    few of them are held. seed, window: of the shuffle. device: where it is computed; None: the unembedding's.
    """

    sites: tuple[str, ...] = ()
    tokens: tuple[str, ...] | None = None
    splits: tuple[float, float, float] = (0.8, 0.2, 0.0)
    penalties: tuple[float, ...] = (1e-6, 1e-4, 1e-2)
    steps: int = 500
    batch: int = 1024
    lr: float = 1e-3
    optimiser: Optimiser = "adamw"
    momentum: float = 0.9
    decay: float = 1e-3
    eval_every: int = 50
    eval_rows: int = 8192
    patience: int = 3
    save_every: int = 100
    block_bytes: int = 32 << 20
    seed: int = 0
    window: int | str | None = "auto"
    device: str | None = None

    def __post_init__(self) -> None:
        least = {"steps": 0, "batch": 1, "eval_every": 1, "eval_rows": 1, "patience": 1, "save_every": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ArgumentError(
                    f"tuned lens: got {name}={getattr(self, name)}, expected at least {value}"
                )
        if not (self.lr > 0 and 0 <= self.momentum < 1 and self.decay >= 0):
            raise ArgumentError(
                f"tuned lens: got lr={self.lr}, momentum={self.momentum}, decay={self.decay}, expected lr > "
                "0, 0 <= momentum < 1, decay >= 0"
            )
        if not all(0 < p < float("inf") for p in self.penalties):
            raise ArgumentError(f"tuned lens: got penalties {self.penalties}, expected positive numbers")
        if self.optimiser not in get_args(Optimiser):
            raise ArgumentError(
                f"tuned lens: got optimiser={self.optimiser!r}, expected one of {get_args(Optimiser)}"
            )
        if not self.penalties and not self.steps:
            raise ArgumentError("tuned lens: got neither penalties nor steps, expected one of them at least")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
