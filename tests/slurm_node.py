"""A real SLURM of one node for the tests of what runs on one: Debian's slurm-wlm and munge, as root."""

import os
import shutil
import socket
import subprocess
import time

import pytest

MISSING = [
    tool
    for tool in ("sbatch", "slurmctld", "slurmd", "munged")
    if not shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin")
]
NEEDS = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} (apt-get install slurm-wlm munge)"),
    pytest.mark.skipif(os.getuid() != 0, reason="starts a SLURM of its own, which takes root"),
]

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=60
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch):
    """A controller, a node and munge with a key of their own, on free ports."""
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir()
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    host = socket.gethostname().split(".")[0]
    conf = CONF.format(host=host, folder=folder, ports=ports, cpus=os.cpu_count())
    (folder / "slurm.conf").write_text(conf)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    files = {f"--{name}-file": folder / "munge" / name for name in ("key", "pid", "log", "seed")}
    munge = ["munged", "--foreground", "--force", f"--socket={folder / 'munge.socket'}"]
    daemons = [
        [*munge, *(f"{option}={path}" for option, path in files.items())],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    ]
    log = open(folder / "daemons.log", "w")
    started = []
    try:
        for daemon in daemons:
            started.append(subprocess.Popen(daemon, stdout=log, stderr=log))
            time.sleep(1)
        deadline = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout:
            assert time.monotonic() < deadline, (folder / "daemons.log").read_text()
            time.sleep(0.5)
        yield folder
    finally:
        subprocess.run(["scancel", f"--user={os.environ.get('USER', 'root')}"], capture_output=True)
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            process.wait(60)
