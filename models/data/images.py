"""Image files to pixels and back: the one place that decodes and encodes.

Training, attacking, predicting and re-checking all call ``decode``, so they all see the same pixels. How any image
becomes the net's ``(channels, H, W)`` uint8, in this order:

1. the first frame, turned upright by its EXIF orientation (a damaged EXIF block is ignored, the pixels are not);
2. brought to 8 bits: 16-bit samples are divided by 257, not clipped; colour profiles are ignored;
3. laid on white where it is transparent;
4. made grey (ITU-R 601 luma) or RGB;
5. resized to the net's size with an antialiased Lanczos filter; an image that is not square is squashed, not cropped,
   because a crop can lose the chin or the hair that decides the class.

Grey before resizing, and Lanczos, were chosen by measurement: on 1,500 UTKFace JPEGs of 200x200 they reproduce the
published 48x48 grey images bit for bit. Resizing first differs by 0.18 grey levels on average, bicubic by 0.68,
Hamming by 1.26, box by 1.52, bilinear by 1.89.
"""

import io
import logging
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from re import DOTALL, match
from re import compile as regex
from typing import BinaryIO, NamedTuple

import numpy as np
from imagecodecs import PNG, PngError, png_decode, png_encode
from PIL import Image, ImageOps


class _Kind(NamedTuple):
    """A kind of image file: Pillow's reader of it, the endings of its names, and how its bytes begin."""

    reader: str
    suffixes: str
    magic: bytes


# The one list of what is read. Pillow has further readers, but some start external programs (EPS runs Ghostscript) or
# are of no pictures. HEIC is read by the package pillow-heif where that is installed (`dxray[heic]`).
_HEIC = _Kind("HEIF", ".heic .heif .hif", rb".{4}ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1)")
_KINDS = (
    _Kind("JPEG", ".jpg .jpeg .jpe .jfif", rb"\xff\xd8\xff"),
    _Kind("MPO", ".mpo", rb"\xff\xd8\xff"),
    _Kind("PNG", ".png .apng", rb"\x89PNG"),
    _Kind("GIF", ".gif", rb"GIF8[79]a"),
    _Kind("BMP", ".bmp .dib", rb"BM.{4}\0{4}"),
    _Kind("TIFF", ".tif .tiff", rb"II[*+]\0|MM\0[*+]"),
    _Kind("WEBP", ".webp", rb"RIFF.{4}WEBP"),
    _Kind("PPM", ".ppm .pgm .pbm .pnm", rb"P[1-6][\s#]"),
    _Kind("AVIF", ".avif", rb".{4}ftypavi[fs]"),
    _HEIC,
)
IMAGE_SUFFIXES = frozenset(" ".join(kind.suffixes for kind in _KINDS).split())
_MAGIC = regex(b"|".join(kind.magic for kind in _KINDS), DOTALL)
BEGINNING = 24  # bytes that tell the kind
PIXEL_LIMIT = 100_000_000  # a few kilobytes of PNG can claim to be gigabytes of pixels
BACKGROUND = (255, 255, 255, 255)  # what shows through where an image is transparent

# The beginning of a PNG, to the end of its first chunk, and its last chunk: https://www.w3.org/TR/png-3/#11Chunks
_HEADER = struct.Struct(">8sI4sIIBBBBBI")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPE = {1: 0, 3: 2}
_IEND = b"\0\0\0\0IEND\xaeB`\x82"
# What it has to say of pixels that it gives all the same (a wrong checksum) is for who asks for it by `logging`.
logging.getLogger("imagecodecs").addHandler(logging.NullHandler())
# A JPEG decoder shrinks 2, 4 or 8 times at a tenth of the cost, but with a poorer filter than Lanczos. What that
# changes in the result, in grey levels: 0.31 on average and up to 10 where the shrunk image is still 2x the target,
# 0.17 and 3 at 4x, 0.10 and 1 at 8x.
_DRAFT = 8


class UnreadableImage(ValueError):
    """An image that cannot be decoded; ``str()`` is the reason in one short sentence, without the file's name."""


def decode(source: bytes | Path | str, *, size: tuple[int, int] | int = 48, channels: int = 1) -> np.ndarray:
    """Read an image file, or the bytes of one, as uint8 ``(channels, H, W)`` in 0..255.

    ``size`` is ``(H, W)`` or the side of a square; ``channels`` is 1 (grey) or 3 (RGB). An 8-bit grey image that
    already has the size comes back bit for bit. Raises ``UnreadableImage`` with the reason, never a warning.
    """
    height, width = height_width(size)
    if isinstance(source, bytes) and (pixels := _plain(source, channels, height, width)) is not None:
        return pixels
    with quiet_pillow(), open_source(source) as handle, _opened(handle) as image:
        columns, rows = image.size
        if columns * rows > PIXEL_LIMIT:
            raise UnreadableImage(f"{columns} x {rows} pixels, more than the limit of {_megapixels(PIXEL_LIMIT)}")
        shrunk = _DRAFT * max(height, width)  # of the longer side: EXIF may still swap the two
        image.draft(None, (shrunk, shrunk))
        try:
            image.load()
            return fit_to(_upright(image), size=size, channels=channels)
        except (UnreadableImage, MemoryError):
            raise
        except (
            Exception
        ) as error:  # Pillow's readers raise whatever their parsing tripped over, from OSError to KeyError
            if isinstance(error, EOFError) or any(word in str(error) for word in ("truncated", "end of file")):
                raise UnreadableImage("truncated: the file ends before the picture does") from error
            raise UnreadableImage(f"a damaged {image.format} file ({one_line(error)})") from error


