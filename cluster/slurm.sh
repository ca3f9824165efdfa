#!/bin/bash
# A sweep on Slurm: `sbatch cluster/slurm.sh --preset laptop --out /shared/runs/sweep`. Ray is started on every node of the
# allocation by `ray symmetric-run`, the script on one of them, and all ends with it. Submitted again it goes on.
# Tested with stand-ins for srun and scontrol, not on a Slurm. Edit the lines marked EDIT.
#SBATCH --job-name=dxray
#SBATCH --nodes=4              # EDIT
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16     # EDIT
#SBATCH --time=12:00:00        # EDIT
set -euo pipefail
source "$HOME/dxray/venv/bin/activate" # EDIT: made by: python3 -m venv ~/dxray/venv; ~/dxray/venv/bin/pip install '.[cluster]'
umask 077
export RAY_AUTH_MODE=token RAY_enable_metrics_collection=0 AUTOSCALER_METRIC_PORT=-1 DASHBOARD_METRIC_PORT=-1
export RAY_gcs_rpc_server_reconnect_timeout_s=20 # the other nodes end so long after the first
[ -e ~/.ray/auth_token ] || ray get-auth-token --generate > /dev/null
chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs may share a node
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
  ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" --disable-usage-stats -- \
  python "$SLURM_SUBMIT_DIR/cluster/sweep.py" "$@"
