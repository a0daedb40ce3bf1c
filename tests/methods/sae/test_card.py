"""A card says what the files say, and that there are no figures where there are none."""

import json

import pytest

from mmxai.errors import SAEFormatError
from mmxai.methods.sae import train_sae
from mmxai.methods.sae.card import write_card
from tests.methods.sae.stores import make_store


@pytest.fixture
def home(tmp_path):
    store = make_store(tmp_path / "acts.zarr", samples=200)
    train_sae(
        store, sites="t.0.x", latents=32, k=3, batch=128, init_rows=256, out=tmp_path / "out", part_of="0/1"
    )
    return tmp_path / "out" / "t.0.x"


def test_without_an_evaluation(home):
    text = write_card(home, "Planted", "For a test.").read_text()
    assert (
        text.startswith("# Planted\n\nFor a test.\n")
        and "topk sparse autoencoder of `t.0.x`: 24 wide" in text
    )
    steps = json.loads((home / "sae.json").read_text())["spec"]["identity"]["train"]["steps"]
    assert f"- {steps * 128:,} rows in {steps:,} steps" in text and "None yet" in text
    last = json.loads((home / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"FVU {last['fvu']:.3g}" in text


def test_with_figures_and_nulls(home, tmp_path):
    evaluation = {
        "metrics": {"rows": 1234}, "figures": {"FVU": 0.125, "loss recovered": None},
        "nulls": {"pca": {"figures": {"FVU": 0.5}}}, "missing": {"untrained": "needs the model"},
    }  # fmt: skip
    (home / "eval.json").write_text(json.dumps(evaluation))
    text = write_card(home, "Planted", out=tmp_path / "cards/planted.md").read_text()
    assert "On 1,234 held-out rows" in text and "| FVU | 0.125 | 0.5 |" in text
    assert "| loss recovered | - | - |" in text and "Not measured: untrained: needs the model." in text
    (home / "eval.json").write_text("{}")
    with pytest.raises(SAEFormatError, match="no figures"):
        write_card(home, "Planted")
