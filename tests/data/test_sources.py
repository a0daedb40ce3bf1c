"""Folders, text files, tables, shards and Python objects, through `open_data`."""

import csv
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmxai.data import Sample, Source, Stream, open_data
from mmxai.errors import ArgumentError, DataError, UnreadableSampleError


def png(value=0, size=(5, 4)):
    file = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    for i, name in enumerate(
        ["b.png", "a.PNG", "dogs/z.png", "cats/big/y.png", ".hidden/x.png", "cats/.x.png"]
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    (root / "notes.txt").write_text("no picture")
    return root


class TestFolder:
    def test_sorted_keys_and_columns(self, folder):
        source = open_data(folder)
        assert [s.key for s in source] == ["a.PNG", "b.png", "cats/big/y.png", "dogs/z.png"]
        assert [s.columns for s in source] == [{}, {}, {"folder": "cats/big"}, {"folder": "dogs"}]
        assert source[-1].image.getpixel((0, 0)) == (2, 2, 2)
        assert open_data(str(folder / "b.png"))[0].key == "b.png"

    def test_identity_notices_changes_and_names_no_machine(self, folder, tmp_path):
        before = open_data(folder).identity
        assert str(tmp_path) not in json.dumps(before)
        moved = shutil.copytree(folder, tmp_path / "elsewhere" / "photos")
        assert open_data(moved).identity == before
        (folder / "b.png").write_bytes(png(0, (50, 40)))
        assert open_data(folder).identity != before
        (moved / "c.png").write_bytes(png())
        assert open_data(moved).identity != before

    def test_errors(self, folder, tmp_path):
        with pytest.raises(DataError, match=r"no such file or folder.*did you mean .*photos"):
            open_data(tmp_path / "fotos")
        with pytest.raises(DataError, match=r"did you mean .*photos"):
            open_data(tmp_path / "fotos" / "deeper")
        with pytest.raises(DataError, match=r"no such file or folder"):
            open_data("a text, not a path. " * 500)
        (tmp_path / "texts").mkdir()
        (tmp_path / "texts" / "a.txt").write_text("a")
        with pytest.raises(DataError, match=r"1 x \.txt, expected images"):
            open_data(tmp_path / "texts")
        (tmp_path / "void").mkdir()
        with pytest.raises(DataError, match="holds nothing"):
            open_data(tmp_path / "void")
        source = open_data(folder)
        (folder / "b.png").unlink()
        with pytest.raises(UnreadableSampleError, match="No such file") as caught:
            source[1]
        assert caught.value.key == "b.png"
        with pytest.raises(IndexError):
            source[4]


class TestText:
    def test_a_line_a_sample_empty_ones_too(self, tmp_path):
        path = tmp_path / "lines.txt"
        path.write_bytes("\ufefffirst\r\n\n  zwölf \nlast".encode())
        source = open_data(path)
        assert [s.text for s in source] == ["first", "", "  zwölf ", "last"]
        assert [s.key for s in source] == [f"lines.txt:{i}" for i in range(1, 5)]

    @pytest.mark.parametrize("content,lines", [(b"a\n", 1), (b"a\n\n", 2), (b"\n", 1), (b"a", 1)])
    def test_the_final_line_break(self, tmp_path, content, lines):
        (tmp_path / "f").write_bytes(content)
        assert len(open_data(tmp_path / "f")) == lines

    def test_errors(self, tmp_path):
        path = tmp_path / "lines.txt"
        path.write_bytes(b"good\n\xff\xfe bad\n")
        assert open_data(path)[0].text == "good"
        with pytest.raises(UnreadableSampleError, match=r"lines\.txt:2: .*UTF-8"):
            open_data(path)[1]
        path.write_bytes(b"")
        with pytest.raises(DataError, match="without samples"):
            open_data(path)
        (tmp_path / "x.parquet").write_bytes(b"PAR1\0\0")
        with pytest.raises(DataError, match=r"binary file with suffix '\.parquet'"):
            open_data(tmp_path / "x.parquet")

    def test_identity_is_content(self, tmp_path):
        path = tmp_path / "lines.txt"
        path.write_text("a\nb\n")
        before = open_data(path).identity
        path.write_text("a\nc\n")
        assert open_data(path).identity != before
        assert open_data(path, limit=1).identity != open_data(path).identity

    def test_sentences(self, shared_data):
        path = shared_data / "text_labels" / "stsa.binary.train"
        source = open_data(path)
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        assert len(source) == len(lines) == 6920
        assert [source[i].text for i in range(0, 6920, 97)] == lines[::97]


class TestTables:
    ROWS = (
        {"caption": 'say "hi",\nthere', "image": "a.png", "label": "3"},
        {"caption": "", "image": "b.png", "label": ""},
    )

    @pytest.fixture
    def base(self, tmp_path):
        for i, name in enumerate(("a.png", "b.png")):
            (tmp_path / name).write_bytes(png(i))
        return tmp_path

    def test_csv(self, base):
        with (base / "t.csv").open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, ["label", "image", "caption"])
            writer.writeheader()
            writer.writerow(self.ROWS[0])
            file.write("\r\n")
            writer.writerow(self.ROWS[1])
        source = open_data(base / "t.csv")
        assert [s.text for s in source] == ['say "hi",\nthere', ""]
        assert [s.key for s in source] == ["a.png", "b.png"]
        assert [s.columns for s in source] == [{"label": "3"}, {"label": ""}]
        assert source[1].image.getpixel((0, 0)) == (1, 1, 1)
        assert source.identity["columns"] == {"image": "image", "text": "caption"}

    def test_tsv_has_no_quotes(self, tmp_path):
        (tmp_path / "t.tsv").write_text('Sentence\tlabel\n"so called\t1\nplain\t0\n')
        source = open_data(tmp_path / "t.tsv")
        assert [(s.text, s.columns) for s in source] == [
            ('"so called', {"label": "1"}),
            ("plain", {"label": "0"}),
        ]
        assert source[0].key == "t.tsv:1"

    @pytest.mark.parametrize("kind", ["jsonl", "json"])
    def test_json(self, base, kind):
        rows = [{**self.ROWS[0], "box": [1, 2.5], "nan": float("nan")}, self.ROWS[1]]
        path = base / f"t.{kind}"
        path.write_text("\n\n".join(map(json.dumps, rows)) + "\n \n" if kind == "jsonl" else json.dumps(rows))
        source = open_data(path)
        assert len(source) == 2 and [s.key for s in source] == ["a.png", "b.png"]
        assert source[0].columns == {"label": "3", "box": [1, 2.5], "nan": None}
        assert source[0].image.size == (5, 4)
        captions = open_data(path, text_column="label", image_column="image")
        assert captions[0].text == "3" and "caption" in captions[0].columns

    def test_long_fields(self, tmp_path):
        (tmp_path / "t.csv").write_text("text\n" + "x" * 300_000 + "\n")
        assert len(open_data(tmp_path / "t.csv")[0].text) == 300_000

    def test_unknown_columns_are_listed(self, tmp_path):
        (tmp_path / "t.csv").write_text("foo,bar\n1,2\n")
        with pytest.raises(DataError, match=r"columns \['foo', 'bar'\].*text_column="):
            open_data(tmp_path / "t.csv")
        assert open_data(tmp_path / "t.csv", text_column="bar")[0].text == "2"
        with pytest.raises(DataError, match=r"no column 'baz', expected one of \['foo', 'bar'\]"):
            open_data(tmp_path / "t.csv", text_column="baz")

    def test_bad_rows_are_unreadable_samples(self, base):
        (base / "t.csv").write_text("image,text\na.png,one\na.png\nno.png,three\n,four\n")
        source = open_data(base / "t.csv")
        assert source[0].text == "one"
        for i, message in (
            (1, "got 1 fields, expected 2"),
            (2, "no.png: got no file"),
            (3, "empty image path"),
        ):
            with pytest.raises(UnreadableSampleError, match=message):
                source[i]
        (base / "t.jsonl").write_text('{"text": "a"}\n{"text": \n[1]\n')
        source = open_data(base / "t.jsonl")
        for i, message in ((1, "expected a JSON object"), (2, "got a JSON list")):
            with pytest.raises(UnreadableSampleError, match=message):
                source[i]

    def test_hopeless_tables(self, tmp_path):
        for name, content, message in [
            ("a.csv", "text,text\n1,2\n", "more than once"),
            ("b.csv", "text\n", "without samples"),
            ("c.csv", 'text\n"open', "expected CSV"),
            ("d.json", "{}", "JSON dict"),
            ("e.json", "[1]", "array of int"),
            ("f.json", "[", "expected a JSON array"),
            ("g.jsonl", "\n\n", "without samples"),
        ]:
            (tmp_path / name).write_text(content)
            with pytest.raises(DataError, match=message):
                open_data(tmp_path / name)

    def test_prompts(self, shared_data):
        source = open_data(shared_data / "facts" / "known_1000.json")
        assert len(source) == 1209 and "subject" in source[0].columns


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


