"""A real Slurm cluster of virtual nodes on one machine: its own controller, node daemons and host names, fake GPUs.

It needs root and Debian's packages slurm-wlm and munge. A node is a slurmd in a mount and host-name namespace of its
own with character devices that stand for GPUs; nothing of it is left when it is stopped.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

CONFIGURATION = """\
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
CredType=cred/munge
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdPidFile={root}/slurmd.%n.pid
SlurmdLogFile={root}/slurmd.%n.log
SlurmdSpoolDir={root}/spool.%n
StateSaveLocation={root}/state
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=0
EnforcePartLimits=ALL
ReturnToService=2
JobRequeue=1
KillWait=10
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=node[1-{nodes}] NodeAddr=127.0.0.[11-{last}] Port=[{first_port}-{last_port}] Sockets=1 CoresPerSocket=16 \
ThreadsPerCore=1 RealMemory=100000 Feature=virtual Gres=gpu:fake:{gpus} State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES DefMemPerCPU=6000 DefaultTime=10 State=UP PriorityTier=10 GraceTime=20
PartitionName=urgent Nodes=ALL DefMemPerCPU=6000 DefaultTime=10 State=UP PriorityTier=100
"""

FINISHED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"}


def wait_for(what: Callable[[], object], seconds: float, message: str) -> None:
    """Poll until `what()` is true; AssertionError with `message` if it does not become so."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, message
        time.sleep(0.1)


def _processes_in(namespace: str) -> list[int]:
    """Ids of the processes that see a node's host name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it just ended
            if os.readlink(folder / "ns" / "uts") == namespace:
                found.append(int(folder.name))
    return found


class VirtualCluster:
    """`nodes` virtual nodes with `gpus` fake GPUs and 16 cores each, and jobs on it."""

    def __init__(self, root: Path, port: int, nodes: int = 2, gpus: int = 4) -> None:
        self.root, self._port, self._nodes, self._gpus = root, port, nodes, gpus
        self.environment = {**os.environ, "SLURM_CONF": str(root / "slurm.conf")}

    def start(self) -> None:
        """Start every daemon and wait until all nodes are idle."""
        self._configure()
        self._start_munge()
        self._run("slurmctld", "-c", "-f", str(self.root / "slurm.conf"))
        for number in range(1, self._nodes + 1):
            self.start_node(f"node{number}")
        wait_for(
            lambda: self._idle_nodes() == self._nodes,
            30,
            f"the virtual nodes did not come up: see {self.root}",
        )

    def start_node(self, node: str) -> None:
        """Start a node's daemon in namespaces of its own."""
        self._run(
            "unshare", "--uts", "--mount", "bash", "-c",
            f"hostname {node} && mount --bind {self.root}/hosts /etc/hosts && "
            f"exec slurmd -N {node} -f {self.root}/slurm.conf",
        )  # fmt: skip

    def lose_node(self, node: str) -> None:
        """Cut the power: every process of the node is gone at once, its daemon first, and Slurm notices."""
        daemon = int((self.root / f"slurmd.{node}.pid").read_text())
        namespace = os.readlink(f"/proc/{daemon}/ns/uts")
        for process in (daemon, *_processes_in(namespace)):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        wait_for(lambda: not _processes_in(namespace), 20, f"processes of {node} are left")
        self.scontrol("update", f"nodename={node}", "state=down", "reason=lost")

    def stop(self) -> None:
        """End what `start` began."""
        with suppress(subprocess.CalledProcessError):
            self._run("scancel", "--user", "root", "--quiet")
            wait_for(lambda: not self._run("squeue", "-h"), 30, "jobs are left")
        for file in self.root.glob("*.pid"):
            with suppress(ProcessLookupError, ValueError, FileNotFoundError):
                os.kill(int(file.read_text()), 15)
        wait_for(lambda: not list(self.root.glob("*.pid")), 20, "a daemon did not end")

    def submit(self, *words: str, settings: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
        """`sbatch` with these words and these variables beside the environment; the job's id."""
        return self._run("sbatch", "--parsable", *words, settings=settings, cwd=cwd).strip()

    def shell(self, line: str, settings: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
        """Return a line that a person types on the login node, in bash; what it prints."""
        return self._run("bash", "-c", line, settings=settings, cwd=cwd)

    def scontrol(self, *words: str) -> str:
        """Return what `scontrol` prints."""
        return self._run("scontrol", *words)

    def scancel(self, *words: str) -> None:
        """`scancel` with these words."""
        self._run("scancel", *words)

    def job(self, job: str) -> dict[str, str]:
        """Return the fields of `scontrol show job`."""
        return dict(re.findall(r"(\w+)=(\S*)", self.scontrol("show", "job", "--oneliner", job)))

    def finish(self, job: str, seconds: float = 300) -> dict[str, str]:
        """Wait until a job has ended for good; its fields."""
        wait_for(lambda: self.job(job)["JobState"] in FINISHED, seconds, f"job {job} did not end: {self.job(job)}")
        return self.job(job)

    def _idle_nodes(self) -> int:
        return len(self._run("sinfo", "-h", "-N", "-p", "gpu", "-t", "idle", "-o", "%N").split())

    def _configure(self) -> None:
        (self.root / "state").mkdir(parents=True)
        (self.root / "slurm.conf").write_text(
            CONFIGURATION.format(
                root=self.root, host=socket.gethostname(), nodes=self._nodes, gpus=self._gpus, port=self._port,
                first_port=self._port + 1, last_port=self._port + self._nodes, last=10 + self._nodes,
            )
        )  # fmt: skip
        hosts, gres = [f"127.0.0.1 localhost {socket.gethostname()}"], []
        for number in range(1, self._nodes + 1):
            hosts.append(f"127.0.0.{10 + number} node{number}")
            devices = self.root / f"devices.node{number}"
            for folder in (devices, self.root / f"spool.node{number}"):
                folder.mkdir()
            for gpu in range(self._gpus):
                os.mknod(devices / f"gpu{gpu}", 0o20666, os.makedev(1, 3))
            gres.append(f"NodeName=node{number} Name=gpu Type=fake File={devices}/gpu[0-{self._gpus - 1}]")
        (self.root / "hosts").write_text("\n".join(hosts) + "\n")
        (self.root / "gres.conf").write_text("\n".join(gres) + "\n")

    def _start_munge(self) -> None:
        # One daemon serves every cluster of the machine: two test processes that both saw none start one of them.
        with open("/tmp/anatobench-munge.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode:
                Path("/run/munge").mkdir(mode=0o755, exist_ok=True)
                shutil.chown("/run/munge", "munge", "munge")
                self._run("runuser", "-u", "munge", "--", "munged")

    def _run(self, *words: str, settings: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
        environment = {**self.environment, **(settings or {})}
        done = subprocess.run(words, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, words, done.stdout, done.stderr)
        return done.stdout
