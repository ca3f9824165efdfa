"""What one submits to attack a folder that every node sees: the arguments are those of `dxray attack`.

ray submit cluster.yaml attack.py -- ~/faces --model ~/runs/sweep --address auto --out ~/runs/attack
"""

import sys

from orchestrator.cli import main

if __name__ == "__main__":
    sys.exit(main(["attack", *sys.argv[1:]]))
