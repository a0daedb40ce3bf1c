"""Latent neighbours: those of a search by brute force, and a text's state finds itself."""

import pytest
import torch

import mmxai
from mmxai.bench.memory import growth
from mmxai.errors import ArgumentError, NonFiniteError
from mmxai.methods.lens.nearest import neighbours
from mmxai.types import TOKEN_CODES, Rows
from tests.memory import linux

D, SAMPLES, PER = 16, 90, 7
SITES = ("text.0.resid_post", "text.1.resid_post")
LINES = [
    "Once upon a time there was a little girl named Lily. She loved to play outside.",
    "Tom had a big red ball. He threw the ball to his dog, and the dog ran after it.",
    "The sun was hot and the birds sang in the old tree.",
]


@pytest.fixture(scope="module")
def states():
    draw = torch.Generator().manual_seed(0)
    return {site: torch.randn(SAMPLES * PER, D, generator=draw) + 3 for site in SITES}


@pytest.fixture(scope="module")
def store(states, tmp_path_factory):
    index = torch.arange(SAMPLES * PER, dtype=torch.int32)
    special = index % PER == 0
    kind = torch.where(special, TOKEN_CODES["special"], TOKEN_CODES["text"]).int()
    rows = Rows.make(sample=index // PER, position=index % PER, token_type=kind, token_id=index + 100)
    path = tmp_path_factory.mktemp("store") / "acts.zarr"
    with mmxai.create_store(path, sites=dict.fromkeys(SITES, D), dtype="float32", space="text") as w:
        w.write(range(SAMPLES), states, rows=rows)
    with mmxai.open_store(path) as opened:
        yield opened


@pytest.mark.parametrize("by", ["cosine", "dot"])
@pytest.mark.parametrize("centre", [False, True])
def test_brute_force(store, states, by, centre):
    queries = torch.randn(45, D, generator=torch.Generator().manual_seed(1)) + 3
    found = neighbours(store, queries, SITES, k=6, by=by, centre=centre, block=100)
    every, owner = [], []
    for site, x in states.items():
        mean = x.mean(0) if centre else torch.zeros(D)
        a, b = queries - mean, x - mean
        if by == "cosine":
            a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
        every.append((a @ b.T).masked_fill(torch.arange(len(x)) % PER == 0, -torch.inf))
        owner += [(site, i) for i in range(len(x))]
    scores, index = torch.cat(every, 1).topk(6, dim=1)
    torch.testing.assert_close(found.scores, scores, atol=1e-5, rtol=1e-5)
    for q in range(len(queries)):
        got = [(n.site, n.sample * PER + n.position) for n in found[q]]
        assert got == [owner[i] for i in index[q].tolist()]
        assert all(
            n.token_id == n.sample * PER + n.position + 100 and n.token_type == "text" for n in found[q]
        )
    assert found.rows == 2 * SAMPLES * (PER - 1) and len(found.to_pandas()) == 45 * 6
    assert "… and 33 more" in found.summary() and len(found.plot().lines) == 45


def test_which_rows_are_searched(store, states):
    query = states[SITES[0]][[7]]
    assert neighbours(store, query, SITES[0], tokens=None, k=1)[0][0].position == 0
    assert neighbours(store, query, SITES[0], k=1)[0][0].position != 0
    some = neighbours(store, query, SITES[0], split="val", k=3)
    assert 3 <= some.rows < SAMPLES * (PER - 1) // 2


def test_what_cannot_be(store, states):
    x = states[SITES[0]][:2]
    for wrong in ({"by": "l2"}, {"k": 0}, {"k": 9999}, {"block": 0}):
        with pytest.raises(ArgumentError):
            neighbours(store, x, SITES[0], **wrong)
    for bad in (x[:, :3], x[0], x.int(), x[:0]):
        with pytest.raises(ArgumentError):
            neighbours(store, bad, SITES[0])
    with pytest.raises(NonFiniteError, match="state 1"):
        neighbours(store, torch.stack([x[0], x[1] * float("nan")]), SITES[0])


@linux
def test_memory_is_a_block(tmp_path):
    samples, width = 4000, 256
    with mmxai.create_store(
        tmp_path / "s.zarr", sites={SITES[0]: width}, dtype="float32", space="text", durable=False
    ) as w:
        draw = torch.Generator().manual_seed(0)
        for start in range(0, samples, 1000):
            n = 8 * 1000
            rows = Rows.make(sample=torch.arange(n) // 8, position=torch.arange(n) % 8, token_type=4)
            x = torch.randn(n, width, generator=draw)
            w.write(range(start, start + 1000), {SITES[0]: x}, rows=rows)
    with mmxai.open_store(tmp_path / "s.zarr") as store:
        query = torch.randn(64, width)
        neighbours(store, query[:1], SITES[0], tokens=None, block=1024)
        _, taken = growth(lambda: neighbours(store, query, SITES[0], tokens=None, block=1024))
        assert taken < 12 << 20 < store[SITES[0]].nbytes // 2


def test_a_state_finds_itself_in_its_text(shared_data, tmp_path):
    model = mmxai.load_model(str(shared_data / "stories260K"))
    texts, site = model.feeds.texts("text"), "text.2.resid_post"
    mmxai.harvest(
        model, [{"text": t} for t in LINES], sites=[site], store=tmp_path / "acts.zarr",
        store_dtype="float32", progress=False,
    )  # fmt: skip
    with mmxai.open_store(tmp_path / "acts.zarr") as store:
        _, batch = model.capture(LINES[1], [site])
        found = neighbours(store, batch.x, site, k=3, tokens=None, texts=texts)
        for i, best in enumerate(found.found):
            assert (best[0].text, best[0].position) == (LINES[1], i) and best[0].score > 0.9999
        words = "".join(best[0].text[slice(*best[0].span)] for best in found.found[1:])
        assert words.replace(" ", "") == LINES[1].replace(" ", "")
        place = texts.tokenize(LINES[1]).index(texts.tokenize("ball")[-1]) + len(texts.prefix)
        assert "«" in found[place][0].context(8) and len(found[place][0].context(8)) < 40
        plain = neighbours(store, batch.x[:1], site, k=1, tokens=None)
        assert plain[0][0].span is None and plain[0][0].context() == f"«#{int(batch.rows.token_id[0])}»"
