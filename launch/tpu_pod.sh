#!/usr/bin/env bash
# Runs `dynnas` on every host of a Cloud TPU slice, one process a host, with gcloud.
#
#   launch/tpu_pod.sh create  --name=N --zone=Z --type=v5litepod-16 --runtime=v2-alpha-tpuv5-lite [--spot]
#   launch/tpu_pod.sh install --name=N --zone=Z [--git=URL [--revision=R]] [--extras=export] [--setup=COMMAND]
#   launch/tpu_pod.sh run     --name=N --zone=Z [flags of create and install] -- run --config=... --workdir=...
#   launch/tpu_pod.sh logs    --name=N --zone=Z [--worker=0]
#   launch/tpu_pod.sh status | stop | delete  --name=N --zone=Z
#
# create asks for a queued resource and waits until it is active. install copies this checkout (or fetches --git) to every
# host, installs it with jax[tpu], and runs --setup there, which may mount the disk of the working directory. run does that
# again on a host that was started anew since.
# run starts the job, follows it, and starts it again after exit code 75 (preempted, state saved), after SIGTERM or SIGKILL,
# and after the restart of a host, at most --restarts=50 times. With --spot it also replaces a preempted slice, for which it
# needs the flags of create and install. The job outlives this script: the same command follows it again. stop sends SIGTERM.
#
# --project=P     another project than gcloud's own
# --poll_s=20     how often to look
# --grace_s=120   how long the other hosts have to end by themselves when one ended with 75; after a kill or an error, none
# --kill_s=15     from their SIGTERM to SIGKILL
# --autocheckpoint  for create: before maintenance the job gets SIGTERM and up to five minutes to save
# --dry_run       print the commands and run nothing

set -euo pipefail
# shellcheck source=launch/shell.sh
source "$(dirname "${BASH_SOURCE[0]}")/shell.sh"

name='' zone='' type='' runtime='' spot='' project='' git='' revision=HEAD extras=export setup='' worker=0
restarts=50 poll_s=20 grace_s=120 kill_s=15 autocheckpoint='' release=''
archive=${TMPDIR:-/tmp}/dynnas_jax.$$.tar.gz
readonly MOST_MISSES=20 # so many looks in a row may fail before this script gives up
readonly HURRIED_POLL_S=5 # how often to look once a host ended badly

# What the hosts' shells run: they expand ~ and $( ), not this one. The job is a shell that waits for `dynnas` and writes its
# exit code. Both hold a lock as long as they live: a look at the process by its number would err after a reboot and amid an exec.
readonly JOB_RUNS='! flock --shared --nonblock ~/dynnas.lock true'
readonly JOB_STATE="if $JOB_RUNS; then echo running; else cat ~/dynnas.exit 2>/dev/null || echo lost; fi"
# shellcheck disable=SC2016
readonly JOB_TERM="if $JOB_RUNS; then "'pkill -TERM -P "$(cat ~/dynnas.pid)"; fi'
# shellcheck disable=SC2016
readonly JOB_KILL="if $JOB_RUNS; then "'kill -KILL -- "-$(cat ~/dynnas.pid)"; fi'

# gcloud_tpus GROUP VERB ARGUMENT...: of gcloud's track `release`, where that is set.
gcloud_tpus() {
  do_or_print gcloud ${release:+"$release"} compute tpus "$@" --zone="$zone" ${project:+"--project=$project"}
}

# on_hosts WORKERS COMMAND
on_hosts() {
  gcloud_tpus tpu-vm ssh "$name" --worker="$1" --command="$2"
}

give_up() {
  echo "tpu_pod.sh: $*" >&2
  exit 1
}

resource_state() {
  gcloud_tpus queued-resources describe "$name" '--format=value(state.state)'
}

create() {
  need type runtime
  # The released command does not know the flag.
  release=${autocheckpoint:+alpha} gcloud_tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$type" \
    --runtime-version="$runtime" ${spot:+--spot} ${autocheckpoint:+--autocheckpoint-enabled}
  if [[ -n $dry_run ]]; then
    resource_state
  else
    wait_until_active
  fi
}

