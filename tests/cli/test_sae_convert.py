"""`mmxai sae convert`, on folders made by hand."""

import pytest
import torch

from mmxai.cli.sae_convert import Config, run
from mmxai.errors import ArgumentError, SAEFormatError
from mmxai.methods.sae import load_sae
from mmxai.methods.sae.interop import detect, read_sae
from tests.methods.sae.interop.test_writing import SPECS, filled


def test_there_and_back(tmp_path, capsys):
    sae = filled(SPECS["topk"])
    sae.save(tmp_path / "ours")
    for layout in ("saelens", "sparsify", "dictionary_learning"):
        theirs, back = tmp_path / layout, tmp_path / f"{layout}-back"
        assert run(Config(str(tmp_path / "ours"), str(theirs), to=layout)) == 0
        assert detect(theirs) == layout
        assert run(Config(str(theirs), str(back))) == 0
        x = torch.randn(20, sae.spec.width_in)
        torch.testing.assert_close(load_sae(back)(x), sae(x), atol=1e-5, rtol=1e-5)
        assert load_sae(back).spec.sites_in == sae.spec.sites_in
    assert "topk sae of text.3.resid_post" in capsys.readouterr().out


def test_a_site_by_another_name(tmp_path, capsys):
    filled(SPECS["topk"]).save(tmp_path / "ours")
    run(Config(str(tmp_path / "ours"), str(tmp_path / "theirs"), to="sparsify"))
    run(Config(str(tmp_path / "theirs"), str(tmp_path / "back"), site="text.9.mlp_out"))
    assert read_sae(tmp_path / "back").spec.sites_in == ("text.9.mlp_out",)


def test_what_cannot_be_converted_leaves_nothing(tmp_path):
    filled(SPECS["relu"]).save(tmp_path / "ours")
    with pytest.raises(ArgumentError, match="expected topk"):
        run(Config(str(tmp_path / "ours"), str(tmp_path / "out"), to="sparsify"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ArgumentError, match="absent or empty"):
        run(Config(str(tmp_path / "ours"), str(tmp_path / "ours"), to="saelens"))
    with pytest.raises(SAEFormatError):
        run(Config(str(tmp_path / "nowhere"), str(tmp_path / "out")))
