"""What one submits to attack a folder that every machine sees. The arguments are those of `dxray attack`.

ray submit cluster.yaml attack.py -- /srv/dxray/faces --model /srv/dxray/runs/sweep
"""

import sys

from dxray.orchestrator.cli.submitted import run

if __name__ == "__main__":
    sys.exit(run("attack", sys.argv[1:]))