wait_until_active() {
  local state misses=0
  while true; do
    state=$(resource_state) || state=''
    case $state in
    ACTIVE) echo "$name: ACTIVE" && return ;;
    FAILED | SUSPENDING | SUSPENDED | DELETING)
      give_up "$name is $state and will not become active; delete it and create it again"
      ;;
    '') ((++misses < MOST_MISSES)) || give_up "no word of $name in $misses looks; its queued resource may still be there" ;;
    *) echo "$name: $state" && misses=0 ;;
    esac
    sleep "$poll_s"
  done
}

delete() {
  gcloud_tpus queued-resources delete "$name" --force --quiet
}

install() {
  if [[ -n $git ]]; then
    on_hosts all "git init --quiet ~/dynnas_jax && cd ~/dynnas_jax && git fetch --quiet $(quote "$git" "$revision")\
 && git checkout --quiet --force FETCH_HEAD"
  else
    copy_checkout
  fi
  # uv brings a Python that is new enough, whatever the image has.
  on_hosts all "curl -LsSf https://astral.sh/uv/install.sh | sh && cd ~/dynnas_jax\
 && ~/.local/bin/uv venv --quiet --allow-existing --python 3.12 ~/dynnas_env\
 && ~/.local/bin/uv pip install --quiet --python ~/dynnas_env/bin/python 'jax[tpu]' -e $(quote ".${extras:+[$extras]}")"
  on_hosts all 'rm -f ~/dynnas.setup'
  set_up
}

# --setup on the hosts where it was not done since they started: what it mounts does not outlive that.
set_up() {
  [[ -n $setup ]] || return 0
  on_hosts all "boot=\$(cat /proc/sys/kernel/random/boot_id)\
 && if [ \"\$(cat ~/dynnas.setup 2>/dev/null)\" != \"\$boot\" ]; then bash -c $(quote "$setup") && echo \"\$boot\" > ~/dynnas.setup; fi"
}

# The checkout without what .gitignore names.
copy_checkout() {
  local root line leave_out=(--exclude=.git)
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  while read -r line; do leave_out+=("--exclude=${line%/}"); done <"$root/.gitignore"
  trap 'rm -f "$archive"' EXIT
  do_or_print tar -czf "$archive" "${leave_out[@]}" -C "$root" .
  gcloud_tpus tpu-vm scp "$archive" "$name:dynnas_jax.tar.gz" --worker=all
  on_hosts all 'mkdir -p ~/dynnas_jax && tar -xzf ~/dynnas_jax.tar.gz -C ~/dynnas_jax'
}

start_job() {
  local job_shell
  job_shell="trap : TERM; ~/dynnas_env/bin/dynnas $(quote "${job[@]}") --distributed; echo \$? > ~/dynnas.exit"
  on_hosts all "exec 9>> ~/dynnas.lock; if flock --nonblock 9; then rm -f ~/dynnas.exit && cd ~/dynnas_jax\
 && { setsid bash -c $(quote "$job_shell") >> ~/dynnas.log 2>&1 < /dev/null & echo \$! > ~/dynnas.pid; };\
 else echo runs already; fi"
}

# start_or_gone RESTART: false where the slice was taken away. Hosts that are about to be may still answer for a while, so
# only the first start has to succeed at once.
start_or_gone() {
  local misses=0
  until set_up && start_job; do
    if slice_is_gone; then return 1; fi
    (($1 > 0 && ++misses < MOST_MISSES)) || give_up "the job did not start on $name; are the slice and the installation there?"
    sleep "$poll_s"
  done
}

# Whether the slice was taken away; no answer is no.
slice_is_gone() {
  local state
  state=$(resource_state) || return 1
  if [[ $state == ACTIVE ]]; then
    state=$(gcloud_tpus tpu-vm describe "$name" '--format=value(state)') || return 1
  fi
  [[ $state == @(SUSPENDING|SUSPENDED|FAILED|PREEMPTED|TERMINATED) ]]
}

