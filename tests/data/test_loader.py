"""Ordered, bounded, honest about errors, and gone when the consumer stops."""

import threading
import time
from dataclasses import dataclass

import pytest
from PIL import Image

from mmxai.data import Sample, Skipped, Source, Stream, load_samples, open_data
from mmxai.data.source import fingerprint
from mmxai.errors import ArgumentError, DataError, UnreadableSampleError


@dataclass
class Out:
    text: str
    index: int | None = None


class Slow(Source):
    """Early samples take longest; every fifth is unreadable where asked."""

    identity = {"kind": "slow"}  # noqa: RUF012

    def __init__(self, n, broken=False):
        self.n, self.broken, self.read = n, broken, []

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.read.append(i)
        time.sleep(0.01 if i % 4 == 0 else 0)
        if self.broken and i % 5 == 3:
            raise UnreadableSampleError(f"s{i}: broken", key=f"s{i}")
        return Sample(f"s{i}", text=f"text {i}")


def encode(sample):
    return Out(sample.text)


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("mmxai-")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not threads()


@pytest.mark.parametrize("workers,prefetch", [(1, 1), (3, 2), (4, 64)])
def test_order_index_and_counts(workers, prefetch):
    order = [7, 0, 3, 3, 19, 4, 8]
    loader = load_samples(Slow(20), order, encode=encode, workers=workers, prefetch=prefetch)
    out = list(loader)
    assert [i for i, _ in out] == order == [e.index for _, e in out]
    assert [e.text for _, e in out] == [f"text {i}" for i in order]
    assert (loader.samples, loader.skipped) == (7, 0)
    assert loader.bytes == sum(len(f"text {i}") for i in order)
    assert loader.seconds >= 0.03
    assert next(loader, None) is None


def test_all_samples_by_default():
    assert [i for i, _ in load_samples(Slow(9), encode=encode)] == list(range(9))


def test_reading_ahead_is_bounded():
    source = Slow(1000)
    with load_samples(source, encode=encode, workers=2, prefetch=5) as loader:
        for _ in range(10):
            next(loader)
        time.sleep(0.05)
        assert 10 <= len(source.read) <= 15
    assert not threads()
    assert list(loader) == []


def test_stop_raises_at_its_turn():
    loader = load_samples(Slow(10, broken=True), encode=encode)
    assert [next(loader)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UnreadableSampleError, match="s3: broken"):
        next(loader)
    assert list(loader) == []


def test_skip_yields_the_reason():
    loader = load_samples(Slow(10, broken=True), encode=encode, on_error="skip")
    out = dict(loader)
    assert list(out) == list(range(10))
    assert out[3] == Skipped(3, "s3", "s3: broken") and isinstance(out[8], Skipped)
    assert (loader.samples, loader.skipped) == (10, 2)
    assert out[3].record() == {"sample": 3, "key": "s3", "hash": "", "skipped": "s3: broken"}


def test_undecodable_pictures_are_skipped_where_they_are_decoded():
    source = open_data([b"broken", Image.new("RGB", (2, 2))])
    out = [e for _, e in load_samples(source, encode=lambda s: Out(str(s.image.size)), on_error="skip")]
    assert isinstance(out[0], Skipped) and out[1].text == "(2, 2)"


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_other_exceptions_always_propagate(on_error):
    def fails(sample):
        raise ZeroDivisionError(sample.key)

    with pytest.raises(ZeroDivisionError, match="s0"):
        next(load_samples(Slow(5), encode=fails, on_error=on_error))


def test_streams_are_pulled_in_order_by_one_thread():
    pulled_by = set()

    def items():
        for i in range(50):
            pulled_by.add(threading.current_thread().name)
            yield f"item {i}"

    def uneven(sample):
        time.sleep(0.005 if sample.key.endswith("0") else 0)
        return Out(sample.text)

    out = list(load_samples(open_data(items()), encode=uneven, workers=4, prefetch=16))
    assert [i for i, _ in out] == list(range(50)) == [e.index for _, e in out]
    assert [e.text for _, e in out] == [f"item {i}" for i in range(50)]
    assert len(pulled_by) == 1


def test_a_stream_is_not_read_to_its_end_when_the_consumer_stops():
    pulled = []

    def endless():
        while True:
            pulled.append(1)
            yield "x"

    with load_samples(open_data(endless()), encode=encode, prefetch=8) as loader:
        for _ in range(20):
            next(loader)
    assert 20 <= len(pulled) <= 29


def test_a_stream_goes_on_after_an_unreadable_sample(tmp_path):
    rows = [{"image": tmp_path / "no.png", "text": str(i)} if i == 2 else {"text": str(i)} for i in range(5)]
    rows[0] = {"image": None, "text": "0"}
    for limit in (None, 4):
        loader = load_samples(open_data(iter(rows), limit=limit), encode=encode, on_error="skip")
        out = [e for _, e in loader]
        assert len(out) == (limit or 5)
        assert isinstance(out[2], Skipped) and [e.text for e in out[3:]] == ["3", "4"][: len(out) - 3]


def test_a_generator_that_ended_at_an_error_is_not_taken_for_finished():
    def samples():
        yield Sample("a", text="a")
        raise UnreadableSampleError("b: broken", key="b")

    class Mine(Stream):
        identity = {"kind": "mine"}  # noqa: RUF012

        def __iter__(self):
            return samples()

    loader = load_samples(Mine(), encode=encode, on_error="skip")
    assert next(loader)[1].text == "a"
    with pytest.raises(DataError, match="generator ends at its first error"):
        next(loader)


def test_errors_of_a_stream_propagate():
    def items():
        yield "a"
        raise ZeroDivisionError("mine")

    loader = load_samples(open_data(items()), encode=encode)
    assert next(loader)[1].text == "a"
    with pytest.raises(ZeroDivisionError, match="mine"):
        next(loader)
    with pytest.raises(DataError, match="got int as the picture"):
        list(load_samples(open_data(iter([1])), encode=encode))


def test_refusals():
    for options in ({"workers": 0}, {"prefetch": 0}, {"on_error": "ignore"}):
        with pytest.raises(ArgumentError):
            load_samples(Slow(1), encode=encode, **options)
    with pytest.raises(ArgumentError, match="stream"):
        load_samples(open_data(iter("ab")), [1], encode=encode)


def test_fingerprint_is_stable():
    assert fingerprint(["a", "b"]) == fingerprint(iter(["a", "b"])) != fingerprint(["a", "c"])


def test_photographs(shared_data):
    source = open_data(shared_data / "coco_mini" / "val2017")
    loader = load_samples(source, encode=lambda s: Out(f"{s.image.size}"), workers=2)
    assert len(list(loader)) == 159
    assert loader.bytes == sum(p.stat().st_size for p in (shared_data / "coco_mini" / "val2017").iterdir())


def test_digits(shared_data):
    sample = open_data(shared_data / "mnist")[0]
    assert sample.image.mode == "RGB" and sample.image.size == (784, 3000)
