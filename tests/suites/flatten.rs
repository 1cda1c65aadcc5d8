//! F8, I4: a disk takes over what it reads from its image, on a real token, daemon and mount; then the image goes.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use harness::{Installation, process};
use serde_json::Value;

const MIB: usize = 1 << 20;

/// Bytes that differ from block to block.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let step = move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33).to_le_bytes()
    };
    (0..length / 8).flat_map(step).collect()
}

/// Writes, and keeps account of it.
#[track_caller]
fn write(view: &Path, expected: &mut [u8], at: usize, data: &[u8]) {
    let file = OpenOptions::new().write(true).open(view).expect("the view can be opened");
    file.write_all_at(data, at as u64).and_then(|()| file.sync_all()).expect("the view takes writes");
    expected[at..at + data.len()].copy_from_slice(data);
}

#[track_caller]
fn assert_holds(view: &Path, expected: &[u8], when: &str) {
    let mut seen = vec![0; expected.len()];
    File::open(view).and_then(|file| file.read_exact_at(&mut seen, 0)).expect("the view can be read");
    let differs = seen.iter().zip(expected).position(|(seen, expected)| seen != expected);
    assert_eq!(differs, None, "{when}");
}

/// An image of 24 MiB in the installation: data, a hole of 8 MiB, data.
fn image(ecs: &Installation) -> Vec<u8> {
    let mut bytes = pattern(1, 24 * MIB);
    bytes[8 * MIB..16 * MIB].fill(0);
    let raw = ecs.dir().join("image.raw");
    fs::write(&raw, &bytes).expect("it can be written");
    ecs.ecsctl("key create --alias image-key").ok();
    ecs.ecsctl(&format!("image create i --from-file {} --encrypted --key image-key", raw.display())).ok();
    bytes
}

fn progress(ecs: &Installation) -> Value {
    ecs.ecsctl("disk show d").json()["flatten"].clone()
}

/// Slowly at first, with writes, a snapshot, a kill and a detach on the way; then to its end. The disk is what it was, bit for bit, also without
/// the image, without the image's key, and after everything was started anew.
#[test]
fn f8_i4_a_disk_in_use_is_flattened_and_its_image_goes() {
    let mut ecs = Installation::new();
    let original = image(&ecs);
    ecs.create_disk("d", "--image i --size 32M --encrypted");
    let attached = ecs.attach("d", "web1");
    let mut expected = [original, vec![0; 8 * MIB]].concat();
    write(&attached.path, &mut expected, 5 * MIB - 700, &pattern(2, 8192));
    ecs.ecsctl("snapshot create s --disk d").ok();
    let kept = expected.clone();
    ecs.ecsctl("disk flatten d --rate 512K").ok();
    let running = progress(&ecs);
    assert!(running["percent"].as_u64().is_some_and(|p| p < 90) && running["rate"] == 512 << 10, "{running}");
    ecs.ecsctl("image delete i --yes").error(3).naming(&["i", "disk d"]);
    ecs.ecsctl("disk rekey d --new-data-key").error(3).naming(&["flattened"]);
    for round in 0..6 {
        write(
            &attached.path,
            &mut expected,
            (3 * round + 1) * MIB + 100 * round,
            &pattern(3 + round as u64, 4096),
        );
    }
    process::kill_hard(attached.pid);
    ecs.ecsctl("server recover web1").ok();
    let attached = ecs.attached(&ecs.ecsctl("disk show d").json());
    assert_eq!(progress(&ecs)["rate"], 512 << 10, "it goes on by itself, at the same rate");
    assert_holds(&attached.path, &expected, "after a kill");
    ecs.ecsctl("disk detach d").ok();
    let attached = ecs.attach("d", "web1");
    assert!(progress(&ecs).is_object(), "16 MiB at 512 KiB a second take longer");
    let view = attached.path.clone();
    // As fast as it goes, beside a writer.
    ecs.ecsctl("disk flatten d --rate 0").ok();
    let mut rounds = 0;
    let file = done_file(&ecs);
    // Asked beside ecsctl, which must find out by itself that it has ended.
    let running = || ecs.evsfs(&["info", &file]).json()["flatten"].clone();
    while !running().is_null() {
        rounds += 1;
        assert!(rounds < 500, "it does not end: {}", running());
        write(&view, &mut expected, rounds % 31 * MIB + 4096 - rounds, &pattern(100 + rounds as u64, 8192));
    }
    let listed = ecs.ecsctl("disk list").json();
    assert!(listed[0]["name"] == "d" && listed[0]["image_id"].is_null(), "{listed}");
    let done = ecs.ecsctl("disk flatten d --wait").json();
    assert!(done["image_id"].is_null(), "{done}");
    assert_holds(&view, &expected, "flattened");
    let held = fs::metadata(done["file"].as_str().expect("a file")).expect("it is there").blocks() * 512;
    assert!(held > 16 << 20 && held < 32 << 20, "{held} bytes: the hole of the image stays one");

    ecs.ecsctl("image delete i --yes").ok();
    ecs.ecsctl("key disable image-key").ok();
    ecs.ecsctl("disk detach d").ok();
    assert!(process::wait_for_exit(attached.pid, Duration::from_secs(10)));
    ecs.kmsd_mut().stop();
    ecs.kmsd_mut().start();
    let attached = ecs.attach("d", "web1");
    assert_holds(&attached.path, &expected, "without the image");
    ecs.ecsctl("snapshot rollback s --yes").ok();
    assert_holds(&attached.path, &kept, "as it was before");
    ecs.ecsctl("disk detach d").ok();
    assert_eq!(ecs.ecsctl("disk check d").json()["sound"], true);
}

