//! docs/volume-format.md says what the code does.

use super::super::{entry, header, log_page, log_record, superblock, versions};
use super::*;
use layout::*;

const DOCUMENT: &str = include_str!("../../../../docs/volume-format.md");

/// The cells of the table under a heading, without its two head lines.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, section) =
        DOCUMENT.split_once(&format!("# {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let rows =
        section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2).map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn every_field_stands_in_the_document() {
    let structures: [(&str, &[Field]); 6] = [
        ("Header", header::FIELDS),
        ("Entry", entry::FIELDS),
        ("Log page", log_page::FIELDS),
        ("Log record", log_record::FIELDS),
        ("Superblock", superblock::FIELDS),
        ("Version record", versions::FIELDS),
    ];
    for (heading, fields) in structures {
        let documented: Vec<String> = table(heading).iter().map(|row| row[..3].join(" ")).collect();
        let coded: Vec<String> =
            fields.iter().map(|(at, size, name)| format!("{at} {size} {name}")).collect();
        assert_eq!(documented, coded, "section {heading}");
        let mut end = 0;
        for (at, size, name) in fields {
            assert_eq!((*at, *size > 0), (end, true), "{heading}: {name} follows the field before it");
            end = at + size;
        }
    }
}

#[test]
fn every_number_stands_in_the_document() {
    let slots = |slots: &[u64]| slots.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let pair = |level| {
        let [first, second] = allocation_slots(level, 0);
        format!("{first}, {second}")
    };
    let constants: [(&str, String); 23] = [
        ("block, page, slot in bytes", BLOCK.to_string()),
        ("format version", VERSION.to_string()),
        ("header copies", slots(&HEADER_SLOTS)),
        ("superblock copies, even generation", slots(&SUPERBLOCK_SLOTS[0])),
        ("superblock copies, odd generation", slots(&SUPERBLOCK_SLOTS[1])),
        ("first slot of the ring", RING_START.to_string()),
        ("pages of the ring at least", RING_PAGES_MIN.to_string()),
        ("pages of the ring at most", RING_PAGES_MAX.to_string()),
        ("pages of the ring at least, in a header", RING_PAGES_TEST.to_string()),
        ("blocks of a group at most", GROUP_BLOCKS.to_string()),
        ("entries of a page", FANOUT.to_string()),
        ("levels of the map at most", HEIGHT_MAX.to_string()),
        ("blocks of a volume at most", BLOCKS_MAX.to_string()),
        ("slots of an allocation region", REGION_SLOTS.to_string()),
        ("bitmap of a region, from its base", pair(0)),
        ("page of 128 bitmap entries, from its base", pair(1)),
        ("page of 128 of those, from its base", pair(2)),
        ("records of a log page at most", LOG_PAGE_RECORDS.to_string()),
        ("epoch pages at most", EPOCH_DIRECTORY_PAGES.to_string()),
        ("salts of an epoch page", EPOCH_PAGE_SALTS.to_string()),
        ("version pages at most", VERSION_PAGES.to_string()),
        ("records of a version page", VERSION_PAGE_RECORDS.to_string()),
        ("seals of an epoch at most", crate::crypto::SEALS_PER_EPOCH.to_string()),
    ];
    let documented: Vec<(String, String)> = table("Numbers")
        .iter()
        .map(|row| (row[0].to_owned(), row[1].replace([',', '`'], "").replace("  ", " ")))
        .collect();
    let coded: Vec<(String, String)> =
        constants.map(|(name, value)| (name.to_owned(), value.replace(',', ""))).to_vec();
    assert_eq!(documented, coded);
}

#[test]
fn the_allocation_pages_of_later_regions_lie_at_their_bases() {
    assert_eq!(allocation_slots(0, 5), [5 * REGION_SLOTS + 3, 5 * REGION_SLOTS + 4]);
    assert_eq!(allocation_slots(1, 2), [256 * REGION_SLOTS + 5, 256 * REGION_SLOTS + 6]);
    assert_eq!(allocation_slots(2, 1), [16_384 * REGION_SLOTS + 7, 16_384 * REGION_SLOTS + 11]);
}

/// The labels of the key schedule are those that the code uses.
#[test]
fn the_key_schedule_stands_in_the_document() {
    let source = include_str!("../../crypto/keys.rs");
    let mut labels = 0;
    for label in source.split("b\"evs").skip(1).filter_map(|rest| rest.split_once('"')) {
        let label = format!("\"evs{}", label.0.trim_end());
        assert!(DOCUMENT.contains(&label), "{label}");
        labels += 1;
    }
    assert!(labels >= 8, "{labels}");
    for aad in [
        data_aad(&VOLUME, 0).as_slice(),
        &map_aad(&VOLUME, Tree::Map, 0, 0),
        &log_aad(&VOLUME, &[0; 80], &Chain([0; 32])),
    ] {
        let prefix = std::str::from_utf8(&aad[..4]).unwrap();
        assert!(DOCUMENT.contains(&format!("`\"{prefix}\" ")), "{prefix}");
        assert!(DOCUMENT.contains(&format!("{} bytes", aad.len())), "{prefix} has {} bytes", aad.len());
    }
    for purpose in ["superblock", "epoch directory", "epoch page", "versions"] {
        assert!(DOCUMENT.contains(&format!("`{purpose}`")), "{purpose}");
    }
}

/// Every test that docs/threat-model.md names is there.
#[test]
fn the_threat_model_names_tests_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut source = String::new();
    let mut folders: Vec<_> =
        ["evsfs/src", "evsfs/tests", "kmsd/src", "kmsd/tests", "tests"].map(|at| root.join(at)).into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                source.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let document = std::fs::read_to_string(root.join("docs/threat-model.md")).unwrap();
    let (_, properties) = document.split_once("## What each property gives").unwrap();
    let rows =
        properties.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let mut named = 0;
    for row in rows.skip(2) {
        let tests = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
        let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "a claim without a test: {row}");
        for test in tests {
            assert!(source.contains(&format!("fn {test}(")), "{test}");
            named += 1;
        }
    }
    assert!(named >= 20, "{named}");
}
