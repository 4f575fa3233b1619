#!/usr/bin/env bash
# Submits `dynnas` to Slurm: one process for each GPU, or one for each node without GPUs.
#
#   launch/slurm.sh --nodes=2 --gpus_per_node=4 --time=24:00:00 [--partition=P] -- run --config=... --workdir=...
#
# So many processes are what JAX's detection of Slurm wants: each task takes the GPU of its number on the node, and therefore
# sees all of the node's. SIGTERM reaches every process --notice_s=180 before the time limit; after exit code 75 (state saved)
# or a kill the job goes back into the queue, at most --restarts=50 times. `dynnas` comes from the environment this script is run in.
#
# --name=dynnas      the job's name
# --cpus_per_task=N  of each process
# --output=FILE      the log, slurm-%j.out if not given; restarts append to it
# --linger_s=20      how long the other processes have to end when one ended badly
# --command=dynnas   another program in its place
# --dry_run          print the command and run nothing
#
# What has no flag here has a variable of Slurm's, for example SBATCH_ACCOUNT or SBATCH_QOS.

set -euo pipefail
# shellcheck source=launch/shell.sh
source "$(dirname "${BASH_SOURCE[0]}")/shell.sh"

nodes='' gpus_per_node='' time='' partition='' name=dynnas cpus_per_task='' output='' notice_s=180 linger_s=20 restarts=50
command=dynnas
read_flags 'nodes gpus_per_node time partition name cpus_per_task output notice_s linger_s restarts command' '' "$@"
need nodes gpus_per_node time
whole nodes gpus_per_node notice_s linger_s restarts
if [[ -n $cpus_per_task ]]; then whole cpus_per_task; fi
need_job
need_tool sbatch 'run this on a login node of the cluster'

options=(--job-name="$name" --nodes="$nodes" --time="$time" ${partition:+"--partition=$partition"})
if ((gpus_per_node > 0)); then
  options+=(--ntasks-per-node="$gpus_per_node" --gpus-per-node="$gpus_per_node")
else
  options+=(--ntasks-per-node=1)
fi
options+=(${cpus_per_task:+"--cpus-per-task=$cpus_per_task"} ${output:+"--output=$output"})
do_or_print sbatch "${options[@]}" --requeue --open-mode=append --signal="TERM@$notice_s" \
  "$(dirname "${BASH_SOURCE[0]}")/slurm_job.sh" "$restarts" "$linger_s" "$command" "${job[@]}" --distributed
