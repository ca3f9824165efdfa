"""What `data.images` promises: the same pixels from any file, in any mode, and a reader of plain PNG that agrees."""

import io
import logging
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dxray.models.data import images
from dxray.models.data.images import UnreadableImage, decode, encode_png, fit_to
from tests.models.data.pictures import noise, saved
from tests.models.data.sources import REAL_FACES, needs_real_faces


def test_every_grey_value_survives_being_written_and_read_back() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.testing.assert_array_equal(decode(encode_png(ramp), size=16), ramp)


@pytest.mark.parametrize(
    "shape", [(48, 48), (1, 48, 48), (3, 48, 48), (1, 32, 20), (1, 1, 1), (3, 1, 1), (3, 4, 1), (3, 7, 3)]
)
def test_png_and_back_is_the_identity(shape: tuple[int, ...]) -> None:
    image = noise(*shape)
    channels = shape[0] if len(shape) == 3 else 1
    again = decode(encode_png(image), size=(shape[-2], shape[-1]), channels=channels)
    assert again.dtype == np.uint8
    assert again.flags.c_contiguous
    np.testing.assert_array_equal(again, image.reshape(channels, *shape[-2:]))


def test_a_non_contiguous_view_is_written_as_it_looks() -> None:
    view = noise(1, 40, 30).transpose(0, 2, 1)[:, ::2]
    np.testing.assert_array_equal(decode(encode_png(view), size=(15, 40)), view)


def test_png_bytes_are_deterministic_and_hold_pixels_only() -> None:
    data = encode_png(noise(1, 48, 48))
    assert data == encode_png(noise(1, 48, 48))
    with Image.open(io.BytesIO(data)) as image:
        assert (image.mode, image.size, image.info) == ("L", (48, 48), {})


def by_pillow(data: bytes, size: tuple[int, int], channels: int) -> np.ndarray:
    with images.quiet_pillow(), Image.open(io.BytesIO(data)) as image:
        return fit_to(image, size=size, channels=channels)


