"""The options of a probing run; `mmxai probe`'s are generated from this dataclass."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Literal, get_args

from mmxai.errors import ArgumentError

Pool = Literal["token", "cls", "mean", "last"]
Method = Literal["ridge", "lda", "logistic", "mean_difference"]
Control = Literal["auto", "type", "sample", "none"]

PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class ProbeConfig:
    sites: tuple[str, ...] = ("*.resid_post",)
    """Sites or globs; a probe each."""
    tasks: tuple[str, ...] = ()
    """Names of tasks; default: all that the labels know of what is probed."""
    pool: Pool = "token"
    """What is probed. token: every row (patches, where labels are of patches); cls: the class token; mean:
    the mean of a sample's rows; last: its last token."""
    tokens: str | None = None
    """Token types whose rows count, comma-separated (token and mean); default: patch for labels of patches,
    else all but class, register and pad tokens."""
    method: Method = "ridge"
    """Of classes and labels; numbers are fitted by ridge regression whatever the method."""
    penalties: tuple[float, ...] = PENALTIES
    """Candidates for what |w|^2 is charged (lda: for what is added to the scatter), as shares of a column's
    mean scatter, so that they mean the same at every site and for any number of rows."""
    absolute: bool = False
    """PENALTIES are scikit-learn's alpha (logistic: 1/C) as they are."""
    folds: int = 5
    """Inner folds, by sample, in which penalties are chosen."""
    test: float = 0.2
    """Share of the samples, by a hash of their number, on which everything is measured; nothing else sees
    them."""
    overlap: float = 0.5
    """A patch has a label that covers at least so much of it."""
    uncovered: Literal["auto", "class", "drop"] = "auto"
    """Patches that no label touches: a class "none", or left out; auto: a class where there is one label
    only."""
    controls: int = 1
    """Control tasks beside each task."""
    control: Control = "auto"
    """Random labels are drawn per token id (type) or per sample and label (sample); auto: per token id where
    rows are tokens of a text."""
    mdl: bool = True
    """Codelengths (online code), on KEPT items."""
    erase: bool = False
    """Erasers (LEACE) of every task at every site, from the same moments; not of logistic regression, which
    takes none."""
    kept: int = 8192
    """Training items of which activations are held: penalties, calibration and codelengths come from
    these."""
    test_rows: int = 65536
    """Test items, at most: whole samples, drawn by hash."""
    bootstrap: int = 1000
    """Resamples of the test samples behind every interval."""
    confidence: float = 0.95
    memory: float = 2.0
    """GiB for what is accumulated; more sites than fit are probed in several passes, each over its own
    sites."""
    batch: int = 4096
    """Rows read at once."""
    seed: int = 0
    """Of control labels, kept items and resamples."""

    def __post_init__(self) -> None:
        for name in ("sites", "tasks", "penalties"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))

        def check(good: bool, name: str, expected: str) -> None:
            if not good:
                raise ArgumentError(f"probe: got {name}={getattr(self, name)!r}, expected {expected}")

        check(bool(self.sites), "sites", "at least one")
        for name, kinds in (("pool", Pool), ("method", Method), ("control", Control)):
            check(getattr(self, name) in get_args(kinds), name, f"one of {get_args(kinds)}")
        check(self.uncovered in ("auto", "class", "drop"), "uncovered", "one of auto, class, drop")
        for name, least in (("folds", 2), ("controls", 0), ("kept", 64), ("test_rows", 1), ("batch", 1)):
            check(getattr(self, name) >= least, name, f"at least {least}")
        for name in ("bootstrap", "seed"):
            check(getattr(self, name) >= 0, name, "0 or more")
        check(0 < self.test < 1, "test", "a share between 0 and 1")
        check(0 < self.overlap <= 1, "overlap", "a share above 0, at most 1")
        check(0 < self.confidence < 1, "confidence", "a share between 0 and 1")
        check(self.memory > 0, "memory", "more than 0 GiB")
        fits = self.penalties and all(0 < p < inf for p in self.penalties)
        check(bool(fits), "penalties", "finite numbers above 0, one or more")
        object.__setattr__(self, "penalties", tuple(sorted(self.penalties)))
        if self.erase and self.method == "logistic":
            raise ArgumentError(
                "probe: got erase with method='logistic', which takes no moments; expected another method"
            )
        if self.pool in ("cls", "last") and self.tokens is not None:
            raise ArgumentError(
                f"probe: got tokens={self.tokens!r} with pool={self.pool!r}, which says which rows; "
                "leave one out"
            )

    def to_json(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
