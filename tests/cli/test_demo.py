"""The demo, small: its numbers, its page, a second run, and what it refuses."""

import re

import pytest

from mmxai.cli import main


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


def test_demo(out, capsys):
    assert main(["demo", "--out", str(out), "--pictures", "200"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"zero-shot colour: \d+\.\d% of 512", said)
    notes = re.findall(
        r"vision\.\d\.mlp_post neuron (\d+) +(.+): (\d+) of the top (\d+) pictures, (\d+)% of all", said
    )
    assert len(notes) == 12 and all(int(hits) / int(of) > int(base) / 100 for _, _, hits, of, base in notes)
    page = (out / "index.html").read_text()
    for _, concept, hits, of, base in notes:
        assert f"{concept}: {hits} of the top {of} pictures, {base}% of all" in page
    assert page.count('class="heat"') > 50 and "counted on the truth" in page
    fvu, null = map(float, re.search(r"FVU +(\S+) +(\S+)", said).groups())
    assert 0 < fvu < 1 and 0 < null < 1
    pages = (out / "sae/index.html").read_text()
    assert (
        "Beside its nulls" in pages and pages.count("<article ") == 24 and str(out / "sae/index.html") in said
    )


def test_demo_again_resumes(out, capsys):
    assert main(["demo", "--out", str(out), "--pictures", "200"]) == 0
    assert "0 written, 1 were there before" in capsys.readouterr().out


def test_demo_refuses(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path), "--pictures", "5"]) == 1
    assert "got 5 pictures, expected at least 64" in capsys.readouterr().err
