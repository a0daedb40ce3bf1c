"""Training: one loop for every architecture, over a store or a live model.

Several SAEs share every batch. A run is stopped at any step (Ctrl-C, SIGTERM) and goes on where it was when
called again: to the same weights, bit for bit, with the same torch, device and threads.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mmxai.errors import ArgumentError, CheckpointError, MmxaiError
from mmxai.methods.sae import checkpoint, init
from mmxai.methods.sae.config import TrainConfig, variants
from mmxai.methods.sae.data import Acts, Feed, Origin, StoreOrigin
from mmxai.methods.sae.jobs import Job, groups_of, jobs_of, spec_of
from mmxai.methods.sae.metrics_log import check_trackers, open_logs
from mmxai.methods.sae.model import SAE
from mmxai.methods.sae.spec import SAESpec
from mmxai.methods.sae.trainee import Trainee
from mmxai.methods.sae.workspace import Workspace
from mmxai.runs import stop_signals
from mmxai.share import share
from mmxai.store import Store, open_store

RUNS = "runs"
# What may change when a run goes on; of sites that are trained side by side `_check_elsewhere` sees.
_FREE = ("sites", "log_every", "save_every", "at_once", "device")


def train_sae(
    source: Store | Origin | str | Path,
    config: TrainConfig | Sequence[TrainConfig] | None = None,
    *,
    out: str | Path | None = None,
    part_of: str | None = None,
    track: Sequence[str] = (),
    progress: bool | None = None,
    **options: Any,
) -> list[SAE]:
    """Train SAEs on the sites of a store (or its path), or of a `LiveOrigin`.

    config: one, or several, of which each trains an SAE a site on the same batches; `options` are its fields.
    out: folder: `<site>/` (with several configs `<site>/<what differs>/`) gets `sae.safetensors`, `sae.json`
    and `metrics.jsonl`; `runs/` the checkpoints from which the same call goes on. None keeps nothing on disk.
    part_of: this worker's share of the sites, "i/n"; default that of torchrun or of a SLURM array.
    track: also "tensorboard" or "wandb". progress: None shows a bar on a terminal.

    Returns the SAEs, site by site. Raises UnknownSiteError, RowSpaceError, SelectionError, ArgumentError,
    CheckpointError before the first step; NonFiniteError at a batch with NaN, or where a loss is none.
    """
    trained = train_each(source, config, out=out, part_of=part_of, track=track, progress=progress, **options)
    return [sae for _, saes in sorted(trained, key=lambda one: one[0]) for sae in saes]


def train_each(
    source: Store | Origin | str | Path,
    config: TrainConfig | Sequence[TrainConfig] | None = None,
    *,
    out: str | Path | None = None,
    part_of: str | None = None,
    track: Sequence[str] = (),
    progress: bool | None = None,
    **options: Any,
) -> Iterator[tuple[int, list[SAE]]]:
    """`train_sae` for those who do not keep all weights: the SAEs of a site once they are trained, and which
    site of this worker's it is (sites of one row space follow each other)."""
    configs = _configs(config, options)
    check_trackers(track)
    _check_device(configs[0].device)
    rank, world = share(part_of)
    folder = None if out is None else Path(out)
    with _origin(source) as origin, ExitStack() as held:
        jobs = jobs_of(origin, configs[0])
        for job in jobs:  # what cannot be is said before anything is read
            for one in configs:
                spec_of(origin, job, one, (1.0,) * len(job.sites_in), (1.0,) * len(job.sites_out))
        mine = jobs[rank::world]
        groups = groups_of(origin, mine, configs[0].at_once)
        runs = [_Run(origin, group, configs, folder, track, progress) for group in groups]
        for run in runs:
            run.check()
        if folder is not None:
            for job in mine:
                held.enter_context(checkpoint.held(_checkpoint(folder, job.name)))
            _check_elsewhere(folder, runs)
        places = {job.name: i for i, job in enumerate(mine)}
        left = len(mine)
        for run in runs:
            trained = run.train()
            for name in list(trained):
                left -= 1
                yield places[name], trained.pop(name)
            if run.stopped and left:
                raise KeyboardInterrupt(f"stopped after {run.name}")


def _checkpoint(folder: Path, name: str) -> Path:
    return folder / RUNS / f"{name}.safetensors"


