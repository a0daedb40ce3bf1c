"""The proof: units that are given concepts, in a network that the judge has never seen, and noise."""

import numpy as np
import pytest

import mmxai
from mmxai.methods.describe import DescribeConfig, describe, look
from mmxai.models import load_model
from mmxai.models.near_texts import phrases
from mmxai.shapes import ShapesWorld
from mmxai.shapes.planted import PlantedNet, pixels_of
from mmxai.shapes.scene import COLOURS, SHAPES

PICTURES, NOISE, SITE = 500, 16, "module:units"


@pytest.fixture(scope="module")
def clip():
    return load_model("shapes-clip")


@pytest.fixture(scope="module")
def words():
    captions = (item.caption for item in ShapesWorld(300, seed=11))
    return [*COLOURS, *SHAPES, *phrases(captions, most=250)]


@pytest.fixture(scope="module")
def planted(clip, words, tmp_path_factory):
    world = ShapesWorld(PICTURES, seed=11, split="test")
    net = PlantedNet(noise=NOISE)
    path = tmp_path_factory.mktemp("planted") / "acts.zarr"
    mmxai.harvest(mmxai.wrap(net, prepare=pixels_of), world, sites=[SITE], store=path, progress=False)
    with mmxai.open_store(path) as store:
        judged = look(clip, store, world, words)
        assert not judged.studied
        yield net, store, judged


def test_planted_units_get_their_words_and_noise_gets_none(planted):
    net, store, judged = planted
    one = describe(store, judged, DescribeConfig(top=30)).sites[SITE]
    colours = np.arange(len(net.names)) < 8
    assert one.how == "mean over a picture's rows"
    # "violet" is a caption's other word for purple.
    for unit, (label, colour) in enumerate(zip(one.labels, COLOURS, strict=False)):
        assert {colour, "violet" if colour == "purple" else colour} & {label, *label.split()}, unit
    assert one.named()[colours].all() and (one.correlation[colours, 0] > 0.6).all()
    assert one.falls()[colours].all()
    circle = one.to_pandas().iloc[8]
    assert net.names[8] == "large circle at top left"
    assert circle.description in ("circle", "disc") or "left" in circle.description
    noise = np.array([name.startswith("noise") for name in net.names])
    score, correlation = (p[noise] for p in one.beaten())
    assert score.min() > 0.01 and 0.2 < score.mean() < 0.8 and 0.2 < correlation.mean() < 0.8
    assert one.named()[noise].sum() <= 2
    assert abs(np.nanmean(one.correlation[noise, 0])) < 0.06 and abs(np.nanmean(one.null_correlation)) < 0.03


def test_measures_of_known_units_pass_as_published(planted):
    """Of units that are concepts, scores fall when labels are missing and when they are too many, for those
    measures that Neuron_Eval calls sound; recall alone does not fall with extra labels."""
    net, store, judged = planted
    one = describe(store, judged, DescribeConfig(top=30, null=0)).sites[SITE]
    tests = one.tests(np.arange(len(net.names)) < 8).set_index("measure")
    assert (tests.falls_missing[tests.sound] == 1).all() and (tests.falls_extra[tests.sound] >= 0.75).all()
    assert tests.falls_extra["recall"] == 0


def test_the_model_as_its_own_judge(clip, words, tmp_path):
    """Units of the shapes CLIP, judged by itself: warned of, and beyond the null more often than noise."""
    world = ShapesWorld(300, seed=5, split="test")
    mmxai.harvest(
        clip, world, sites=["vision.5.mlp_post"], store=tmp_path / "a", tokens="cls", progress=False
    )
    with mmxai.open_store(tmp_path / "a") as store:
        judged = look(clip, store, world, words)
        with pytest.warns(UserWarning, match="model under study"):
            found = describe(store, judged, DescribeConfig(top=30, draws=0))
    one = found.sites["vision.5.mlp_post"]
    assert "by construction" in found.notes[0]
    assert one.named().mean() > 0.3
    assert np.nanmean(one.correlation[:, 0]) > np.nanmean(one.null_correlation) + 0.2
