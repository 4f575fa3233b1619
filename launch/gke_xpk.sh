#!/usr/bin/env bash
# Runs `dynnas` on TPU slices of a GKE cluster, one process a host, with xpk.
#
#   launch/gke_xpk.sh create_cluster --cluster=C --project=P --zone=Z --type=v5litepod-16 [--slices=1] [--spot]
#   launch/gke_xpk.sh run    --cluster=C --project=P --zone=Z --type=v5litepod-16 [--slices=1] --name=N --image=IMAGE \
#                            [--storage=S] -- run --config=... --workdir=...
#   launch/gke_xpk.sh logs   --cluster=C --project=P --zone=Z --name=N
#   launch/gke_xpk.sh status | delete  --cluster=C --project=P --zone=Z --name=N
#   launch/gke_xpk.sh delete_cluster   --cluster=C --project=P --zone=Z
#
# create_cluster takes capacity --spot, --reservation=R, or on demand. The image has `dynnas` and jax[tpu]; --storage names
# an xpk storage, which holds the working directory. All hosts start again after exit code 75 (preempted, state saved) and
# after a signal, at most --restarts=50 times.
#
# --grace_s=120   from SIGTERM to SIGKILL
# --dry_run       print the commands and run nothing

set -euo pipefail
# shellcheck source=launch/shell.sh
source "$(dirname "${BASH_SOURCE[0]}")/shell.sh"

cluster='' project='' zone='' type='' slices=1 spot='' reservation='' name='' image='' storage='' restarts=50 grace_s=120

# xpk WORDS...: with what all its commands want.
on_cluster() {
  do_or_print xpk "$@" --cluster="$cluster" --project="$project" --zone="$zone"
}

create_cluster() {
  local capacity=--on-demand
  need type
  whole slices
  [[ -z $spot || -z $reservation ]] || fail '--spot and --reservation exclude each other; give one'
  if [[ -n $spot ]]; then capacity=--spot; fi
  if [[ -n $reservation ]]; then capacity=--reservation=$reservation; fi
  on_cluster cluster create --tpu-type="$type" --num-slices="$slices" "$capacity"
}

run() {
  need type name image
  need_job
  whole slices restarts grace_s
  # exec: xpk passes SIGTERM on to the shell that runs the command, so the job takes that shell's place.
  on_cluster workload create --workload="$name" --tpu-type="$type" --num-slices="$slices" --docker-image="$image" \
    --command="exec dynnas $(quote "${job[@]}") --distributed" --max-restarts="$restarts" --restart-on-exit-codes=75 \
    --termination-grace-period-seconds="$grace_s" ${storage:+"--storage=$storage"}
}

logs() {
  need name
  need_tool kubectl 'see https://cloud.google.com/kubernetes-engine/docs/how-to/cluster-access-for-kubectl'
  do_or_print gcloud container clusters get-credentials "$cluster" --location="${zone%-*}" --project="$project"
  do_or_print kubectl logs --selector="xpk.google.com/workload=$name" --all-containers --prefix --tail=100 --follow \
    --max-log-requests=256
}

status() {
  need name
  on_cluster workload list --filter-by-job="$name"
}

delete() {
  need name
  on_cluster workload delete --workload="$name" --force
}

delete_cluster() {
  on_cluster cluster delete --force
}

readonly VERBS='create_cluster, run, logs, status, delete, delete_cluster'
(($# > 0)) || fail "no command; one of $VERBS (--help lists all)"
if [[ $1 == --help ]]; then usage && exit 0; fi
verb=$1 && shift
[[ $verb == @(create_cluster|run|logs|status|delete|delete_cluster) ]] ||
  fail "unknown command $verb; one of $VERBS (--help lists all)"
read_flags 'cluster project zone type slices reservation name image storage restarts grace_s' 'spot' "$@"
need cluster project zone
if [[ $verb == logs ]]; then
  need_tool gcloud 'see https://cloud.google.com/sdk/docs/install'
else
  need_tool xpk 'install it with: pip install xpk (see https://github.com/AI-Hypercomputer/xpk)'
fi
"$verb"