# Looks until the job has ended on every host, and sets `outcome` to gone, again, or an exit code.
follow_job() {
  local states misses=0 causes='' since=0 patience_s=0 pause_s=$poll_s
  while true; do
    sleep "$pause_s"
    if ! states=$(on_hosts all "$JOB_STATE"); then
      if slice_is_gone; then outcome=gone && return; fi
      ((++misses < MOST_MISSES)) || give_up "no word from the hosts of $name in $misses looks; the job may still run"
      continue
    fi
    misses=0 states=$(grep -Ex 'running|lost|[0-9]+' <<<"$states" || true)
    if [[ -z $causes ]] && grep -qvEx 'running|0' <<<"$states"; then
      causes=$states since=$SECONDS pause_s=$((poll_s < HURRIED_POLL_S ? poll_s : HURRIED_POLL_S))
      # Preempted hosts save together; without one that died the others can do nothing but wait for it.
      if ! grep -qvEx 'running|0|75' <<<"$states"; then patience_s=$grace_s; fi
      echo "$name: the job ended badly on a host ($(paste -sd ' ' <<<"$states")); the others get SIGTERM in $patience_s s" \
        "and SIGKILL $kill_s s later"
    fi
    if ! grep -qx running <<<"$states"; then
      judge "${causes:-$states}"
      return
    fi
    if [[ -z $causes ]]; then continue; fi
    if ((SECONDS - since >= patience_s + kill_s)); then
      on_hosts all "$JOB_KILL" || true
    elif ((SECONDS - since >= patience_s)); then
      on_hosts all "$JOB_TERM" || true
    fi
  done
}

# judge STATES: 75, SIGKILL (137), SIGTERM (143) and a lost host came from outside; starting again helps.
judge() {
  if grep -qEx '75|137|143|lost' <<<"$1"; then
    outcome=again
  else
    outcome=$(grep -Ex '[1-9][0-9]*' <<<"$1" | head -n 1) || outcome=0
  fi
}

run() {
  local restart=0 outcome=''
  need_job
  if [[ -n $spot ]]; then need type runtime; fi
  if [[ -n $dry_run ]]; then
    show_run
    return
  fi
  trap 'echo "tpu_pod.sh: the job goes on; the same command follows it again, stop ends it" >&2; exit 130' INT
  while true; do
    if start_or_gone "$restart"; then follow_job; else outcome=gone; fi
    if [[ $outcome != @(gone|again) ]]; then
      echo "$name: the job ended with exit code $outcome"
      exit "$outcome"
    fi
    if [[ $outcome == gone && -z $spot ]]; then give_up "the slice $name was taken away; create it again"; fi
    if ((restart == restarts)); then
      echo "$name: stopped from outside, and none of --restarts=$restarts is left" >&2
      exit 75
    fi
    restart=$((restart + 1))
    echo "$name: stopped from outside; restart $restart of $restarts"
    if [[ $outcome == gone ]]; then
      delete
      create
      install
    fi
  done
}

show_run() {
  set_up
  start_job
  on_hosts all "$JOB_STATE"
  echo "# after exit code 75, SIGKILL, SIGTERM or a lost host, at most $restarts times: all lines but the last again"
  if [[ -n $spot ]]; then
    echo '# after the slice was taken away, before that:'
    delete
    create
    install
  fi
}

(($# > 0)) || fail 'no command; one of create, install, run, logs, status, stop, delete (--help lists all)'
if [[ $1 == --help ]]; then usage && exit 0; fi
verb=$1 && shift
[[ $verb == @(create|install|run|logs|status|stop|delete) ]] ||
  fail "unknown command $verb; one of create, install, run, logs, status, stop, delete (--help lists all)"
read_flags 'name zone type runtime project git revision extras setup worker restarts poll_s grace_s kill_s' 'spot autocheckpoint' "$@"
need name zone
whole restarts poll_s grace_s kill_s
need_tool gcloud 'see https://cloud.google.com/sdk/docs/install'
case $verb in
logs) on_hosts "$worker" 'tail -n 100 -F ~/dynnas.log' ;;
status)
  resource_state
  on_hosts all "$JOB_STATE; tail -n 1 ~/dynnas.log"
  ;;
stop) on_hosts all "$JOB_TERM" ;;
*) "$verb" ;;
esac
