#!/usr/bin/env bash
# The batch script that launch/slurm.sh submits: slurm_job.sh RESTARTS LINGER_S COMMAND...
# Runs the command in every task of the job, and puts the job back into the queue when it ends with 75 (state saved) or by a
# signal (128 and above: a task was killed, of which srun says which).

set -euo pipefail
restarts=$1 linger_s=$2
shift 2

# Slurm signals this script itself only when the job is cancelled, preempted or out of time. What follows is then decided
# already: Slurm queues a preempted job again by itself, and a cancelled one must not come back.
decided=''
trap 'decided=yes' TERM

# One bad exit ends the step for all tasks (--kill-on-bad-exit), so a task waits a little before it leaves with one: the
# others may be just about to end in the same way, their state half saved.
# shellcheck disable=SC2016
task='trap : TERM; "${@:2}"; code=$?; [ "$code" -eq 0 ] || sleep "$1"; exit "$code"'
code=0
# srun does not take --cpus-per-task over from sbatch. Without --wait=0 a cluster may end the first task some time after the
# others have come to their end, though it does the last stages alone.
srun --wait=0 ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} --kill-on-bad-exit=1 --gpu-bind=none bash -c "$task" task "$linger_s" "$@" || code=$?

why='preempted, state saved'
if ((code > 128)); then why="stopped by $(kill -l "$code" 2>/dev/null || echo "signal $((code - 128))")"; fi
if ((code == 75 || code > 128)) && [[ -z $decided ]]; then
  if ((${SLURM_RESTART_COUNT:-0} < restarts)); then
    echo "slurm_job.sh: $why; restart $((${SLURM_RESTART_COUNT:-0} + 1)) of $restarts"
    scontrol requeue "$SLURM_JOB_ID"
  else
    echo "slurm_job.sh: $why, and none of --restarts=$restarts is left"
  fi
fi
exit "$code"
