"""Rivals that are packages of their own, measured in virtual environments of their own.

A peer is a script beside this file with `prepare(job) -> (works, answer)`. It imports nothing of mmxai: it
runs in `.peers/<name>`, which holds the peer's pinned packages and nothing else. The process stays up and
does one of `works` when told, so that its repeats stand between ours, A B A B; `answer()` proves that it did
the same work.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from mmxai.bench.figures import UnequalWorkError
from mmxai.bench.options import Options
from mmxai.bench.peers.environment import environment
from mmxai.errors import ArgumentError, MmxaiError

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Peer:
    """`packages`: pinned requirements; '{torch}' stands for the version that mmxai runs on here.

    `does`: what of our work it does, for the figure's detail. `without`: see `environment`. `home`: the name
    of its environment, where two cases share one.
    """

    name: str
    case: str
    packages: tuple[str, ...]
    does: str
    without: tuple[str, ...] = ()
    home: str | None = None

    @property
    def key(self) -> str:
        """The name as it stands in figures."""
        return self.name.replace("-", "_")

    @property
    def script(self) -> Path:
        return _HERE / f"{self.key}_.py"

    def python(self) -> Path:
        """The Python of its environment, which is made where it is not there yet."""
        return environment(self.home or self.name, self.packages, without=self.without)


_NUMPY = "numpy==2.4.6"
TRANSFORMER_LENS = ("transformer-lens==4.3.0", "torch=={torch}", "transformers==5.23.0", _NUMPY)

PEERS = (
    Peer(
        "zennit-crp",
        "stats",
        (
            "zennit-crp==0.6.0",
            "zennit==0.4.6",
            "torch=={torch}",
            _NUMPY,
            "matplotlib==3.11.2",
            "tqdm==4.70.1",
        ),
        "top-k alone",
    ),
    Peer(
        "scikit-learn", "stats", ("scikit-learn==1.9.1", "scipy==1.17.1", _NUMPY), "mean and variance alone"
    ),
    Peer("tensorstore", "store", ("tensorstore==0.1.86", _NUMPY), "the same Zarr array"),
    Peer("h5py", "store", ("h5py==3.16.0", _NUMPY), "one HDF5 file, chunks of the same size"),
    Peer(
        "nnsight",
        "harvest",
        ("nnsight==0.8.1", "torch=={torch}", "transformers==5.23.0", "safetensors==0.8.0", _NUMPY),
        "traces saved as safetensors, no statistics, rows or checksums",
    ),
    Peer(
        "sparsify",
        "sae",
        ("eai-sparsify==1.3.3", "torch=={torch}", _NUMPY),
        "sparse gradients, dense product",
    ),
    Peer(
        "saelens",
        "sae",
        ("sae-lens==6.54.0", "torch=={torch}", "zarr==3.1.6", "ml-dtypes==0.6.0"),
        "dense throughout",
    ),
    Peer(
        "dictionary-learning",
        "sae",
        ("dictionary-learning==0.1.0", "torch=={torch}"),
        "dense throughout",
        without=("torchvision",),
    ),
    Peer(
        "sklearn",
        "probe",
        ("scikit-learn==1.9.1", "scipy==1.17.1", "threadpoolctl==3.8.0", _NUMPY),
        "a fit a fold, penalty and task, float32",
    ),
    Peer(
        "himalaya",
        "probe",
        # It imports packaging without asking for it.
        (
            "himalaya==0.4.11",
            "scikit-learn==1.9.1",
            "scipy==1.17.1",
            "torch=={torch}",
            "packaging==26.3",
            _NUMPY,
        ),
        "RidgeCV, all targets at once, one refit at the chosen penalties, float32",
    ),
    Peer(
        "transformer-lens",
        "lens",
        TRANSFORMER_LENS,
        "its logit_lens on a cache, no divergence",
    ),
    Peer(
        "transformer-lens-trace",
        "trace",
        TRANSFORMER_LENS,
        "get_act_patch_resid_pre, a forward a cell that reads out all positions",
        home="transformer-lens",
    ),
    Peer("datasets", "store", ("datasets==5.2.0", "pyarrow==26.0.1", _NUMPY), "Arrow, as SAELens keeps it"),
)


class PeerError(MmxaiError):
    """A peer's environment could not be made, or its process failed."""


def peers_of(case: str) -> list[Peer]:
    return [peer for peer in PEERS if peer.case == case]


def wanted(options: Options, case: str) -> list[Peer]:
    """The peers of `case` that the options ask for."""
    if options.peers is None:
        return []
    known = {peer.name for peer in PEERS}
    if unknown := [name for name in options.peers if name not in known]:
        raise ArgumentError(f"no peer {unknown[0]!r}; expected {', '.join(sorted(known))}")
    return [peer for peer in peers_of(case) if not options.peers or peer.name in options.peers]


@contextmanager
def running(
    options: Options, case: str, job: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]] | None = None
) -> Iterator[dict[Peer, Rival]]:
    """The wanted peers of a case, each with its environment made and `job` (JSON) prepared.

    own: peer's name -> what its job has beside, or in place of, `job`.
    """
    with ExitStack() as stack:
        yield {
            peer: stack.enter_context(
                Rival(peer.name, peer.python(), peer.script, {**job, **(own or {}).get(peer.name, {})})
            )
            for peer in wanted(options, case)
        }


class Rival:
    """A peer's process; context manager."""

    def __init__(self, name: str, python: Path, script: Path, job: Mapping[str, Any]):
        self.name = name
        # -I: neither the current folder nor PYTHONPATH leads back to us.
        command = [str(python), "-I", str(_HERE / "_serve.py"), str(script)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ask({"prepare": dict(job)})

    def run(self, what: str, *args: Any) -> None:
        """Do one of the works the script gave, with arguments that JSON can carry, or paths."""
        self._ask({"run": what, "args": [str(a) if isinstance(a, Path) else a for a in args]})

    def answer(self) -> dict[str, Any]:
        """What the work came to."""
        found: dict[str, Any] = self._ask({"answer": True})
        return found

    def agree(self, expected: Mapping[str, float], tolerance: float = 0.0) -> None:
        """Raise unless the peer's answers are ours, to a relative `tolerance`."""
        for name, value in self.answer().items():
            if not abs(value - expected[name]) <= tolerance * abs(expected[name]):
                raise UnequalWorkError(f"{self.name}: {name} is {value}, ours {expected[name]}")

    def _ask(self, message: Mapping[str, Any]) -> Any:
        pipe, replies = self._process.stdin, self._process.stdout
        if pipe is None or replies is None:
            raise PeerError(f"{self.name}: its process has no pipes")
        try:
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()
        except BrokenPipeError:
            pass  # the reply below is then empty, and says so
        reply = replies.readline()
        if not reply:
            raise PeerError(f"{self.name}: its process ended with status {self._process.wait()}, see above")
        return json.loads(reply)["reply"]

    def __enter__(self) -> Rival:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()  # the end of its input is the end of its work
        if self._process.wait(timeout=60) != 0 and kind is None:
            print(f"{self.name}: ended with status {self._process.returncode}", file=sys.stderr)
        if self._process.stdout is not None:
            self._process.stdout.close()
