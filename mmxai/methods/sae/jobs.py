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
    """An SAE a site, a transcoder a pair of sites, or one crosscoder. Raises UnknownSiteError."""
    if config.crosscoder:
        sites = tuple(origin.resolve(config.sites))
        out = tuple(origin.resolve(config.sites_out)) if config.sites_out else sites
        return [Job("-".join(("crosscoder", sites[0], out[-1])), sites, out)]
    if config.sites_out:
        return [Job(f"{a}-to-{b}", (a,), (b,)) for a, b in _pairs(origin, config)]
    return [Job(site, (site,), (site,)) for site in origin.resolve(config.sites)]


def _pairs(origin: Origin, config: TrainConfig) -> list[tuple[str, str]]:
    """Each of `sites` with that of `sites_out` in its place; of globs, with that of its block."""
    if len(config.sites) != len(config.sites_out):
        raise ArgumentError(
            f"sae train: got {len(config.sites)} sites and {len(config.sites_out)} sites out, expected as "
            "many of each: a transcoder a pair; --crosscoder joins all of them in one"
        )
    found: list[tuple[str, str]] = []
    for read, written in zip(config.sites, config.sites_out, strict=True):
        ins, outs = origin.resolve([read]), origin.resolve([written])
        if len(ins) == len(outs) == 1:
            found.append((ins[0], outs[0]))
            continue
        places = {_block(site): site for site in outs}
        alone = sorted({*map(_block, ins)} ^ {*places})
        if alone or not len(ins) == len(outs) == len(places):
            raise ArgumentError(
                f"sae train: got {', '.join(ins)} for {read!r} and {', '.join(outs)} for {written!r}, "
                f"expected one of each in every block (differ: {', '.join(alone) or 'several in one'}); name "
                "the sites one by one, in the order in which they are paired"
            )
        found += [(site, places[_block(site)]) for site in ins]
    if same := [a for a, b in found if a == b]:
        raise ArgumentError(f"sae train: got {same[0]} as site and as site out, expected another one out")
    return list(dict.fromkeys(found))


def _block(site: str) -> str:
    """`vision.5` of `vision.5.mlp_out`, `module:layer1.0` of `module:layer1.0.conv1`."""
    return site.rpartition(".")[0]


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
