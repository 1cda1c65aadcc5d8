"""The fio jobs: what each figure of the goals is measured with."""

import json
import os
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    name: str
    title: str
    rw: str
    block: str
    depth: int
    unit: str          # "MB/s" or "op/s"
    extra: tuple = ()


JOBS = (
    Job("seq-write", "sequential write", "write", "1M", 4, "MB/s"),
    Job("seq-read", "sequential read", "read", "1M", 4, "MB/s"),
    Job("rand-write", "random 4 KiB write, depth 16", "randwrite", "4k", 16, "op/s"),
    Job("rand-read", "random 4 KiB read, depth 16", "randread", "4k", 16, "op/s"),
    Job("rand-write-1", "random 4 KiB write, depth 1", "randwrite", "4k", 1, "op/s"),
    Job("rand-read-1", "random 4 KiB read, depth 1", "randread", "4k", 1, "op/s"),
    Job("sync-write", "4 KiB write + fdatasync", "randwrite", "4k", 1, "op/s", ("--fdatasync=1",)),
)


class FioFailed(Exception):
    """fio could not run the job; the text says why."""


def fio(arguments):
    result = subprocess.run(["fio", "--output-format=json", *arguments], capture_output=True, text=True)
    start = result.stdout.find("{")
    if result.returncode != 0 or start < 0:
        raise FioFailed(result.stderr.strip() or result.stdout.strip())
    return json.loads(result.stdout[start:])["jobs"][0]


def fill(path, size):
    """Writes the whole disk once, so that every read finds data."""
    fio(["--name=fill", f"--filename={path}", f"--size={size}", "--rw=write", "--bs=1M", "--ioengine=psync", "--end_fsync=1"])


def measure(job, path, seconds):
    """One run. Returns the rate in the job's unit and the 99th percentile of latency in microseconds."""
    report = fio([
        f"--name={job.name}", f"--filename={path}", f"--size={os.stat(path).st_size}", f"--rw={job.rw}", f"--bs={job.block}",
        f"--iodepth={job.depth}", "--ioengine=" + ("psync" if job.depth == 1 else "io_uring"), "--direct=1", "--invalidate=1",
        "--randrepeat=0", f"--runtime={seconds}", "--time_based", *job.extra,
    ])
    side = report["read"] if report["read"]["io_bytes"] else report["write"]
    if report["error"] or not side["io_bytes"]:
        raise FioFailed(f"{job.name} on {path}: error {report['error']}")
    rate = side["bw_bytes"] / 1e6 if job.unit == "MB/s" else side["iops"]
    return rate, side["clat_ns"].get("percentile", {}).get("99.000000", 0) / 1000