def _plain(content: bytes, channels: int, height: int, width: int) -> np.ndarray | None:
    """The pixels of a PNG such as ``encode_png`` makes of that shape; None for any other file, and for a damaged one.

    Nothing in such a file could turn it, colour it or make it transparent: it has no chunks but IHDR, IDAT and IEND.
    Pillow gives the same pixels, and takes two to three times as long (`tests.bench.storage`).
    """
    if len(content) < _HEADER.size:
        return None
    *form, _ = _HEADER.unpack_from(content)
    if form != [_SIGNATURE, 13, b"IHDR", width, height, 8, _COLOUR_TYPE.get(channels), 0, 0, 0]:
        return None
    at = _HEADER.size
    while content[at + 4 : at + 8] == b"IDAT":
        at += 12 + int.from_bytes(content[at : at + 4])
    if content[at:] != _IEND:
        return None
    try:
        pixels = png_decode(content)
    except PngError:
        return None
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def fit_to(image: Image.Image, *, size: tuple[int, int] | int = 48, channels: int = 1) -> np.ndarray:
    """An opened Pillow image of any mode as uint8 ``(channels, H, W)``: steps 2 to 5 above.

    Raises ``UnreadableImage`` if it has no pixels or samples of an unknown range.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: expected 1 (grey) or 3 (RGB)")
    height, width = height_width(size)
    if 0 in image.size:
        raise UnreadableImage("no pixels: its width or height is 0")
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode or image.has_transparency_data:
        image = _eight_bits(image).convert(mode)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    pixels = np.array(image)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def encode_png(image: np.ndarray) -> bytes:
    """uint8 ``(1 | 3, H, W)`` or ``(H, W)`` as the bytes of a PNG: lossless, no metadata, the same bytes every time.

    Raises ``ValueError`` for any other type or shape: a float image must be rounded to k/255 by its owner first.
    """
    if image.dtype != np.uint8:
        raise ValueError(f"an image of {image.dtype}: expected uint8, rounded and scaled to 0..255")
    pixels = image[0] if image.ndim == 3 and image.shape[0] == 1 else image
    if pixels.ndim == 3 and pixels.shape[0] == 3:
        pixels = pixels.transpose(1, 2, 0)
    elif pixels.ndim != 2:
        raise ValueError(f"an image of shape {image.shape}: expected (1, H, W), (3, H, W) or (H, W)")
    if pixels.size == 0:
        raise ValueError(f"an image of shape {image.shape} has no pixels")
    # Runs are all that is looked for: in photographs there is hardly more to be found. Seen: grey faces of 48x48, their
    # amplified changes and colour faces of 200x200 get smaller than by the usual strategy, in 0.3 to 0.7 of the time.
    # And a copy, for the strides must be the usual ones, even where an axis has length 1.
    return bytes(png_encode(pixels.copy(), strategy=PNG.STRATEGY.RLE, filter=PNG.FILTER.ALL))


def one_line(error: BaseException, length: int = 300) -> str:
    """What ``error`` says, short and without line breaks, to stand inside a sentence."""
    return " ".join(str(error).split())[:length] or type(error).__name__


def height_width(size: tuple[int, int] | int) -> tuple[int, int]:
    """``size`` as ``(H, W)``: a single number is the side of a square. Raises ``ValueError`` unless both are >= 1."""
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size={size}: expected a height and width of at least 1 pixel")
    return height, width


def looks_encoded(data: bytes) -> bool:
    """Whether ``data`` begins like an image file of a kind that is read (it may still be damaged)."""
    return _MAGIC.match(data) is not None


def is_image_by_name(name: str) -> bool | None:
    """Whether the file called ``name`` is taken for an image; None where it has no ending, and its beginning tells."""
    ending = suffix_of(name)
    return ending.lower() in IMAGE_SUFFIXES if ending else None


def beginning_of(path: str | Path) -> bytes:
    """As much of a file as tells its kind; nothing of what is no file, or may not be read."""
    try:
        with open_source(path) as file:
            return file.read(BEGINNING)
    except (UnreadableImage, OSError):
        return b""


def suffix_of(name: str) -> str:
    """As `Path.suffix`, which takes ten times as long."""
    start, _, end = name.rpartition(".")
    return f".{end}" if end and "/" not in end and start and not start.endswith("/") else ""


class _Quiet:
    """How many calls are inside ``quiet_pillow`` now, and what undoes it when the last one leaves."""

    lock = threading.Lock()
    depth = 0
    restore = ExitStack()


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Ignore Pillow's own warnings (odd EXIF, odd palettes, big images): what matters is raised instead.

    ``warnings.catch_warnings`` alone is not safe here: threads that overlap would restore one another's filters in
    the wrong order and leave them changed for good. So the first one in sets them and the last one out restores them.
    """
    with _Quiet.lock:
        if _Quiet.depth == 0:
            _Quiet.restore.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        _Quiet.depth += 1
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.depth -= 1
            if _Quiet.depth == 0:
                _Quiet.restore.close()


