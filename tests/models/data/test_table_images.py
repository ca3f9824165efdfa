"""What a column of images may hold: training and attacks read the same, and what is no image is refused by name."""

import io
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dxray.models.data.faces import FacesError, read
from dxray.models.victims.checkpoint import ModelCard
from dxray.orchestrator.attack.decoding import Content, contents
from dxray.orchestrator.attack.inputs import list_inputs
from dxray.orchestrator.errors import UserError
from tests.models.data.sources import image, png, raw_table

CARD = ModelCard("convnet", {}, ("male", "female"))


def attacked(spec: str) -> list[Content]:
    return list(contents(list(list_inputs([spec], classes=CARD.classes)), CARD))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.string_view(), "dictionary"])
def test_text_is_the_path_of_a_file_beside_the_table(kind: Any, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    paths = [f"faces/{i:06d}.png" for i in range(4)]  # of 16 characters, which once were a grey square of 4 x 4
    paths = [path.replace("png", "jpg") for path in paths]
    for i, path in enumerate(paths[:3]):
        (tmp_path / path).write_bytes(png(i))
    paths[2] = str(tmp_path / paths[2])
    column = pa.array(paths).dictionary_encode() if kind == "dictionary" else pa.array(paths).cast(kind)
    spec = raw_table(tmp_path / "t.parquet", 4, image=column)
    expected = np.stack([image(i) for i in range(3)])
    result = read(spec)
    np.testing.assert_array_equal(result.images, expected)
    assert result.skipped == (("face003", "does not exist"),)
    found = attacked(spec)
    np.testing.assert_array_equal(np.stack([one.pixels for one in found if one.pixels is not None]), expected)
    assert found[3].reason == "does not exist"


def test_a_path_that_windows_wrote_is_found(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "a.png").write_bytes(png(0))
    spec = raw_table(tmp_path / "t.parquet", 2, image=["faces\\a.png"] * 2)
    assert len(read(spec)) == 2


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("https://example.org/a.png", "a URL ('https://example.org/a.png'), which is not opened"),
        (f"data:image/png;base64,{b64encode(png(0)).decode()}", "a URL ('data:image/png;base64"),
        ("s3://bucket/a.png", "a URL"),
        (b64encode(png(0)).decode(), "an image written out as base64"),
        (b64encode(png(0)), "an image written out as base64"),
        (png(0).hex(), "an image written out as hexadecimal digits"),
        (repr(png(0)), "bytes written out as text"),
    ],
)
def test_what_is_neither_image_nor_path_is_refused_by_name(cell: str | bytes, said: str, tmp_path: Path) -> None:
    spec = raw_table(tmp_path / "t.parquet", 2, image=[cell, cell])
    for refused, reader in ((FacesError, read), (UserError, attacked)):
        with pytest.raises(refused) as caught:
            reader(spec)
        assert said in str(caught.value)
        assert "expected encoded images or paths of files" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_one_url_among_paths_is_a_row_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    spec = raw_table(tmp_path / "t.parquet", 3, image=["a.png", "a.png", "http://example.org/a.png"])
    assert [why for _, why in read(spec).skipped] == [attacked(spec)[2].reason]
    assert "a URL" in str(attacked(spec)[2].reason)


def test_one_row_of_another_length_among_raw_pixels_has_a_reason(tmp_path: Path) -> None:
    cells = [image(i).tobytes() for i in range(10)]
    cells[1], cells[3], cells[4] = bytes(2303), b"", png(4)
    spec = raw_table(tmp_path / "t.parquet", 10, image=cells)
    result, found = read(spec), attacked(spec)
    assert result.skipped == (
        ("face001", "2,303 bytes, expected 2,304 (48 x 48 grey pixels)"),
        ("face003", "empty: 0 bytes"),
    )
    assert [one.reason for one in found if one.reason] == [why for _, why in result.skipped]
    np.testing.assert_array_equal(result.images, np.stack([one.pixels for one in found if one.pixels is not None]))


@pytest.mark.parametrize("size", [48, 24])
def test_raw_pixels_at_any_size_are_read_by_training_and_attack_alike(size: int, tmp_path: Path) -> None:
    pixels = [image(i, side=size) for i in range(3)]
    for kind in (pa.binary(), pa.binary(size * size)):
        spec = raw_table(tmp_path / "t.parquet", 3, image=pa.array([one.tobytes() for one in pixels], kind))
        found = np.stack([one.pixels for one in attacked(spec) if one.pixels is not None])
        np.testing.assert_array_equal(read(spec).images, found)


@pytest.mark.parametrize("form", ["AVIF", "PPM", "TIFF", "HEIF", "JPEG", "GIF", "BMP", "WEBP"])
def test_every_kind_of_cell_is_read_by_training_and_attack_alike(form: str, tmp_path: Path) -> None:
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    cells = []
    for i in range(4):
        buffer = io.BytesIO()
        Image.fromarray(image(i)[0]).save(buffer, form)
        cells.append(buffer.getvalue())
    spec = raw_table(tmp_path / "t.parquet", 4, image=cells)
    found = attacked(spec)
    assert [one.reason for one in found] == [None] * 4
    np.testing.assert_array_equal(read(spec).images, np.stack([one.pixels for one in found if one.pixels is not None]))
