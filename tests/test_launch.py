"""The launchers: a shell reads back what a dry run prints, jobs start again when they should, and mistakes end in one line."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynnas_jax import __main__, recipe

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
LOCAL = [sys.executable, str(LAUNCH / "local.py")]
JOB = ["run", "--config=configs/digits.py", "--workdir=/mnt/my runs/it's $HOME"]
DISTRIBUTED = [*JOB, "--distributed"]
POD = ["--name=pod", "--zone=us-west4-a"]
SLICE = ["--type=v5litepod-16", "--runtime=v2-alpha-tpuv5-lite"]
GKE = ["--cluster=c", "--project=p", "--zone=us-central2-b"]
WORKLOAD = ["--type=v4-16", "--slices=2", "--name=n", "--image=gcr.io/p/i"]


def run(*command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, **options)


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def dry(*command, **options):
    """The commands that a dry run prints, as their words; comments are left out."""
    done = run(LAUNCH / command[0], *(command[1:2]), "--dry_run", *command[2:], **options)
    assert (done.returncode, done.stderr) == (0, "")
    return [shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("#")]


def one_line(done):
    """The one line with which a user's mistake ends."""
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


# All of them.


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck():
    done = run("shellcheck", *(path.relative_to(ROOT) for path in LAUNCH.glob("*.sh")), ".ci/run", cwd=ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["tpu_pod.sh", "slurm.sh", "gke_xpk.sh", "local.py"])
