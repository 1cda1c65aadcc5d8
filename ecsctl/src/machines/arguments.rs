//! The command line of a machine, pure.

use std::{collections::BTreeSet, ffi::OsString, path::Path};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::machines::{Machine, accel::Acceleration};

/// What this host decides for every machine.
#[derive(Debug)]
pub(super) struct Host<'a> {
    /// What was decided.
    pub(super) acceleration: Acceleration,
    /// The descriptor of the monitor's socket, which listens already.
    pub(super) monitor: i32,
    /// The arguments that make QEMU give up its rights when everything is open, if it is to.
    pub(super) drop_to: Option<[String; 2]>,
    /// Arguments from the configuration.
    pub(super) extra: &'a [String],
}

/// A raw file as a block device: past the page cache, with discards passed on.
pub(super) fn block(node: &str, path: &Path, read_only: bool) -> String {
    json!({
        "driver": "raw",
        "node-name": node,
        "read-only": read_only,
        "discard": "unmap",
        "cache": {"direct": !read_only, "no-flush": false},
        "file": {
            "driver": "file",
            "filename": path,
            "aio": "threads",
            "discard": "unmap",
            "cache": {"direct": !read_only, "no-flush": false},
        },
    })
    .to_string()
}

/// The volumes whose views are in a command line that [`arguments`] made. A view is `<volume>/disk` in the directory of mount points.
pub(super) fn volumes(command_line: &[u8]) -> BTreeSet<Uuid> {
    let words: Vec<&[u8]> = command_line.split(|byte| *byte == 0).collect();
    let values = words.windows(2).filter(|pair| pair[0] == b"-blockdev").map(|pair| pair[1]);
    let volume = |value: &[u8]| {
        let block: Value = serde_json::from_slice(value).ok()?;
        let view = Path::new(block["file"]["filename"].as_str()?);
        Uuid::parse_str(view.parent()?.file_name()?.to_str()?).ok()
    };
    values.filter_map(volume).collect()
}

/// The arguments of QEMU.
pub(super) fn arguments(machine: &Machine, host: &Host<'_>) -> Vec<OsString> {
    let mut all: Vec<OsString> = Vec::new();
    let mut add = |option: &str, value: OsString| all.extend([option.into(), value]);
    add("-name", format!("guest={}", machine.name).into());
    add("-uuid", machine.id.to_string().into());
    // A dump of QEMU must not hold what the guest has read.
    add("-machine", format!("q35,accel={},dump-guest-core=off", host.acceleration.as_str()).into());
    add("-cpu", host.acceleration.processor().into());
    add("-m", format!("{}M", machine.memory).into());
    add("-smp", machine.cpus.to_string().into());
    add("-display", "none".into());
    // Programs that QEMU might be made to run, and rights that it might gain, are out of its reach. To give up its own
    // rights it needs the calls that this would deny.
    let elevate = if host.drop_to.is_some() { "allow" } else { "deny" };
    let sandbox = format!("on,obsolete=deny,spawn=deny,resourcecontrol=deny,elevateprivileges={elevate}");
    add("-sandbox", sandbox.into());
    let monitor = host.monitor;
    add("-chardev", format!("socket,id=monitor,fd={monitor},server=on,wait=off").into());
    add("-mon", "chardev=monitor,mode=control".into());
    add("-chardev", joined("file,id=console,path=", &machine.place.console));
    add("-serial", "chardev:console".into());
    add("-device", "virtio-rng-pci".into());
    for (n, disk) in machine.disks.iter().enumerate() {
        let node = format!("disk{n}");
        add("-blockdev", block(&node, &disk.view, false).into());
        let device =
            json!({"driver": "virtio-blk-pci", "drive": node, "serial": disk.serial, "bootindex": n + 1});
        add("-device", device.to_string().into());
    }
    if let Some(kernel) = &machine.kernel {
        add("-kernel", kernel.kernel.clone().into());
        if let Some(initrd) = &kernel.initrd {
            add("-initrd", initrd.clone().into());
        }
        add("-append", kernel.append.clone().into());
    }
    if let Some([option, value]) = &host.drop_to {
        add(option, value.into());
    }
    all.extend(["-nodefaults", "-no-user-config"].map(OsString::from));
    all.extend(host.extra.iter().map(OsString::from));
    all
}

/// A value with a path in it; QEMU wants each comma twice.
fn joined(before: &str, path: &Path) -> OsString {
    let mut value = OsString::from(before);
    value.push(path.to_string_lossy().replace(',', ",,"));
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::{Kernel, MachineDisk, MachinePlace};

    #[test]
    fn s2_disks_are_virtio_past_the_cache_with_discards_and_boot_in_order() {
        let views = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let path = |id: &Uuid| format!("/e,c s/{id}/disk");
        let disk = |id, name: &str| MachineDisk { view: path(id).into(), serial: name.into() };
        let machine = Machine {
            id: Uuid::nil(),
            name: "web1".into(),
            memory: 512,
            cpus: 2,
            acceleration: Acceleration::Auto,
            disks: vec![disk(&views[0], "system"), disk(&views[1], "data")],
            kernel: Some(Kernel { kernel: "/k".into(), initrd: Some("/i".into()), append: "a b".into() }),
            place: MachinePlace { monitor: "/m".into(), console: "/e,c/con".into(), log: "/l".into() },
        };
        let host = Host { acceleration: Acceleration::Tcg, monitor: 7, drop_to: None, extra: &[] };
        let all = arguments(&machine, &host);
        let of = |option: &str| -> Vec<&str> {
            let values = all.windows(2).filter(|pair| pair[0] == option);
            values.map(|pair| pair[1].to_str().unwrap()).collect()
        };
        assert_eq!(of("-machine"), ["q35,accel=tcg,dump-guest-core=off"]);
        assert_eq!((of("-kernel"), of("-initrd"), of("-append")), (vec!["/k"], vec!["/i"], vec!["a b"]));
        assert!(of("-chardev").contains(&"file,id=console,path=/e,,c/con"));
        assert!(of("-sandbox")[0].contains("spawn=deny") && of("-sandbox")[0].ends_with("=deny"));
        let disks: Vec<serde_json::Value> =
            of("-blockdev").iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        for (disk, id) in disks.iter().zip(&views) {
            assert_eq!(disk["file"]["filename"], path(id));
            assert_eq!((&disk["file"]["cache"]["direct"], &disk["discard"]), (&true.into(), &"unmap".into()));
        }
        let devices: Vec<serde_json::Value> =
            of("-device").iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
        assert_eq!((&devices[0]["bootindex"], &devices[1]["serial"]), (&1.into(), &"data".into()));

        // In /proc/PID/cmdline each argument ends in a zero.
        let line: Vec<u8> = all.iter().flat_map(|word| [word.as_encoded_bytes(), b"\0"].concat()).collect();
        assert_eq!(volumes(&line), views.into_iter().collect());
        assert_eq!(volumes(b"-blockdev\0{\0-blockdev"), BTreeSet::new());

        let user = Host { drop_to: Some(["-runas".into(), "nobody".into()]), ..host };
        let all = arguments(&machine, &user);
        assert!(all.windows(2).any(|pair| pair[0] == "-runas" && pair[1] == "nobody"));
    }
}
