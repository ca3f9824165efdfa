"""dxray: find, save and check the small change that fools a face classifier.

    import dxray

    net = dxray.load("runs/sweep")
    images, labels = dxray.read("faces/", net)
    modified = dxray.dx(net, images, labels, norm="l2")
    dxray.score(net, images, modified, labels).show()

What a name needs (torch, pandas, Ray) is imported when the name is first used, so that `import dxray` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dxray.api import attack_folder as attack_folder
    from dxray.api import load as load
    from dxray.api import read as read
    from dxray.api import results as results
    from dxray.api import retrain as retrain
    from dxray.api import score as score
    from dxray.api import sweep as sweep
    from dxray.attacks.apgd import apgd as apgd
    from dxray.attacks.ddn import ddn as ddn
    from dxray.attacks.deepfool import deepfool as deepfool
    from dxray.attacks.dx.minimal import dx as dx
    from dxray.attacks.dx.penalty import dx_penalty as dx_penalty
    from dxray.attacks.fgsm import fgsm as fgsm
    from dxray.attacks.hopskipjump import hopskipjump as hopskipjump
    from dxray.attacks.jsma import jsma as jsma
    from dxray.attacks.pgd import pgd as pgd
    from dxray.attacks.robust import robust as robust
    from dxray.attacks.square import square as square
    from dxray.models.data.faces import FacesError as FacesError
    from dxray.models.victims.checkpoint import CheckpointError as CheckpointError
    from dxray.orchestrator.errors import UserError as UserError

__version__ = "0.1.0"

_ATTACKS = (
    "apgd",
    "ddn",
    "deepfool",
    "dx",
    "dx_penalty",
    "fgsm",
    "hopskipjump",
    "jsma",
    "pgd",
    "robust",
    "square",
)
# Name -> the module that it comes from. None may be called like a module or package of `dxray`, which would hide it.
_HOMES = {
    **dict.fromkeys(("attack_folder", "load", "read", "results", "retrain", "score", "sweep"), "dxray.api"),
    **dict.fromkeys(_ATTACKS, "dxray.attacks"),
    "CheckpointError": "dxray.models.victims.checkpoint",
    "FacesError": "dxray.models.data.faces",
    "UserError": "dxray.orchestrator.errors",
}
__all__ = ["__version__", *_HOMES]  # the names of the table, which are texts


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dxray' has no attribute '{name}'")
    found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found  # the next time Python finds it by itself
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
