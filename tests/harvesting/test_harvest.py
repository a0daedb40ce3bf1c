"""The main job against plain transformers, and its promises: selection, resume, sharing, refusal."""

import itertools
import shutil
import threading

import numpy as np
import pytest
import torch
from PIL import Image

import mmxai
from mmxai.data import Sample
from mmxai.errors import (
    ArgumentError,
    DataError,
    DiskFullError,
    PlanMismatchError,
    SelectionError,
    StorageOverflowError,
    UnknownSiteError,
    UnreadableSampleError,
)
from mmxai.harvesting import harvest
from mmxai.harvesting.sink import WriterThread
from mmxai.store.verify import verify

ALL = ["*.resid_post", "*.0.mlp_post", "*.1.z", "*.embeds"]
PATCHES = 16


def rows_by_identity(store, site):
    """(sample, position) -> stored row."""
    s = store[site]
    table = store.rows[s.space]
    x = s[:]
    return {(int(a), int(b)): x[i] for i, (a, b) in enumerate(zip(table.sample, table.position, strict=True))}


def read_all(path, sites):
    with mmxai.open_store(path) as store:
        return {site: rows_by_identity(store, site) for site in sites}


def assert_same_rows(a, b):
    for site in a:
        assert a[site].keys() == b[site].keys()
        for key, row in a[site].items():
            assert torch.equal(row.view(torch.int16), b[site][key].view(torch.int16)), (site, key)


def files_of(path):
    """Relative name -> bytes of everything that holds data."""
    return {
        str(f.relative_to(path)): f.read_bytes()
        for f in sorted(path.rglob("*"))
        if f.is_file() and ("/c." in f"/{f.name}" or f.suffix == ".jsonl" or f.parent.name == "stats")
    }


