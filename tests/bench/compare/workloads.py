"""What people do on a disk: ext4 on a loop device on the disk file, and three workloads on it, each durable at its end."""

import os
import shutil
import sqlite3
import subprocess
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from peers import run


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    unit: str
    run: object         # (source directory, empty directory on the disk) -> how many units were done


def make_source(dir):
    """A tree of 4,000 files of 1 to 40 KB in 80 directories, and a tar archive of it. The same bytes in every run."""
    tree = dir / "tree"
    state = 12345
    for number in range(4000):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        folder = tree / f"d{number % 80}"
        folder.mkdir(parents=True, exist_ok=True)
        line = f"line of file {number}, {state:x}\n".encode()
        (folder / f"f{number}.c").write_bytes(line * (1000 + (state >> 40) % 39000 // len(line)))
    with tarfile.open(dir / "tree.tar", "w") as archive:
        archive.add(tree, "tree")


def unpack(source, dir):
    run("tar", "-xf", source / "tree.tar", "-C", dir)
    run("sync", "-f", dir)
    return 4000


def compile_like(source, dir):
    """Reads sources, writes objects by way of temporary names, reads them all for a final link."""
    objects = []
    for number in range(0, 4000, 2):
        text = (source / "tree" / f"d{number % 80}" / f"f{number}.c").read_bytes()
        temporary, final = dir / f"o{number}.tmp", dir / f"o{number}.o"
        temporary.write_bytes(text[:200] * 100)
        os.rename(temporary, final)
        objects.append(final)
    with open(dir / "program", "wb") as program:
        for file in objects:
            program.write(file.read_bytes())
        program.flush()
        os.fsync(program.fileno())
    for file in objects:
        file.unlink()
    run("sync", "-f", dir)
    return len(objects)


def sqlite_like(source, dir):
    """Small transactions, each durable before the next, as a database with synchronous=FULL has them."""
    database = sqlite3.connect(dir / "data.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, key TEXT UNIQUE, value BLOB)")
    for number in range(1500):
        database.execute("INSERT INTO t (key, value) VALUES (?, ?)", (f"key {number * 7919 % 1500}", b"v" * 300))
    database.close()
    return 1500


WORKLOADS = (
    Workload("unpack", "ext4: unpack an archive", "files/s", unpack),
    Workload("compile", "ext4: compile-like", "files/s", compile_like),
    Workload("sqlite", "ext4: sqlite transactions", "op/s", sqlite_like),
)


class Ext4:
    """An ext4 file system on a loop device on the disk file."""

    def __init__(self, disk, point):
        self.point = point
        self.device = run("losetup", "--find", "--show", "--direct-io=on", disk).strip()
        point.mkdir()
        try:
            run("mkfs.ext4", "-q", "-F", self.device)
            run("mount", self.device, point)
        except Exception:
            self.close()
            raise

    def measure(self, workload, source):
        dir = self.point / "work"
        dir.mkdir()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        start = time.monotonic()
        done = workload.run(source, dir)
        rate = done / (time.monotonic() - start)
        shutil.rmtree(dir)
        run("sync", "-f", self.point)
        return rate

    def close(self):
        subprocess.run(["umount", str(self.point)], capture_output=True)
        subprocess.run(["losetup", "--detach", self.device], capture_output=True)
