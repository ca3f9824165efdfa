"""What one submits to harden a net on a cluster. The arguments are those of `dxray retrain`; again, it goes on.

ray submit cluster.yaml retrain.py -- --data folder:/srv/dxray/faces --model /srv/dxray/runs/sweep
"""

import sys

from dxray.orchestrator.cli.submitted import run

if __name__ == "__main__":
    sys.exit(run("retrain", sys.argv[1:]))
