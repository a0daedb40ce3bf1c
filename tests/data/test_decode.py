"""Every kind of picture becomes upright RGB; damaged ones are unreadable samples."""

import io

import numpy as np
import pytest
from PIL import Image

from mmxai.data import Sample
from mmxai.data.decode import decode_image
from mmxai.errors import UnreadableSampleError

GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(image, kind="PNG", **options):
    out = decode_image(encoded(image, kind, **options), key="k")
    assert out.mode == "RGB"
    return np.asarray(out)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_lossless_files_come_back_equal(kind):
    image = Image.fromarray(GREY)
    options = {"lossless": True} if kind == "WEBP" else {}
    source = image.convert("RGB") if kind == "WEBP" else image
    assert (decoded(source, kind, **options) == GREY[..., None]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    upright = np.zeros((6, 10, 3), dtype=np.uint8)
    upright[0, 0] = 255
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(upright)
    if orientation in undo:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (decoded(stored, exif=exif) == upright).all()


def test_palette_and_transparency_lie_on_white():
    rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    rgba[0, 0] = (255, 0, 0, 255)
    rgba[0, 1] = (0, 0, 255, 0)
    rgba[1, :] = (0, 0, 0, 128)
    out = decoded(Image.fromarray(rgba))
    assert out[0, 0].tolist() == [255, 0, 0] and out[0, 1].tolist() == [255, 255, 255]
    assert (np.abs(out[1].astype(int) - 127) <= 1).all()
    palette = Image.fromarray(GREY).convert("RGB").quantize(16)
    assert (decoded(palette) == np.asarray(palette.convert("RGB"))).all()
    assert (decoded(palette, transparency=0)[np.asarray(palette) == 0] == 255).all()
    la = Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (8, 8), 0)])
    assert (decoded(la) == 255).all()


def test_grey_bilevel_and_cmyk():
    assert (decoded(Image.fromarray(GREY)) == GREY[..., None]).all()
    bits = Image.fromarray(GREY > 100)
    assert bits.mode == "1" and set(np.unique(decoded(bits))) == {0, 255}
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    assert (decoded(cmyk, "TIFF")[0, 0] == [255, 0, 0]).all()


def test_sixteen_bits_are_scaled_not_clipped():
    deep = GREY.astype(np.uint16) * 257
    assert (decoded(Image.fromarray(deep)) == GREY[..., None]).all()
    assert (decoded(Image.fromarray(deep), "TIFF") == GREY[..., None]).all()
    assert (decoded(Image.fromarray(deep.astype(np.int32)), "TIFF") == GREY[..., None]).all()
    assert (decoded(Image.fromarray(GREY.astype(np.float32) / 255), "TIFF") == GREY[..., None]).all()
    with pytest.raises(UnreadableSampleError, match="mode F with values from -1"):
        decoded(Image.fromarray(np.full((2, 2), -1, dtype=np.float32)), "TIFF")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated_files_are_unreadable(kind, share):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(
        UnreadableSampleError, match=r"cat\.jpg: got an image that cannot be decoded"
    ) as caught:
        decode_image(data[: int(len(data) * share)], key="cat.jpg")
    assert caught.value.key == "cat.jpg"
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"\xff\xd8\xff"])
def test_nonsense_is_unreadable(data):
    with pytest.raises(UnreadableSampleError):
        decode_image(data, key="k")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_unreadable(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 63)
    with pytest.raises(UnreadableSampleError, match="8 x 8 pixels, limit 63"):
        decode_image(encoded(Image.fromarray(GREY)), key="k")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # beyond twice the limit Pillow itself refuses
    with pytest.raises(UnreadableSampleError):
        decode_image(encoded(Image.fromarray(GREY)), key="k")


def test_a_sample_decodes_at_first_look_and_keeps_its_digest():
    sample = Sample("k", image=b"broken", text="a text")
    assert sample.text == "a text" and sample.has_image and sample.nbytes == 12
    with pytest.raises(UnreadableSampleError):
        _ = sample.image
    data = encoded(Image.fromarray(GREY))
    sample = Sample("k", image=data, text="a")
    before = sample.digest
    assert sample.image.mode == "RGB" and sample.image is sample.image
    assert sample.digest == before == Sample("other", image=data, text="a").digest


def test_digests_differ_with_content():
    image = Image.fromarray(GREY)
    samples = [
        Sample("k"),
        Sample("k", text=""),
        Sample("k", text="ab"),
        Sample("k", image=b"ab"),
        Sample("k", image=b"a", text="b"),
        Sample("k", image=image),
        Sample("k", image=image.resize((4, 16))),
        Sample("k", tokens=[1, 23]),
        Sample("k", tokens=[12, 3]),
    ]
    assert len({sample.digest for sample in samples}) == len(samples)
    assert all(len(sample.digest) == 32 for sample in samples)
    assert Sample("k", image=image).digest == Sample("k", image=image.convert("RGB")).digest
