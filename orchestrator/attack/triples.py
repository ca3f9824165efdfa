"""The three images of an attacked face, original, modified and amplified: written, and read back from what was written.

They are called after the face, `triples/sub/adv_face_mod.png` for the modified image of `sub/face.jpg`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dxray.attacks.engine.scoring import amplify
from dxray.models.data.images import decode, encode_png, quiet_pillow
from dxray.orchestrator.runs.buckets import Place
from dxray.orchestrator.runs.store import TRIPLE, write_image

SHORT = {"original": "ori", "modified": "mod", "amplified": "amp"}


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
            for which, place in places(name).items():
                picture = images[which][i]
                content = encode_png(picture)
                row[which] = {"bytes": content, "path": place}
                path = out / place
                if png:
                    write_image(path, content)
                if raw:
                    write_image(path.with_suffix(".raw"), picture.tobytes())
                if which != "amplified":  # which is for people to see
                    saved = path.read_bytes() if png else content
                    read_back[which].append(decode(saved, size=picture.shape[1:], channels=picture.shape[0]))
    return torch.from_numpy(np.stack(read_back["original"])), torch.from_numpy(np.stack(read_back["modified"]))


def places(name: str) -> dict[str, str]:
    """Where each image of a triple is, always below the run's folder whatever the name."""
    *folders, face = [part for part in name.split("/") if part not in ("", ".", "..")] or ["_"]
    folder = "/".join(["triples", *folders])
    return {which: f"{folder}/adv_{face}_{SHORT[which]}.png" for which in TRIPLE}
