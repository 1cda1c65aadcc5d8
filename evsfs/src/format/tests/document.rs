//! docs/volume-format.md says what the code does.

use super::super::{entry, header, log_page, log_record, superblock, versions};
use super::*;
use crate::cli;
use crate::crypto::TablePurpose;
use crate::engine::documented;
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
    let constants: [(&str, String); 25] = [
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
        ("epochs of a volume at most", EPOCHS_MAX.to_string()),
        ("epoch of a lost entry", documented::LOST_EPOCH.to_string()),
    ];
    let documented: Vec<(String, String)> = table("Numbers")
        .iter()
        .map(|row| (row[0].to_owned(), row[1].replace([',', '`'], "").replace("  ", " ")))
        .collect();
    let coded: Vec<(String, String)> =
        constants.map(|(name, value)| (name.to_owned(), value.replace(',', ""))).to_vec();
    assert_eq!(documented, coded);
}

/// With commas between thousands.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let parts: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|part| std::str::from_utf8(part).unwrap()).collect();
    parts.join(",")
}

/// How often a mount tells the key service how far its volume has come.
fn tick_of_a_mount() -> std::time::Duration {
    let cli: cli::Cli = clap::Parser::try_parse_from(["evsfs", "mount", "file", "point"]).unwrap();
    let cli::Command::Mount(mount) = cli.command else { panic!("{:?}", cli.command) };
    std::time::Duration::from_millis(mount.tick)
}

