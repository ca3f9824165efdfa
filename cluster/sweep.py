"""What one submits to train a grid on a cluster: the arguments are those of `dxray sweep`.

ray submit cluster.yaml sweep.py -- --net densenet --filters 8 16 --address auto --out ~/runs/sweep
"""

import sys

from orchestrator.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