def test_help(name):
    done = run(*([sys.executable] if name.endswith(".py") else []), LAUNCH / name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"launch/{name} " in done.stdout
    assert "--dry_run" in done.stdout
    assert "shellcheck" not in done.stdout


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["tpu_pod.sh"], "no command; one of create, install, run, logs, status, stop, delete"),
        (["tpu_pod.sh", "creat"], "unknown command creat; one of create"),
        (["tpu_pod.sh", "status", "--name=pod"], "no --zone; give --zone=VALUE"),
        (["tpu_pod.sh", "create", "--dry_run", *POD, SLICE[0]], "no --runtime; give"),
        (["tpu_pod.sh", "run", "--dry_run", *POD], "no job; give it after --"),
        (["tpu_pod.sh", "run", "--dry_run", "--spot", *POD, "--", *JOB], "no --type; give"),
        (["tpu_pod.sh", "run", *POD, "--restarts=few", "--", *JOB], "--restarts=few is no whole number"),
        (["tpu_pod.sh", "run", *POD, "--restart=3", "--", *JOB], "unknown flag --restart=3"),
        (["tpu_pod.sh", "run", *POD, "--type", "v4-8"], "--type has no value; write --type=VALUE"),
        (["tpu_pod.sh", "run", *POD, *JOB], "unexpected run; flags are --flag=value, and the job follows --"),
        (["slurm.sh", "--nodes=1", "--time=9", "--", *JOB], "no --gpus_per_node; give"),
        (["slurm.sh", "--nodes=1.5", "--gpus_per_node=0", "--time=9", "--", *JOB], "--nodes=1.5 is no whole number"),
        (["slurm.sh", "--nodes=1", "--gpus_per_node=0", "--time=9"], "no job; give it after --"),
        (["gke_xpk.sh"], "no command; one of create_cluster"),
        (["gke_xpk.sh", "run", "--dry_run", *GKE, *WORKLOAD[:3], "--", *JOB], "no --image; give"),
        (["gke_xpk.sh", "delete", "--dry_run", *GKE], "no --name; give"),
        (["gke_xpk.sh", "create_cluster", "--dry_run", *GKE, "--type=t", "--spot", "--reservation=r"], "exclude each"),
        (["local.py", "--processes=2", *JOB], "unrecognized arguments: run"),
        (["local.py", "--processes=2"], "give the job after --"),
        (["local.py", "--", *JOB], "required: --processes"),
        (["local.py", "--processes=0", "--", *JOB], "0 is not at least 1"),
        (["local.py", "--processes=1", "--grace_s=soon", "--", *JOB], "--grace_s: invalid number value: 'soon'"),
        (["local.py", "--processes=1", "--grace_s=nan", "--", *JOB], "nan is not at least 0"),
        (["local.py", "--processes=1.5", "--", *JOB], "--processes: invalid number value: '1.5'"),
        (["local.py", "--processes=1", "--command=no_such", "--", *JOB], "no program 'no_such'"),
        (["local.py", "--processes=1", "--devices=2", "--gpus_per_process=1", "--", *JOB], "not allowed with"),
    ],
)
def test_mistakes(command, said):
    program = LOCAL if command[0] == "local.py" else [LAUNCH / command[0]]
    assert said in one_line(run(*program, *command[1:]))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["tpu_pod.sh", "status", *POD], "gcloud is not installed; see https://"),
        (
            ["slurm.sh", "--nodes=1", "--gpus_per_node=0", "--time=9", "--", *JOB],
            "sbatch is not installed; run this on",
        ),
        (["gke_xpk.sh", "status", *GKE, "--name=n"], "xpk is not installed; install it with: pip install xpk"),
        (["gke_xpk.sh", "logs", *GKE, "--name=n"], "gcloud is not installed"),
    ],
)
def test_a_missing_tool(command, said, tmp_path):
    for tool in ("bash", "dirname", "sed"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    assert said in one_line(run(LAUNCH / command[0], *command[1:], env={"PATH": str(tmp_path)}))


# Cloud TPU.


def gcloud(*words, project=()):
    return ["gcloud", "compute", "tpus", *words, "--zone=us-west4-a", *project]


CREATE = gcloud(
    *("queued-resources", "create", "pod", "--node-id=pod", "--accelerator-type=v5litepod-16"),
    *("--runtime-version=v2-alpha-tpuv5-lite", "--spot"),
)
DESCRIBE = gcloud("queued-resources", "describe", "pod", "--format=value(state.state)")


def remote(words):
    """What the hosts' shells are given by a command."""
    (command,) = (word for word in words if word.startswith("--command="))
    return command.removeprefix("--command=")


DELETE = gcloud("queued-resources", "delete", "pod", "--force", "--quiet")


def test_tpu_pod_dry_runs():
    assert dry("tpu_pod.sh", "create", *POD, *SLICE, "--spot") == [CREATE, DESCRIBE]
    saving, then = dry("tpu_pod.sh", "create", *POD, *SLICE, "--autocheckpoint")
    assert saving[:3] == ["gcloud", "alpha", "compute"]
    assert "--autocheckpoint-enabled" in saving
    assert then == DESCRIBE
    assert dry("tpu_pod.sh", "delete", *POD) == [DELETE]
    assert dry("tpu_pod.sh", "delete", *POD, "--project=my p") == [[*DELETE, "--project=my p"]]
    (logs,) = dry("tpu_pod.sh", "logs", *POD, "--worker=3")
    assert logs == gcloud("tpu-vm", "ssh", "pod", "--worker=3", "--command=tail -n 100 -F ~/dynnas.log")


def test_tpu_pod_installs_the_checkout_or_a_revision():
    pack, copy, unpack, install, forget, mount = dry(
        "tpu_pod.sh", "install", *POD, "--setup=sudo mount 'a b' /mnt", "--extras="
    )
    assert pack[:2] == ["tar", "-czf"]
    assert pack[-3:] == ["-C", str(ROOT), "."]
    assert {"--exclude=.git", "--exclude=runs", "--exclude=__pycache__"} <= set(pack)
    assert copy == gcloud("tpu-vm", "scp", pack[2], "pod:dynnas_jax.tar.gz", "--worker=all")
    assert "tar -xzf ~/dynnas_jax.tar.gz -C ~/dynnas_jax" in remote(unpack)
    assert remote(install).endswith("--python ~/dynnas_env/bin/python 'jax[tpu]' -e .")
    assert remote(forget) == "rm -f ~/dynnas.setup"
    assert mount == gcloud("tpu-vm", "ssh", "pod", "--worker=all", f"--command={remote(mount)}")
    words = shlex.split(remote(mount))
    assert words[words.index("-c") + 1] == "sudo mount 'a b' /mnt"
    fetch, install, _ = dry("tpu_pod.sh", "install", *POD, "--git=https://host/a b", "--revision=v1")
    assert "git fetch --quiet 'https://host/a b' v1 && git checkout" in remote(fetch)
    assert remote(install).endswith("'jax[tpu]' -e '.[export]'")


def test_tpu_pod_dry_run_of_a_job():
    start, state, *replace = dry("tpu_pod.sh", "run", *POD, *SLICE, "--spot", "--", *JOB)
    job = shlex.split(shlex.split(remote(start).partition("setsid bash -c ")[2])[0])
    assert job[job.index("~/dynnas_env/bin/dynnas") + 1 : job.index("--distributed;")] == JOB
    assert state == gcloud("tpu-vm", "ssh", "pod", "--worker=all", f"--command={remote(state)}")
    assert replace[:3] == [DELETE, CREATE, DESCRIBE]
    assert [words[4] for words in replace[4:]] == ["scp", "ssh", "ssh", "ssh"]
    assert len(dry("tpu_pod.sh", "run", *POD, "--", *JOB)) == 2
    mount, *same = dry("tpu_pod.sh", "run", *POD, "--setup=mount it", "--", *JOB)
    assert "bash -c 'mount it'" in remote(mount)
    assert same == [start, state]


# Stands for gcloud with a slice of two hosts, each a home folder in which the commands are really run.
GCLOUD = r"""#!/usr/bin/env bash
cd "$(dirname "$0")"
printf '%s\n' "$*" >> calls
case "$*" in
*"queued-resources describe"*)
  head -n 1 resource
  if (($(wc -l < resource) > 1)); then sed -i 1d resource; fi
  ;;
*"queued-resources create"*)
  for host in 0 1; do kill -KILL -- "-$(cat host$host/dynnas.pid)"; rm host$host/dynnas.pid; done
  cat created > resource && echo READY > node
  ;;
*"tpu-vm scp"*) for host in 0 1; do cp "$5" "host$host/${6#pod:}"; done ;;
*"tpu-vm describe"*) cat node ;;
*"tpu-vm ssh"*)
  [[ $(cat resource) == ACTIVE && $(cat node) == READY ]] || exit 255
  for word; do if [[ $word == --command=* ]]; then command=${word#--command=}; fi; done
  if [[ $command == curl* ]]; then exit 0; fi
  for host in 0 1; do (HOME=$PWD/host$host && export HOME && cd && bash -c "$command") || bad=$?; done
  exit "${bad:-0}"
  ;;
esac
"""
# Stands for dynnas on a host: its ends are the words in ~/ends, one each time it is started.
DYNNAS = r"""#!/usr/bin/env bash
printf '%s\n' "$@" >> ~/arguments
echo start >> ~/starts
trap 'echo >> ~/terminated; exit 75' TERM
read -ra ends < ~/ends
case ${ends[$(wc -l < ~/starts) - 1]} in
wait) for _ in {1..400}; do sleep 0.05; done ;;
killed) kill -KILL $$ ;;
lost) echo 'another boot' > ~/dynnas.setup && kill -KILL $PPID ;;
preempted) read -r file state < ~/../preempted && echo "$state" > ~/../$file && sleep 0.3 && kill -KILL $PPID ;;
*) exit "${ends[$(wc -l < ~/starts) - 1]}" ;;
esac
"""


@pytest.fixture
def pod(tmp_path):
    """pod(ends of host 0, ends of host 1, flags..., verb="run"): what `tpu_pod.sh` made of a slice that stands in."""
    script(tmp_path / "gcloud", GCLOUD)
    for host in (0, 1):
        home = tmp_path / f"host{host}"
        script(home / "dynnas_env" / "bin" / "dynnas", DYNNAS)
        (home / "dynnas_jax").mkdir()
    (tmp_path / "resource").write_text("ACTIVE\n")
    (tmp_path / "node").write_text("READY\n")
    (tmp_path / "preempted").write_text("node PREEMPTED\n")
    (tmp_path / "created").write_text("ACTIVE\n")

    def start(first, second, *flags, verb="run"):
        (tmp_path / "host0" / "ends").write_text(first + "\n")
        (tmp_path / "host1" / "ends").write_text(second + "\n")
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
        command = (LAUNCH / "tpu_pod.sh", verb, *POD, *flags, "--poll_s=0", "--", *JOB)
        return run(*command, env=environment)

    return start


def starts(folder):
    return [len((folder / f"host{host}" / "starts").read_text().split()) for host in (0, 1)]


def test_tpu_pod_runs_the_job_on_every_host(pod, tmp_path):
    done = pod("0", "0")
    assert (done.returncode, done.stderr) == (0, "")
    for host in (0, 1):
        assert (tmp_path / f"host{host}" / "arguments").read_text().splitlines() == DISTRIBUTED
    assert starts(tmp_path) == [1, 1]


def test_tpu_pod_restarts_after_75_and_after_a_kill(pod, tmp_path):
    done = pod("75 137 0", "75 killed 0")
    assert (done.returncode, starts(tmp_path)) == (0, [3, 3])
    assert "restart 2 of 50" in done.stdout
    calls = (tmp_path / "calls").read_text()
    assert "create" not in calls.replace("describe", "")


def test_tpu_pod_mounts_again_on_a_host_that_was_started_anew(pod, tmp_path):
    done = pod("wait 75 0", "lost 75 0", "--setup=echo 'a b' >> ~/mounts")
    assert (done.returncode, starts(tmp_path)) == (0, [3, 3])
    assert [(tmp_path / f"host{host}" / "mounts").read_text() for host in (0, 1)] == ["a b\n", "a b\n" * 2]


def test_tpu_pod_restarts_no_more_often_than_allowed(pod, tmp_path):
    done = pod("75 75 75", "75 75 75", "--restarts=1")
    assert (done.returncode, starts(tmp_path)) == (75, [2, 2])
    assert "none of --restarts=1 is left" in done.stderr


def test_tpu_pod_ends_the_others_after_a_failure(pod, tmp_path):
    done = pod("3", "wait", "--kill_s=0")
    assert (done.returncode, starts(tmp_path)) == (3, [1, 1])
    assert "ended badly on a host (3 running); the others get SIGTERM in 0 s and SIGKILL 0 s later" in done.stdout
    assert not (tmp_path / "host1" / "dynnas.exit").exists()  # SIGKILL: nobody was left to write it


def test_tpu_pod_terminates_before_it_kills(pod, tmp_path):
    begin = time.monotonic()
    done = pod("3", "wait")
    assert time.monotonic() - begin < 15  # it left at SIGTERM, before --kill_s was over
    assert (done.returncode, starts(tmp_path)) == (3, [1, 1])
    assert (tmp_path / "host1" / "terminated").exists()


def test_tpu_pod_lets_preempted_hosts_save_together(pod, tmp_path):
    done = pod("75", "wait", "--grace_s=2", "--restarts=0")
    assert (done.returncode, starts(tmp_path)) == (75, [1, 1])
    assert "(75 running); the others get SIGTERM in 2 s and SIGKILL 15 s later" in done.stdout
    assert (tmp_path / "host1" / "terminated").exists()


def test_tpu_pod_waits_for_its_resource(pod, tmp_path):
    (tmp_path / "created").write_text("ACCEPTED\nWAITING_FOR_RESOURCES\nACTIVE\n")
    done = pod("0", "0", *SLICE, verb="create")
    assert (done.returncode, done.stdout) == (0, "pod: ACCEPTED\npod: WAITING_FOR_RESOURCES\npod: ACTIVE\n")
    (tmp_path / "created").write_text("PROVISIONING\nFAILED\n")
    done = pod("0", "0", *SLICE, verb="create")
    assert done.returncode == 1
    assert done.stderr.endswith("tpu_pod.sh: pod is FAILED and will not become active; delete it and create it again\n")


def test_tpu_pod_says_when_the_job_cannot_start(pod, tmp_path):
    (tmp_path / "host1" / "dynnas_jax").rmdir()
    done = pod("0", "0")
    assert done.returncode == 1
    assert "the job did not start on pod; are the slice and the installation there?" in done.stderr


@pytest.mark.parametrize("state", ["node PREEMPTED", "node TERMINATED", "resource SUSPENDED"])
def test_tpu_pod_replaces_a_preempted_slice(pod, tmp_path, state):
    (tmp_path / "preempted").write_text(f"{state}\n")
    done = pod("preempted 0", "wait 0", *SLICE, "--spot")
    assert done.returncode == 0, done
    calls = [line.split()[2:4] for line in (tmp_path / "calls").read_text().splitlines()]
    last = len(calls) - 1 - calls[::-1].index(["queued-resources", "delete"])
    assert calls[last : last + 3] == [["queued-resources", word] for word in ("delete", "create", "describe")]
    assert ["tpu-vm", "scp"] in calls[last:]
    assert starts(tmp_path) == [2, 2]
    for host in (0, 1):
        copy = tmp_path / f"host{host}" / "dynnas_jax"
        assert (copy / "configs" / "digits.py").read_text() == (ROOT / "configs" / "digits.py").read_text()
        assert not (copy / ".git").exists()
    assert not list(tmp_path.glob("*.tar.gz"))


def test_tpu_pod_does_not_replace_a_slice_that_was_not_spot(pod, tmp_path):
    done = pod("preempted", "0")
    assert (done.returncode, done.stderr) == (1, "tpu_pod.sh: the slice pod was taken away; create it again\n")
    assert "delete" not in (tmp_path / "calls").read_text()


def test_tpu_pod_follows_a_job_that_runs_already(pod, tmp_path):
    environment = {"HOME": str(tmp_path / "host0"), "PATH": os.environ["PATH"]}
    (start, _) = dry("tpu_pod.sh", "run", *POD, "--", *JOB)
    (tmp_path / "host0" / "ends").write_text("wait 0\n")
    first, second = (run("bash", "-c", remote(start), env=environment) for _ in range(2))
    assert (first.stdout, second.stdout) == ("", "runs already\n")
    stop = remote(dry("tpu_pod.sh", "stop", *POD)[0])
    waited_until(lambda: (tmp_path / "host0" / "starts").exists())
    assert run("bash", "-c", stop, env=environment).returncode == 0
    waited_until(lambda: (tmp_path / "host0" / "dynnas.exit").exists())
    assert (tmp_path / "host0" / "dynnas.exit").read_text() == "75\n"
    assert starts_of(tmp_path / "host0") == 1


def starts_of(home):
    return len((home / "starts").read_text().split())


def waited_until(condition, limit_s=10.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# Slurm.


def test_slurm_dry_run():
    common = ["--requeue", "--open-mode=append", "--signal=TERM@90", str(LAUNCH / "slurm_job.sh"), "50", "20", "dynnas"]
    flags = ["--nodes=2", "--time=1:00:00", "--notice_s=90"]
    (line,) = dry("slurm.sh", "--gpus_per_node=4", *flags, "--partition=a b", "--cpus_per_task=8", "--", *JOB)
    assert line == [
        *("sbatch", "--job-name=dynnas", "--nodes=2", "--time=1:00:00", "--partition=a b"),
        *("--ntasks-per-node=4", "--gpus-per-node=4", "--cpus-per-task=8", *common, *DISTRIBUTED),
    ]
    (line,) = dry("slurm.sh", "--gpus_per_node=0", *flags, "--", *JOB)
    assert line == [
        *("sbatch", "--job-name=dynnas", "--nodes=2", "--time=1:00:00", "--ntasks-per-node=1", *common, *DISTRIBUTED)
    ]


def test_slurm_submits_what_it_prints(tmp_path):
    script(tmp_path / "sbatch", f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/given"\n')
    command = ("slurm.sh", "--nodes=1", "--gpus_per_node=1", "--time=5", "--output=a b.out", "--", *JOB)
    done = run(LAUNCH / command[0], *command[1:], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert done.returncode == 0, done
    assert (tmp_path / "given").read_text().splitlines() == dry(*command)[0][1:]


@pytest.fixture
def batch(tmp_path):
    """batch(exit code of the step, restarts so far): the batch script's own end, and what it asked of scontrol."""
    script(tmp_path / "scontrol", f'#!/bin/sh\necho "$*" >> "{tmp_path}/asked"\n')
    # It runs one task, with the command that the batch script gives to all.
    options = f'echo "$1" >> "{tmp_path}/options"; shift'
    script(tmp_path / "srun", f'#!/bin/bash\nwhile [[ $1 == --* ]]; do {options}; done\n"$@"\n')

    def start(command, count=None, restarts=2):
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
        if count is not None:
            environment["SLURM_RESTART_COUNT"] = str(count)
        done = run(LAUNCH / "slurm_job.sh", restarts, "0.2", "bash", "-c", command, "a b", "c d", env=environment)
        asked = tmp_path / "asked"
        return done.returncode, asked.read_text() if asked.exists() else ""

    return start


@pytest.mark.parametrize(
    ("command", "count", "ended"),
    [
        ("exit 75", None, (75, "requeue 7\n")),
        ("exit 75", 1, (75, "requeue 7\n")),
        ("exit 75", 2, (75, "")),
        ("exit 3", None, (3, "")),
        ("kill -KILL $$", None, (137, "requeue 7\n")),
        ("kill -ABRT $$", 1, (134, "requeue 7\n")),  # JAX's end of a process whose peer is gone
        ("kill -KILL $$", 2, (137, "")),
        ("kill -TERM $(ps -o ppid= -p $(ps -o ppid= -p $(ps -o ppid= -p $$))); kill -KILL $$", None, (137, "")),
        ('[ "$0 $1" = "a b c d" ]', None, (0, "")),
        # A signal to the batch script itself is Slurm's own decision about the job.
        ("kill -TERM $(ps -o ppid= -p $(ps -o ppid= -p $(ps -o ppid= -p $$))); exit 75", None, (75, "")),
    ],
)
def test_slurm_job_goes_back_into_the_queue(batch, command, count, ended, tmp_path):
    assert batch(command, count) == ended
    # The first process goes on alone behind the search, however long.
    assert "--wait=0" in (tmp_path / "options").read_text().split()


def test_a_slurm_task_passes_its_own_end_on_after_a_signal(batch):
    to_both = "trap 'exit 75' TERM; kill -TERM $PPID $$; sleep 5"
    assert batch(to_both) == (75, "requeue 7\n")


# GKE.


def test_gke_dry_runs():
    ends = ["--cluster=c", "--project=p", "--zone=us-central2-b"]
    (line,) = dry("gke_xpk.sh", "run", *GKE, *WORKLOAD, "--storage=disk", "--restarts=9", "--", *JOB)
    assert line == [
        *(
            "xpk",
            "workload",
            "create",
            "--workload=n",
            "--tpu-type=v4-16",
            "--num-slices=2",
            "--docker-image=gcr.io/p/i",
        ),
        *(f"--command=exec dynnas {shlex.join(DISTRIBUTED)}", "--max-restarts=9", "--restart-on-exit-codes=75"),
        *("--termination-grace-period-seconds=120", "--storage=disk", *ends),
    ]
    cluster = ["xpk", "cluster", "create", "--tpu-type=v4-16", "--num-slices=1"]
    for flags, capacity in (([], "--on-demand"), (["--spot"], "--spot"), (["--reservation=r"], "--reservation=r")):
        command = ("gke_xpk.sh", "create_cluster", *GKE, "--type=v4-16", *flags)
        assert dry(*command) == [[*cluster, capacity, *ends]]
    assert dry("gke_xpk.sh", "status", *GKE, "--name=n") == [["xpk", "workload", "list", "--filter-by-job=n", *ends]]
    assert dry("gke_xpk.sh", "delete", *GKE, "--name=n") == [
        ["xpk", "workload", "delete", "--workload=n", "--force", *ends]
    ]
    assert dry("gke_xpk.sh", "delete_cluster", *GKE) == [["xpk", "cluster", "delete", "--force", *ends]]
    credentials, logs = dry("gke_xpk.sh", "logs", *GKE, "--name=n")
    assert credentials[-3:] == ["c", "--location=us-central2", "--project=p"]
    assert logs[:3] == ["kubectl", "logs", "--selector=xpk.google.com/workload=n"]


def test_sigterm_reaches_the_job_in_a_container_of_xpk(tmp_path):
    script(
        tmp_path / "dynnas",
        "#!/bin/bash\ntrap 'exit 75' TERM\nkill -TERM $PPID\nfor _ in {1..100}; do sleep 0.05; done\n",
    )
    (line,) = dry("gke_xpk.sh", "run", *GKE, *WORKLOAD, "--", *JOB)
    command = next(word for word in line if word.startswith("--command=")).removeprefix("--command=")
    # As xpk wraps a workload's command: SIGTERM goes to the process that was put into the background.
    wrapped = f"trap 'kill -TERM $!' TERM; ({command}) & while kill -0 $! 2>/dev/null; do sleep 0.05; done; wait $!"
    assert run("bash", "-c", wrapped, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}).returncode == 75


# Several processes on this machine.


@pytest.fixture(scope="module")
def local():
    spec = importlib.util.spec_from_file_location("launch_local", LAUNCH / "local.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The child's own number, the attempt (counted in a file) and a way to end.
CHILD = r"""
import json, os, pathlib, signal, subprocess, sys, time
folder, *job = sys.argv[1:]
options = dict(word[2:].split("=", 1) for word in job if word.startswith("--") and "=" in word)
me = int(options["process"])
record = pathlib.Path(folder) / f"process{me}"
with record.open("a") as file:
    file.write(json.dumps({"pid": os.getpid(), "job": job, "environment": dict(os.environ)}) + "\n")
attempt = len(record.read_text().splitlines())

def sleep(*_):
    time.sleep(60)

def wait_for(*others):
    # until they run, with their handlers in place
    while not all((pathlib.Path(folder) / f"ready{other}.{attempt}").exists() for other in others):
        time.sleep(0.01)

def wait_for_record_of(other):
    # until it has begun; it need not handle signals
    while not (pathlib.Path(folder) / f"process{other}").exists():
        time.sleep(0.01)

def on_term(action):
    signal.signal(signal.SIGTERM, lambda number, _: action(number))
    signal.signal(signal.SIGINT, lambda number, _: action(number))
    (pathlib.Path(folder) / f"ready{me}.{attempt}").touch()
"""


@pytest.fixture
def group(tmp_path):
    """group(body of process 0, body of process 1, flags...): two processes with these ends, under the launcher."""

    def start(first, second, *flags, wait=True):
        lines = [f"    {line}" for line in first.splitlines()], [f"    {line}" for line in second.splitlines()]
        body = "\n".join([CHILD, "if me == 0:", *lines[0], "else:", *lines[1]])
        child = tmp_path / "child.py"
        child.write_text(body)
        command = [*LOCAL, "--processes=2", f"--command={shlex.join([sys.executable, str(child), str(tmp_path)])}"]
        command += [*flags, "--", *JOB]
        if wait:
            return run(*command)
        # Under nohup SIGHUP would be ignored, in the background SIGINT, and stay so.
        command = ["env", "--default-signal=HUP,INT", *command]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def records(folder, process):
    return [json.loads(line) for line in (folder / f"process{process}").read_text().splitlines()]


def alive(pid):
    state = run("ps", "-o", "stat=", "-p", pid).stdout.strip()
    return bool(state) and not state.startswith("Z")


def test_local_runs_all_with_their_numbers(group, tmp_path):
    done = group("print('a\\nb')", "print('c'); print('d', file=sys.stderr)", "--devices=3")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == ["[0] a", "[0] b", "[1] c", "[1] d"]
    (first,), (second,) = records(tmp_path, 0), records(tmp_path, 1)
    coordinator, processes, process = first["job"][len(JOB) :]
    assert re.fullmatch(r"--coordinator=127\.0\.0\.1:\d+", coordinator)
    assert (processes, process) == ("--processes=2", "--process=0")
    assert first["job"][: len(JOB)] == JOB
    assert second["job"] == [*first["job"][:-1], "--process=1"]
    assert first["environment"]["JAX_PLATFORMS"] == "cpu"
    # Only one count of devices: this one, not that of the tests' own environment.
    assert re.findall(r"device_count=(\d+)", first["environment"]["XLA_FLAGS"]) == ["3"]


def test_local_ends_the_others_after_a_kill(group, tmp_path):
    begin = time.monotonic()
    done = group("on_term(lambda _: sys.exit(75)); sleep()", "wait_for(0); os.kill(os.getpid(), 9)", "--grace_s=20")
    assert time.monotonic() - begin < 10  # it left at SIGTERM, long before the grace was over
    assert done.returncode == 128 + signal.SIGKILL
    assert done.stderr == (
        "launch: process 1 was killed by SIGKILL; process 0 gets SIGTERM now and SIGKILL 20 s later; "
        "then the launcher exits with 137 (--restarts=N would start the job again)\n"
    )
    assert not alive(records(tmp_path, 0)[0]["pid"])


def test_local_kills_what_does_not_heed_sigterm_with_all_it_started(group, tmp_path):
    deaf = "on_term(lambda _: None)\nchild = subprocess.Popen(['sleep', '60'])\nprint(child.pid)\nchild.wait()"
    done = group(deaf, "wait_for(0); time.sleep(0.3); sys.exit(3)", "--grace_s=0.5")
    assert done.returncode == 3
    assert "process 1 exited with code 3; process 0 gets SIGTERM now and SIGKILL 0.5 s later" in done.stderr
    grandchild = int(re.search(r"\[0\] (\d+)", done.stdout)[1])
    waited_until(lambda: not alive(records(tmp_path, 0)[0]["pid"]) and not alive(grandchild))


ONCE = "if attempt == 1:\n    {}\nprint('again')"


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("sys.exit(75)", "sys.exit(75)", "exited with code 75 (preempted, state saved)"),
        ("on_term(sleep); sleep()", "wait_for(0); os.kill(os.getpid(), 9)", "process 1 was killed by SIGKILL"),
        # What a peer says of the one that was killed is no failure of its own.
        ("on_term(lambda _: sys.exit(1)); sleep()", "wait_for(0); os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    ],
)
def test_local_starts_again(group, tmp_path, first, second, said):
    done = group(ONCE.format(first), ONCE.format(second), "--restarts=2", "--grace_s=0.5")
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, ["[0] again", "[1] again"])
    assert said in done.stderr
    assert "then the job starts again (restart 1 of 2)" in done.stderr
    coordinators = [[record["job"][len(JOB)] for record in records(tmp_path, process)] for process in (0, 1)]
    assert coordinators[0] == coordinators[1]
    assert len(coordinators[0]) == 2


@pytest.mark.parametrize(
    ("first", "second", "restarts", "code", "attempts"),
    [
        ("sys.exit(75)", "sys.exit(75)", 0, 75, 1),
        ("sys.exit(75)", "sys.exit(75)", 2, 75, 3),
        ("on_term(lambda _: sys.exit(75)); sleep()", "wait_for(0); sys.exit(4)", 2, 4, 1),
        ("sys.exit(75)", "time.sleep(0.3); sys.exit(4)", 1, 75, 2),
        ("time.sleep(1); sys.exit(75)", "wait_for_record_of(0); sys.exit(4)", 1, 4, 1),
        ("os.kill(os.getpid(), 9)", "time.sleep(60)", 1, 137, 2),
    ],
)
def test_local_starts_again_no_more_often_than_allowed(group, tmp_path, first, second, restarts, code, attempts):
    done = group(first, second, f"--restarts={restarts}", "--grace_s=5")
    assert (done.returncode, len(records(tmp_path, 0))) == (code, attempts)
    assert done.stderr.rstrip().splitlines()[-1].split("; ")[2].startswith(f"then the launcher exits with {code}")


@pytest.mark.parametrize(("number", "forwarded"), [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGINT"), ("SIGHUP", "SIGTERM")])
def test_local_forwards_signals_and_does_not_start_again(group, tmp_path, number, forwarded):
    leave = "on_term(lambda number: (print(signal.Signals(number).name), sys.exit(75))); sleep()"
    with group(leave, leave, "--restarts=3", wait=False) as launcher:
        waited_until(lambda: all((tmp_path / f"ready{process}.1").exists() for process in (0, 1)))
        launcher.send_signal(signal.Signals[number])
        output, errors = launcher.communicate(timeout=20)
    assert launcher.returncode == 75
    assert sorted(output.splitlines()) == [f"[{process}] {forwarded}" for process in (0, 1)]
    assert f"{forwarded}: forwarded to 2 processes" in errors
    assert "then the launcher exits with 75" in errors
    assert [len(records(tmp_path, process)) for process in (0, 1)] == [1, 1]


@pytest.mark.parametrize(
    ("codes", "again", "exit_code"),
    [
        ([], False, 0),
        ([75], True, 75),
        ([75, 75], True, 75),
        ([-9], True, 137),
        ([-15, 1], True, 143),
        ([1, -6], False, 1),
        ([75, 1], True, 75),
        ([75, -6], True, 75),
    ],
)
def test_local_verdict(local, codes, again, exit_code):
    assert local.verdict([local.End(index, code) for index, code in enumerate(codes)]) == (again, exit_code)


def test_local_dry_run_and_gpus():
    def lines(*flags, **environment):
        done = run(*LOCAL, "--dry_run", "--processes=2", *flags, "--", *JOB, env={**os.environ, **environment})
        return done if done.returncode else [shlex.split(line) for line in done.stdout.splitlines()]

    plain = lines()
    assert [line[: 3 + len(JOB)] for line in plain] == [[sys.executable, "-m", "dynnas_jax", *JOB]] * 2
    assert [line[-2:] for line in plain] == [["--processes=2", f"--process={index}"] for index in (0, 1)]
    gpus = [line[:2] for line in lines("--gpus_per_process=2", CUDA_VISIBLE_DEVICES="4,5,6,7")]
    assert gpus == [["env", "CUDA_VISIBLE_DEVICES=4,5"], ["env", "CUDA_VISIBLE_DEVICES=6,7"]]
    few = one_line(lines("--gpus_per_process=2", CUDA_VISIBLE_DEVICES="4,5,6"))
    assert "need 4 GPUs, CUDA_VISIBLE_DEVICES=4,5,6 has 3" in few


# The page about them.


def blocks():
    text = (ROOT / "docs" / "launch.md").read_text()
    return [block for block in re.findall(r"^```\n(.*?)^```", text, re.M | re.S) if "launch/" in block]


@pytest.mark.parametrize("block", blocks())
def test_commands_of_the_page(block, monkeypatch):
    block = re.sub(r"\\\n", " ", block)
    harmless = re.sub(r"^(launch/\w+\.sh(?: [a-z]\w*)?)", r"\1 --dry_run", block, flags=re.M)
    harmless = re.sub(r"^python (launch/local\.py)", rf"{sys.executable} \1 --dry_run", harmless, flags=re.M)
    assert harmless.count("--dry_run") == len(re.findall(r"^(?:python )?launch/", block, re.M)) > 0
    done = run("bash", "-euo", "pipefail", "-c", harmless, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, ""), done
    monkeypatch.chdir(ROOT)
    for job in re.findall(r"^(?:python )?launch/.* -- (.*)$", block, re.M):
        known, rest = __main__.parsed(shlex.split(job, comments=True))
        recipe.check(__main__._config(rest))
        assert known.workdir


def test_the_page_shows_every_launcher():
    shown = set(re.findall(r"launch/(\w+\.\w+)", "".join(blocks())))
    assert shown == {"tpu_pod.sh", "slurm.sh", "gke_xpk.sh", "local.py"}