/// A detached disk is flattened by the command itself; what cannot be is refused; asked again, nothing is to be done.
#[test]
fn f8_a_detached_disk_is_flattened_at_once() {
    let ecs = Installation::new();
    let original = image(&ecs);
    ecs.create_disk("d", "--image i --encrypted");
    ecs.create_disk("other", "--size 16M");
    ecs.ecsctl("key disable image-key").ok();
    ecs.ecsctl("disk flatten d").error(3).naming(&["image-key", "disabled"]);
    ecs.ecsctl("key enable image-key").ok();
    ecs.ecsctl("disk flatten d --rate fast").error(2).naming(&["fast"]);
    for _ in 0..2 {
        let done = ecs.ecsctl("disk flatten d").json();
        assert_eq!((&done["image_id"], &done["status"]), (&Value::Null, &"available".into()), "{done}");
    }
    let file = done_file(&ecs);
    let info = ecs.evsfs(&["info".as_ref(), Path::new(&file)]).json();
    assert_eq!((&info["flattened"], &info["base"]), (&true.into(), &Value::Null), "{info}");
    let other = ecs.ecsctl("disk show other").json()["file"].as_str().expect("a file").to_owned();
    ecs.evsfs(&["flatten", other.as_str()]).error(3).naming(&["not thin"]);
    // Nor would it take over plainly what an encrypted image holds: no such disk is made.
    let image = ecs.ecsctl("image show i").json()["file"].as_str().expect("a file").to_owned();
    let plain = ecs.dir().join("plain").display().to_string();
    ecs.evsfs(&["create", &plain, "--plain", "--base", &image]).error(2).naming(&["encrypted", "--key"]);
    assert!(!Path::new(&plain).exists());
    ecs.ecsctl("image delete i --yes").ok();
    ecs.ecsctl("key disable image-key").ok();
    assert_holds(&ecs.attach("d", "web1").path, &original, "without the image");
}

fn done_file(ecs: &Installation) -> String {
    ecs.ecsctl("disk show d").json()["file"].as_str().expect("a file").to_owned()
}