def open_source(source: bytes | Path | str) -> BinaryIO:
    """A handle on non-empty bytes. Raises ``UnreadableImage`` for what is not there, not a file, closed or empty."""
    if isinstance(source, bytes | bytearray | memoryview):
        if len(source) == 0:
            raise UnreadableImage("empty: 0 bytes")
        return io.BytesIO(source)
    try:
        # Looked at before it is opened: opening a pipe would wait for ever.
        status = Path(source).stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableImage("a directory, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage("not a regular file")
        if status.st_size == 0:
            raise UnreadableImage("an empty file (0 bytes)")
        return Path(source).open("rb")
    except FileNotFoundError as error:
        if Path(source).is_symlink():
            raise UnreadableImage(f"a link to {Path(source).readlink()}, which does not exist") from error
        raise UnreadableImage("does not exist") from error
    except PermissionError as error:
        raise UnreadableImage("permission denied") from error
    except OSError as error:
        raise UnreadableImage(f"cannot be opened ({error.strerror})") from error
    except ValueError as error:
        if isinstance(error, UnreadableImage):
            raise
        raise UnreadableImage("not a possible file name") from error  # a NUL character


def _opened(handle: BinaryIO) -> Image.Image:
    """The image with its header read and its pixels not yet. Raises ``UnreadableImage``."""
    try:
        return _read_by(handle, _readers())
    except UnreadableImage as error:
        start = _beginning(handle)
        if not match(_HEIC.magic, start, DOTALL):
            raise
        if not _heic_is_read():
            raise UnreadableImage(
                "a HEIC image, for which the package pillow-heif is missing: pip install 'dxray[heic]'"
            ) from error
        return _read_by(handle, (_HEIC.reader,))


def _read_by(handle: BinaryIO, readers: tuple[str, ...]) -> Image.Image:
    try:
        return Image.open(handle, formats=readers)
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"far more pixels than the limit of {_megapixels(PIXEL_LIMIT)}") from error
    except MemoryError:
        raise
    except Exception as error:  # as in decode
        start = _beginning(handle)
        if start.startswith(b"\x89PNG") and len(start) == 24 and bytes(4) in (start[16:20], start[20:24]):
            raise UnreadableImage("no pixels: its width or height is 0") from error
        if looks_encoded(start):
            raise UnreadableImage("truncated or damaged within its header") from error
        raise UnreadableImage(f"not an image: it begins with {start[:12]!r}") from error


def _beginning(handle: BinaryIO) -> bytes:
    handle.seek(0)
    return handle.read(BEGINNING)


@cache
def _readers() -> tuple[str, ...]:
    """Those of ``_KINDS`` that the installed Pillow has: AVIF and WebP depend on how it was built."""
    Image.init()
    return tuple(kind.reader for kind in _KINDS if kind is not _HEIC and kind.reader in Image.OPEN)


@cache
def _heic_is_read() -> bool:
    """Whether the package for HEIC is there; it is loaded at the first such image, for most folders have none."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _upright(image: Image.Image) -> Image.Image:
    """``image`` turned by its EXIF orientation, if that can be read."""
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # a damaged EXIF block raises many kinds of error; the pixels are whole
        return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """``image`` of any mode as opaque "L" or "RGB"."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scaled(image)
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), over).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """A one-channel image of more than 8 bits as "L", rounded.

    Integers are 16-bit samples, 0..65535. Floats do not say their range: it is the smallest of 0..1, 0..255 and
    0..65535 that holds them all. Samples beyond that raise ``UnreadableImage``: any scale for them would be a guess.
    """
    samples = np.array(image, dtype=np.float64)
    low, high = float(samples.min()), float(samples.max())
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    whole = next((top for top in ranges if low >= 0 and high <= top), None)
    if whole is None:
        raise UnreadableImage(f"samples from {low:g} to {high:g}: expected 0 to {ranges[-1]:g}")
    if isinstance(clear := image.info.get("transparency"), int):  # 16-bit PNG: one grey value stands for transparent
        samples[samples == clear] = whole
    return Image.fromarray(np.rint(samples * (255.0 / whole)).astype(np.uint8))


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:g} megapixels"
