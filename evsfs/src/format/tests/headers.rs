//! F13: a header that is not the one that was written with this key is refused, and the reason is told.

use super::*;
use layout::BLOCK;

fn refused(bytes: &[u8], keys: &VolumeKeys) -> bool {
    !UnverifiedHeader::parse(bytes).is_ok_and(|header| header.verify(keys).is_ok())
}

fn refused_with(bytes: &[u8], keys: &VolumeKeys, next: Option<&VolumeKeys>) -> bool {
    !UnverifiedHeader::parse(bytes).is_ok_and(|header| header.verify_with(keys, next).is_ok())
}

/// The file's start with these two copies.
fn start(copies: [&[u8]; 2]) -> Vec<u8> {
    let mut start = vec![0; HeaderCopies::SPAN];
    start[..copies[0].len()].copy_from_slice(copies[0]);
    start[8 * BLOCK..][..copies[1].len()].copy_from_slice(copies[1]);
    start
}

#[test]
fn f13_every_change_of_any_byte_of_a_header_is_refused() {
    let plain_keys = VolumeKeys::plain(VOLUME, Backend::AwsLc);
    let all = [
        (header(), keys(), None),
        (thin_header(true), keys(), None),
        (plain_header(), plain_keys, None),
        (running_header(), keys(), Some(next_keys())),
    ];
    for (header, keys, next) in all {
        let bytes = header.encode_with(&keys, next.as_ref()).unwrap();
        assert!(!refused_with(bytes.as_ref(), &keys, next.as_ref()));
        std::thread::scope(|scope| {
            for half in 0..2 {
                let (mut copy, keys, next) = (bytes.clone(), &keys, next.as_ref());
                scope.spawn(move || {
                    for at in half * BLOCK / 2..(half + 1) * BLOCK / 2 {
                        for change in 1..=255 {
                            copy[at] ^= change;
                            assert!(
                                refused_with(copy.as_ref(), keys, next),
                                "byte {at} changed by {change:#x}"
                            );
                            copy[at] ^= change;
                        }
                    }
                });
            }
        });
    }
}

/// F13 (the class of CVE-2021-4122): who knows only one of the two DEKs makes no header that speaks of a re-encryption, nor one that does not
/// any more; and neither DEK alone opens one.
#[test]
fn f13_a_re_encryption_is_proved_by_both_deks_or_refused() {
    let (old, new) = (keys(), next_keys());
    let mine = || VolumeKeys::new(Dek::new(&[0x77; 32]), VOLUME, Backend::AwsLc);
    let running = running_header();
    let honest = running.encode_with(&old, Some(&new)).unwrap();
    let opens = |copy: &[u8], keys, next| !refused_with(copy, keys, next);
    assert!(opens(honest.as_ref(), &old, Some(&new)));
    for (keys, next) in
        [(&old, None), (&new, None), (&new, Some(&old)), (&old, Some(&old)), (&new, Some(&new))]
    {
        assert!(!opens(honest.as_ref(), keys, next));
    }
    // Begun by somebody who knows neither, the old or the new DEK only.
    for forged in [
        running.encode_with(&mine(), Some(&mine())),
        running.encode_with(&mine(), Some(&new)),
        running.encode_with(&old, Some(&mine())),
    ] {
        assert!(!opens(forged.unwrap().as_ref(), &old, Some(&new)));
    }
    // Parts of honest headers: a MAC of another moment, a second MAC under an ordinary header and the other way round.
    let switch = Switch { epoch: 4, generation: 6 };
    let wrapped_dek = running.next.as_ref().unwrap().wrapped_dek.clone();
    let other = Header { next: Some(NextKey { wrapped_dek, switch }), ..running }
        .encode_with(&old, Some(&new))
        .unwrap();
    let ordinary = header().encode(&old).unwrap();
    let (second, first) = (layout::HEADER_NEXT_MAC, layout::HEADER_MAC);
    for donor in [&other, &ordinary] {
        for range in [second..first, first..BLOCK, second..BLOCK] {
            let mut mixed = honest.clone();
            mixed[range.clone()].copy_from_slice(&donor[range]);
            assert!(!opens(mixed.as_ref(), &old, Some(&new)) && !opens(mixed.as_ref(), &old, None));
        }
    }
    // Ended by somebody else: only the new DEK's own MAC over an ordinary header does that.
    let wrapped_dek = WrappedDekField::new(vec![0xcd; 78]).unwrap();
    let ended = Header { next: None, wrapped_dek, ..header() };
    assert!(opens(ended.encode(&new).unwrap().as_ref(), &new, None));
    for keys in [keys(), mine()] {
        assert!(!opens(ended.encode(&keys).unwrap().as_ref(), &new, None));
    }
}

#[test]
fn f13_a_key_that_is_not_this_volumes_is_refused() {
    let bytes = header().encode(&keys()).unwrap();
    let other_dek = VolumeKeys::new(Dek::new(&[0x23; 32]), VOLUME, Backend::AwsLc);
    let other_volume = VolumeKeys::new(Dek::new(&[0x22; 32]), Uuid::nil(), Backend::AwsLc);
    let plain = VolumeKeys::plain(VOLUME, Backend::AwsLc);
    for keys in [other_dek, other_volume, plain] {
        let unverified = UnverifiedHeader::parse(bytes.as_ref()).unwrap();
        assert_eq!(unverified.verify(&keys), Err(HeaderError::NotAuthentic { volume: VOLUME }));
    }
}

