#!/usr/bin/env bash
# cyclopts 5.5.2, seen 2026-12-01 (typer 0.29.2 beside it)
#
# Expected: an option annotated `int` refuses 0.5 and 1.5, as argparse, Click and Typer do.
# Seen: it rounds, halves to the even neighbour: 0.5 becomes 0, 1.5 and 2.5 become 2, without a word.
#   1e3 is refused, though it is a whole number.
# What follows for users of face classifiers: `--batch 0.5` or `--epochs 2.5`, meant for another option,
#   run with another value than the one that stands in the shell's history.
# For dxray: integer options need a validator or converter that takes digits only (the command line is to
#   be built with cyclopts), and a test with 1.5.
#
# Run: bash findings/cyclopts-rounds-integers.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.bash
source "$(dirname "$0")/setup.bash"
install cyclopts==5.5.2 typer==0.29.2

run_python <<'PY'
import sys
from importlib.metadata import version

import cyclopts
import typer
from typer.testing import CliRunner

by_cyclopts = cyclopts.App(result_action="return_value")
by_typer = typer.Typer()


@by_cyclopts.default
def count(*, epochs: int):
    return epochs


@by_typer.command()
def show(epochs: int = typer.Option()):
    print(epochs)


def cyclopts_takes(text):
    try:
        return by_cyclopts(["--epochs", text], exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError:
        return "refused"


def typer_takes(text):
    result = CliRunner().invoke(by_typer, ["--epochs", text])
    return "refused" if result.exit_code else int(result.output)


print("cyclopts", version("cyclopts"), "typer", version("typer"))
print("expected: both refuse all but 3")
seen = {}
for text in ("3", "0.5", "1.5", "2.5", "1e3"):
    seen[text] = cyclopts_takes(text)
    print(f"seen: --epochs {text}: cyclopts {seen[text]}, typer {typer_takes(text)}")
sys.exit(0 if seen == {"3": 3, "0.5": 0, "1.5": 2, "2.5": 2, "1e3": "refused"} else 1)
PY
