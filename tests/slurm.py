"""A Slurm of one node, of daemons started by hand in a folder: no accounting, no cgroups."""

import contextlib
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections import namedtuple
from pathlib import Path

Job = namedtuple("Job", "number state rule begin end")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo", "srun")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}
SlurmUser={user}
SlurmdUser=root
SlurmdParameters=config_overrides
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
MailProg=/bin/true
KillWait=3
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """Why there can be no Slurm here; empty where there can."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]
    if lacking:
        return f"no {', '.join(lacking)}: apt-get install slurm-wlm munge"
    return (
        "" if os.name == "posix" and os.geteuid() == 0 else "not root, who starts Slurm's daemons"
    )


def jobs(environment):
    """All jobs, waiting, running and ended: number, state, rule, begin, end (text that sorts)."""
    asked = ["squeue", "--noheader", "--states=all", "--sort=i", "--format=%A|%T|%k|%S|%e"]
    return [Job(*line.split("|")) for line in ask(asked, environment).splitlines()]


def search_path():
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def free_ports(count):
    """Ports that nobody listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def running(folder, cpus=2, memory=16000):
    """Daemons in a folder until the end; gives the variables that Slurm's commands need.

    cpus: of the node, whatever the machine has; memory: of the node, in MB.
    """
    folder = Path(folder)
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)  # munge refuses a socket that others could not reach
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    host = socket.gethostname().split(".")[0]
    controller, node = free_ports(2)
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=host,
            user=getpass.getuser(),
            folder=folder,
            controller=controller,
            node=node,
            cpus=cpus,
            memory=memory,
        )
    )
    srun = folder / "bin/srun"  # the plugin's job steps forget SLURM_CONF
    srun.parent.mkdir()
    here = f"SLURM_CONF={shlex.quote(str(folder / 'slurm.conf'))}"
    srun.write_text(f'#!/bin/sh\n{here} exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    path = os.pathsep.join([str(srun.parent), search_path()])
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
    daemons = [
        [
            *("munged", "--foreground", "--force", f"--socket={folder}/munge.socket"),
            *(f"--key-file={key}", f"--pid-file={folder}/munge.pid"),
            *(f"--seed-file={folder}/munge.seed", f"--log-file={folder}/munge.log"),
        ],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", host],
    ]
    started = []
    try:
        for command in daemons:
            with (folder / f"{command[0]}.out").open("w") as said:
                started.append(
                    subprocess.Popen(
                        command,
                        env={**os.environ, **environment},
                        stdin=subprocess.DEVNULL,
                        stdout=said,
                        stderr=said,
                        start_new_session=True,
                    )
                )
            if command[0] == "munged":
                wait_for((folder / "munge.socket").exists, 20)
        idle = ["sinfo", "--noheader", "--format=%T"]
        wait_for(lambda: ask(idle, environment).strip() == "idle", 40)
        yield environment
    finally:
        with contextlib.suppress(Exception):
            ask(["scancel", "--user", getpass.getuser()], environment)
            wait_for(lambda: not ask(["squeue", "--noheader"], environment).strip(), 20)
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def ask(command, environment):
    """What a command of Slurm prints; empty where it fails."""
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done.stdout


def wait_for(condition, seconds):
    """Wait until something is so; raises TimeoutError where it never is."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {condition}")
        time.sleep(0.1)
