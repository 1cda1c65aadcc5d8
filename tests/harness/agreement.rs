//! Whether all that an installation consists of agrees: catalogue, volume files, mounts, processes, sockets and locks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::installation::Installation;
use crate::process;
use crate::program::run;

/// A row of the catalogue, read by SQLite's own program.
struct Row {
    kind: String,
    id: String,
    name: String,
    status: String,
    pid: String,
    size: String,
    key: String,
    /// Of a snapshot: its disk.
    of: String,
}

fn catalogue(ecs: &Installation) -> Vec<Row> {
    const QUERY: &str = "SELECT 'operation', resource_id, operation, '', '', '', '', '' FROM operations
        UNION ALL SELECT kind, id, name, status, coalesce(serving_pid, ''), size, coalesce(key_id, ''), '' FROM volumes
        UNION ALL SELECT 'thin', id, name, '', '', '', '', '' FROM volumes WHERE base_id IS NOT NULL
        UNION ALL SELECT 'snapshot', id, name, '', '', '', '', disk_id FROM snapshots
        UNION ALL SELECT 'server', id, name, status, '', '', '', '' FROM servers";
    let out = run(Command::new("sqlite3").arg(ecs.home().join("catalog.db")).arg(QUERY)).ok().stdout;
    let row = |line: &str| {
        let mut cells = line.split('|').map(str::to_owned);
        let mut next = || cells.next().unwrap_or_else(|| panic!("a short row: {line}"));
        let (kind, id, name, status) = (next(), next(), next(), next());
        Row { kind, id, name, status, pid: next(), size: next(), key: next(), of: next() }
    };
    out.lines().map(row).collect()
}

/// The names in a directory; one that is not there has none.
fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().expect("names are UTF-8")).collect()
}

/// What holds whenever nothing is being done: nothing is pending, no state is one of passage, and every file, directory, mount and process is
/// that of something in the catalogue. Size, key and snapshots of the disks that `opened` names are in their volumes what they are in the
/// catalogue. Returns what there is: kind, name and status.
///
/// # Panics
/// If it is not so; `context` says what was done before.
#[track_caller]
pub fn whole(ecs: &Installation, opened: &[&str], context: &str) -> BTreeSet<String> {
    let (home, rows) = (ecs.home(), catalogue(ecs));
    let is_volume = |row: &&Row| ["disk", "image", "backup"].contains(&row.kind.as_str());
    for row in &rows {
        let stays = match row.kind.as_str() {
            "operation" => panic!("{context}: {} is pending", row.name),
            "server" => row.status == "stopped",
            "thin" | "snapshot" => true,
            _ => row.status == "available" || row.status == "in-use",
        };
        assert!(stays, "{context}: {} {} stays {}", row.kind, row.name, row.status);
    }
    let volumes: Vec<&Row> = rows.iter().filter(is_volume).collect();
    let in_use: Vec<&&Row> = volumes.iter().filter(|row| row.status == "in-use").collect();

    let files = volumes.iter().map(|row| format!("{}.evs", row.id)).collect::<BTreeSet<_>>();
    assert_eq!(names(&home.join("volumes")), files, "{context}: files of volumes");
    let served =
        |suffix: &str| in_use.iter().map(|row| format!("{}{suffix}", row.id)).collect::<BTreeSet<_>>();
    assert_eq!(names(&home.join("mnt")), served(""), "{context}: mount points");
    assert_eq!(names(&home.join("run")), served(".sock"), "{context}: sockets");
    for dir in ["lock", "log"] {
        for name in names(&home.join(dir)) {
            let owned = rows.iter().any(|row| name == format!("{}.{dir}", row.id));
            assert!(owned, "{context}: {dir}/{name} is nobody's");
        }
    }
    let mut links = BTreeSet::new();
    for server in names(&home.join("servers")) {
        let owned = rows.iter().any(|row| row.kind == "server" && row.name == server);
        assert!(owned, "{context}: servers/{server} is nobody's");
        links.append(&mut names(&home.join("servers").join(server)));
    }
    let disks: BTreeSet<String> = in_use.iter().map(|row| row.name.clone()).collect();
    assert_eq!(links, disks, "{context}: stable paths");
    let partial = names(ecs.dir()).into_iter().find(|name| name.ends_with(".partial"));
    assert_eq!(partial, None, "{context}");

    let mounts: BTreeSet<PathBuf> =
        process::mounts_under(&home).into_iter().map(|(point, _)| point.into()).collect();
    let expected = in_use.iter().map(|row| home.join("mnt").join(&row.id)).collect();
    assert_eq!(mounts, expected, "{context}: mounts");
    let serving: Vec<u32> = in_use.iter().map(|row| row.pid.parse().expect("a process")).collect();
    assert!(serving.iter().all(|pid| process::is_running(*pid)), "{context}: a disk in use is not served");
    for pid in process::with_argument(&home).into_iter().filter(|pid| !serving.contains(pid)) {
        // An evsfs that was only asked something may outlive its ecsctl by a moment.
        assert!(process::wait_for_exit(pid, Duration::from_secs(10)), "{context}: process {pid} is nobody's");
    }
    for disk in volumes.iter().filter(|row| row.kind == "disk" && opened.contains(&row.name.as_str())) {
        assert_volume_agrees(ecs, disk, &rows, context);
    }
    rows.iter().map(|row| format!("{} {} {}", row.kind, row.name, row.status)).collect()
}

/// What the catalogue says of a disk is what its volume says.
#[track_caller]
fn assert_volume_agrees(ecs: &Installation, disk: &Row, rows: &[Row], context: &str) {
    let file = ecs.home().join("volumes").join(format!("{}.evs", disk.id));
    let file = file.to_str().expect("test paths are UTF-8");
    let held = if disk.status == "available" {
        let held = ecs.evsfs(&["accept-rollback", file, "--dry-run"]).json();
        // Of a file that was put back, and not accepted, the catalogue says nothing.
        if !held["rollback"].is_null() {
            return;
        }
        let info = ecs.evsfs(&["info", file]).json();
        let told = (held["size"].to_string(), info["key_id"].as_str().unwrap_or_default());
        assert_eq!(told, (disk.size.clone(), disk.key.as_str()), "{context}: size and key of {}", disk.name);
        held
    } else {
        ecs.evsfs(&["snapshots", file]).json()
    };
    let kept = held["snapshots"].as_array().expect("a list").iter();
    let kept: BTreeSet<&str> = kept.map(|snapshot| snapshot["id"].as_str().expect("an ID")).collect();
    let own = rows.iter().filter(|row| row.kind == "snapshot" && row.of == disk.id);
    let told = own.map(|row| row.id.as_str()).collect();
    assert_eq!(kept, told, "{context}: snapshots of {}", disk.name);
}
