"""Starts a real Slurm of one node on this machine, for tests: `python tests/sweep/one_node_slurm.py start DIR`, and `stop DIR`.

Jobs of its partition urgent preempt those of the others, which are given 30 seconds.

Needs root and packages of Debian: apt-get install --no-install-recommends slurm-wlm slurm-client munge.
It has no accounting and needs no systemd.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CONFIG = """\
ClusterName=rlxtest
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=cred_expire=5
StateSaveLocation={place}/ctld
SlurmdSpoolDir={place}/d
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/log/slurmctld.log
SlurmdLogFile={place}/log/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=30
InactiveLimit=0
MinJobAge=300
KillWait=5
Waittime=0
MpiDefault=none
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""
NEEDED = ("sbatch", "slurmctld", "slurmd", "munged")


def is_installed() -> bool:
    """Whether this machine can run it."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return os.geteuid() == 0 and all(shutil.which(name, path=path) for name in NEEDED)


def start(place: Path) -> str:
    """Start it; returns the path of its configuration, which every command needs as SLURM_CONF."""
    for name in ("ctld", "d", "log"):
        (place / name).mkdir(parents=True, exist_ok=True)
    host = os.uname().nodename.partition(".")[0]
    config = place / "slurm.conf"
    config.write_text(CONFIG.format(host=host, place=place, cpus=os.cpu_count()))
    environment = {**os.environ, "SLURM_CONF": str(config), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    _start_munge(environment)
    for daemon in ("slurmctld", "slurmd"):
        subprocess.run([daemon, "-f", str(config)], env=environment, check=True)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        done = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, check=False)
        if done.stdout.strip() == "idle":
            return str(config)
        time.sleep(0.5)
    stop(place)
    raise RuntimeError(f"Slurm does not become idle: {done.stdout}{done.stderr}; its logs are in {place / 'log'}")


def _start_munge(environment: dict[str, str]) -> None:
    if subprocess.run(["munge", "-n"], stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0:
        return
    for folder, mode in (("/run/munge", "0755"), ("/var/log/munge", "0700"), ("/var/lib/munge", "0700")):
        subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "-m", mode, folder], check=True)
    command = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged"]
    subprocess.run(command, env=environment, check=True)


def stop(place: Path) -> None:
    """End its daemons."""
    for name in ("slurmd", "slurmctld"):
        file = place / f"{name}.pid"
        if file.exists():
            os.kill(int(file.read_text()), signal.SIGTERM)


if __name__ == "__main__":
    verb, folder = sys.argv[1], Path(sys.argv[2]).absolute()
    if verb == "start":
        print(f"export SLURM_CONF={start(folder)}")
    else:
        stop(folder)