@pytest.mark.parametrize("shape", [(1, 48, 48), (3, 48, 48), (1, 20, 33), (3, 1, 1), (3, 300, 200)])
def test_a_plain_png_is_read_as_pillow_reads_it(shape: tuple[int, int, int]) -> None:
    channels, *size = shape
    picture = Image.fromarray(noise(*size, 3)) if channels == 3 else Image.fromarray(noise(*size))
    for data in (encode_png(noise(*shape)), saved(picture, "PNG")):
        plain = images._plain(data, channels, *size)
        assert plain is not None
        np.testing.assert_array_equal(plain, by_pillow(data, (size[0], size[1]), channels))
        np.testing.assert_array_equal(plain, decode(data, size=(size[0], size[1]), channels=channels))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_a_png_of_anything_more_is_left_to_pillow() -> None:
    """Turned by EXIF behind its pixels, as the standard allows; transparent; of other samples, channels or sizes."""
    grey, exif = encode_png(noise(1, 48, 48)), Image.Exif()
    exif[0x0112] = 3
    turned = grey[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + grey[-12:]
    np.testing.assert_array_equal(decode(turned)[0], noise(48, 48)[::-1, ::-1])
    clear = grey[:33] + chunk(b"tRNS", struct.pack(">H", 7)) + grey[33:]
    np.testing.assert_array_equal(decode(clear)[0], np.where(noise(48, 48) == 7, 255, noise(48, 48)))
    palette = saved(Image.fromarray(noise(48, 48)).convert("P"), "PNG")
    deep = saved(Image.fromarray(noise(48, 48).astype(np.uint16)), "PNG")
    for data in (turned, clear, palette, deep, encode_png(noise(3, 48, 48)), grey + b"more", grey[:40], b""):
        assert images._plain(data, 1, 48, 48) is None
    assert images._plain(grey, 3, 48, 48) is None
    assert images._plain(grey, 1, 48, 47) is None
    assert images._plain(grey, 1, 47, 48) is None


def test_a_damaged_plain_png_is_what_pillow_calls_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its compressed pixels changed, cut off, too few or too many, with the right checksum: the same pixels or reason.

    And none of it is told on standard error, as the library does where nobody listens to its log.
    """
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest listens
    rng, whole, read = np.random.default_rng(0), encode_png(noise(1, 24, 24)), Counter[bool]()
    stream = whole[41 : 41 + int.from_bytes(whole[33:37])]
    plain = images._plain
    for _ in range(150):
        changed = bytearray(stream)
        changed[rng.integers(len(stream))] = rng.integers(256)
        cut = stream[: rng.integers(len(stream))]
        other = zlib.compress(bytes(rng.integers(0, 3, rng.integers(1200), dtype=np.uint8)))
        for damaged in (bytes(changed), cut, other):
            data, said = whole[:33] + chunk(b"IDAT", damaged) + whole[-12:], []
            for way in (plain, lambda *_: None):
                monkeypatch.setattr(images, "_plain", way)
                try:
                    said.append(decode(data, size=24).tolist())
                except UnreadableImage as wrong:
                    said.append(str(wrong))
            assert said[0] == said[1]
            read[isinstance(said[0], list)] += 1
    assert min(read[True], read[False]) > 10
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (np.zeros((1, 4, 4), np.float32), "float32"),
        (np.zeros((2, 4, 4), np.uint8), r"\(2, 4, 4\)"),
        (np.zeros((1, 1, 4, 4), np.uint8), r"\(1, 1, 4, 4\)"),
        (np.zeros((1, 0, 4), np.uint8), "no pixels"),
    ],
)
def test_encode_refuses_what_is_not_an_8_bit_image(image: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        encode_png(image)


def test_grey_becomes_three_equal_channels() -> None:
    grey = noise(1, 48, 48)
    np.testing.assert_array_equal(decode(encode_png(grey), channels=3), np.repeat(grey, 3, axis=0))


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_only_grey_and_rgb_exist(channels: int) -> None:
    with pytest.raises(ValueError, match=f"channels={channels}"):
        decode(encode_png(noise(4, 4)), channels=channels)


@pytest.mark.parametrize("size", [0, (48, 0), -1])
def test_a_size_without_pixels_is_refused(size: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="size="):
        decode(encode_png(noise(4, 4)), size=size)


def test_bytes_str_and_path_read_the_same(tmp_path: Path) -> None:
    file = tmp_path / "a: b~c.png"
    file.write_bytes(encode_png(noise(60, 50)))
    for source in (file, str(file)):
        np.testing.assert_array_equal(decode(source), decode(file.read_bytes()))


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 48 * 48).reshape(48, 48).astype(np.uint16)
    expected = np.rint(ramp / 257).astype(np.uint8)
    for form in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode(saved(Image.fromarray(ramp), form))[0], expected)
    np.testing.assert_array_equal(fit_to(Image.fromarray(ramp.astype(np.int32)))[0], expected)  # mode "I"
    np.testing.assert_array_equal(fit_to(Image.fromarray(ramp.astype(">u2")))[0], expected)  # mode "I;16B"


def test_a_16_bit_copy_of_an_8_bit_image_is_that_image() -> None:
    grey = noise(48, 48)
    np.testing.assert_array_equal(decode(saved(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"))[0], grey)


def test_16_bit_transparent_value_shows_white() -> None:
    samples = np.full((48, 48), 1000, np.uint16)
    samples[:24] = 7
    data = saved(Image.fromarray(samples), "PNG", transparency=7)
    assert (decode(data)[0, :24] == 255).all()
    assert (decode(data)[0, 24:] == 4).all()


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_float_images_are_scaled_by_the_range_they_use(top: float) -> None:
    grey = np.arange(256).reshape(16, 16)
    image = Image.fromarray((grey * (top / 255)).astype(np.float32))
    assert image.mode == "F"
    np.testing.assert_array_equal(decode(saved(image, "TIFF"), size=16)[0], grey)


@pytest.mark.parametrize("value", [-1.0, 70000.0, float("nan"), float("inf")])
def test_float_images_of_unknown_range_are_refused(value: float) -> None:
    samples = np.zeros((8, 8), np.float32)
    samples[3, 3] = value
    with pytest.raises(UnreadableImage, match="samples from"):
        decode(saved(Image.fromarray(samples), "TIFF"))


def test_one_bit_becomes_black_and_white() -> None:
    bits = noise(48, 48) > 127
    np.testing.assert_array_equal(decode(saved(Image.fromarray(bits), "PNG"))[0], bits * np.uint8(255))


def test_palette_images_show_their_colours() -> None:
    image = Image.fromarray(np.arange(48 * 48).reshape(48, 48).astype(np.uint8) % 3)
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    rgb = decode(saved(image, "PNG"), channels=3)
    np.testing.assert_array_equal(rgb[:, 0, :3].T, [[0, 0, 0], [255, 0, 0], [0, 0, 255]])
    np.testing.assert_array_equal(decode(saved(image, "PNG"))[0, 0, :3], [0, 76, 29])


def test_palette_with_transparency_shows_white_there() -> None:
    image = Image.new("P", (48, 48), 0)
    image.putpalette([10, 10, 10, 200, 200, 200])
    image.paste(1, (0, 0, 24, 48))
    for transparency, left in ((1, 255), (b"\xff\x00", 255), (b"\xff\x80", 227)):
        pixels = decode(saved(image, "PNG", transparency=transparency))[0]
        assert (pixels[:, :24] == left).all()
        assert (pixels[:, 24:] == 10).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_is_white_and_opaque_is_untouched(mode: str) -> None:
    colour = noise(48, 48, len(mode) - 1)
    alpha = np.full((48, 48, 1), 255, np.uint8)
    alpha[:10] = 0
    rgb = decode(saved(Image.fromarray(np.concatenate([colour, alpha], axis=2)), "PNG"), channels=3)
    assert (rgb[:, :10] == 255).all()
    np.testing.assert_array_equal(rgb[:, 10:].transpose(1, 2, 0), np.broadcast_to(colour[10:], (38, 48, 3)))


def test_cmyk_reads_as_the_colour_it_prints() -> None:
    image = Image.new("CMYK", (60, 60), (0, 255, 255, 0))  # red
    red, green, blue = decode(saved(image, "TIFF"), channels=3).reshape(3, -1).mean(axis=1)
    assert red == 255
    assert green == blue == 0
    red, green, blue = decode(saved(image, "JPEG"), channels=3).reshape(3, -1).mean(axis=1)
    assert red > 245
    assert max(green, blue) < 10


@pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF", "WEBP"])
def test_of_an_animation_the_first_frame_is_read(form: str) -> None:
    frames = [Image.new("L", (48, 48), value) for value in (40, 200)]
    options = {"lossless": True} if form == "WEBP" else {}
    data = saved(frames[0], form, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 2  # type: ignore[attr-defined]
    assert (decode(data) == 40).all()


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, lambda pixels: pixels),
        (2, lambda pixels: pixels[:, ::-1]),
        (3, lambda pixels: pixels[::-1, ::-1]),
        (4, lambda pixels: pixels[::-1]),
        (5, lambda pixels: pixels.T),
        (6, lambda pixels: np.rot90(pixels, -1)),
        (7, lambda pixels: np.rot90(pixels, 2).T),
        (8, lambda pixels: np.rot90(pixels, 1)),
    ],
)
def test_exif_orientation_turns_the_pixels_upright(orientation: int, undo) -> None:  # type: ignore[no-untyped-def]
    stored = noise(30, 20)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = undo(stored)
    data = saved(Image.fromarray(stored), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(data, size=upright.shape)[0], upright)


def test_damaged_exif_is_ignored_without_a_warning() -> None:
    data = saved(Image.fromarray(noise(48, 48)), "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03")
    np.testing.assert_array_equal(decode(data)[0], noise(48, 48))


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 2)])
def test_tiny_and_very_wide_images_are_stretched_to_the_size(shape: tuple[int, int]) -> None:
    pixels = decode(encode_png(np.full(shape, 77, np.uint8)))
    assert pixels.shape == (1, 48, 48)
    assert (pixels == 77).all()


def test_an_image_that_is_not_square_is_squashed_whole() -> None:
    wide = np.zeros((50, 200), np.uint8)
    wide[:, :100] = 255
    pixels = decode(encode_png(wide))[0]
    assert (pixels[:, :20] == 255).all()
    assert (pixels[:, 28:] == 0).all()


def test_a_large_jpeg_is_shrunk_early_within_a_level_and_a_small_one_not_at_all() -> None:
    smooth = np.asarray(Image.fromarray(noise(40, 40)).resize((1000, 1000), Image.Resampling.BICUBIC))
    for side, most in ((1000, 2), (700, 0)):
        data = saved(Image.fromarray(smooth[:side, :side]), "JPEG", quality=95)
        with Image.open(io.BytesIO(data)) as image:
            full = fit_to(image).astype(int)
        assert np.abs(decode(data) - full).max() <= most


@needs_real_faces
def test_utkface_jpegs_become_the_published_48x48_images_bit_for_bit() -> None:
    files = sorted((REAL_FACES / "utkface_sample").glob("*.jpg"))[::25]
    names = [file.name for file in files]
    table = pq.read_table(
        REAL_FACES / "utkface48.parquet", columns=["name", "image"], filters=pc.field("name").isin(names)
    )
    published = dict(zip(table["name"].to_pylist(), table["image"].to_pylist(), strict=True))
    assert len(published) > 50
    for file in files:
        if file.name in published:
            assert decode(file).tobytes() == published[file.name]
