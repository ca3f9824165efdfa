"""The attacks of other libraries as `tests.bench.attacks` runs them, each at a fair setting, and a training of ART.

They are installed into a folder of their own, never into the project's environment:

    python -m venv BUILD && BUILD/bin/pip install "setuptools<81" wheel
    BUILD/bin/pip install --no-build-isolation --no-deps --target PEERS adv-lib==0.2.8
    BUILD/bin/pip install --no-deps --target PEERS foolbox==3.3.4 eagerpy==0.30.0 torchattacks==3.5.1 \\
        adversarial-robustness-toolbox==1.20.1 scipy scikit-learn narwhals joblib threadpoolctl six \\
        cloudpickle GitPython gitdb smmap requests tqdm

Of the last line joblib needs cloudpickle, foolbox needs GitPython (with gitdb and smmap) and requests, ART and adv-lib
need tqdm. adv-lib imports torchvision and visdom for parts that are not used here; stand-ins take their place.
"""

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

Run = Callable[[nn.Module, Tensor, Tensor], Tensor]  # images float32 (N, C, H, W) and labels to images, not rounded


class Peer(NamedTuple):
    name: str
    norm: str
    run: Run
    batch: int


def load(folder: Path) -> None:
    """Make the libraries in `folder` importable; ModuleNotFoundError names the one that is missing."""
    sys.path.insert(0, str(folder))
    for absent in ("visdom", "torchvision", "torchvision.models"):
        stand_in: Any = types.ModuleType(absent)
        stand_in.Visdom = stand_in.models = stand_in
        sys.modules.setdefault(absent, stand_in)
    for name in ("adv_lib", "foolbox", "torchattacks", "art"):
        importlib.import_module(name)


def minimal(batch: int) -> list[Peer]:
    """Attacks that look for the smallest change."""
    inf = float("inf")
    return [
        Peer("DDN 100, levels=256 (adv-lib)", "l2", _adv_lib("decoupled_direction_norm", "ddn", levels=256), batch),
        Peer(
            "DDN 300, levels=256 (adv-lib)",
            "l2",
            _adv_lib("decoupled_direction_norm", "ddn", steps=300, levels=256),
            batch,
        ),
        Peer("FMN L2 100 (adv-lib)", "l2", _adv_lib("fast_minimum_norm", "fmn", norm=2.0, steps=100), batch),
        Peer("SuperDeepFool (adv-lib)", "l2", _adv_lib("superdeepfool", "sdf"), batch),
        Peer("FMN Linf 100 (adv-lib)", "linf", _adv_lib("fast_minimum_norm", "fmn", norm=inf, steps=100), batch),
        Peer("PDPGD Linf 200 (adv-lib)", "linf", _pdpgd(inf), batch),
        *(
            Peer(f"PGD 20 at {level}/255 (torchattacks)", "linf", _torchattacks("PGD", eps=level / 255, steps=20,
                 alpha=level / 255 / 4), batch)
            for level in (1, 2, 3, 4)
        ),
        Peer("PGD 20, ever larger (torchattacks)", "linf", _pgd_in_turn, batch),
        Peer("PDPGD L1 200 (adv-lib)", "l1", _pdpgd(1.0), batch),
        Peer("FMN L1 100 (adv-lib)", "l1", _adv_lib("fast_minimum_norm", "fmn", norm=1.0, steps=100), batch),
        Peer("EAD 5 x 200 (foolbox)", "l1", _foolbox("EADAttack", binary_search_steps=5, steps=200,
             decision_rule="L1"), batch),
        Peer("sigma-zero 200 (adv-lib)", "l0", _adv_lib("sigma_zero", "sigma_zero", num_steps=200), batch),
        Peer("FMN L0 100 (adv-lib)", "l0", _adv_lib("fast_minimum_norm", "fmn", norm=0.0, steps=100), batch),
    ]  # fmt: skip


