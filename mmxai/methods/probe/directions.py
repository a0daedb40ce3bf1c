"""The directions of probes: kept as safetensors, compared by cosine, ready to steer with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmxai.errors import ArgumentError, DataError

FORMAT = "mmxai-probe-directions"


@dataclass(frozen=True)
class Direction:
    """A task's probe at a site: scores of x are `x @ coef.T + intercept`, a row of `coef` float32 `[K, D]`
    for each of `names`."""

    site: str
    task: str
    names: tuple[str, ...]
    coef: torch.Tensor
    intercept: torch.Tensor

    def unit(self, name: str) -> torch.Tensor:
        """The direction of a class or label, float32 `[D]` of norm 1."""
        if name not in self.names:
            raise ArgumentError(f"{self.site}, {self.task}: got {name!r}, expected one of {list(self.names)}")
        return torch.nn.functional.normalize(self.coef[self.names.index(name)], dim=0)


@dataclass
class Directions:
    """`directions["vision.5.resid_post", "colour"]` is a `Direction`."""

    every: dict[tuple[str, str], Direction] = field(default_factory=dict)

    def __getitem__(self, key: tuple[str, str]) -> Direction:
        if key not in self.every:
            raise ArgumentError(f"directions: got {key}, expected a site and task of {list(self.every)}")
        return self.every[key]

    def __iter__(self) -> Iterator[Direction]:
        return iter(self.every.values())

    def __len__(self) -> int:
        return len(self.every)

    def add(self, direction: Direction) -> None:
        self.every[direction.site, direction.task] = direction

    @property
    def sites(self) -> list[str]:
        return list(dict.fromkeys(site for site, _ in self.every))

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(task for _, task in self.every))

    def at(self, site: str, tasks: Sequence[str] | None = None) -> tuple[list[str], np.ndarray]:
        """Directions of a site (of `tasks` alone): names `task: label`, and all their cosines `[n, n]`."""
        own = [d for d in self if d.site == site and (tasks is None or d.task in tasks)]
        if not own:
            raise ArgumentError(f"directions: got {site!r}, tasks {tasks}, expected of {list(self.every)}")
        names = [f"{d.task}: {n}" if d.names != (d.task,) else n for d in own for n in d.names]
        return names, _cosines(torch.cat([d.coef for d in own]))

    def between(self, task: str) -> tuple[list[str], np.ndarray]:
        """Sites that have the task, and the mean over its labels of the cosine between each two `[n, n]`; NaN
        where they are of different widths."""
        own = [d for d in self if d.task == task]
        table = np.full((len(own), len(own)), np.nan)
        units = [torch.nn.functional.normalize(d.coef, dim=1) for d in own]
        for i, a in enumerate(own):
            for j, b in enumerate(own):
                if units[i].shape == units[j].shape and a.names == b.names:
                    table[i, j] = float((units[i] * units[j]).sum(1).mean())
        return [d.site for d in own], table

    def save(self, path: str | Path) -> Path:
        """Write all to the file `path` (`.safetensors`): `<site>/<task>/coef`, `.../intercept`, names in its
        metadata."""
        path = Path(path)
        tensors = {}
        for d in self:
            tensors[f"{d.site}/{d.task}/coef"] = d.coef.contiguous()
            tensors[f"{d.site}/{d.task}/intercept"] = d.intercept.contiguous()
        said = [{"site": d.site, "task": d.task, "names": list(d.names)} for d in self]
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(path.name + ".tmp")
        save_file(tensors, staged, {"format": FORMAT, "directions": json.dumps(said)})
        staged.chmod(path.parent.stat().st_mode & 0o666)  # safetensors gives it to its owner alone
        staged.replace(path)
        return path


def load_directions(path: str | Path) -> Directions:
    """What `Directions.save` wrote; DataError where it is something else."""
    found = Directions()
    try:
        with safe_open(str(path), "pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise DataError(f"{path}: got no {FORMAT}, expected the directions that `mmxai probe` writes")
            for one in json.loads(about["directions"]):
                name = f"{one['site']}/{one['task']}"
                coef, intercept = (file.get_tensor(f"{name}/{part}") for part in ("coef", "intercept"))
                found.add(Direction(one["site"], one["task"], tuple(one["names"]), coef, intercept))
    except (SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"{path}: {error!r}, expected the directions that `mmxai probe` writes") from error
    return found


def _cosines(coef: torch.Tensor) -> np.ndarray:
    unit = torch.nn.functional.normalize(coef.double(), dim=1)
    return (unit @ unit.T).numpy()
