"""A SLURM of two nodes on this one machine, in a folder of its own: munged, slurmctld, two slurmd.

    python tests/slurm/virtual_cluster.py

starts it and says how to use it until Ctrl-C stops it. It takes Debian's packages slurm-wlm and
munge, root, and a hostname that is known; a SLURM that is there already is left alone.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

NODES = ("virtual1", "virtual2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
TRYING = 60.0
"""Seconds until a daemon that does not answer is given up."""

# A job that preempts is of `urgent`; one of `gentle` is warned before it is preempted. Credentials
# expire soon because a job that was requeued waits for that.
_CONFIGURATION = """\
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,default_queue_depth=100
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
MaxArraySize=9
SlurmdTimeout=20
ReturnToService=2
{nodes}
PartitionName=normal Nodes=ALL Default=YES MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=gentle Nodes=ALL MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
PartitionName=urgent Nodes=ALL MaxTime=60 PriorityTier=9 PreemptMode=OFF
"""


class NoClusterError(Exception):
    """It cannot be started here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A running SLURM."""

    folder: Path
    environment: dict[str, str]
    """With which programs of SLURM find it."""

    def run(self, *command: object) -> str:
        """Run a program of SLURM and return what it says."""
        done = subprocess.run(
            [str(word) for word in command],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stderr or done.stdout}")
        return done.stdout

    def jobs(self, states: str = "all") -> dict[str, str]:
        """States of all jobs, or of those in some states, by their ids."""
        lines = self.run("squeue", "-h", "-r", "-t", states, "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)


def why_not() -> str | None:
    """Say why it cannot be started here; None where it can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} not found: apt-get install slurm-wlm munge"
    if os.geteuid():
        return "slurmd needs root"
    return None


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start it, and stop it in the end whatever happens.

    Raises
    ------
    NoClusterError
        When it does not start.
    """
    reason = why_not()
    if reason is not None:
        raise NoClusterError(reason)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        # Munge looks whether everybody can reach its socket.
        folder.chmod(0o711)
        ports = _free_ports(1 + len(NODES))
        configuration = folder / "slurm.conf"
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} "
            "CPUs=2 RealMemory=4000 State=UNKNOWN"
            for name, port in zip(NODES, ports[1:], strict=True)
        )
        configuration.write_text(
            _CONFIGURATION.format(
                host=socket.gethostname(), port=ports[0], folder=folder, nodes=nodes
            )
        )
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        started = Cluster(
            folder=folder, environment={**os.environ, "SLURM_CONF": str(configuration)}
        )
        files = {
            "--key-file": key,
            "--socket": folder / "munge.socket",
            "--pid-file": folder / "munged.pid",
            "--log-file": folder / "munged.log",
            "--seed-file": folder / "munged.seed",
        }
        named = [f"{option}={file}" for option, file in files.items()]
        _daemon(stack, started, "munged", "--foreground", "--force", *named)
        _wait(files["--socket"].exists, folder, "munged")
        _daemon(stack, started, "slurmctld", "-D", "-i")
        for name in NODES:
            _daemon(stack, started, "slurmd", "-D", "-N", name)
        _wait(lambda: _idle(started) == len(NODES), folder, "the nodes")
        yield started
        # Jobs end before the daemons do, which would leave their processes alone.
        _cancel_all(started)


def _idle(started: Cluster) -> int:
    try:
        return started.run("sinfo", "-h", "-N", "-p", "normal", "-t", "idle", "-o", "%N").count(
            "\n"
        )
    except RuntimeError:
        return 0


def _cancel_all(started: Cluster) -> None:
    for job in {job.split("_")[0] for job in started.jobs("pending,running,completing")}:
        subprocess.run(["scancel", job], env=started.environment, check=False)
    _wait(lambda: not started.jobs("running,completing"), started.folder, "the end of the jobs")


def _daemon(stack: ExitStack, started: Cluster, *command: str) -> None:
    log = stack.enter_context((started.folder / f"{command[0]}.out").open("ab"))
    process = subprocess.Popen(
        command, env=started.environment, stdout=log, stderr=log, start_new_session=True
    )
    stack.callback(_stop, process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(ready: Callable[[], bool], folder: Path, what: str) -> None:
    end = time.monotonic() + TRYING
    while not ready():
        if time.monotonic() > end:
            said = "\n".join(
                f"{file.name}: {file.read_text(errors='replace')[-1000:]}"
                for file in (*folder.glob("*.out"), *folder.glob("*.log"))
            )
            raise NoClusterError(f"{what}: did not come in {TRYING:.0f} s\n{said}")
        time.sleep(0.2)


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def main() -> None:
    """Run it until Ctrl-C, or SIGTERM."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.default_int_handler)
    with cluster() as started:
        print(f"export SLURM_CONF={started.environment['SLURM_CONF']}   # Ctrl-C stops it")
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("Stopping")


if __name__ == "__main__":
    main()
