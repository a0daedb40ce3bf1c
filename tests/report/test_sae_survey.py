"""What one pass over a store of latents tells, against the codes themselves."""

from itertools import pairwise

import numpy as np
import torch

from mmxai.report.sae import draw_latents, survey
from mmxai.report.sae.near import by_activity, by_direction
from mmxai.report.sae.surveying import BANDS, BINS
from mmxai.report.sae.tally import Draws, Tally
from mmxai.types import TOKEN_CODES
from tests.report.latents import DEAD, SITE, TEXT, K, M


def test_the_survey_counts_what_is_in_the_store(held, monkeypatch):
    monkeypatch.setattr("mmxai.report.sae.surveying._ENTRIES", 37 * K)  # many blocks, the last one short
    x, rows = held.x[SITE], held.rows["vision"]
    found = survey(held.store, SITE, range(M), draws=3)
    active = x > 0
    assert found.rows == len(x) and (found.fired == active.sum(0)).all()
    for u, latent in found.latents.items():
        own = active[:, u]
        assert latent.active == own.sum() and (latent.together == (active & own[:, None]).sum(0)).all()
        if u == DEAD:
            assert latent.maximum == 0 and not latent.histogram.any()
            continue
        values = x[own, u]
        assert latent.maximum == values.max() and np.isclose(latent.mean, values.mean())
        edges = np.linspace(0, values.max(), BINS + 1)
        expected = [((values > a) & (values <= b)).sum() for a, b in pairwise(edges)]
        assert (latent.histogram == expected).all()
        for y, cell in np.ndindex(4, 4):
            here = (rows.y == y).numpy() & (rows.x == cell).numpy()
            assert latent.place.cells[y, cell] == active[here, u].sum()
        kinds = {
            k: int(active[(rows.token_type == TOKEN_CODES[k]).numpy(), u].sum()) for k in ("cls", "patch")
        }
        assert latent.place.kinds == {k: n for k, n in kinds.items() if n} and latent.tokens == []
        assert sum(band.size for band in latent.bands) == latent.active
        for band in latent.bands:
            assert len(band.rows) == min(3, band.size) == len(set(band.rows.tolist()))
            assert np.isclose(x[band.rows, u], band.values).all()
            assert ((band.values > band.low) & (band.values <= band.high + 1e-6)).all()
    assert found.latents[0].bands[0].high == found.latents[0].maximum
    assert len(found.latents[0].bands) == BANDS


def test_tokens_by_their_share_of_the_total(held):
    x, ids = held.x[TEXT], held.rows["text"].token_id.numpy()
    for u, latent in survey(held.store, TEXT, [0, 5, DEAD]).latents.items():
        sums = {t: x[ids == t, u].sum() for t in range(11) if (x[ids == t, u] > 0).any()}
        assert [t.token_id for t in latent.tokens] == sorted(sums, key=lambda t: -sums[t])
        for token in latent.tokens:
            assert np.isclose(token.share, sums[token.token_id] / sum(sums.values()))
            assert np.isclose(token.rate, (x[ids == token.token_id, u] > 0).mean())
        assert latent.place.cells.size == 0


def test_what_is_drawn_does_not_depend_on_blocks_and_is_fair(held, monkeypatch):
    def rows(seed):
        return [
            b.rows.tolist() for b in survey(held.store, SITE, [0, 4], draws=5, seed=seed).latents[0].bands
        ]

    whole = rows(0)
    monkeypatch.setattr("mmxai.report.sae.surveying._ENTRIES", 50 * K)
    assert rows(0) == whole != rows(1)
    counts = np.zeros(40)
    for seed in range(300):
        draws = Draws(4)
        for block in np.split(np.arange(40), [7, 25]):
            draws.add(
                np.zeros(len(block), np.int64), block, block * 1.0, np.zeros(len(block), np.int64), seed
            )
        counts[draws.of(0)[0]] += 1
    assert counts.sum() == 1200 and abs(counts - 30).max() < 5 * np.sqrt(30)


def test_latents_are_drawn_among_the_living(held):
    assert draw_latents(held.store, SITE, 100) == sorted(set(range(M)) - {DEAD})
    some = draw_latents(held.store, SITE, 5)
    assert len(some) == 5 and some != draw_latents(held.store, SITE, 5, seed=1)


def test_tally_adds_up():
    tally, made = Tally(), np.random.default_rng(0)
    keys, weights = made.integers(0, 9, 100), made.random(100)
    for part in np.split(np.arange(100), [0, 30, 31]):
        tally.add(keys[part], weights[part])
    assert (tally.counts == np.bincount(keys)).all() and np.allclose(tally.sums, np.bincount(keys, weights))


def test_neighbours(held, sae):
    W = torch.nn.functional.normalize(sae.W_dec, dim=1)
    for u, near in by_direction(sae.W_dec, [0, 7], 4).items():
        cosine = (W @ W[u]).numpy()
        cosine[u] = -2
        assert [n.latent for n in near] == np.argsort(-cosine)[:4].tolist()
        assert np.allclose([n.cosine for n in near], np.sort(cosine)[::-1][:4], atol=1e-6)
    active = held.x[SITE] > 0
    found = survey(held.store, SITE, [0])
    near = by_activity(sae.W_dec, 0, found.latents[0].together, found.fired, found.rows, 3)
    assert near[0].latent == 1
    assert np.isclose(near[0].phi, np.corrcoef(active[:, 0], active[:, 1])[0, 1])
    assert np.isclose(near[0].given, active[active[:, 0], 1].mean())
    assert all(n.phi > 0 and n.latent not in (0, DEAD) for n in near)
