"""What a retraining is asked to do."""

from dataclasses import dataclass, field

from dxray.defenses.adversarial_training import METHODS
from dxray.orchestrator.errors import UserError
from dxray.orchestrator.hardening.round_training import ROUNDS
from dxray.orchestrator.hardening.rounds import JUDGES, training_attack
from dxray.orchestrator.hardening.stop_rules import Rules
from dxray.orchestrator.runs.places import absolute_source, place

# Of the rounds, and of the methods that attack in each batch.
USUAL: dict[bool, dict[str, float]] = {
    True: {"eps": 2 / 255, "epochs": 3, "lr": 1e-3},
    False: {"eps": 8 / 255, "epochs": 12, "lr": 3e-3},
}


@dataclass
class RetrainConfig:
    """What decides the rounds of a run; written to `retrain.json` before the first, and kept on resume.

    Attributes:
        data, label, data_seed: as `faces.read` takes them.
        model: the net to begin with, a checkpoint that can be trained.
        method: `rounds`, or one of `adversarial_training.METHODS`, which are a single round.
        attacks: by which the rounds attack the training faces. norm: which of their norms, where not the usual one.
        eps, epochs, lr: None: as in `USUAL`. eps is the Linf budget of these attacks, where they take one, of the
            methods, and of the judges.
        attack_faces: so many training faces are attacked in a round, others in each; None: all.
        within: L2 distance within which the share of faces that a fresh minimal attack fools is recorded.
        held_out: validation faces that each net is judged on.
        max_clean_drop: a net that costs that much clean accuracy is not put in use.
        label_by: a net that labels new faces which have no label.
        classes: what numbers mean where labels are numbers, 0 the first; None: the net's classes.
        threads: of each training; None: the CPUs of the largest node, recorded for good when the run is begun.
    """

    data: str = "synthetic"
    model: str = "runs/sweep"
    label: str | None = None
    data_seed: int = 0
    method: str = ROUNDS
    attacks: list[str] = field(default_factory=lambda: ["dx"])
    norm: str | None = None
    eps: float | None = None
    within: float = 0.25
    epochs: int | None = None
    lr: float | None = None
    batch_size: int = 64
    from_scratch: bool = False
    held_out: int = 500
    max_clean_drop: float = 0.02
    label_by: str | None = None
    seed: int = 0
    threads: int | None = None
    attack_faces: int | None = None
    rules: Rules = field(default_factory=Rules)
    classes: list[str] | None = None

    def __post_init__(self) -> None:
        self.data = absolute_source(self.data)  # an update may come from another folder
        self.label_by = self.label_by and str(place(self.label_by).expanduser().absolute())


def must_make_sense(config: RetrainConfig) -> None:
    """UserError where the request makes no sense."""
    if config.method not in (ROUNDS, *METHODS):
        raise UserError(f"no method is called '{config.method}'; known are: {ROUNDS}, {', '.join(METHODS)}")
    if config.eps is not None and not 0 < config.eps <= 1:
        raise UserError(f"--eps {config.eps:g} is no budget: expected a share of the grey levels in (0, 1], as 8/255")
    if config.method != ROUNDS and config.rules.rounds != 1:
        raise UserError(f"--method {config.method} attacks in each batch and is a single round; leave --rounds out")
    if config.attack_faces is not None and (config.method != ROUNDS or config.attack_faces < 1):
        raise UserError("--attack-faces is a number of training faces, from 1 up, of a retraining by --method rounds")
    try:
        for name in config.attacks:
            training_attack(name, 0.0, config.norm)
    except ValueError as wrong:
        raise UserError(str(wrong)) from None
    if config.method == ROUNDS and not set(JUDGES) - set(config.attacks):
        raise UserError(f"nothing is left to judge by that was not trained on; leave one of {', '.join(JUDGES)} out")
    if config.epochs == 0 or config.held_out < 1 or config.rules.rounds < 1:
        raise UserError("a retraining needs at least 1 round, 1 epoch and 1 held-out face")
