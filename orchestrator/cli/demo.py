"""The verb `dxray demo`: the whole story on drawn faces: sweep, attack a folder, verify, one picture."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dxray.orchestrator.cli.options import Address, Folder, Json, Seed
from dxray.orchestrator.errors import UserError

if TYPE_CHECKING:
    from dxray.models.data.faces import Faces

FACES = 6_000
ATTACKED = 64
GRID: dict[str, list[Any]] = {"net": ["densenet", "convnet"], "filters": [8, 16], "epochs": [5], "batch_norm": [True]}


def demo(*, out: Folder = Path("runs/demo"), seed: Seed = 0, address: Address = None, json: Json = False) -> int:
    """Tell the whole story on synthetic faces, in a few minutes.

    $ dxray demo --out runs/demo

    Args:
        out: folder for the results, empty or not yet there
    """
    from dxray.models.data.faces import read
    from dxray.orchestrator.attack.attack import AttackConfig, attack
    from dxray.orchestrator.console import Console
    from dxray.orchestrator.ray.session import connected
    from dxray.orchestrator.reports.attack_report import show_attack, show_verified
    from dxray.orchestrator.reports.show import show
    from dxray.orchestrator.reports.trial_table import show_table
    from dxray.orchestrator.reports.verify import verify
    from dxray.orchestrator.runs.store import writable_folder
    from dxray.orchestrator.sweep.sweep import SweepConfig, sweep

    console = Console(as_json=json)
    out = writable_folder(out, "the demo's results")
    if any(out.iterdir()):
        raise UserError(f"'{out}' is not empty; choose another folder with --out, or delete it to see the demo again")
    started = time.perf_counter()
    with connected(address):
        console.say(f"1. faces: {FACES:,} of them, drawn, not photographs; the two classes are a convention")
        with console.share("drawing") as on_share:
            faces = read(f"synthetic:{FACES}", seed=seed, on_share=on_share)
        console.say(faces.summary())

        console.say("\n2. sweep: a small grid of nets, trained by Ray Tune")
        asked = SweepConfig(data=faces.source, data_seed=seed, grid=GRID | {"seed": [seed]})
        swept = sweep(asked, out / "sweep", console, address=address, faces=faces)
        show_table(swept["trials"], console)

        console.say(f"\n3. attack: the best net, over a folder of {ATTACKED} faces that it was not trained on")
        folder = _folder_of_faces(faces.split("test"), out / "faces")
        config = AttackConfig(paths=[str(folder)], model=str(out / "sweep"), seed=seed)
        attacked = attack(config, out / "attack", console, address=address)
        show_attack(attacked, console)

    console.say("\n4. verify: every saved image again, from its file, as anyone would load it")
    verified = verify(out / "attack", console)
    show_verified(verified, console)

    sheet = show(out / "attack", out=out)["contact_sheet"]
    best = swept["best_trial"]
    distance = attacked["distances"]["l2"]
    console.say()
    console.table(
        "the story so far",
        ["what", "figure"],
        [
            ["nets trained", f"{len(swept['trials'])}"],
            ["test accuracy of the best", f"{best['accuracy']:.1%} ({best['net']}, {best['filters']} filters)"],
            ["faces attacked", f"{attacked['inputs']}, of which the net had {attacked['right']} right"],
            ["fooled by the saved file", f"{verified['still_fools']} of {attacked['right']}"],
            ["median L2 of DX", f"{distance['median']:.3f} (pixels in [0, 1])" if distance else "-"],
            ["gradients an image", f"{attacked['gradients_per_image']:.0f}"],
            ["seconds", f"{time.perf_counter() - started:.0f}"],
        ],
    )
    if sheet:
        console.say(f"the picture: {sheet}")
    console.result({"out": str(out), "sweep": swept, "attack": attacked, "verified": verified, "contact_sheet": sheet})
    return 0 if verified["success"] else 1


def _folder_of_faces(faces: "Faces", folder: Path) -> Path:
    """The first `ATTACKED` faces as PNG files, in a folder for each class."""
    from dxray.models.data.images import encode_png
    from dxray.orchestrator.runs.store import write_image

    for image, label, name in list(zip(faces.images, faces.labels, faces.names, strict=True))[:ATTACKED]:
        write_image(folder / faces.classes[label] / f"{name.replace('/', '_')}.png", encode_png(image))
    return folder
