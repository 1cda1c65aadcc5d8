//! D10, F10: the raw view of an encrypted disk under the exercisers that file systems are tried with: fsx, which verifies each read, and
//! fio with verification. `ECS_TEST_FSX_OPERATIONS` sets the operations of fsx, `ECS_TEST_SEED` its seed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Installation, run, run_patiently};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} should be a number, not {text:?}"))
    })
}

/// An encrypted volume of this size, mounted; the view.
fn mounted(ecs: &Installation, size: &str, options: &[&str]) -> PathBuf {
    let (file, point) = (ecs.dir().join("v.evs"), ecs.dir().join("point"));
    fs::create_dir(&point).expect("a directory can be made");
    let create = ["create".as_ref(), file.as_os_str(), "--size".as_ref(), size.as_ref()];
    ecs.evsfs(&[&create[..], &["--key".as_ref(), "evs/default".as_ref()]].concat()).ok();
    let mut mount = vec!["mount".as_ref(), file.as_os_str(), point.as_os_str()];
    mount.extend(options.iter().map(AsRef::<std::ffi::OsStr>::as_ref));
    ecs.evsfs(&mount).json()["path"].as_str().expect("a path").into()
}

/// Detaches it and verifies the whole file.
fn sound_in_the_end(ecs: &Installation) {
    ecs.evsfs(&["umount".as_ref(), ecs.dir().join("point").as_os_str()]).ok();
    ecs.evsfs(&["check".as_ref(), ecs.dir().join("v.evs").as_os_str()]).ok();
}

/// fsx keeps the mapping of each of its mapped reads, and the kernel gives a process some 65,000 (`vm.max_map_count`): a longer exercise is
/// made of parts. Each begins with zeros.
const MOST_MAPPED: u64 = 100_000;

/// Operations of any offset and length on the whole disk; each read is compared, and the disk keeps its size.
fn fsx(options: &[&str], operations: u64, mapped: u32) {
    let ecs = Installation::new();
    let view = mounted(&ecs, "256K", options);
    let config = ecs.dir().join("fsx.toml");
    let text = format!(
        "blockmode = true\n[opsize]\nmin = 1\nmax = 16384\n[weights]\nread = 20\nwrite = 20\nmapread = {mapped}\nmapwrite = {mapped}\n\
         truncate = 0\ninvalidate = {invalidate}\nfsync = 0.3\nfdatasync = 0.7\npunch_hole = 3\nsendfile = 3\nposix_fadvise = 1\n\
         copy_file_range = 3\n",
        invalidate = if mapped > 0 { 1 } else { 0 },
    );
    fs::write(&config, text).expect("a file can be written");
    let mut left = setting("ECS_TEST_FSX_OPERATIONS", operations);
    let most = if mapped > 0 { MOST_MAPPED } else { left };
    for seed in setting("ECS_TEST_SEED", 0x5eed).. {
        let part = left.min(most);
        let mut fsx = Command::new("fsx");
        fsx.arg("-f").arg(&config).arg("-P").arg(ecs.dir());
        fsx.arg("-N").arg(part.to_string()).arg("-S").arg(seed.to_string()).arg(&view);
        run_patiently(fsx.current_dir(ecs.dir())).ok();
        left -= part;
        if left == 0 {
            break;
        }
    }
    sound_in_the_end(&ecs);
}

#[test]
fn d10_fsx_without_a_cache() {
    fsx(&[], 200_000, 0);
}

#[test]
fn d10_fsx_with_mappings_in_cached_mode() {
    fsx(&["--cached"], 25_000, 20);
}

/// fio writes, reads back and compares; each job has a part of the disk of its own.
fn fio(view: &Path, dir: &Path, extra: &[&str]) {
    let mut fio = Command::new("fio");
    fio.args(["--name=verify", "--size=32M", "--numjobs=3", "--offset_increment=32M", "--group_reporting"])
        .args(["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--verify_backlog=500"])
        .args(["--randseed=7", "--random_generator=tausworthe64"])
        .arg(format!("--filename={}", view.display()))
        .args(extra);
    run(fio.current_dir(dir)).ok();
}

const DEEP: [&str; 3] = ["--ioengine=io_uring", "--iodepth=16", "--direct=1"];
const BUFFERED: [&str; 2] = ["--ioengine=psync", "--direct=0"];

#[test]
fn d10_fio_verifies_several_jobs_without_a_cache() {
    let ecs = Installation::new();
    let view = mounted(&ecs, "96M", &[]);
    for shape in [
        &["--rw=randwrite", "--bs=4k"][..],
        &["--rw=write", "--bs=1M"],
        // Neither offset nor length fits a block.
        &["--rw=randwrite", "--bsrange=512-24k", "--bs_unaligned"],
        &["--rw=randrw", "--bs=16k", "--fdatasync=32"],
    ] {
        let unaligned = shape.contains(&"--bs_unaligned");
        let how = if unaligned { &BUFFERED[..] } else { &DEEP[..] };
        fio(&view, ecs.dir(), &[shape, how].concat());
    }
    sound_in_the_end(&ecs);
}

#[test]
fn d10_fio_verifies_several_jobs_in_cached_mode() {
    let ecs = Installation::new();
    let view = mounted(&ecs, "96M", &["--cached"]);
    for shape in [
        // This engine of fio mixes up the parts of several jobs, on any file system.
        &["--rw=randwrite", "--bs=4k", "--ioengine=mmap", "--numjobs=1"][..],
        &["--rw=randwrite", "--bsrange=512-24k", "--bs_unaligned", "--ioengine=psync"],
        &["--rw=write", "--bs=128k", "--ioengine=psync", "--end_fsync=1"],
        &["--rw=randrw", "--bs=4k", "--ioengine=io_uring", "--iodepth=8", "--direct=1"],
    ] {
        fio(&view, ecs.dir(), shape);
    }
    sound_in_the_end(&ecs);
}
