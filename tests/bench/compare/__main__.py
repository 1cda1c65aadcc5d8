"""Our encrypted disk beside every installed peer, in one run.

    python3 tests/bench/compare [--workloads] [--store DIR [--cold]] [--size MIB] [--seconds N] [--rounds N] [--only NAME,NAME]
                                [--json FILE] [--chart FILE]

All disks are mounted at once; in each round each job runs on each disk, one after the other, starting with another disk every time, so that
whatever else the machine does meets them alike. Reported are medians over the rounds, and ratios, which are compared with the goals.
With --workloads, ext4 is made on a loop device on each disk, and files are unpacked, compiled and put into a database there.
Needs fio, Python 3.9, FUSE, SoftHSM and release builds of kmsd and evsfs (cargo build --release -p kmsd, -p evsfs). Run as root. The
exit status is 1 when a goal that must be reached is missed.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from chart import draw, rate  # noqa: E402
from jobs import JOBS, FioFailed, fill, measure  # noqa: E402
from peers import PEERS, Unavailable  # noqa: E402
from workloads import WORKLOADS, Ext4, make_source  # noqa: E402

# job: [(against "peer" or "plain", must, aim)]
GOALS = {
    "seq-write": [("peer", 2.5, 3.5), ("plain", 0.55, 0.65)],
    "seq-read": [("peer", 3.0, 4.5), ("plain", 0.55, 0.65)],
    "rand-write": [("peer", 3.0, 4.5), ("plain", 0.75, 0.9)],
    "rand-read": [("peer", 3.0, 4.5), ("plain", 0.75, 0.9)],
    "rand-write-1": [("plain", 0.8, 0.95)],
    "rand-read-1": [("plain", 0.8, 0.95)],
    "sync-write": [("peer", 0.95, 1.2)],
    "unpack": [("peer", 1.2, 2.0)],
    "compile": [("peer", 1.2, 2.0)],
    "sqlite": [("peer", 1.2, 2.0)],
}


def arguments():
    parser = argparse.ArgumentParser(prog="compare", description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path("/dev/shm"), help="where the stores lie (default: memory, so that no disk's speed is measured)")
    parser.add_argument("--cold", action="store_true", help="write out and drop what the host has cached before each run, so that a disk below --store is measured")
    parser.add_argument("--size", type=int, default=512, help="size of each disk in MiB")
    parser.add_argument("--seconds", type=float, default=3, help="length of one run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workloads", action="store_true", help="also run ext4 workloads")
    parser.add_argument("--only", help="parts of the names of the peers to run, with commas")
    parser.add_argument("--bin", type=Path, help="where kmsd and evsfs are (default: target/release)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--chart", type=Path, help="write a bar chart (SVG) to this file")
    settings = parser.parse_args()
    settings.repository = Path(__file__).resolve().parents[3]
    target = Path(os.environ.get("CARGO_TARGET_DIR", settings.repository / "target"))
    settings.bin = (settings.bin or target / "release").resolve()
    for program in ("kmsd", "evsfs"):
        if not (settings.bin / program).is_file():
            parser.error(f"{settings.bin / program} is missing: build it with cargo build --release -p {program}")
    if shutil.which("fio") is None:
        parser.error("fio is not installed")
    return settings


def main():
    settings = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))     # so that everything is unmounted
    size = settings.size << 20
    jobs = JOBS + (WORKLOADS if settings.workloads else ())
    running, disks = [], {}
    figures = {}        # name -> job -> [(rate, p99)]
    base = Path(tempfile.mkdtemp(prefix="ecs-compare.", dir=settings.store))
    try:
        for number, kind in enumerate(PEERS):
            if settings.only and not any(part in kind.name for part in settings.only.split(",")):
                continue
            dir = base / str(number)
            dir.mkdir()
            try:
                peer = kind(dir, size, settings)
            except Unavailable as reason:
                print(f"{kind.name}: left out, {reason}", file=sys.stderr)
                continue
            running.append(peer)
            disks[peer.name] = peer.start()
            fill(disks[peer.name], size)
            figures[peer.name] = {job.name: [] for job in jobs}
        if not running:
            sys.exit("error: no peer of that name is installed")
        for turn in range(settings.rounds):
            for job in JOBS:
                shift = turn % len(running)
                for peer in running[shift:] + running[:shift]:
                    if settings.cold:
                        drop_caches()
                    figures[peer.name][job.name].append(measure(job, disks[peer.name], settings.seconds))
            print(f"round {turn + 1} of {settings.rounds} done", file=sys.stderr)
        if settings.workloads:
            make_source(base)
            for turn in range(settings.rounds):
                shift = turn % len(running)
                for peer in running[shift:] + running[:shift]:
                    ext4 = Ext4(disks[peer.name], base / "ext4")
                    try:
                        for workload in WORKLOADS:
                            figures[peer.name][workload.name].append((ext4.measure(workload, base), 0))
                    finally:
                        ext4.close()
                    (base / "ext4").rmdir()
                print(f"workloads: round {turn + 1} of {settings.rounds} done", file=sys.stderr)
        versions = {peer.name: peer.version() for peer in running}
    except FioFailed as reason:
        sys.exit(f"error: fio: {reason}")
    finally:
        for peer in running:
            try:
                peer.stop()
            except Exception as reason:  # the others must be stopped too
                print(f"{peer.name}: {reason}", file=sys.stderr)
        shutil.rmtree(base, ignore_errors=True)

    kinds = {peer.name: peer.kind for peer in running}
    medians = {name: {job: statistics.median(rate for rate, _ in runs) for job, runs in jobs.items()} for name, jobs in figures.items()}
    table(medians, jobs)
    missed, ratios = compare(medians, kinds, jobs)
    if settings.json:
        settings.json.write_text(json.dumps({
            "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "arch": platform.machine()},
            "settings": {"size_mib": settings.size, "seconds": settings.seconds, "rounds": settings.rounds, "store": str(settings.store), "cold": settings.cold},
            "versions": versions, "medians": medians, "ratios": ratios,
            "runs": {name: {job: [{"rate": r, "p99_us": p} for r, p in runs] for job, runs in jobs.items()} for name, jobs in figures.items()},
        }, indent=1) + "\n")
    if settings.chart:
        panels = [(job.title, job.unit, [(name, kinds[name], medians[name][job.name]) for name in medians]) for job in jobs]
        settings.chart.write_text(draw(panels, f"One disk of {settings.size} MiB, direct I/O, store in {'memory' if settings.store == Path('/dev/shm') else settings.store}, {os.cpu_count()} cores; medians of {settings.rounds} rounds"))
    sys.exit(1 if missed else 0)


def drop_caches():
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def table(medians, jobs):
    """Markdown, so that it can go into the docs as it is."""
    print("| | " + " | ".join(job.title for job in jobs) + " |")
    print("|---|" + "---|" * len(jobs))
    for name, rates in medians.items():
        print(f"| {name} | " + " | ".join(rate(rates[job.name], job.unit) for job in jobs) + " |")
    print()


def compare(medians, kinds, jobs):
    """Prints our ratios against the goals. Returns how many musts are missed, and the ratios."""
    ours = next((name for name, kind in kinds.items() if kind == "ours"), None)
    if ours is None:
        return 0, []
    missed, ratios = 0, []
    print("| | against | ratio | must | aim | |\n|---|---|---|---|---|---|")
    for job in jobs:
        for against, must, aim in GOALS[job.name]:
            others = [(medians[name][job.name], name) for name, kind in kinds.items() if kind == against]
            if not others:
                print(f"| {job.title} | {against}: none was measured | | {must} | {aim} | not compared |")
                continue
            best, name = max(others)
            ratio = medians[ours][job.name] / best
            verdict = "aim reached" if ratio >= aim else "reached" if ratio >= must else "MISSED"
            missed += ratio < must
            ratios.append({"job": job.name, "against": name, "ratio": ratio, "must": must, "aim": aim})
            print(f"| {job.title} | {name} | {ratio:.2f} | {must} | {aim} | {verdict} |")
    return missed, ratios


main()
