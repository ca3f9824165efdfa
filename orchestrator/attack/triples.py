"""The three images of an attacked face, original, modified and amplified: written, and read back from what was written.

They are called after the face, `triples/sub/adv_face_mod.png` for the modified image of `sub/face.jpg`. What is too
long for a name is shortened, and a file system that takes less still (143 bytes, few letters) gets plain names.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dxray.attacks.engine.scoring import amplify
from dxray.models.data.images import decode, encode_png, quiet_pillow
from dxray.orchestrator.errors import FULL
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.store import TRIPLE, write_image

SHORT = {"original": "ori", "modified": "mod", "amplified": "amp"}
NAME_LIMIT = 255  # bytes of a name, on nearly every file system
PATH_LIMIT = 900  # bytes of a path below the run's folder: a bucket's keys have 1,024, and Linux's paths 4,096
_FRAME = len("adv__ori.png")


def save_triples(
    out: Place,
    names: Sequence[str],
    rows: Sequence[dict[str, Any]],
    originals: Tensor,
    modified: Tensor,
    *,
    png: bool,
    raw: bool,
) -> tuple[Tensor, Tensor]:
    """Put each triple's PNG bytes and paths into its row; returns original and modified as they were read back.

    Args:
        originals, modified: uint8 (N, C, H, W), as are the two that come back.
        png: also write each image as a PNG file, which then is what is read back. raw: as row-major bytes.
    """
    triple = {"original": originals, "modified": modified, "amplified": amplify(originals, modified)}
    images = {which: pictures.numpy() for which, pictures in triple.items()}
    read_back: dict[str, list[np.ndarray]] = {which: [] for which in TRIPLE}
    with quiet_pillow():  # or it is told anew for every image
        for i, (row, name) in enumerate(zip(rows, names, strict=True)):
            pictures = {which: images[which][i] for which in TRIPLE}
            encoded = {which: encode_png(picture) for which, picture in pictures.items()}
            files = {which: [(".png", encoded[which])] if png else [] for which in TRIPLE}
            if raw:
                for which, picture in pictures.items():
                    files[which].append((".raw", picture.tobytes()))
            where = _write(out, name, files)
            for which, picture in pictures.items():
                row[which] = {"bytes": encoded[which], "path": where[which]}
                if which != "amplified":  # which is for people to see
                    saved = (out / where[which]).read_bytes() if png else encoded[which]
                    read_back[which].append(decode(saved, size=picture.shape[1:], channels=picture.shape[0]))
    return torch.from_numpy(np.stack(read_back["original"])), torch.from_numpy(np.stack(read_back["modified"]))


def _write(out: Place, name: str, files: dict[str, list[tuple[str, bytes]]]) -> dict[str, str]:
    """Write the files of a triple, each an ending and its content; returns where its images are, as `places` does.

    Where the file system refuses the name, they get a plain one: what a face is called ends no run.
    """
    try:
        return _written(out, places(name), files)
    except OSError as wrong:
        if wrong.errno in FULL:
            raise
        return _written(out, places(hashlib.sha256(name.encode()).hexdigest()[:16]), files)


def _written(out: Place, where: dict[str, str], files: dict[str, list[tuple[str, bytes]]]) -> dict[str, str]:
    for which, contents in files.items():
        for ending, content in contents:
            write_image((out / where[which]).with_suffix(ending), content)
    return where


def places(name: str) -> dict[str, str]:
    """Where each image of a triple is, always below the run's folder and of a length that can be, whatever the name."""
    *folders, face = [part for part in name.split("/") if part not in ("", ".", "..")] or ["_"]
    folders = [_within(NAME_LIMIT, folder) for folder in folders]
    face = _within(NAME_LIMIT - _FRAME, face)
    if len("/".join(["triples", *folders, face]).encode()) > PATH_LIMIT - _FRAME - 1:
        folders, face = [], _within(NAME_LIMIT - _FRAME, face, told_by=name)
    folder = "/".join(["triples", *folders])
    return {which: f"{folder}/adv_{face}_{SHORT[which]}.png" for which in TRIPLE}


def _within(limit: int, part: str, told_by: str = "") -> str:
    """A part of a path in so many bytes: a hash stands for what is cut off, or for what else tells it from others."""
    encoded = part.encode()
    if len(encoded) <= limit and not told_by:
        return part
    digest = f"-{hashlib.sha256((told_by or part).encode()).hexdigest()[:8]}"
    return encoded[: limit - len(digest)].decode(errors="ignore") + digest
