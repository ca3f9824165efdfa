"""What cannot be read says why, and the process is left as it was."""

import io
import os
import threading
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from dxray.models.data import images
from dxray.models.data.images import UnreadableImage, decode, encode_png
from tests.models.data.pictures import noise, png_header, saved


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"name,label\n1,2\n", "not an image: it begins with b'name,label"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"\xff\xd8\xff\xe0", "truncated or damaged within its header"),
        (png_header(0, 48), "no pixels"),
        (png_header(48, 0), "no pixels"),
        (png_header(10_001, 10_000), "10001 x 10000 pixels, more than the limit of 100 megapixels"),
        (png_header(9_500, 10_000), "^truncated: "),  # large enough for Pillow to warn, but within our limit
        (png_header(100_000, 100_000), "far more pixels than the limit of 100 megapixels"),
    ],
)
def test_bytes_that_are_no_image_say_why(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        decode(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("part", [0.01, 0.5, 0.9])
def test_a_truncated_file_is_never_half_an_image(form: str, part: float) -> None:
    data = saved(Image.fromarray(noise(64, 64, 3)), form)
    with pytest.raises(UnreadableImage, match=r"truncated|damaged"):
        decode(data[: max(6, int(part * len(data)))])


def test_half_a_jpeg_is_called_truncated() -> None:
    data = saved(Image.fromarray(noise(64, 64)), "JPEG")
    with pytest.raises(UnreadableImage, match=r"^truncated: the file ends before the picture does$"):
        decode(data[: len(data) // 2])


def test_damage_raises_nothing_but_unreadable_image() -> None:
    """Random bytes overwritten in every format: an array or UnreadableImage in one line, never anything else."""
    rng = np.random.default_rng(1)
    for form in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        whole = saved(Image.fromarray(noise(24, 24, 3)), form)
        for _ in range(40):
            data = bytearray(whole)
            for place in rng.integers(0, min(len(data), 200), 4):
                data[place] = rng.integers(0, 256)
            try:
                outcome = str(decode(bytes(data), size=8).shape)
            except UnreadableImage as error:
                outcome = str(error)
            assert outcome
            assert "\n" not in outcome


def test_paths_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, reason in {
        "absent.jpg": "does not exist",
        "folder.jpg": "a directory, not a file",
        "empty.jpg": r"an empty file \(0 bytes\)",
        "text.jpg": "not an image: it begins with b'not a pictur'",
        "link.jpg": "a link to .*gone.jpg, which does not exist",
        "pipe.jpg": "not a regular file",
        "nul\0.jpg": "not a possible file name",
        "x" * 300: "cannot be opened",
    }.items():
        with pytest.raises(UnreadableImage, match=reason):
            decode(tmp_path / name)


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret.png"
    file.write_bytes(encode_png(noise(4, 4)))

    def refuse(*_: object) -> None:  # the superuser may read everything, so a mode of 000 would test nothing there
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UnreadableImage, match="permission denied"):
        decode(file)


def test_pillows_limit_and_the_warning_filters_are_left_alone() -> None:
    before = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    decode(encode_png(noise(4, 4)))
    with pytest.raises(UnreadableImage):
        decode(png_header(9_500, 10_000))
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS) == before


@pytest.mark.parametrize("action", ["error", "always"])
def test_pillows_warnings_neither_show_nor_stop_it(action: Literal["error", "always"]) -> None:
    rgba = Image.new("RGBA", (48, 48), (9, 9, 9, 255))
    odd_exif = saved(rgba, "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)
        assert (decode(odd_exif) == 9).all()
        with pytest.raises(UnreadableImage, match=r"^truncated: "):
            decode(png_header(9_500, 10_000))
    assert caught == []


def test_overlapping_threads_restore_the_warning_filters() -> None:
    before = list(warnings.filters)
    first_in, second_in = threading.Event(), threading.Event()

    def leaves_first() -> None:
        with images.quiet_pillow():
            first_in.set()
            second_in.wait(10)

    thread = threading.Thread(target=leaves_first)
    thread.start()
    first_in.wait(10)
    with images.quiet_pillow():
        second_in.set()
        thread.join(10)
        assert list(warnings.filters) != before
    assert list(warnings.filters) == before


def test_a_heic_image_is_read_where_its_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    grey = Image.fromarray(np.full((64, 64), 77, np.uint8))
    pillow_heif.from_pillow(grey.convert("RGB")).save(buffer, quality=-1)
    content = buffer.getvalue()
    assert np.abs(decode(content).astype(int) - 77).max() <= 1
    with pytest.raises(UnreadableImage, match="truncated"):
        decode(content[:-9])
    monkeypatch.setattr(images, "_heic_is_read", lambda: False)
    with pytest.raises(UnreadableImage, match=r"a HEIC image, .* pip install 'dxray\[heic\]'"):
        decode(content)