class TestShards:
    @pytest.fixture
    def shards(self, tmp_path):
        for shard in range(3):
            members = []
            for i in range(2):
                key = f"./set/{shard}{i}"
                meta = json.dumps({"url": "u", "n": i}).encode()
                members += [
                    (f"{key}.cls", b"%d" % i),
                    (f"{key}.png", png(10 * shard + i)),
                    (f"{key}.json", meta),
                ]
                members += [(f"{key}.txt", f"caption {shard}{i}\n".encode()), (f"{key}.seg.png", b"?")]
            write_tar(tmp_path / f"s-{shard:03d}.tar", members)
        return tmp_path

    def test_members_become_samples(self, shards):
        source = open_data(shards / "s-000.tar")
        assert [s.key for s in source] == ["set/00", "set/01"]
        sample = source[1]
        assert sample.text == "caption 01" and sample.columns == {"url": "u", "n": 1, "cls": 1}
        assert sample.image.getpixel((0, 0)) == (1, 1, 1)
        assert source.ignored == {"seg.png": 2}

    @pytest.mark.parametrize(
        "pattern", ["s-{000..002}.tar", "s-*.tar", "s-{000,001,002}.tar", "s-00[0-2].tar"]
    )
    def test_many_shards(self, shards, pattern):
        source = open_data(f"{shards}/{pattern}")
        assert [s.text for s in source] == [f"caption {s}{i}" for s in range(3) for i in range(2)]
        assert [source[i].key for i in (5, 0, 3)] == ["set/21", "set/00", "set/11"]
        assert str(shards) not in json.dumps(source.identity)

    def test_long_names_and_captions_in_json(self, tmp_path):
        key = "d" * 90 + "/" + "n" * 120
        write_tar(
            tmp_path / "a.tar", [(f"{key}.JPG", png(3)), (f"{key}.json", b'{"caption": "c", "alt": "d"}')]
        )
        source = open_data(tmp_path / "a.tar")
        assert source[0].key == key and source[0].text == "c" and source[0].columns == {"alt": "d"}
        assert source[0].image.size == (5, 4)
        assert open_data(tmp_path / "a.tar", text_column="alt")[0].text == "d"

    def test_errors(self, shards):
        with pytest.raises(DataError, match=r"no file .*s-003\.tar.*did you mean"):
            open_data(f"{shards}/s-{{000..003}}.tar")
        with pytest.raises(DataError, match=r"no file .*x-.*tar"):
            open_data(f"{shards}/x-*.tar")
        write_tar(shards / "z.tar", [("a.txt", b"a")], "w:gz")
        with pytest.raises(DataError, match="uncompressed"):
            open_data(shards / "z.tar")
        data = (shards / "s-000.tar").read_bytes()
        (shards / "cut.tar").write_bytes(data[: 512 * 9 + 100])
        with pytest.raises(DataError, match=r"cut\.tar: .*whole"):
            open_data(shards / "cut.tar")
        write_tar(shards / "n.tar", [("a.npy", b"a")])
        with pytest.raises(DataError, match=r"fields \['npy'\]"):
            open_data(shards / "n.tar")
        write_tar(shards / "e.tar", [])
        with pytest.raises(DataError, match="without samples"):
            open_data(shards / "e.tar")
        (shards / "a.txt").write_text("a")
        with pytest.raises(DataError, match=r"\.tar shards only"):
            open_data(f"{shards}/*.txt")
        source = open_data(shards / "s-001.tar")
        (shards / "s-001.tar").write_bytes(b"")
        with pytest.raises(UnreadableSampleError, match="shard was cut"):
            source[0]

    def test_bad_members_are_unreadable_samples(self, tmp_path):
        write_tar(tmp_path / "a.tar", [("a.json", b"{"), ("b.txt", b"\xff"), ("c.png", b"?")])
        source = open_data(tmp_path / "a.tar")
        for i in (0, 1):
            with pytest.raises(UnreadableSampleError):
                source[i]
        with pytest.raises(UnreadableSampleError):
            _ = source[2].image


