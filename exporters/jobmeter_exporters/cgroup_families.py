"""The metric families of a job's resource use, in one table for every source of them."""

from __future__ import annotations

from jobmeter_exporters.families import Family

FAMILIES: dict[str, Family] = {
    "job_source_info": Family(
        "Where the job_ families of this node come from.", ("source",), source="which of the three"
    ),
    "job_cpu_seconds_total": Family(
        "CPU time of the job on this node, ended processes included.",
        source=(
            "`cpu.stat` usage_usec; "
            "v1 `cpuacct.usage`; "
            "tree: `stat` utime + stime + cutime + cstime"
        ),
    ),
    "job_cpu_user_seconds_total": Family(
        "The part of the CPU time spent in user mode.",
        source="`cpu.stat` user_usec; v1 `cpuacct.stat` user; tree: `stat` utime + cutime",
    ),
    "job_cpu_system_seconds_total": Family(
        "The part of the CPU time spent in the kernel.",
        source="`cpu.stat` system_usec; v1 `cpuacct.stat` system; tree: `stat` stime + cstime",
    ),
    "job_cpu_throttled_seconds_total": Family(
        "Time the job was held back by a CPU quota.",
        source="`cpu.stat` throttled_usec; v1 `cpu.stat` throttled_time",
    ),
    "job_cpus": Family(
        "CPUs that the job may use on this node.",
        source=(
            "`cpuset.cpus.effective`; v1 `cpuset.effective_cpus`; tree: affinity of the job script"
        ),
    ),
    "job_cpu_list_info": Family(
        "Which CPUs these are, as the kernel lists them.",
        ("cpus",),
        source=(
            "`cpuset.cpus.effective`; v1 `cpuset.effective_cpus`; tree: affinity of the job script"
        ),
    ),
    "job_memory_used_bytes": Family(
        "Memory of the job; with page cache if from a cgroup.",
        source=(
            "`memory.current` (with page cache); "
            "v1 `memory.usage_in_bytes`; "
            "tree: PSS, or RSS above 256 MiB per process"
        ),
    ),
    "job_memory_anonymous_bytes": Family(
        "The part of the memory that no file backs.",
        source=(
            "`memory.stat` anon; v1 `memory.stat` total_rss; tree: anonymous part of the PSS or RSS"
        ),
    ),
    "job_memory_page_cache_bytes": Family(
        "The part of the memory that files back; given back when it is needed.",
        source="`memory.stat` file; v1 `memory.stat` total_cache",
    ),
    "job_memory_peak_bytes": Family(
        "Highest memory charged to the job so far.",
        source="`memory.peak` (Linux 5.19); v1 `memory.max_usage_in_bytes`",
    ),
    "job_memory_limit_bytes": Family(
        "Memory limit of the job; absent when unlimited.",
        source="`memory.max`; v1 `memory.limit_in_bytes`",
    ),
    "job_memory_major_faults_total": Family(
        "Page faults of the job that had to wait for storage.",
        source="`memory.stat` pgmajfault; v1 `memory.stat` total_pgmajfault",
    ),
    "job_memory_events_total": Family(
        "How often memory ran short: at the soft limit, at the limit, with no way out.",
        ("event",),
        source="`memory.events` high, max, oom",
    ),
    "job_memory_oom_kills_total": Family(
        "Processes of the job killed for lack of memory.",
        source=(
            "`memory.events` oom_kill; "
            "v1 `memory.oom_control` of the groups of the job, summed; "
            "a lower bound, absent until one is seen"
        ),
    ),
    "job_processes": Family(
        "Processes of the job on this node.",
        source=(
            "`cgroup.procs` of the groups of the job; "
            "absent above 48 groups; "
            "v1 `cgroup.procs` in one controller; "
            "tree: live descendants"
        ),
    ),
    "job_threads": Family(
        "Threads of the job on this node.",
        source="`pids.current`; v1 `pids.current`; tree: `stat` num_threads",
    ),
    "job_io_read_bytes_total": Family(
        "Bytes the job read from block devices.",
        ("device",),
        source="`io.stat`; v1 `blkio.throttle.io_service_bytes_recursive`",
    ),
    "job_io_write_bytes_total": Family(
        "Bytes the job wrote to block devices.",
        ("device",),
        source="`io.stat`; v1 `blkio.throttle.io_service_bytes_recursive`",
    ),
    "job_io_reads_total": Family(
        "Requests to read from block devices.",
        ("device",),
        source="`io.stat` rios; v1 `blkio.throttle.io_serviced_recursive`",
    ),
    "job_io_writes_total": Family(
        "Requests to write to block devices.",
        ("device",),
        source="`io.stat` wios; v1 `blkio.throttle.io_serviced_recursive`",
    ),
    "job_syscall_read_bytes_total": Family(
        "Bytes that the processes read with calls, on any file system; a lower bound.",
        source="`/proc/<pid>/io` rchar, summed",
    ),
    "job_syscall_write_bytes_total": Family(
        "Bytes that the processes wrote with calls, on any file system; a lower bound.",
        source="`/proc/<pid>/io` wchar, summed",
    ),
    "job_syscall_reads_total": Family(
        "Read calls of the processes; a lower bound.",
        source="`/proc/<pid>/io` syscr, summed",
    ),
    "job_syscall_writes_total": Family(
        "Write calls of the processes; a lower bound.",
        source="`/proc/<pid>/io` syscw, summed",
    ),
    "job_storage_read_bytes_total": Family(
        "Bytes that the processes made storage deliver; a lower bound.",
        source="`/proc/<pid>/io` read_bytes, summed",
    ),
    "job_storage_write_bytes_total": Family(
        "Bytes that the processes gave to storage, later truncated ones too; a lower bound.",
        source="`/proc/<pid>/io` write_bytes, summed",
    ),
    "job_processes_without_io": Family(
        "Processes whose I/O is in none of these sums: not ours to read, or one too many.",
        source="those that refuse `/proc/<pid>/io`, root's aside, or come after the first 256",
    ),
    "job_pressure_waiting_seconds_total": Family(
        "Time in which at least one task of the job waited for the resource.",
        ("resource",),
        source="`some` total of `*.pressure`",
    ),
    "job_pressure_stalled_seconds_total": Family(
        "Time in which all tasks of the job that could run waited for the resource.",
        ("resource",),
        source="`full` total of `*.pressure`",
    ),
    "job_steps": Family(
        "Steps of the job on this node, the batch script's and the monitoring's too.",
        source="groups `step_*` of the job",
    ),
    "job_step_cpu_seconds_total": Family(
        "CPU time of the step, ended processes included.",
        ("step",),
        source="`cpu.stat` usage_usec; v1 `cpuacct.usage`",
    ),
    "job_step_memory_used_bytes": Family(
        "Memory of the step, with page cache.",
        ("step",),
        source="`memory.current`; v1 `memory.usage_in_bytes`",
    ),
    "job_step_memory_peak_bytes": Family(
        "Highest memory charged to the step so far.",
        ("step",),
        source="`memory.peak` (Linux 5.19); v1 `memory.max_usage_in_bytes`",
    ),
    "job_step_memory_oom_kills_total": Family(
        "Processes of the step killed for lack of memory.",
        ("step",),
        source="`memory.events` oom_kill",
    ),
    "job_task_cpu_seconds_total": Family(
        "CPU time of the task, ended processes included.",
        ("step", "task"),
        source="`cpu.stat` usage_usec; v1 `cpuacct.usage`",
    ),
    "job_task_memory_used_bytes": Family(
        "Memory of the task, with page cache.",
        ("step", "task"),
        source="`memory.current`; v1 `memory.usage_in_bytes`",
    ),
    "job_task_memory_peak_bytes": Family(
        "Highest memory charged to the task so far.",
        ("step", "task"),
        source="`memory.peak` (Linux 5.19); v1 `memory.max_usage_in_bytes`",
    ),
    "job_task_memory_oom_kills_total": Family(
        "Processes of the task killed for lack of memory.",
        ("step", "task"),
        source="`memory.events` oom_kill",
    ),
    "job_monitoring_cpu_seconds_total": Family(
        "CPU time of the monitoring in this job.",
        source=(
            "`cpu.stat` of this step; "
            "v1 `cpuacct.usage` of this step; "
            "tree: `stat` of the monitoring"
        ),
    ),
    "job_monitoring_memory_used_bytes": Family(
        "Memory charged to the monitoring in this job.",
        source=(
            "`memory.current` of this step; "
            "v1 `memory.usage_in_bytes` of this step; "
            "tree: PSS or RSS of the monitoring"
        ),
    ),
}
