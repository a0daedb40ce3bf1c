"""Which SAEs a call trains, and which of them share one pass over the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmxai.errors import ArgumentError
from mmxai.methods.sae.config import TrainConfig
from mmxai.methods.sae.data import Origin
from mmxai.methods.sae.spec import SAESpec


@dataclass(frozen=True)
class Job:
    """The sites of one SAE; `name`: its folder. Every config trains one."""

    name: str
    sites_in: tuple[str, ...]
    sites_out: tuple[str, ...]

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.sites_in + self.sites_out))


def jobs_of(origin: Origin, config: TrainConfig) -> list[Job]:
    """One a site; or the one transcoder or crosscoder. UnknownSiteError where a site is missing."""
    sites = tuple(origin.resolve(config.sites))
    if not config.joined:
        return [Job(site, (site,), (site,)) for site in sites]
    out = tuple(origin.resolve(config.sites_out)) if config.sites_out else sites
    kind = "transcoder" if config.sites_out else "crosscoder"
    return [Job("-".join((kind, sites[0], out[-1])), sites, out)]


def groups_of(origin: Origin, jobs: Sequence[Job], at_once: int) -> list[list[Job]]:
    """Jobs trained side by side: of one row space, `at_once` of a store, all where a pass serves them all."""
    by_space: dict[str, list[Job]] = {}
    for job in jobs:
        by_space.setdefault(origin.space_of(job.sites_in[0]), []).append(job)
    found = []
    for members in by_space.values():
        size = len(members) if origin.together else at_once
        found += [members[i : i + size] for i in range(0, len(members), size)]
    return found


def spec_of(
    origin: Origin, job: Job, config: TrainConfig, scale: tuple[float, ...], scale_out: tuple[float, ...]
) -> SAESpec:
    """ArgumentError where config and sites do not fit each other (k above the latents, ...)."""
    if config.skip and job.sites_in == job.sites_out:
        raise ArgumentError(
            f"{job.name}: got skip, expected it for a transcoder only: it would copy the input"
        )
    return SAESpec(
        config.arch,
        config.latents,
        job.sites_in,
        tuple(origin.width_of(s) for s in job.sites_in),
        job.sites_out,
        tuple(origin.width_of(s) for s in job.sites_out),
        k=config.k_of(),
        prefixes=config.nested(),
        skip=config.skip,
        scale=scale,
        scale_out=scale_out,
    )
