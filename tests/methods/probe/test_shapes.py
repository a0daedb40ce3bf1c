"""The shapes world through the CLIP that ships: what is told where, and chance where nothing can be told."""

import numpy as np
import pytest

import mmxai
from mmxai.labels import WorldLabels
from mmxai.methods.probe import ProbeConfig, probe
from mmxai.shapes import ShapesWorld

SITES = [f"vision.{i}.resid_post" for i in (0, 5)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    world = ShapesWorld(900, seed=11)
    path = tmp_path_factory.mktemp("shapes") / "acts.zarr"
    mmxai.harvest(
        mmxai.load_model("shapes-clip"), world, sites=SITES, store=path, stats=False, progress=False
    )
    with mmxai.open_store(path) as store:
        yield store, WorldLabels(world)


def table(report):
    return {(s.site, s.task): s for s in report.scores}


def test_patches(made):
    """Stated beforehand: at the last block a patch tells the shape, colour and fill on it better than 90, 97
    and 93 times of 100; at the first colour is told and shape is not. Controls are at chance everywhere."""
    report = probe(*made, ProbeConfig(kept=4096))
    found = table(report)
    first, last = SITES
    for task, least in (("shape", 0.90), ("colour", 0.97), ("fill", 0.93), ("background", 0.85)):
        assert found[last, task].figures["accuracy"].low > least - 0.03
        assert found[last, task].figures["accuracy"].value > least
    assert found[first, "colour"].figures["accuracy"].value > 0.9
    assert found[first, "shape"].figures["accuracy"].value < 0.55
    for score in report.scores:
        chance = 1 / len(score.names)
        assert score.control["balanced accuracy"].value == pytest.approx(chance, abs=0.1), score.task
        assert score.control["AUC"].value == pytest.approx(0.5, abs=0.1)
    shapes = [found[site, "shape"].codelength.bits for site in SITES]
    assert shapes[0] > 2 * shapes[1], "MDL sees the same as accuracy"


def test_class_token(made):
    """The picture as a whole: place and size are known at the end, and not at the beginning."""
    report = probe(*made, ProbeConfig(pool="cls"))
    found = table(report)
    first, last = SITES
    for task, least in (
        ("place", 0.95), ("shape", 0.9), ("colour", 0.95), ("size", 0.95), ("tone", 0.95), ("objects", 0.9)
    ):  # fmt: skip
        assert found[last, task].figures["accuracy"].value > least, task
    assert found[first, "place"].figures["accuracy"].value < 0.6
    assert found[last, "attributes"].figures["AUC"].value > 0.95
    controls = [s.control["AUC"].value for s in report.scores]
    assert np.mean(controls) == pytest.approx(0.5, abs=0.03)