/// What the text says outside its tables, made from the constants.
fn sentences() -> Vec<String> {
    let slots = thousands(REGION_SLOTS);
    let region = (REGION_SLOTS * BLOCK_BYTES) >> 20;
    let pair = |level| allocation_slots(level, 0).map(|slot| format!("base+{slot}")).join(", ");
    let fan = FANOUT;
    let (pages, salts) = (EPOCH_DIRECTORY_PAGES, EPOCH_PAGE_SALTS);
    let epochs = thousands(u64::from(EPOCHS_MAX));
    let largest = (BLOCKS_MAX * BLOCK_BYTES) >> 40;
    let bits = FANOUT_BITS;
    let (entry, lost) = (Entry::LEN, crate::crypto::SEALS_PER_EPOCH);
    assert_eq!((lost + 1, u64::from(documented::LOST_EPOCH)), (1 << 32, lost));
    let tag = Tag::LEN;
    let tib = ((lost + 1) * BLOCK_BYTES) >> 40;
    let reserve = (1..=2 * RING_PAGES_MAX).map(documented::reserve_slots).max().unwrap();
    let quarter = 100 / documented::reserve_slots(100);
    let (dead, below) = (documented::DEAD, documented::DEAD_BELOW);
    let group = thousands(GROUP_BLOCKS);
    let [regions, regions_of_regions] = [FANOUT as u64, (FANOUT * FANOUT) as u64].map(thousands);
    let last = RING_START - 1;
    let [replayed, ranges] = [documented::RANGES_REPLAYED, documented::RANGES_MOST]
        .map(|ranges| thousands(u64::try_from(ranges).unwrap()));
    vec![
        format!("each {} KiB block", BLOCK / 1024),
        format!("`BLOCK` = {BLOCK}"),
        format!("one {} KiB unit", BLOCK / 1024),
        format!("`n * {BLOCK}`"),
        format!("*allocation regions* of {slots} slots ({region} MiB)"),
        format!("`{}` the region's bitmap", pair(0)),
        format!("a multiple of {regions}\n`{}` the page of {fan} bitmap entries", pair(1)),
        format!("a multiple of {regions_of_regions} `{}` the page of {fan} of those", pair(2)),
        format!("In region 0 slots 0-{last} and the ring"),
        format!(
            "at most {largest} TiB, and can begin {pages} * {salts} = {epochs} epochs, each of 2^32 - 1 seals"
        ),
        format!("({tib} TiB written)"),
        format!("{entry} bytes: the one kind of pointer"),
        format!("the highest epoch number, 2^32 - 1, stands for something *lost*: slot {RING_START}"),
        format!("A map page is {fan} entries"),
        "Level 0 is the leaves".to_owned(),
        format!("Height is 1 to {HEIGHT_MAX} ({fan}^{HEIGHT_MAX} blocks = {largest} TiB)"),
        format!("`(b >> {bits}*level) & {}` of page `b >> {bits}*(level+1)`", fan - 1),
        "DEK (256 bits, from kmsd)".to_owned(),
        format!("{TABLE_BODY} random bytes"),
        "nonce 0: one page".to_owned(),
        format!("{}-byte epoch salt", size_of::<crate::crypto::EpochSalt>()),
        "nonce = 0^64 || counter as u32".to_owned(),
        "counter nears 2^32; it draws a random 128-bit salt".to_owned(),
        "numbered from 1 and".to_owned(),
        "level 0 is the bitmaps".to_owned(),
        [
            TablePurpose::Superblock,
            TablePurpose::EpochDirectory,
            TablePurpose::EpochPage,
            TablePurpose::Versions,
        ]
        .map(|purpose| format!("{} `{}`", purpose as u8, purpose.label()))
        .join(", "),
        format!("Suites: {} = AES-256-GCM; {} = plain", Suite::Aes256Gcm as u8, Suite::Plain as u8),
        format!("refuse suite {}", Suite::Plain as u8),
        format!("{BLOCK} bytes, two copies"),
        "write copy 1, sync, write copy 0, sync".to_owned(),
        format!("{BLOCK} bytes: salt {TABLE_BODY} (random) | ciphertext {TABLE_PAYLOAD} | tag {tag}"),
        "epoch and counter 0 and".to_owned(),
        format!("*Epoch directory*: count u16, 14 zeros, then up to {pages} entries"),
        format!("*Epoch page*: count u16, 14 zeros, then up to {salts} salts of {tag} bytes"),
        format!("(epoch = page * {salts} + index + 1)"),
        format!(
            "count u16, 14 zeros, then up to {VERSION_PAGE_RECORDS} records of {} bytes",
            versions::RECORD
        ),
        format!("{BLOCK} bytes: a clear header of {LOG_HEADER} bytes"),
        "Flag 2 counts".to_owned(),
        format!("A group is at most {group} blocks"),
        format!("More than {} entries at once", thousands(documented::CARRIED_MOST)),
        format!("more than {replayed} discarded ranges"),
        format!("Writers keep to {ranges} ranges"),
        format!("(aux {dead} in the entry that names the page; aux {below} in the entries above"),
        format!("min({reserve}, ring pages / {quarter}) slots"),
        format!("(its first {} slots)", documented::REGION_HEAD),
        "3 to 6 are done again".to_owned(),
        format!("advanced every {} seconds while the volume is written to", tick_of_a_mount().as_secs()),
    ]
}

/// Every number of the text comes from a constant: what is left when the sentences above are taken out has none.
#[test]
fn no_number_of_the_text_stands_for_itself() {
    let drawing = DOCUMENT.find("```").unwrap()..DOCUMENT.rfind("```").unwrap();
    let mut text = [&DOCUMENT[..drawing.start], &DOCUMENT[drawing.end..]].concat();
    for sentence in sentences() {
        assert!(text.contains(&sentence), "docs/volume-format.md does not say: {sentence}");
        text = text.replace(&sentence, "");
    }
    // Names, not numbers.
    for name in [
        "CVE-2021-4122",
        "HMAC-SHA-256",
        "HKDF-SHA-256",
        "AES-256-GCM",
        "AES-256-GMAC",
        "evs/v1",
        "u16",
        "u32",
        "u64",
    ] {
        text = text.replace(name, "");
    }
    for line in text.lines().filter(|line| !line.starts_with('|')) {
        // Items of a numbered list.
        let line = line.split_once(". ").filter(|(item, _)| item.len() == 1).map_or(line, |(_, rest)| rest);
        assert!(
            !line.contains(|c: char| c.is_ascii_digit()),
            "no constant stands behind a number of: {line}"
        );
    }
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
