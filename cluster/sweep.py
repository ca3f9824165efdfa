"""What one submits to train a grid on a cluster. The arguments are those of `dxray sweep`; submitted again, it goes on.

ray submit cluster.yaml sweep.py -- --preset laptop --out /srv/dxray/runs/laptop
"""

import sys

from dxray.orchestrator.cli.submitted import run

if __name__ == "__main__":
    sys.exit(run("sweep", sys.argv[1:]))