@pytest.fixture(scope="module")
def truth(clip, world):
    """Hidden states and embeddings by transformers itself, sample by sample, without mmxai."""
    from transformers import AutoImageProcessor, AutoTokenizer

    out = {}
    source = clip.config._name_or_path
    processor = AutoImageProcessor.from_pretrained(source, backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(source)
    with torch.no_grad():
        for i, item in enumerate(world):
            pixels = processor(item["image"], return_tensors="pt")["pixel_values"]
            text = tokenizer(item["text"], return_tensors="pt")
            vision = clip.module.vision_model(pixel_values=pixels, output_hidden_states=True)
            words = clip.module.text_model(**text, output_hidden_states=True)
            for block in range(2):
                for position, row in enumerate(vision.hidden_states[block + 1][0]):
                    out[f"vision.{block}.resid_post", i, position] = row
                for position, row in enumerate(words.hidden_states[block + 1][0]):
                    out[f"text.{block}.resid_post", i, position] = row
            out["vision.embeds", i] = clip.module.visual_projection(vision.pooler_output)[0]
            out["text.embeds", i] = clip.module.text_projection(words.pooler_output)[0]
    return out


@pytest.fixture(scope="module")
def harvested(clip, world, tmp_path_factory):
    """One whole harvest in float32 and its report."""
    path = tmp_path_factory.mktemp("stores") / "all.zarr"
    report = harvest(
        clip, world, sites=ALL, store=path, store_dtype="float32", samples_per_part=20, batch_size=8
    )
    return path, report


def test_every_row_equals_transformers(harvested, truth):
    path, report = harvested
    assert report.complete
    assert report.samples == 90
    with mmxai.open_store(path) as store:
        found = set()
        for site in [s for s in store.sites if s.endswith("resid_post")]:
            for (sample, position), row in rows_by_identity(store, site).items():
                torch.testing.assert_close(row, truth[site, sample, position], rtol=1e-5, atol=1e-5)
                found.add((site, sample, position))
        assert found == {key for key in truth if len(key) == 3}
        for site in ("vision.embeds", "text.embeds"):
            table = store.rows[store[site].space]
            assert sorted(table.sample.tolist()) == list(range(90))
            for i, sample in enumerate(table.sample.tolist()):
                torch.testing.assert_close(store[site][i], truth[site, sample], rtol=1e-5, atol=1e-5)


def test_the_sample_table_shows_the_samples_again(harvested, world):
    with mmxai.open_store(harvested[0]) as store:
        for i in (0, 7, 89):
            record = store.samples[i]
            assert record.text == world[i]["text"]
            assert tuple(record.size) == (32, 32)
            (tile,) = record.tiles
            assert tile["grid"] == [4, 4]
            assert tile["affine"] == [1 / 8, 0, 0, 0, 1 / 8, 0]


def test_statistics_are_those_of_the_stored_rows(harvested):
    with mmxai.open_store(harvested[0]) as store:
        for site in ("vision.0.mlp_post", "text.1.resid_post"):
            x, stats = store[site][:], store.stats[site]
            torch.testing.assert_close(torch.as_tensor(stats.mean), x.double().mean(0), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(
                torch.as_tensor(stats.var), x.double().var(0, unbiased=False), rtol=1e-4, atol=1e-7
            )
            top = torch.as_tensor(stats.topk_values)
            torch.testing.assert_close(top, x.sort(0, descending=True).values[: top.shape[1]].T)
            rows = torch.as_tensor(stats.topk_rows)
            torch.testing.assert_close(x[rows, torch.arange(x.shape[1])[:, None]], top)


def test_verify_finds_nothing(harvested):
    assert not verify(harvested[0]).problems


def test_selection_is_part_of_the_plan(clip, world, tmp_path):
    path = tmp_path / "s.zarr"
    report = harvest(
        clip, world, sites="vision.*.resid_post", store=path, tokens="patch", per_sample=5, seed=3
    )
    assert report.rows == {"vision": 90 * 5}
    with mmxai.open_store(path) as store:
        table = store.rows["vision"]
        assert set(table.position.tolist()) <= set(range(1, 1 + PATCHES))
        assert torch.equal(table.position - 1, table.y * 4 + table.x)
        assert np.bincount(table.sample.numpy(), minlength=90).tolist() == [5] * 90
    again = harvest(
        clip, world, sites="vision.*.resid_post", store=tmp_path / "b.zarr", tokens="patch", per_sample=5,
        seed=3, batch_size=7, order="sequential",
    )  # fmt: skip
    assert again.rows == report.rows
    a, b = read_all(path, ["vision.0.resid_post"]), read_all(tmp_path / "b.zarr", ["vision.0.resid_post"])
    assert a["vision.0.resid_post"].keys() == b["vision.0.resid_post"].keys()


@pytest.mark.parametrize("pool", ["mean", "last", "0,1,2,4"])
def test_pooling_keeps_one_row_a_sample(clip, world, truth, tmp_path, pool):
    path = tmp_path / "s.zarr"
    tokens = "patch" if pool != "last" else None
    report = harvest(
        clip, world, sites="vision.1.resid_post", store=path, pool=pool, tokens=tokens, store_dtype="float32"
    )
    assert report.rows == {"vision": 90}
    picked = {"mean": range(1, 17), "last": [16], "0,1,2,4": [2, 3, 4, 6, 7, 8]}[pool]
    with mmxai.open_store(path) as store:
        for i, sample in enumerate(store.rows["vision"].sample.tolist()):
            expected = torch.stack([truth["vision.1.resid_post", sample, p] for p in picked]).mean(0)
            torch.testing.assert_close(store["vision.1.resid_post"][i], expected, rtol=1e-5, atol=1e-5)


def test_last_token_of_texts(clip, world, truth, tmp_path):
    path = tmp_path / "s.zarr"
    harvest(clip, world, sites="text.1.resid_post", store=path, tokens="last", store_dtype="float32")
    with mmxai.open_store(path) as store:
        for i, sample in enumerate(store.rows["text"].sample.tolist()):
            last = max(key[2] for key in truth if key[:2] == ("text.1.resid_post", sample))
            expected = truth["text.1.resid_post", sample, last]
            torch.testing.assert_close(store["text.1.resid_post"][i], expected, rtol=1e-5, atol=1e-5)


def test_a_selection_that_keeps_nothing_is_refused(clip, world, tmp_path):
    with pytest.raises(SelectionError, match="keeps no row of 'text'"):
        harvest(clip, world, sites="text.*.resid_post", store=tmp_path / "s.zarr", tokens="patch")
    assert not (tmp_path / "s.zarr").exists()


class Interrupting:
    """A data set that fails at its n-th read, once."""

    def __init__(self, items, after):
        self._items, self._left, self.identity = items, after, dict(items.identity)

    def __len__(self):
        return len(self._items)

    def __getitem__(self, i):
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt
        return self._items[i]


def test_an_interrupted_harvest_resumes_to_the_same_bytes(clip, world, tmp_path):
    options = dict(sites=ALL, samples_per_part=12, batch_size=5)
    whole, broken = tmp_path / "whole.zarr", tmp_path / "broken.zarr"
    harvest(clip, Interrupting(world, -1), store=whole, **options)
    with pytest.raises(KeyboardInterrupt):
        harvest(clip, Interrupting(world, 100), store=broken, **options)
    with mmxai.open_store(broken) as store:
        committed = store.parts[0]
    assert 0 < committed < 8
    report = harvest(clip, Interrupting(world, -1), store=broken, **options)
    assert (report.resumed, report.written, report.complete) == (committed, 8 - committed, True)
    assert files_of(whole) == files_of(broken)
    nothing = harvest(clip, Interrupting(world, -1), store=broken, **options)
    assert (nothing.resumed, nothing.written, nothing.samples) == (8, 0, 0)


def test_workers_share_the_parts_and_the_bytes_are_the_same(clip, world, tmp_path):
    """A worker alone does its share, then everybody else's."""
    options = dict(sites="vision.*.resid_post", samples_per_part=10, batch_size=4)
    alone, shared = tmp_path / "alone.zarr", tmp_path / "shared.zarr"
    harvest(clip, world, store=alone, **options)
    report = harvest(clip, world, store=shared, part_of="1/3", **options)
    assert report.written == 9
    assert files_of(alone) == files_of(shared)


def test_two_workers_at_once(clip, clip_folder, world, tmp_path):
    options = dict(sites="vision.*.resid_post", samples_per_part=5, batch_size=5)
    alone, shared = tmp_path / "alone.zarr", tmp_path / "shared.zarr"
    harvest(clip, world, store=alone, **options)
    models = [mmxai.load_model(str(clip_folder)) for _ in range(2)]
    reports = [None, None]

    def work(rank):
        reports[rank] = harvest(models[rank], world, store=shared, part_of=f"{rank}/2", **options)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(r.written for r in reports) == 18
    assert files_of(alone) == files_of(shared)
    assert not verify(shared).problems


def test_batch_size_changes_only_rounding(clip, world, tmp_path):
    kinds = {}
    for size in (1, 7, 64):
        path = tmp_path / f"{size}.zarr"
        harvest(
            clip, world, sites="*.1.resid_post", store=path, batch_size=size, store_dtype="float32", limit=20
        )
        kinds[size] = read_all(path, ["vision.1.resid_post", "text.1.resid_post"])
    for site in kinds[1]:
        for size in (7, 64):
            assert kinds[size][site].keys() == kinds[1][site].keys()
            for key, row in kinds[1][site].items():
                torch.testing.assert_close(kinds[size][site][key], row, rtol=1e-4, atol=1e-5)


def test_another_plan_is_refused_and_says_what_differs(clip, world, tmp_path):
    path = tmp_path / "s.zarr"
    harvest(clip, world, sites="vision.0.resid_post", store=path, tokens="patch", limit=10)
    with pytest.raises(PlanMismatchError, match=r"selection\.tokens"):
        harvest(clip, world, sites="vision.0.resid_post", store=path, tokens="cls", limit=10)
    with pytest.raises(PlanMismatchError, match=r"vision\.1\.resid_post"):
        harvest(clip, world, sites="vision.*.resid_post", store=path, tokens="patch", limit=10)
    with pytest.raises(PlanMismatchError, match="limit"):
        harvest(clip, world, sites="vision.0.resid_post", store=path, tokens="patch", limit=11)


def test_a_stream_grows_the_store_by_parts_and_resumes_by_replaying(clip, world, tmp_path):
    texts = [item["text"] for item in world]
    options = dict(sites="text.1.resid_post", samples_per_part=20, batch_size=8)
    sized, streamed, broken = (tmp_path / f"{n}.zarr" for n in ("sized", "streamed", "broken"))
    harvest(clip, texts, store=sized, order="sequential", **options)
    report = harvest(clip, (t for t in texts), store=streamed, **options)
    assert (report.parts, report.complete, report.samples) == (5, True, 90)
    same = ["text.1.resid_post"]
    assert_same_rows(read_all(sized, same), read_all(streamed, same))

    def failing():
        yield from texts[:50]
        raise RuntimeError("the network went away")

    with pytest.raises(RuntimeError, match="network"):
        harvest(clip, failing(), store=broken, **options)
    report = harvest(clip, (t for t in texts), store=broken, **options)
    assert (report.resumed, report.written, report.complete) == (2, 3, True)
    assert_same_rows(read_all(streamed, same), read_all(broken, same))
    with pytest.raises(DataError, match="other samples"):
        harvest(clip, (t for t in reversed(texts)), store=broken, **options)


def test_streams_are_shared_by_rank(clip, world, tmp_path):
    texts = [item["text"] for item in world]
    path = tmp_path / "s.zarr"
    options = dict(sites="text.1.resid_post", samples_per_part=20, store=path)
    first = harvest(clip, (t for t in texts), part_of="0/2", **options)
    assert (first.written, first.elsewhere) == (3, 2)
    second = harvest(clip, (t for t in texts), part_of="1/2", **options)
    assert (second.written, second.complete) == (2, True)


def test_unreadable_samples_stop_or_are_recorded(clip, world, tmp_path):
    good = [item["image"] for item in itertools.islice(world, 6)]
    items = [Sample("good", image=image) for image in good]
    items.insert(3, Sample("bad.png", image=b"not an image"))
    path = tmp_path / "s.zarr"
    with pytest.raises(UnreadableSampleError, match=r"bad\.png"):
        harvest(clip, items, sites="vision.0.resid_post", store=path)
    report = harvest(clip, items, sites="vision.0.resid_post", store=path, on_error="skip")
    assert (report.samples, report.skipped, report.rows) == (6, 1, {"vision": 6 * 17})
    with mmxai.open_store(path) as store:
        assert "bad.png" in store.samples[3].skipped
        assert 3 not in store.rows["vision"].sample.tolist()


def test_a_part_whose_samples_are_all_unreadable(clip, tmp_path):
    items = [Sample(f"{i}.png", image=b"no") for i in range(4)]
    items[3] = Sample("ok", text="", image=Image.new("RGB", (40, 30)))
    report = harvest(
        clip,
        items,
        sites="vision.0.resid_post",
        store=tmp_path / "s.zarr",
        on_error="skip",
        samples_per_part=1,
    )
    assert (report.samples, report.skipped, report.written) == (1, 3, 4)
    assert not verify(tmp_path / "s.zarr").problems


def test_dry_run_writes_nothing(clip, world, tmp_path):
    path = tmp_path / "s.zarr"
    estimate = harvest(clip, world, sites="vision.*.resid_post", store=path, tokens="patch", dry_run=True)
    assert estimate.rows == {"vision": 90 * 16}
    assert estimate.exact
    assert estimate.nbytes == 90 * 16 * (2 * 32 * 2 + 32) + 2 * (248 * 32 + 8)
    assert not estimate.problems
    assert not path.exists()
    report = harvest(clip, world, sites="vision.*.resid_post", store=path, tokens="patch")
    assert report.rows == estimate.rows
    shards = sum(1 for name in files_of(path))
    assert shards == estimate.files - report.written, "one record a part beside the data"


def test_a_harvest_larger_than_the_disk_is_refused_before_it_starts(clip, world, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DiskFullError, match="free disk"):
        harvest(clip, world, sites="vision.*.resid_post", store=tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_overflow_of_float16_is_an_error(clip, world, tmp_path):
    big = mmxai.load_model(clip.config._name_or_path)
    with torch.no_grad():
        big.module.vision_model.encoder.layers[1].mlp.fc2.bias.fill_(1e6)
    with pytest.raises(StorageOverflowError, match=r"vision\.1\.resid_post"):
        harvest(big, world, sites="vision.1.resid_post", store=tmp_path / "s.zarr", store_dtype="float16")


def test_a_writer_that_dies_is_heard(clip, world, tmp_path, monkeypatch):
    def die(self, *args, **kwargs):
        raise OSError("the disk caught fire")

    monkeypatch.setattr("mmxai.store.part.PartWriter.write", die)
    with pytest.raises(OSError, match="caught fire"):
        harvest(clip, world, sites="vision.*.resid_post", store=tmp_path / "s.zarr")


def test_the_queue_is_bounded(clip, world, tmp_path, monkeypatch):
    """With a slow disk the forward waits: never more than the limit (or one batch) is queued."""
    import time

    queued = []
    original_put, original_write = WriterThread._put, mmxai.store.PartWriter.write

    def put(self, *args, **kwargs):
        original_put(self, *args, **kwargs)
        queued.append(self._queued)

    def slow(self, *args, **kwargs):
        time.sleep(0.01)
        return original_write(self, *args, **kwargs)

    monkeypatch.setattr(WriterThread, "_put", put)
    monkeypatch.setattr(mmxai.store.PartWriter, "write", slow)
    monkeypatch.setattr(WriterThread.__init__, "__kwdefaults__", {"limit": 40_000})
    report = harvest(clip, world, sites="vision.*.resid_post", store=tmp_path / "s.zarr", batch_size=2)
    batch = 2 * 17 * (2 * 32 * 2 + 32)
    assert max(queued) <= 40_000 + batch
    assert report.clock.wait_disk > 0.05


def test_unknown_options_and_sites(clip, world, tmp_path):
    with pytest.raises(ArgumentError, match="per_smaple"):
        harvest(clip, world, per_smaple=3)
    with pytest.raises(UnknownSiteError, match="resid_post"):
        harvest(clip, world, sites="vision.*.resid_pots", store=tmp_path / "s.zarr")
    with pytest.raises(ArgumentError, match="text tower"):
        harvest(clip, world, sites="vision.*.resid_post", store=tmp_path / "s.zarr", context=8)
    with pytest.raises(ArgumentError, match="text tower alone"):
        harvest(clip, world, sites="*.resid_post", store=tmp_path / "s.zarr", pack=True)


def test_texts_longer_than_the_context(clip, tmp_path):
    long = " ".join(["red"] * 60)
    texts = ["a red circle", long]
    with pytest.raises(DataError, match="48"):
        harvest(clip, texts, sites="text.0.resid_post", store=tmp_path / "a.zarr")
    cut = harvest(clip, texts, sites="text.0.resid_post", store=tmp_path / "b.zarr", long="truncate")
    assert cut.rows == {"text": 5 + 48}
    with mmxai.open_store(tmp_path / "b.zarr") as store:
        assert store.samples[1].truncated == 62
    split = harvest(clip, texts, sites="text.0.resid_post", store=tmp_path / "c.zarr", long="split")
    assert split.samples == 3
    assert split.rows == {"text": 5 + 48 + 16}


def test_a_wrapped_network_is_harvested_by_cells(world, tmp_path):
    """CNN maps become one row a grid cell, equal to a plain hook's map."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, padding=1, stride=2), torch.nn.ReLU(), torch.nn.Conv2d(6, 5, 3, stride=2)
    )

    def prepare(sample):
        return torch.from_numpy(np.array(sample.image)).permute(2, 0, 1).float() / 255

    model = mmxai.wrap(net, prepare=prepare, name="net")
    path = tmp_path / "s.zarr"
    report = harvest(model, world, sites="module:2", store=path, store_dtype="float32", limit=12)
    assert report.rows == {"module.7x7": 12 * 49}
    with mmxai.open_store(path) as store:
        table = store.rows["module.7x7"]
        for sample in range(12):
            with torch.no_grad():
                expected = net(prepare(Sample("x", image=world[sample]["image"]))[None])[0]
            mine = (table.sample == sample).nonzero().squeeze(1)
            got = store["module:2"].gather(mine)
            for row, y, x in zip(got, table.y[mine], table.x[mine], strict=True):
                torch.testing.assert_close(row, expected[:, y, x], rtol=1e-5, atol=1e-6)


def test_create_store_and_harvest_make_the_same_kind_of_store(harvested, tmp_path):
    """Copying a store through the public writer keeps rows and statistics."""
    with mmxai.open_store(harvested[0]) as source:
        site = source["vision.1.resid_post"]
        x, rows = site[:], source.rows["vision"]
        keys = [f"s{i}" for i in range(90)]
        with mmxai.create_store(
            tmp_path / "c.zarr", sites={"vision.1.resid_post": 32}, dtype="float32", space="vision"
        ) as w:
            w.write(keys, {"vision.1.resid_post": x}, rows=mmxai.Rows(rows[:].table))
        with mmxai.open_store(tmp_path / "c.zarr") as copy:
            order = rows.sample.argsort(stable=True)  # a writer's samples come in the order they are given
            assert torch.equal(copy["vision.1.resid_post"][:], x[order])
            assert np.array_equal(
                copy.stats["vision.1.resid_post"].topk_values, source.stats["vision.1.resid_post"].topk_values
            )


def test_tensors_that_are_ready(clip, world, tmp_path):
    """A torch data set of (pixels, label) gives what the pictures give; so does a mapping of inputs."""
    encoded = [clip.encode(Sample("x", image=world[i]["image"]), ["vision"]) for i in range(10)]
    pixels = [e.tensors["pixel_values"] for e in encoded]
    site, options = "vision.1.resid_post", dict(sites="vision.1.resid_post", store_dtype="float32")
    harvest(clip, [world[i]["image"] for i in range(10)], store=tmp_path / "a.zarr", **options)
    harvest(clip, [(x, i) for i, x in enumerate(pixels)], store=tmp_path / "b.zarr", **options)
    harvest(clip, [{"pixel_values": x} for x in pixels], store=tmp_path / "c.zarr", **options)
    a, b, c = (read_all(tmp_path / f"{n}.zarr", [site]) for n in "abc")
    for key, row in a[site].items():
        assert torch.equal(row, b[site][key])
        assert torch.equal(row, c[site][key])
    with mmxai.open_store(tmp_path / "b.zarr") as store:
        assert store.samples[7].columns == {"label": 7}


def test_a_renamed_model_folder_resumes(clip_folder, world, tmp_path):
    moved = shutil.copytree(clip_folder, tmp_path / "another-name")
    options = dict(sites="vision.0.resid_post", store=tmp_path / "s.zarr", limit=10)
    harvest(str(clip_folder), world, **options)
    assert harvest(str(moved), world, **options).resumed == 1


def test_a_wrapped_network_knows_where_its_cells_lie_in_the_picture(tmp_path):
    """A white box in a wide picture, cropped and resized: the cells that see white are those of the box."""
    from mmxai.models.images import ImagePipeline

    picture = np.zeros((60, 90, 3), np.uint8)
    box = (30, 15, 60, 30)  # x0, y0, x1, y1
    picture[box[1] : box[3], box[0] : box[2]] = 255
    net = torch.nn.Sequential(torch.nn.AvgPool2d(8))
    model = mmxai.wrap(net, prepare=ImagePipeline.make(32, crop=True), name="pool")
    path = tmp_path / "s.zarr"
    harvest(model, [Image.fromarray(picture)], sites="module:0", store=path, store_dtype="float32")
    with mmxai.open_store(path) as store:
        site = store["module:0"]
        rows, sample = store.rows[site.space], store.samples[0]
        assert (site.space, sample.size) == ("module.4x4", (90, 60))
        tile = sample.tile_in(site.space)
        assert tile["grid"] == [4, 4]
        seen = {(int(y), int(x)) for y, x, v in zip(rows.y, rows.x, site[:][:, 0], strict=True) if v > 0.05}
        a, _, c, _, e, f = tile["affine"]
        x0, x1, y0, y1 = a * box[0] + c, a * box[2] + c, e * box[1] + f, e * box[3] + f
        expected = {
            (y, x)
            for y in range(4)
            for x in range(4)
            if min(x + 1, x1) - max(x, x0) > 0.05 and min(y + 1, y1) - max(y, y0) > 0.05
        }
        assert seen == expected
        assert len(expected) >= 2


def test_unreadable_samples_of_a_stream_keep_their_turn(clip, world, tmp_path):
    """Items whose picture is missing are recorded in place; every later sample keeps its number."""
    items = [{"image": world[i]["image"], "text": world[i]["text"]} for i in range(48)]
    for bad in (0, 7, 40):
        items[bad]["image"] = tmp_path / "missing.png"
    path, options = tmp_path / "s.zarr", dict(sites="vision.0.resid_post", samples_per_part=8, batch_size=4)
    report = harvest(clip, iter(items), store=path, on_error="skip", **options)
    assert (report.samples, report.skipped, report.parts, report.complete) == (45, 3, 6, True)
    with mmxai.open_store(path) as store:
        assert [s.sample for s in store.samples if s.skipped] == [0, 7, 40]
        assert sorted(set(store.rows["vision"].sample.tolist())) == [
            i for i in range(48) if i not in (0, 7, 40)
        ]
    again = harvest(clip, iter(items), store=path, on_error="skip", **options)
    assert (again.resumed, again.written) == (6, 0)
    with pytest.raises(DataError, match="goes on"):
        harvest(clip, iter([*items, *items]), store=path, on_error="skip", **options)


def test_other_data_of_the_same_length_is_noticed(clip, world, tmp_path):
    texts = [item["text"] for item in world]
    options = dict(sites="text.0.resid_post", store=tmp_path / "s.zarr", samples_per_part=30)
    harvest(clip, texts, **options)
    with pytest.raises(DataError, match="is not what it was"):
        harvest(clip, [t + " here" for t in texts], **options)


def test_a_harvest_leaves_the_model_as_it_was(clip, world, tmp_path):
    before = clip.text_settings("text")
    texts = [item["text"] for item in world]
    harvest(clip, texts, sites="text.0.resid_post", store=tmp_path / "s.zarr", long="split", context=16)
    assert clip.text_settings("text") == before


def test_a_store_whose_making_was_interrupted_resumes(clip, world, tmp_path):
    """A plan without the rest: what a kill between its publication and the arrays leaves."""
    path, options = tmp_path / "s.zarr", dict(sites="vision.0.resid_post", limit=10)
    harvest(clip, world, store=path, **options)
    for item in path.iterdir():
        if item.name != "mmxai":
            shutil.rmtree(item) if item.is_dir() else item.unlink()
    for item in (path / "mmxai").iterdir():
        if item.name != "plan.json":
            shutil.rmtree(item) if item.is_dir() else item.unlink()
    assert harvest(clip, world, store=path, **options).written == 1
    assert not verify(path).problems


def test_dry_run_says_what_would_be_refused(clip, world, tmp_path, monkeypatch):
    path, options = tmp_path / "s.zarr", dict(sites="vision.0.resid_post", limit=10)
    harvest(clip, world, store=path, **options)
    other = harvest(clip, world, store=path, tokens="cls", dry_run=True, **options)
    assert "selection.tokens" in str(other)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    full = harvest(clip, world, sites="vision.0.resid_post", store=tmp_path / "t.zarr", dry_run=True)
    assert full.problems
    assert "free disk" in str(full)


def test_a_part_holds_at_least_a_batch(clip, world, tmp_path, monkeypatch):
    monkeypatch.setattr("mmxai.harvesting.planning._PART_BYTES", 1)
    estimate = harvest(
        clip, world, sites="vision.0.resid_post", store=tmp_path / "s.zarr", dry_run=True, stats=False
    )
    assert estimate.samples_per_part == 32


@pytest.mark.parametrize("exemplars", ["row", "sample"])
def test_statistics_asked_for(clip, world, tmp_path, exemplars):
    """More top rows, the smallest values, exemplars of different samples: of the stored rows, over parts."""
    path, site = tmp_path / "s.zarr", "vision.0.mlp_post"
    options = {"sites": site, "store": path, "stats_k": 20, "bottom": True, "exemplars": exemplars}
    harvest(clip, world, samples_per_part=20, batch_size=7, **options)
    with mmxai.open_store(path) as store:
        x, stats, samples = (
            store[site][:].float().numpy(),
            store.stats[site],
            store.rows["vision"].sample.numpy(),
        )
        for sign, values, rows, owners in (
            (1, stats.topk_values, stats.topk_rows, stats.topk_samples),
            (-1, stats.bottom_values, stats.bottom_rows, stats.bottom_samples),
        ):
            for j in range(0, x.shape[1], 9):
                order = np.lexsort((np.arange(len(x)), -sign * x[:, j]))
                if exemplars == "sample":
                    order = order[np.sort(np.unique(samples[order], return_index=True)[1])]
                    np.testing.assert_array_equal(owners[j], samples[order[:20]])
                np.testing.assert_array_equal(rows[j], order[:20])
                np.testing.assert_array_equal(values[j], x[order[:20], j])
    with pytest.raises(PlanMismatchError, match=r"statistics\.k: store has 20, this run asks 16"):
        harvest(clip, world, samples_per_part=20, batch_size=7, sites=site, store=path)
    for wrong in ({"stats_k": 0}, {"stats_k": 129}, {"exemplars": "patch"}):
        with pytest.raises(ArgumentError, match="expected"):
            harvest(clip, world, **{**options, **wrong})
