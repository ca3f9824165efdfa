"""The verb `dxray predict`."""

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from dxray.orchestrator.cli.options import Folder, Json, Net, PathText


def predict(
    *images: Annotated[PathText, Parameter(required=True)],
    model: Net,
    show: bool = False,
    out: Folder | None = None,
    json: Json = False,
) -> int:
    """Say the class of images, and how sure the net is.

    $ dxray predict face.png other.jpg --model runs/sweep

    Args:
        images: files
        show: open each picture
        out: also write the answers to DIR/predictions.parquet
    """
    import torch

    from dxray.models.data.images import UnreadableImage
    from dxray.models.victims.predict import predict as predicted
    from dxray.orchestrator.console import Console
    from dxray.orchestrator.reports.attack_report import open_picture
    from dxray.orchestrator.runs.store import writable_folder, write_records
    from dxray.orchestrator.runs.working_copy import load_net

    console = Console(as_json=json)
    net, card = load_net(model)
    if out:
        out = writable_folder(out, "the answers")
    torch.set_num_threads(1)  # for few images at a time: several threads would mostly wait for each other
    found = []
    for image in console.over("predicting", images, "images"):
        row: dict[str, Any] = {"image": image, "class": None, "probability": None, "error": None}
        found.append(row)
        try:
            said = predicted(net, card, Path(image))
        except UnreadableImage as wrong:
            row["error"] = str(wrong)
            sys.stderr.write(f"dxray: {image}: {wrong}\n")
            continue
        row |= {"class": said.name, "probability": said.probability}
        console.say(f"{image}: {said.name} ({said.probability:.2%})")
        if show:
            open_picture(Path(image))
    if out:
        write_records(out / "predictions.parquet", found)
    console.result({"model": model, "net_sha256": card.sha256, "images": found})
    return 1 if any(row["error"] for row in found) else 0
