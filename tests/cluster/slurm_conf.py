"""The configuration text of the cluster's Slurm; nothing here touches a file or a process.

The accounting resembles MeluXina's: a job names an account and a QOS, and both are enforced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

ACCOUNT = "p200999"
QOS = ("default", "urgent", "test")
PARTITIONS = ("cpu", "gpu")
USERS = ("hpc", "other")

CPUS_PER_NODE = 8
MEMORY_PER_NODE_MB = 4000

Release = tuple[int, int]
"""Year and month of a Slurm: 22.05 is ``(22, 5)``."""
# Where a setting got another name, or none.
CRED_TYPE: Release = (23, 2)
NO_AUTOMOUNT: Release = (23, 11)

CGROUPS = (
    "CgroupPlugin=cgroup/v1",
    "CgroupMountpoint=/sys/fs/cgroup",
    "ConstrainRAMSpace=yes",
    "ConstrainDevices=yes",
    "ConstrainCores=no",
    "AllowedRAMSpace=100",
    "MinRAMSpace=10",
)


def slurm_conf(
    state: Path,
    nodes: Sequence[str],
    *,
    release: Release,
    cgroups: bool,
    kill_wait_s: int,
    settings: Mapping[str, object],
) -> str:
    """Return ``slurm.conf``; ``settings`` replaces or adds lines by their exact names."""
    values: dict[str, object] = {
        "ClusterName": "test",
        "SlurmctldHost": "login(10.77.0.1)",
        "SlurmUser": "root",
        "AuthType": "auth/munge",
        "StateSaveLocation": state / "slurmctld",
        "SlurmdSpoolDir": f"{state}/nodes/%n/spool",
        "SlurmctldPidFile": state / "slurmctld.pid",
        "SlurmdPidFile": f"{state}/nodes/%n/slurmd.pid",
        # A node may claim more CPUs than the machine has.
        "SlurmdParameters": "config_overrides",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "ReturnToService": 2,
        "PropagateResourceLimits": "NONE",
        "MpiDefault": "none",
        "MailProg": "/bin/true",
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "login",
        "AccountingStorageEnforce": "associations,qos",
        "AccountingStoreFlags": "job_comment,job_env,job_script",
        "JobAcctGatherFrequency": "task=2",
        "KillWait": kill_wait_s,
        # Well above KillWait, or the loss of one node drains the others with "Kill task failed".
        "UnkillableStepTimeout": max(15, kill_wait_s + 5),
        "SlurmdTimeout": 5,
        "MessageTimeout": 5,
        "TCPTimeout": 2,
        "BatchStartTimeout": 5,
        "MinJobAge": 300,
        "JobRequeue": 1,
        "SchedulerParameters": "bf_interval=1,sched_interval=5,batch_sched_delay=0",
        "PreemptType": "preempt/qos",
        "PreemptMode": "REQUEUE",
    }
    if release < CRED_TYPE:
        values["CryptoType"] = "crypto/munge"
    if cgroups:
        values |= {
            "ProctrackType": "proctrack/cgroup",
            "TaskPlugin": "task/cgroup",
            "JobAcctGatherType": "jobacct_gather/cgroup",
        }
    else:
        values |= {
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/linux",
        }
    values |= settings
    lines = [f"{name}={value}" for name, value in values.items()]
    lines += [
        f"NodeName={node} CPUs={CPUS_PER_NODE} SocketsPerBoard=1 CoresPerSocket={CPUS_PER_NODE}"
        f" ThreadsPerCore=1 RealMemory={MEMORY_PER_NODE_MB} State=UNKNOWN"
        for node in nodes
    ]
    lines += [
        f"PartitionName={name} Nodes=ALL Default={'YES' if name == PARTITIONS[0] else 'NO'}"
        " DefaultTime=00:10:00 MaxTime=48:00:00 DefMemPerCPU=400 State=UP"
        for name in PARTITIONS
    ]
    return "\n".join(lines) + "\n"


def cgroup_conf(*, release: Release, cgroups: bool) -> str:
    """Return ``cgroup.conf``."""
    lines = CGROUPS if cgroups else ()
    if release < NO_AUTOMOUNT:
        lines = ("CgroupAutomount=no", *lines)
    elif not cgroups:
        lines = ("CgroupPlugin=disabled",)
    return "".join(f"{line}\n" for line in lines)


def slurmdbd_conf(state: Path) -> str:
    """Return ``slurmdbd.conf``; the database is only reachable inside and asks for no password."""
    return f"""\
AuthType=auth/munge
DbdHost=login
SlurmUser=root
PidFile={state}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=3306
StorageUser=root
StorageLoc=slurm_acct_db
CommitDelay=1
"""


def accounts() -> str:
    """Return what ``sacctmgr`` reads: the account, the QOS, and who may use them.

    The only account of a user is also the default one, so a job may leave out ``-A``.
    """
    everything = ",".join(QOS)
    lines = [
        "add cluster test",
        f"add qos {everything}",
        "modify qos urgent set Priority=100 Preempt=default",
        f"add account {ACCOUNT} Description=tests Organization=tests",
    ]
    lines += [
        f"add user {user} Account={ACCOUNT} QOS={everything} DefaultQOS={QOS[0]}" for user in USERS
    ]
    return "\n".join(lines) + "\n"


def hosts(addresses: Mapping[str, str]) -> str:
    """Return ``/etc/hosts``, the only source of names in the cluster."""
    lines = ["127.0.0.1 localhost"]
    lines += [f"{address} {name}" for name, address in addresses.items()]
    return "\n".join(lines) + "\n"


def with_users(passwd: str, uids: Mapping[str, int]) -> str:
    """Return the text of ``/etc/passwd`` with our users instead of any others of that name."""
    kept = [line for line in passwd.splitlines() if line.split(":")[0] not in uids]
    ours = [f"{name}:x:{uid}:{uid}::/home/{name}:/bin/bash" for name, uid in uids.items()]
    return "\n".join([*kept, *ours]) + "\n"


def with_groups(group: str, uids: Mapping[str, int]) -> str:
    """Return the text of ``/etc/group`` with a group for each of our users."""
    kept = [line for line in group.splitlines() if line.split(":")[0] not in uids]
    return "\n".join([*kept, *(f"{name}:x:{uid}:" for name, uid in uids.items())]) + "\n"


def ids_of(name: str, passwd: str) -> tuple[int, int]:
    """Return the user id and the group id of a user in the text of ``/etc/passwd``."""
    users = {line.split(":")[0]: line.split(":")[2:4] for line in passwd.splitlines()}
    uid, gid = users[name]
    return int(uid), int(gid)