/// F13: with the right MAC as well, a header that names another version, suite or kind is not what the key was wrapped for.
#[test]
fn f13_the_context_for_kmsd_is_what_the_header_says() {
    let image = Header { kind: VolumeKind::Image, ..header() }.encode(&keys()).unwrap();
    let unverified = UnverifiedHeader::parse(image.as_ref()).unwrap();
    assert_eq!((unverified.uuid(), unverified.kind().as_str()), (&VOLUME, "image"));
    assert_eq!(unverified.wrapped_dek(), &header().wrapped_dek);
}

#[test]
fn reasons_name_the_field() {
    let bytes = header().encode(&keys()).unwrap();
    let reason = |at: usize, value: &[u8]| {
        let mut copy = bytes.clone();
        copy[at..at + value.len()].copy_from_slice(value);
        UnverifiedHeader::parse(copy.as_ref()).err().unwrap().to_string()
    };
    let field = |name: &str| super::super::header::FIELDS.iter().find(|field| field.2 == name).unwrap().0;
    let cases = [
        (reason(0, b"LUKS\xba\xbe"), "not a volume (no magic)"),
        (reason(field("version"), &[7, 0]), "volume format version 7, this program reads 1"),
        (reason(field("suite"), &[9]), "header: suite is 9, allowed are 0 to 1"),
        (reason(field("suite"), &[0]), "header: wrapped DEK contradicts the rest"),
        (reason(field("kind"), &[0]), "header: kind is 0, allowed are 1 to 2"),
        (reason(field("flags"), &[8]), "header: flags is 8, allowed are 0 to 7"),
        (reason(field("flags"), &[1]), "header: flags contradicts the rest"),
        (reason(field("flags"), &[4]), "header: flags contradicts the rest"),
        (reason(field("ring start"), &[17]), "header: ring start is 17, allowed are 16 to 16"),
        (reason(field("ring pages"), &[1, 0x40]), "header: ring pages is 16385, allowed are 8 to 16384"),
        (reason(field("CMK id length"), &[65]), "header: CMK id is 65, allowed are 0 to 64"),
        (reason(field("CMK id"), &[0xff]), "header: CMK id is not text"),
        (reason(field("wrapped DEK length"), &[1, 4]), "header: wrapped DEK is 1025, allowed are 0 to 1024"),
        (reason(field("wrapped DEK length"), &[76]), "header: unused bytes after wrapped DEK are not zero"),
        (reason(field("wrapped DEK length"), &[0]), "header: unused bytes after wrapped DEK are not zero"),
        (
            reason(field("second wrapped DEK length"), &[0, 0xff]),
            "header: second wrapped DEK is 65280, allowed are 0 to 1024",
        ),
        (reason(field("base present"), &[2]), "header: base is 2, allowed are 0 to 1"),
        (reason(field("base present"), &[0]), "header: unused bytes after base are not zero"),
        (reason(field("base path"), b"\n"), "header: base path is not text"),
        (reason(field("zero"), &[1]), "header: unused bytes after re-encryption generation are not zero"),
        (
            reason(field("re-encryption epoch"), &[1]),
            "header: unused bytes after second wrapped DEK are not zero",
        ),
    ];
    for (reason, expected) in cases {
        assert_eq!(reason, expected);
    }
    let told = |start: &[u8]| HeaderCopies::parse(start).err().unwrap().to_string();
    assert_eq!(told(&bytes[..100]), "truncated: 100 bytes, a header has 4096");
    assert_eq!(told(&[]), "truncated: 0 bytes, a header has 4096");
    assert_eq!(told(&[0; HeaderCopies::SPAN]), "not a volume (no magic)");
    let mut newer = bytes.clone();
    newer[field("version")] = 2;
    assert_eq!(told(&start([&[0; BLOCK], newer.as_ref()])), "volume format version 2, this program reads 1");
}

#[test]
fn the_newest_copy_that_verifies_counts() {
    let old = header().encode(&keys()).unwrap();
    let new = Header { sequence: 4, cmk_version: 3, ..header() }.encode(&keys()).unwrap();
    let chosen =
        |copies| HeaderCopies::parse(&start(copies)).unwrap().verify(&keys()).map(|header| header.sequence);
    assert_eq!(chosen([old.as_ref(), new.as_ref()]), Ok(4), "copy 1 is written first");
    assert_eq!(chosen([new.as_ref(), new.as_ref()]), Ok(4));
    // Torn: the first half is the new one's.
    let mut torn = old.clone();
    torn[..BLOCK / 2].copy_from_slice(&new[..BLOCK / 2]);
    let blank: &[u8] = &[0; BLOCK];
    for copies in
        [[old.as_ref() as &[u8], torn.as_ref()], [torn.as_ref(), old.as_ref()], [blank, old.as_ref()]]
    {
        assert_eq!(chosen(copies), Ok(3));
    }
    assert_eq!(chosen([torn.as_ref(), torn.as_ref()]), Err(HeaderError::NotAuthentic { volume: VOLUME }));
    let copies = HeaderCopies::parse(&start([old.as_ref(), new.as_ref()])).unwrap();
    assert_eq!(copies.candidates().iter().map(|copy| copy.claims().sequence).collect::<Vec<_>>(), [4, 3]);
}

/// Two headers of the same volume can have different wrapped keys (a re-key that was cut short); each is proved by the DEK alone.
#[test]
fn a_rewrapped_key_needs_no_other_header_key() {
    let rewrapped =
        Header { sequence: 4, wrapped_dek: WrappedDekField::new(vec![1; 90]).unwrap(), ..header() }
            .encode(&keys())
            .unwrap();
    assert!(!refused(rewrapped.as_ref(), &keys()));
}