def _check_elsewhere(folder: Path, runs: Sequence[_Run]) -> None:
    """CheckpointError where another run's checkpoint has a site of these: it would be trained anew, and its
    SAE replaced."""
    own = {(job.sites_in, job.sites_out): run for run in runs for job in run.group}
    for path in sorted((folder / RUNS).glob("*.safetensors")):
        state = checkpoint.read(path)
        for member in [] if state is None else state["trainees"]:
            spec = SAESpec.from_json(member["spec"], path)
            run = own.get((spec.sites_in, spec.sites_out))
            if run is not None and run.path != path:
                raise CheckpointError(
                    f"{path}: got {', '.join(spec.sites_in)} trained in this run, expected it in {run.name}; "
                    "give --sites and --at-once as they were then, or another --out"
                )


class _Run:
    """One pass over the data for the jobs of a group."""

    def __init__(
        self,
        origin: Origin,
        group: Sequence[Job],
        configs: Sequence[TrainConfig],
        folder: Path | None,
        track: Sequence[str],
        progress: bool | None,
    ):
        self.origin, self.group, self.configs, self.folder = origin, group, configs, folder
        self.track, self.progress = track, progress
        self.config = configs[0]
        self.name = group[0].name if len(group) == 1 else f"{group[0].name}+{len(group) - 1}"
        self.path = None if folder is None else _checkpoint(folder, self.name)
        self.step, self.before = 0, 0.0
        self.stopped = False

    def check(self) -> None:
        """Raises what would end the run before its first step; asked of all runs before any begins."""
        with closing(self._feed()) as feed:
            self.steps = _steps(self.config, feed)
            state = None if self.path is None else checkpoint.read(self.path)
            if self.path is not None and state is not None:
                checkpoint.check_same(self.path, state["settings"], self.settings)
                feed.load_state_dict(state["feed"])

    def train(self) -> dict[str, list[SAE]]:
        """Job name -> its SAEs, a config each."""
        with closing(self._feed()) as feed:
            self.steps = _steps(self.config, feed)
            trainees = self._resumed(feed) or self._begun(feed)
            if self.step < self.steps:
                self._loop(feed, trainees)
            if self.folder is not None:
                for trainee in trainees:
                    trainee.sae.save(self.folder / trainee.name)
        count = len(self.configs)
        return {
            job.name: [t.sae for t in trainees[i * count : (i + 1) * count]]
            for i, job in enumerate(self.group)
        }

    def _feed(self) -> Feed:
        sites = list(dict.fromkeys(s for job in self.group for s in job.sites))
        return self.origin.feed(sites, self.config)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the weights."""
        documents = [c.to_json() for c in self.configs]
        return {
            "configs": {
                str(i): {k: v for k, v in d.items() if k not in _FREE} for i, d in enumerate(documents)
            },
            "sites": [list(job.sites) for job in self.group],
            "steps": self.steps,
        }

    def _names(self) -> list[tuple[Job, TrainConfig, str]]:
        return [
            (job, config, "/".join(filter(None, (job.name, variant))))
            for job in self.group
            for config, variant in zip(self.configs, variants(list(self.configs)), strict=True)
        ]

    def _begun(self, feed: Feed) -> list[Trainee]:
        sample = feed.sample(self.config.init_rows)
        found = []
        for job, config, name in self._names():
            scale = init.scales_of(sample, job.sites_in, config)
            scale_out = init.scales_of(sample, job.sites_out, config)
            spec = spec_of(self.origin, job, config, scale, scale_out)
            train = {"config": config.to_json(), "steps": self.steps, "rows": self.steps * config.batch}
            spec = replace(spec, identity={**self.origin.identity(), "train": train})
            found.append(Trainee(name, config, init.begin(spec, config, sample), self.steps))
        return found

    def _resumed(self, feed: Feed) -> list[Trainee] | None:
        state = None if self.path is None else checkpoint.read(self.path)
        if self.path is None or state is None:
            return None
        checkpoint.check_same(self.path, state["settings"], self.settings)
        feed.load_state_dict(state["feed"])
        found = []
        for (_, config, name), own in zip(self._names(), state["trainees"], strict=True):
            sae = SAE.zeros(SAESpec.from_json(own["spec"], self.path), config.device)
            found.append(Trainee(name, config, init.Beginning(sae, own["spread"]), self.steps))
        checkpoint.restore(self.path, found, state)
        self.step, self.before = state["step"], state["seconds"]
        return found

    def _loop(self, feed: Feed, trainees: list[Trainee]) -> None:
        self.start = time.monotonic()
        for trainee in trainees:
            trainee.logs = self._logs(trainee)
        workspace = Workspace()  # not longer than the run, however many sites follow
        bar = tqdm(
            total=self.steps, initial=self.step, unit=" steps", desc=self.name, dynamic_ncols=True,
            disable=not (sys.stderr.isatty() if self.progress is None else self.progress),
        )  # fmt: skip
        try:
            with bar, stop_signals(self.path is not None) as stopped:
                while self.step < self.steps:
                    standing = feed.state_dict()
                    try:
                        batch = feed.next()
                    except (MmxaiError, OSError):
                        self._save(trainees, standing)  # as after the last whole step
                        raise
                    self._step(batch, trainees, bar, workspace)
                    last = self.step == self.steps
                    if stopped or last or self.step % self.config.save_every == 0:
                        self._save(trainees, feed.state_dict())
                    if stopped and not last:
                        raise KeyboardInterrupt(f"{self.name}: stopped and saved at step {self.step:,}")
                self.stopped = bool(stopped)
        finally:
            for trainee in trainees:
                for log in trainee.logs:
                    log.close()

    def _step(self, batch: Acts, trainees: Sequence[Trainee], bar: Any, workspace: Workspace) -> None:
        made: dict[Any, torch.Tensor] = {}

        def acts(sites: tuple[str, ...], scales: tuple[float, ...]) -> torch.Tensor:
            if (sites, scales) not in made:
                made[sites, scales] = init.scaled(batch, sites, scales)
            return made[sites, scales]

        log = (self.step + 1) % self.config.log_every == 0 or self.step + 1 == self.steps
        shown = {}
        for trainee in trainees:
            spec = trainee.sae.spec
            x, target = acts(spec.sites_in, spec.scale), acts(spec.sites_out, spec.scale_out)
            losses = trainee.step(x, target, self.step, workspace)
            if log:
                entry = trainee.entry(self.step + 1, target, losses)
                entry["seconds"] = round(self._seconds(), 3)
                for sink in trainee.logs:
                    sink.write(entry)
                shown = {
                    "fvu": f"{entry['fvu']:.4f}",
                    "l0": f"{entry['l0']:.1f}",
                    "dead": f"{entry['dead']:.1%}",
                }
        self.step += 1
        bar.update()
        if shown:
            bar.set_postfix(shown, refresh=False)

    def _save(self, trainees: Sequence[Trainee], standing: Mapping[str, Any]) -> None:
        if self.path is not None:
            checkpoint.save(
                self.path, trainees,
                {
                    "settings": self.settings, "step": self.step, "seconds": self._seconds(),
                    "feed": dict(standing), "torch": torch.__version__,
                },
            )  # fmt: skip

    def _logs(self, trainee: Trainee) -> list[Any]:
        return [] if self.folder is None else open_logs(self.folder / trainee.name, self.step, self.track)

    def _seconds(self) -> float:
        return self.before + time.monotonic() - self.start


def _steps(config: TrainConfig, feed: Feed) -> int:
    if config.rows is None and feed.rows is None:
        raise ArgumentError(
            "sae train: got a live run without rows, expected --rows: its length is not known"
        )
    rows = config.rows if config.rows is not None else int(config.epochs * (feed.rows or 0))
    if rows < config.batch:
        raise ArgumentError(
            f"sae train: got {rows:,} rows, expected a batch of {config.batch:,} at least; raise --epochs or "
            "lower --batch"
        )
    return rows // config.batch


def _check_device(name: str) -> None:
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ArgumentError(f"sae train: got device {name!r} ({error}), expected cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ArgumentError(f"sae train: got device {name!r}, expected cpu: torch sees no CUDA device")


def _configs(
    config: TrainConfig | Sequence[TrainConfig] | None, options: Mapping[str, Any]
) -> list[TrainConfig]:
    unknown = sorted(set(options) - set(TrainConfig.__dataclass_fields__))
    if unknown:
        known = sorted(TrainConfig.__dataclass_fields__)
        raise ArgumentError(f"train_sae: got options {unknown}, expected some of {known}")
    given = [config or TrainConfig()] if config is None or isinstance(config, TrainConfig) else list(config)
    if not given:
        raise ArgumentError("train_sae: got no config, expected at least one")
    configs = [replace(c, **options) for c in given]
    variants(configs)
    return configs


@contextmanager
def _origin(source: Store | Origin | str | Path) -> Iterator[Origin]:
    if isinstance(source, str | Path):
        with open_store(source) as store:
            yield StoreOrigin(store)
    else:
        yield StoreOrigin(source) if isinstance(source, Store) else source
