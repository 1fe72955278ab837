//! Compares the byte tables of `format.md` with what the code writes.

use super::changes::{Encoder, Header, Seal};
use super::intents::{IntentSet, LogMark};
use super::{changes, envelope, intents};
use crate::id::{CutId, DiskId, Generation, Session};
use std::collections::HashMap;

/// The fields of a section: name to offset and length. Checks that they follow one another without a gap.
fn table(section: &str) -> HashMap<String, (usize, usize)> {
    let text = include_str!("format.md");
    let start = text.find(&format!("\n## {section}\n")).expect("the section exists") + 4;
    let body = &text[start..];
    let body = &body[..body.find("\n## ").unwrap_or(body.len())];
    let mut fields = HashMap::new();
    let mut next = 0;
    for line in body.lines().filter(|line| line.starts_with("| ") && !line.contains("| field |")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let (offset, bytes) =
            (cells[1].parse().expect("a number"), cells[2].parse::<usize>().expect("a number"));
        assert_eq!(offset, next, "no gap and no overlap before {} of {section}", cells[3]);
        next = offset + bytes;
        fields.insert(cells[3].to_string(), (offset, bytes));
    }
    fields.insert("end".into(), (next, 0));
    fields
}

/// Checks that each named field holds this number.
fn check(section: &str, bytes: &[u8], length: usize, fields: &[(&str, u64)]) {
    let table = table(section);
    assert_eq!(table["end"].0, length, "length of {section}");
    let named: Vec<_> =
        table.keys().filter(|name| !["end", "reserved", "checksum"].contains(&name.as_str())).collect();
    assert_eq!(named.len(), fields.len(), "every field of {section} is checked");
    for (name, expected) in fields {
        let (offset, size) = table[*name];
        let mut number = [0; 8];
        let size = size.min(8);
        number[..size].copy_from_slice(&bytes[offset..offset + size]);
        assert_eq!(u64::from_le_bytes(number), *expected, "{name} of {section}");
    }
}

fn number(bytes: [u8; 8]) -> u64 {
    u64::from_le_bytes(bytes)
}

#[test]
fn the_tables_are_what_the_code_writes() {
    let id = u64::from_le_bytes([0xab; 8]);
    let header = Header {
        disk: DiskId([0xab; 16]),
        session: Session(3),
        generation: Generation(4),
        block_shift: 13,
        size: 5 << 20,
    };
    let fields = [
        ("magic", number(changes::MAGIC)),
        ("version", changes::VERSION.into()),
        ("block_shift", 13),
        ("disk", id),
        ("session", 3),
        ("generation", 4),
        ("size", 5 << 20),
    ];
    check("change log header", &header.encode(), changes::HEADER, &fields);

    let mut encoder = Encoder::new(&header);
    let mut bytes = Vec::new();
    encoder.blocks(true, 0..64, |_| 1, &mut bytes);
    let second = bytes.len();
    encoder.blocks(false, 64..256, |word| [0, 0b101, 0, 0][word], &mut bytes);
    let record = [
        ("magic", changes::RECORD_MAGIC.into()),
        ("kind", 2),
        ("form", 1),
        ("first", 64),
        ("count", 64),
        ("payload_length", 8),
        ("number", 1),
        ("payload", 0),
    ];
    check("change log record", &bytes[second..], changes::RECORD, &record);
    assert_eq!(bytes[second + changes::RECORD], 0b101);

    let seal = Seal {
        cut: CutId([0xab; 16]),
        first: Generation(3),
        last: Generation(4),
        size: 6,
        time_ns: 7,
        blocks: 8,
        compare: true,
        whole: true,
    };
    let start = bytes.len() + changes::RECORD;
    encoder.seal(&seal, &mut bytes);
    let fields =
        [("cut", id), ("first", 3), ("last", 4), ("size", 6), ("time", 7), ("blocks", 8), ("flags", 3)];
    check("seal", &bytes[start..], changes::SEAL, &fields);

    let mark = |generation, length| LogMark { generation: Generation(generation), length };
    let set = IntentSet {
        sequence: 9,
        session: Session(3),
        logs: [mark(4, 11), mark(3, 12)],
        regions: vec![13; intents::SECTOR_REGIONS + 2],
    };
    let slot = set.encode(DiskId([1; 16]), 200);
    let fields = [
        ("magic", intents::MAGIC.into()),
        ("index", 1),
        ("sectors", 2),
        ("count", 2),
        ("sequence", 9),
        ("session", 3),
        ("open_generation", 4),
        ("open_length", 11),
        ("frozen_generation", 3),
        ("frozen_length", 12),
        ("regions", 13 | 13 << 32),
    ];
    check("intents sector", &slot[intents::SECTOR..], intents::SECTOR, &fields);

    let wrapped = envelope::wrap(*b"12345678", 2, &[0xab; 8]);
    let fields = [("magic", number(*b"12345678")), ("version", 2), ("body_length", 8), ("body", 0)];
    check("envelope", &wrapped, envelope::HEADER, &fields);
}
