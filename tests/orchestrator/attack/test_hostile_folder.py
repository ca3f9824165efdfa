"""A folder with everything in it that one may hold: a row each, the right reason each, and the good ones done."""

import io
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dxray.models.data.faces import Faces
from dxray.models.data.images import encode_png
from dxray.models.victims.checkpoint import ModelCard
from dxray.orchestrator.attack import decoding as contents_module
from dxray.orchestrator.attack.decoding import Content, contents
from dxray.orchestrator.attack.inputs import Input, list_inputs
from dxray.orchestrator.runs.store import read_rows

CARD = ModelCard("convnet", {}, ("male", "female"))
Said = tuple[int, str, str]


def face(size: tuple[int, int] = (60, 50), mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(image: Image.Image, kind: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of some bytes that says it is 50,000 pixels wide and high."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + encoded(face(), "PNG")[33:]


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(face(), "JPEG", exif=exif)


def sixteen_bits() -> bytes:
    return encoded(Image.fromarray(np.arange(48 * 48, dtype=np.uint16).reshape(48, 48) * 20), "PNG")


def transparent() -> bytes:
    image = face().quantize(16)
    return encoded(image, "PNG", transparency=0)


READABLE: dict[str, Callable[[], bytes]] = {
    "cmyk.jpg": lambda: encoded(face(mode="CMYK"), "JPEG"),
    "sixteen bits.png": sixteen_bits,
    "transparent.png": transparent,
    "animated.gif": lambda: encoded(face(), "GIF", save_all=True, append_images=[face()]),
    "rotated.jpg": rotated,
    "one pixel.png": lambda: encoded(face((1, 1)), "PNG"),
    "wide.png": lambda: encoded(face((20_000, 30)), "PNG"),
    'it\'s a "quote".png': lambda: encoded(face(), "PNG"),
    "new\nline.png": lambda: encoded(face(), "PNG"),
    "a/same.png": lambda: encoded(face(), "PNG"),
    "b/same.png": lambda: encoded(face(), "PNG"),
    "a/same.jpg": lambda: encoded(face(), "JPEG"),
}
BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "truncated.png": (lambda: encoded(face(), "PNG")[:-2000], "truncated"),
    "truncated.jpg": (lambda: encoded(face(), "JPEG")[:-800], "truncated"),
    "empty.png": (lambda: b"", "an empty file"),
    "text.jpg": (lambda: b"this is no picture", "not an image"),
    "bomb.png": (bomb, "100 megapixels"),
}


@pytest.fixture
def hostile(tmp_path: Path, faces: Faces) -> Path:
    folder = tmp_path / "faces"
    for name in ("good", "a", "b", "folder.jpg"):
        (folder / name).mkdir(parents=True)
    for image, name in zip(faces.images[:50], faces.names, strict=False):
        (folder / "good" / f"{name}.png").write_bytes(encode_png(image))
    for name, make in READABLE.items():
        (folder / name).write_bytes(make())
    for name, (make, _) in BROKEN.items():
        (folder / name).write_bytes(make())
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.png")
    return folder


REASONS = {name: reason for name, (_, reason) in BROKEN.items()} | {
    "dangling.png": "a link to nowhere.png, which does not exist",
    "loop.png": "Too many levels of symbolic links",
    "pipe.png": "not a regular file",
    "folder.jpg": "a directory, not a file",
}


@pytest.mark.usefixtures("local_ray")
def test_each_has_one_row_and_the_good_ones_are_done(
    hostile: Path, trained: Path, tmp_path: Path, dxray: Callable[..., Said]
) -> None:
    bytes_name = os.fsencode(hostile) + b"/\xff\xfe.png"
    try:
        Path(os.fsdecode(bytes_name)).write_bytes(encoded(face(), "PNG"))
    except OSError:
        bytes_name = b""  # this file system knows UTF-8 names only
    code, said, errors = dxray("attack", hostile, "--model", trained, "--out", tmp_path / "out")
    assert code == 0, errors
    rows = {row["name"]: row for row in read_rows(tmp_path / "out")}
    assert len(rows) == 50 + len(READABLE) + len(REASONS) + bool(bytes_name)
    for name, reason in REASONS.items():
        assert rows[name]["status"] == "unreadable", name
        assert reason in rows[name]["reason"], name
        assert rows[name]["modified"] is None
    done = {"fooled", "missed", "already_wrong"}
    assert {rows[name]["status"] for name in READABLE} <= done
    assert {row["status"] for name, row in rows.items() if name.startswith("good/")} <= done
    assert re.search(rf"unreadable\W+{len(REASONS)}\W+not an image that can be read", said)
    files = sorted(path.name for path in (tmp_path / "out" / "triples").rglob("*.png"))
    assert len(files) == 3 * (len(rows) - len(REASONS))
    if bytes_name:
        assert rows["\\xff\\xfe.png"]["status"] in done
    code, _, _ = dxray("attack", hostile, "--model", trained, "--out", tmp_path / "out", "--strict")
    assert code == 1


def content(path: Path) -> Content:
    (found,) = contents([Input(path.name, os.fsencode(path), None, path.stem, None)], CARD)
    return found


def test_a_file_that_has_gone_since_it_was_listed_is_said(tmp_path: Path) -> None:
    assert content(tmp_path / "x.png").reason == "does not exist"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"x")
    (tmp_path / "x.png").chmod(0)
    assert content(tmp_path / "x.png").reason == "permission denied"
    (tmp_path / "faces" / "locked").mkdir(parents=True)
    (tmp_path / "faces" / "locked" / "x.png").touch()
    (tmp_path / "faces" / "locked").chmod(0)
    items = list(list_inputs([tmp_path / "faces"], classes=CARD.classes))
    assert [item.name for item in items] == ["locked"]
    assert [found.reason for found in contents(items, CARD)] == [
        "a folder whose images may not be listed (permission denied)"
    ]
    (tmp_path / "faces" / "locked").chmod(0o700)


def test_a_file_too_large_to_be_a_face_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents_module, "MOST", 2**20)
    with (tmp_path / "x.png").open("wb") as file:
        file.truncate(2**20 + 1)
    assert content(tmp_path / "x.png").reason == "more than 1 MiB, the limit for a file"
