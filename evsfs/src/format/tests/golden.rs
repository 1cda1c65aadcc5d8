//! Bytes that must never change while the version stays: volumes in the field are made of them.

use super::*;
use crate::crypto::TablePurpose;
use sha2::{Digest, Sha256};

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn sealed(purpose: TablePurpose, payload: &TablePayload) -> String {
    digest(keys().seal_table(purpose, payload, &SeededEntropy::new(3)).unwrap().as_ref())
}

#[test]
fn golden_bytes() {
    let mut map = [[0; layout::BLOCK]; 2];
    map_page(false).encode(&mut map[0]);
    map_page(true).encode(&mut map[1]);
    let mut block = map[1];
    let epoch = epoch();
    let tag = epoch.keys.data.seal(epoch.nonces.next().unwrap(), &data_aad(&VOLUME, 7), &mut block);
    let mut page = map[0];
    let aad = map_aad(&VOLUME, Tree::Allocation, 1, 9);
    let page_tag = epoch.keys.map.seal(epoch.nonces.next().unwrap(), &aad, &mut page);
    let plain = VolumeKeys::plain(VOLUME, Backend::AwsLc);
    let plain_epoch = plain.begin_epoch(&SeededEntropy::new(1)).unwrap();
    let plain_tag = plain_epoch.keys.data.seal(
        plain_epoch.nonces.next().unwrap(),
        &data_aad(&VOLUME, 7),
        &mut map[1].clone(),
    );
    let found = [
        ("entry", hex::encode(Entry::page(0x01_0203_0405, 6, 7, Tag([8; 16])).with_aux(9).encode())),
        ("record", hex::encode(records()[0].encode())),
        ("header", digest(header().encode(&keys()).unwrap().as_ref())),
        ("header over an encrypted base", digest(thin_header(true).encode(&keys()).unwrap().as_ref())),
        ("header over a plain base", digest(thin_header(false).encode(&keys()).unwrap().as_ref())),
        ("plain header", digest(plain_header().encode(&plain).unwrap().as_ref())),
        (
            "header of a re-encryption",
            digest(running_header().encode_with(&keys(), Some(&next_keys())).unwrap().as_ref()),
        ),
        ("log page", digest(log_page().0.as_ref())),
        ("map page", digest(&map[0])),
        ("leaf", digest(&map[1])),
        ("sealed data", digest(&block)),
        ("sealed data tag", hex::encode(tag.0)),
        ("sealed map page", digest(&page)),
        ("sealed map page tag", hex::encode(page_tag.0)),
        ("plain data tag", hex::encode(plain_tag.0)),
        ("superblock", sealed(TablePurpose::Superblock, &superblock().encode())),
        ("epoch directory", sealed(TablePurpose::EpochDirectory, &epoch_directory().encode())),
        ("epoch page", sealed(TablePurpose::EpochPage, &epoch_page().encode())),
        ("version page", sealed(TablePurpose::Versions, &version_page().encode())),
        ("genesis", hex::encode(keys().genesis_chain().0)),
        ("chain step", hex::encode(keys().chain_step(&Chain([1; 32]), &Tag([2; 16])).0)),
        ("base", hex::encode(keys().base_mac(7, &Chain([1; 32])))),
        ("chain event", hex::encode(keys().chain_event(&Chain([1; 32]), b"event").0)),
    ];
    let golden: Vec<(&str, &str)> =
        include_str!("golden.txt").lines().filter_map(|line| line.split_once(": ")).collect();
    let found: Vec<(&str, &str)> = found.iter().map(|(name, hex)| (*name, hex.as_str())).collect();
    assert_eq!(
        found, golden,
        "the serialised format changed: bump the version, and keep reading the old one"
    );
}
