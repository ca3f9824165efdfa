#!/usr/bin/env bash
# pillow 13.0.0 (AVIF), pillow-heif 1.8.1 (HEIC), imagecodecs 2026.3.6 (JPEG XL), seen 2026-11-30
#
# Expected: the best quality that each offers for a small 8-bit RGB image gives it back to the bit: these
#   formats all have a lossless mode, quality 100 (in pillow-heif -1, "lossless") asks for it, and grey
#   AVIF and HEIC images and another AVIF writer at 100 (imagecodecs) do give it.
# Seen: RGB loses up to tens of levels: AVIF and HEIC halve the colour's resolution unless 4:4:4 is asked
#   for, and convert to YCbCr even then. imagecodecs' JPEG XL is exact by default, and not at level=100.
# What follows for users of face classifiers: the smallest changes that fool a net are one or two levels,
#   so an adversarial image does not survive "quality 100". A test with grey AVIF or HEIC hides this.
# For dxray: it writes PNG only, which is right; formats for an `export` must be checked by reading back.
#
# Run: bash findings/quality-100-is-not-lossless.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.bash
source "$(dirname "$0")/setup.bash"
install pillow==13.0.0 pillow-heif==1.8.1 imagecodecs==2026.3.6 numpy==2.4.6

run_python <<'PY'
import io
import sys

import imagecodecs
import numpy as np
import PIL
import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()
rows, columns = np.mgrid[0:64, 0:64]
smooth = 128 + 60 * np.sin(columns / 7) + 40 * np.cos(rows / 5)
rgb = np.stack([smooth, np.roll(smooth, 5, 0), np.roll(smooth, 9, 1)], axis=-1)
rgb = np.clip(rgb + np.random.default_rng(0).normal(0, 8, rgb.shape), 0, 255).astype(np.uint8)
grey = np.ascontiguousarray(rgb[..., 0])


def by_pillow(kind, **options):
    def through(image):
        file = io.BytesIO()
        Image.fromarray(image).save(file, kind, **options)
        return np.asarray(Image.open(file))

    return through


def by_imagecodecs(kind, **options):
    encode, decode = getattr(imagecodecs, f"{kind}_encode"), getattr(imagecodecs, f"{kind}_decode")
    return lambda image: decode(encode(image, **options))


exact = {
    "WebP, lossless=True (Pillow)": by_pillow("WEBP", lossless=True),
    "AVIF, level=100 (imagecodecs)": by_imagecodecs("avif", level=100),
    "JPEG XL, default (imagecodecs)": by_imagecodecs("jpegxl"),
}
lossy = {
    "AVIF, quality=100 (Pillow)": by_pillow("AVIF", quality=100),
    "AVIF, quality=100, 4:4:4 (Pillow)": by_pillow("AVIF", quality=100, subsampling="4:4:4"),
    "HEIC, quality=-1 (pillow-heif)": by_pillow("HEIF", quality=-1),
    "HEIC, quality=-1, 4:4:4 (pillow-heif)": by_pillow("HEIF", quality=-1, chroma=444),
    "JPEG XL, level=100 (imagecodecs)": by_imagecodecs("jpegxl", level=100),
}


def worst(through, image):
    return int(np.abs(through(image).astype(int) - image).max())


print("pillow", PIL.__version__, "pillow-heif", pillow_heif.__version__, "imagecodecs", imagecodecs.__version__)
print("expected: 0 levels of error everywhere")
errors = {name: worst(through, rgb) for name, through in (exact | lossy).items()}
for name, levels in errors.items():
    print(f"seen: {name:38} RGB off by at most {levels} levels")
for name in ("AVIF, quality=100 (Pillow)", "HEIC, quality=-1 (pillow-heif)"):
    print(f"seen: {name:38} grey off by at most {worst(lossy[name], grey)} levels")
sys.exit(0 if all(errors[name] == 0 for name in exact) and all(errors[name] > 0 for name in lossy) else 1)
PY