def within(norm: str, eps: float, batch: int) -> list[Peer]:
    """Attacks within a fixed budget of "linf" or "l2", in [0, 1] pixel units."""
    found = [
        Peer("APGD-ce 100 (torchattacks)", norm, _torchattacks("APGD", norm={"linf": "Linf", "l2": "L2"}[norm],
             eps=eps, steps=100), batch),
        Peer("APGD-ce 100 (ART)", norm, _art("AutoProjectedGradientDescent", norm={"linf": float("inf"), "l2": 2}[norm],
             eps=eps, eps_step=eps / 4, max_iter=100, nb_random_init=1, loss_type="cross_entropy", verbose=False,
             batch_size=batch), batch),
    ]  # fmt: skip
    if norm == "linf":
        found.append(Peer("PGD 40 (torchattacks)", norm, _torchattacks("PGD", eps=eps, alpha=eps / 8, steps=40), batch))
    return found


def madry_pgd(
    net: nn.Module, images: np.ndarray, labels: np.ndarray, *, eps: float, epochs: int, batch_size: int, lr: float
) -> None:
    """Train `net` in place by ART's `AdversarialTrainerMadryPGD`, at the paper's 7 steps of a quarter of `eps`.

    images, labels: uint8 (N, C, H, W) and int64 (N,). The optimizer is Adam, the rate `lr` throughout, as ART has no
    schedule; nothing is augmented.
    """
    estimators: Any = importlib.import_module("art.estimators.classification")
    trainer: Any = importlib.import_module("art.defences.trainer")
    model = estimators.PyTorchClassifier(
        net,
        nn.CrossEntropyLoss(),
        images.shape[1:],
        int(labels.max()) + 1,
        optimizer=torch.optim.Adam(net.parameters(), lr=lr),
        clip_values=(0, 1),
        device_type="cpu",
    )
    adversary = trainer.AdversarialTrainerMadryPGD(
        model, nb_epochs=epochs, batch_size=batch_size, eps=eps, eps_step=eps / 4, max_iter=7, num_random_init=1
    )
    adversary.fit(images.astype(np.float32) / 255, labels)


def _adv_lib(module: str, name: str, **settings: Any) -> Run:
    attack: Callable[..., Tensor] = getattr(importlib.import_module(f"adv_lib.attacks.{module}"), name)
    return lambda net, images, labels: attack(net, images, labels, **settings)


def _pdpgd(norm: float) -> Run:
    return _adv_lib("primal_dual_gradient_descent", "pdpgd", norm=norm, num_steps=200)


def _torchattacks(name: str, **settings: Any) -> Run:
    library: Any = importlib.import_module("torchattacks")

    def run(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        found: Tensor = getattr(library, name)(net, **settings)(images, labels)
        return found

    return run


def _pgd_in_turn(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """PGD as an attack that looks for the smallest Linf: with the next larger budget where the rounded image fails."""
    found, left = images.clone(), torch.arange(len(images))
    for level in range(1, 33):
        if not len(left):
            break
        run = _torchattacks("PGD", eps=level / 255, steps=20, alpha=level / 255 / 4)
        found[left] = (run(net, images[left], labels[left]) * 255).round() / 255
        with torch.no_grad():
            left = left[net(found[left]).argmax(dim=1) == labels[left]]
    return found


def _foolbox(name: str, **settings: Any) -> Run:
    library: Any = importlib.import_module("foolbox")

    def run(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        model = library.PyTorchModel(net, bounds=(0, 1))
        found: Tensor = getattr(library.attacks, name)(**settings)(model, images, labels, epsilons=None)[1]
        return found

    return run


def _art(name: str, **settings: Any) -> Run:
    evasion: Any = importlib.import_module("art.attacks.evasion")
    estimators: Any = importlib.import_module("art.estimators.classification")

    def run(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            classes = net(images[:1]).shape[1]
        model = estimators.PyTorchClassifier(
            net, nn.CrossEntropyLoss(), tuple(images.shape[1:]), classes, clip_values=(0, 1), device_type="cpu"
        )
        found = getattr(evasion, name)(model, **settings).generate(x=images.numpy(), y=labels.numpy())
        return torch.from_numpy(found)

    return run
