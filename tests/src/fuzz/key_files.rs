//! Files that a person or another host hands over: passphrases, key files, and the key of a group as text. A group's key that
//! is accepted is written again as the same lines.

use super::{Input, told};
use std::fmt::Write;
use towline::cli::keys::{key_in, passphrase_in};
use towline::vault::keys::GroupExport;

/// Reads made-up files.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() % 4 {
        0 => plain(input.rest()),
        1 => read(input.rest()),
        _ => made_up(&mut input),
    }
}

fn plain(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let line = &bytes[..end - usize::from(bytes[..end].ends_with(b"\r"))];
    assert_eq!(passphrase_in(bytes), (!line.is_empty()).then_some(line));
    let mut key = bytes.to_vec();
    while key.pop_if(|last| matches!(last, b'\r' | b'\n')).is_some() {}
    assert_eq!(key_in(bytes), (key.len() >= 16).then_some(&*key));
}

fn made_up(input: &mut Input<'_>) {
    let title = ["towline group key 1", "towline group key 2", "towline"]
        [usize::from(input.u8()).saturating_sub(253)];
    let hex = |byte: u8, length: usize| format!("{byte:02x}").repeat(length);
    let mut text = format!("{title}\nvault {}\ngroup ", hex(input.u8(), 16));
    let length = usize::from(input.u8() % 32);
    let name = input.take(length);
    match input.bool() {
        // A text, or anything in its place.
        true => text.push_str(&serde_json::Value::from(String::from_utf8_lossy(name)).to_string()),
        false => text.push_str(&String::from_utf8_lossy(name)),
    }
    write!(text, "\ncommitment {}\nnames {}\n", hex(input.u8(), 32), hex(input.u8(), 32)).expect("memory");
    let keys = input.u8() % 8;
    (0..keys).for_each(|_| writeln!(text, "key {}", hex(input.u8(), 32)).expect("memory"));
    let mut bytes = text.into_bytes();
    input.patch(&mut bytes);
    bytes.extend_from_slice(input.rest());
    read(&bytes);
    // With a good check behind it.
    let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let check = &blake3::hash(&[body, b"\n"].concat()).to_hex()[..16];
    read(&[body, format!("\ncheck {check}\n").as_bytes()].concat());
}

fn read(text: &[u8]) {
    let Ok(text) = str::from_utf8(text) else { return };
    let Some(export) = told(text.parse::<GroupExport>()) else { return };
    let again = export.to_text();
    assert_eq!(again.parse::<GroupExport>().expect("our own"), export);
    // But for letters' case and the name's escapes, and so its check.
    let lines = |text: &str| {
        let kept = text.trim_end().lines().enumerate().filter(|(_, line)| !line.starts_with("check "));
        kept.filter(|(n, _)| *n != 2).map(|(_, line)| line.to_ascii_lowercase()).collect::<Vec<_>>()
    };
    assert_eq!(lines(&again), lines(text));
}
