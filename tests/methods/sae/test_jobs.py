"""Which SAEs a call trains: pairs of sites for transcoders, one crosscoder, groups of one row space."""

from types import SimpleNamespace

import pytest

from mmxai.errors import ArgumentError, UnknownSiteError
from mmxai.methods.sae.config import TrainConfig
from mmxai.methods.sae.jobs import groups_of, jobs_of
from mmxai.models import names

SITES = {
    f"{tower}.{block}.{kind}": 8 for tower in ("v", "t") for block in (0, 1, 2) for kind in ("mid", "out")
}


def origin(sites=SITES, together=False):
    return SimpleNamespace(
        together=together,
        resolve=lambda patterns: names.resolve(patterns, sites, {"v": 3, "t": 3}, [], {}),
        space_of=lambda site: site.partition(".")[0],
    )


def pairs(sites, sites_out, known=SITES):
    jobs = jobs_of(origin(known), TrainConfig(sites=sites, sites_out=sites_out))
    return [(*job.sites_in, *job.sites_out) for job in jobs]


def test_globs_are_paired_block_by_block():
    assert pairs("v.*.mid", "v.*.out") == [(f"v.{b}.mid", f"v.{b}.out") for b in range(3)]
    assert pairs("*.mid", "*.out") == [(f"{t}.{b}.mid", f"{t}.{b}.out") for t in "vt" for b in range(3)]
    reversed_sites = dict(reversed(SITES.items()))
    assert set(pairs("v.*.mid", "v.*.out", reversed_sites)) == set(pairs("v.*.mid", "v.*.out"))


def test_names_are_paired_in_their_order():
    across = pairs(("v.1.mid", "v.0.mid"), ("v.0.out", "v.2.out"))
    assert across == [("v.1.mid", "v.0.out"), ("v.0.mid", "v.2.out")]
    (job,) = jobs_of(origin(), TrainConfig(sites="v.0.mid", sites_out="v.1.out"))
    assert job.name == "v.0.mid-to-v.1.out" and job.sites == ("v.0.mid", "v.1.out")


def test_a_crosscoder_joins_all():
    (job,) = jobs_of(origin(), TrainConfig(sites="v.*.mid", sites_out="v.*.out", crosscoder=True))
    assert len(job.sites_in) == len(job.sites_out) == 3
    (same,) = jobs_of(origin(), TrainConfig(sites="v.*.mid", crosscoder=True))
    assert same.sites_in == same.sites_out and same.name == "crosscoder-v.0.mid-v.2.mid"


@pytest.mark.parametrize(
    ("sites", "sites_out", "match"),
    [
        ("v.*.mid", ("v.0.out", "v.1.out"), "as many of each"),
        ("v.*.mid", "v.1.out", r"alone|differ: v\.0, v\.2"),
        ("v.*.mid", "v.{0,1}.out", r"differ: v\.2"),
        ("v.*.mid", "v.*", "several in one"),
        ("v.0.mid", "v.0.mid", "expected another"),
    ],
)
def test_what_has_no_pair_is_refused(sites, sites_out, match):
    with pytest.raises(ArgumentError, match=match):
        pairs(sites, sites_out)


def test_a_missing_site_is_named():
    with pytest.raises(UnknownSiteError, match=r"v\.0\.uot"):
        pairs("v.0.mid", "v.0.uot")


def test_groups_are_of_one_row_space():
    jobs = jobs_of(origin(), TrainConfig(sites="*.mid"))
    sizes = [[job.name[0] for job in group] for group in groups_of(origin(), jobs, 2)]
    assert sizes == [["v", "v"], ["v"], ["t", "t"], ["t"]]
    assert [len(group) for group in groups_of(origin(together=True), jobs, 2)] == [3, 3]
