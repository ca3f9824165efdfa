"""How fast synthetic faces are drawn, and how hard they are: for a linear classifier, and for the DenseNet.

    OMP_NUM_THREADS=1 python tests/bench/synthetic.py
    OMP_NUM_THREADS=1 python tests/bench/synthetic.py --train 4000 --epochs 8

Prints images/s on one core, the accuracy of a logistic regression on pixels, and that of the DenseNet after each epoch.
It takes some minutes on a core that computes in bfloat16, longer without; `--epochs 0` leaves the DenseNet out.
"""

import argparse
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F

from dxray.models.data.synthetic import bayes_error, draw
from dxray.models.nets import build
from dxray.models.training.train import fit

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


def images_per_second(*, repeats: int = 7, count: int = 1000) -> tuple[list[float], list[float]]:
    """Rates of several repeats, by the clock on the wall and by the time the core really spent on it."""
    draw(range(100))
    wall, core = [], []
    for repeat in range(repeats):
        started, spent = time.perf_counter(), time.process_time()
        draw(range(repeat * count, (repeat + 1) * count))
        wall.append(count / (time.perf_counter() - started))
        core.append(count / (time.process_time() - spent))
    return wall, core


def linear_accuracy(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], *, penalty: float
) -> float:
    """Test accuracy, in [0, 1], of a logistic regression on standardised pixels, fitted to convergence."""
    pixels = torch.tensor(train[0]).flatten(1).float()
    mean, std = pixels.mean(0), pixels.std(0)
    pixels = (pixels - mean) / std
    wanted = torch.tensor(train[1]).float()
    weights = torch.zeros(pixels.shape[1] + 1, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(pixels @ weights[1:] + weights[0], wanted)
        value = value + penalty / 2 * weights[1:].square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    scores = ((torch.tensor(test[0]).flatten(1).float() - mean) / std) @ weights[1:] + weights[0]
    return float(((scores > 0) == (torch.tensor(test[1]) > 0)).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=10_000, help="training images")
    parser.add_argument("--test", type=int, default=2_000, help="test images, from elsewhere in the same series")
    parser.add_argument("--epochs", type=int, default=12, help="epochs of the DenseNet")
    parser.add_argument("--seed", type=int, default=0, help="of the faces and of the net")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    for name, rates in zip(("wall clock", "core time"), images_per_second(), strict=True):
        print(
            f"images/s by {name}: median {statistics.median(rates):,.0f}, "
            f"from {min(rates):,.0f} to {max(rates):,.0f} in {len(rates)} repeats"
        )
    print(f"error that overlap of the classes alone costs: {bayes_error():.1%}")

    train = draw(range(arguments.train), seed=arguments.seed)
    test = draw(range(10**9, 10**9 + arguments.test), seed=arguments.seed)
    print(f"{arguments.train:,} training images, {arguments.test:,} test images")
    for penalty in PENALTIES:
        print(f"logistic regression, L2 {penalty:g}: {linear_accuracy(train, test, penalty=penalty):.1%}")

    if arguments.epochs:
        torch.manual_seed(arguments.seed)
        fit(
            build("densenet"),
            *train,
            validation=test,
            epochs=arguments.epochs,
            seed=arguments.seed,
            on_epoch=lambda row: print(
                f"DenseNet, epoch {row['epoch']}: {row['validation_accuracy']:.1%} ({row['seconds']:.0f} s)", flush=True
            ),
        )


if __name__ == "__main__":
    main()