class TorchDataset:
    """A map-style dataset: no iteration, tuples of picture and label."""

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return Image.new("RGB", (4, 4), (i, i, i)), np.int64(i)


class HuggingFaceTwin:
    """What mmxai uses of datasets.Dataset."""

    _fingerprint = "0123456789abcdef"
    column_names = ("image", "caption", "label")

    def __len__(self):
        return 2

    def __getitem__(self, i):
        image = Image.new("L", (4, 4), i) if i else {"bytes": png(9), "path": None}
        return {"image": image, "caption": f"c{i}", "label": i}


class TestObjects:
    def test_strings_pictures_and_samples(self, tmp_path):
        assert [s.text for s in open_data(["a", "", "c"])] == ["a", "", "c"]
        path = tmp_path / "x.png"
        path.write_bytes(png(7))
        array = np.full((4, 5, 3), 7, dtype=np.uint8)
        pictures = [path, png(7), Image.fromarray(array), array]
        assert all((np.asarray(s.image) == array).all() for s in open_data(pictures))
        assert open_data([Sample("mine", text="x")])[0].key == "mine"
        with pytest.raises(DataError, match=r"pathlib\.Path"):
            open_data([str(path)])

    def test_tuples_and_mappings(self):
        image = Image.new("RGB", (2, 2))
        pair = open_data([(image, "a cat"), ("a dog", image)])
        assert [s.text for s in pair] == ["a cat", "a dog"] and all(s.has_image for s in pair)
        assert open_data([(image, 3)])[0].columns == {"label": 3}
        assert open_data([("text", 3, [1, 2])])[0].columns == {"column_1": 3, "column_2": [1, 2]}
        row = {"img": image, "sentence": "s", "y": np.float32(0.5), "z": np.arange(2)}
        sample = open_data([row])[0]
        assert sample.text == "s" and sample.columns == {"y": 0.5, "z": [0, 1]}

    def test_a_torch_dataset(self):
        source = open_data(TorchDataset())
        assert isinstance(source, Source) and [s.columns["label"] for s in source] == [0, 1, 2]
        assert source[2].image.getpixel((0, 0)) == (2, 2, 2) and source[2].key == "2"

    def test_a_twin_of_a_hugging_face_dataset(self):
        source = open_data(HuggingFaceTwin())
        assert source.identity["fingerprint"] == "0123456789abcdef"
        assert [s.text for s in source] == ["c0", "c1"]
        assert [s.image.getpixel((0, 0)) for s in source] == [(9, 9, 9), (1, 1, 1)]
        with pytest.raises(DataError, match=r"choose one of \['train', 'test'\]"):
            open_data({"train": HuggingFaceTwin(), "test": HuggingFaceTwin()})

    def test_a_hugging_face_dataset(self):
        datasets = pytest.importorskip("datasets", reason="the datasets package is not installed")
        source = open_data(datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}))
        assert [(s.text, s.columns) for s in source] == [("a", {"label": 0}), ("b", {"label": 1})]
        assert source.identity["fingerprint"]

    def test_streams(self):
        stream = open_data(str(i) for i in range(5))
        assert isinstance(stream, Stream) and not hasattr(stream, "__len__")
        assert stream.identity["count"] is None
        assert [(s.key, s.text) for s in stream] == [(str(i), str(i)) for i in range(5)]
        with pytest.raises(DataError, match="read already"):
            iter(stream)
        again = open_data({"b": 1}.keys())  # iterable, sized, not indexable
        assert isinstance(again, Stream) and [s.text for s in again] == ["b"] == [s.text for s in again]

    def test_limit(self, tmp_path):
        assert [s.text for s in open_data(list("abc"), limit=2)] == ["a", "b"]
        assert len(open_data(list("abc"), limit=9)) == 3
        assert [s.text for s in open_data(iter("abc"), limit=2)] == ["a", "b"]
        with pytest.raises(IndexError):
            open_data(list("abc"), limit=2)[2]
        with pytest.raises(ArgumentError, match="limit: got 0"):
            open_data(list("abc"), limit=0)

    def test_its_own_identity(self):
        class World(list):
            identity = {"world": "shapes", "seed": 3}  # noqa: RUF012

        assert open_data(World("ab")).identity["identity"] == {"world": "shapes", "seed": 3}

    def test_errors(self):
        for items, message in [
            ([], "empty list"),
            ([3], "got int as the picture"),
            ([np.zeros((2, 2, 3), dtype=np.float32)], r"float32 of shape \(2, 2, 3\)"),
            ([(1, 2)], r"got \(int, int\)"),
            ([{"a": 1}], r"columns \['a'\]"),
            ([{"text": "a", "b": object()}], "got object in column 'b'"),
            ([{"text": 3}], "got int in text column 'text'"),
            (3, "got a int"),
        ]:
            with pytest.raises(DataError, match=message):
                open_data(items)

    def test_a_data_frame_is_refused_with_a_hint(self):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame({"text": ["a"]})
        with pytest.raises(DataError, match=r"to_dict\('records'\)"):
            open_data(frame)
        assert open_data(frame.to_dict("records"))[0].text == "a"


def test_home_directory(tmp_path, monkeypatch):
    (tmp_path / "f.txt").write_text("a")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_data("~/f.txt")[0].text == "a"
    assert isinstance(open_data(Path("~/f.txt")), Source)
