//! Claims about the conversation.

use super::*;
use proptest::prelude::*;

fn exports() -> Arc<[Export]> {
    let export = |name: &str, align, read_only| Export {
        name: name.into(),
        description: format!("the disk {name}"),
        size: 1 << 20,
        align,
        read_only,
    };
    [export("first", 512, false), export("second", 1, false), export("sealed", 512, true)].into()
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn go(name: &str, facts: &[u16]) -> Vec<u8> {
    let mut data = text(name);
    data.extend_from_slice(&(facts.len() as u16).to_be_bytes());
    facts.iter().for_each(|fact| data.extend_from_slice(&fact.to_be_bytes()));
    data
}

fn context(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = text(name);
    data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| data.extend(text(query)));
    data
}

fn request(command: u16, flags: u16, offset: u64, length: u32) -> Vec<u8> {
    RequestHeader { flags, command, cookie: 99, offset, length }.bytes().to_vec()
}

/// What a whole stream, cut at the given places, does: events, payloads, and everything written.
#[derive(Debug, PartialEq, Eq, Default)]
struct Record {
    events: Vec<Event>,
    payloads: Vec<Vec<u8>>,
    out: Vec<u8>,
}

fn run(pieces: &[&[u8]]) -> Record {
    let mut record = Record::default();
    let mut session = Session::new(exports(), &mut record.out);
    let (mut held, mut payload) = (Vec::new(), None::<usize>);
    for piece in pieces {
        held.extend_from_slice(piece);
        loop {
            if let Some(length) = payload {
                if held.len() < length {
                    break;
                }
                record.payloads.push(held.drain(..length).collect());
                payload = None;
            }
            let (used, event) = session.advance(&held, &mut record.out);
            held.drain(..used);
            match event {
                Event::Starved => break,
                Event::Closed(_) => {
                    record.events.push(event);
                    return record;
                }
                Event::Command(Command { what: What::Write { length, .. }, .. }) => {
                    payload = Some(length as usize);
                }
                _ => {}
            }
            record.events.push(event);
        }
        assert!(held.len() <= OPTION_LEN + OPTION_MAX + NBD_PAYLOAD_MAX as usize);
    }
    record
}

/// A session up to transmission on `name`, then these bytes; the answer to those.
fn served(name: &str, structured: bool, bytes: &[u8]) -> (Vec<Event>, Vec<u8>) {
    let mut stream = 3u32.to_be_bytes().to_vec();
    if structured {
        stream.extend(option(OPT_STRUCTURED_REPLY, &[]));
        stream.extend(option(OPT_SET_META_CONTEXT, &context(name, &[BASE_ALLOCATION])));
    }
    stream.extend(option(OPT_GO, &go(name, &[])));
    let before = run(&[&stream]);
    assert_eq!(before.events.len(), 1, "{before:?}");
    stream.extend_from_slice(bytes);
    let after = run(&[&stream]);
    (after.events[1..].to_vec(), after.out[before.out.len()..].to_vec())
}

fn errors(out: &[u8]) -> Vec<u32> {
    assert_eq!(out.len() % SIMPLE_LEN, 0);
    out.chunks(SIMPLE_LEN).map(|reply| be32(reply, 4)).collect()
}

/// (option, kind, data) of an option reply.
type OptionReply = (u32, u32, Vec<u8>);

/// Every option reply in `out`, after the greeting.
fn option_replies(out: &[u8]) -> Vec<OptionReply> {
    let (mut rest, mut replies) = (&out[18..], Vec::new());
    while !rest.is_empty() {
        assert_eq!(be64(rest, 0), OPTION_REPLY_MAGIC);
        let length = be32(rest, 16) as usize;
        let data = rest[OPTION_REPLY_LEN..OPTION_REPLY_LEN + length].to_vec();
        replies.push((be32(rest, 8), be32(rest, 12), data));
        rest = &rest[OPTION_REPLY_LEN + length..];
    }
    replies
}

fn negotiate(options: &[Vec<u8>]) -> (Vec<Event>, Vec<OptionReply>) {
    let mut stream = 3u32.to_be_bytes().to_vec();
    options.iter().for_each(|option| stream.extend_from_slice(option));
    let record = run(&[&stream]);
    (record.events, option_replies(&record.out))
}

#[test]
fn the_empty_name_is_the_first_disk_and_an_unknown_one_is_refused() {
    let (events, replies) = negotiate(&[option(OPT_GO, &go("nobody", &[])), option(OPT_GO, &go("", &[]))]);
    assert_eq!(events, [Event::Opened(0)]);
    assert_eq!((replies[0].1, replies.last().unwrap().1), (REP_ERR_UNKNOWN, REP_ACK));
}

#[test]
fn facts_are_told_when_asked_and_block_sizes_always() {
    let (_, replies) = negotiate(&[option(OPT_INFO, &go("first", &[INFO_NAME, INFO_DESCRIPTION]))]);
    let kinds: Vec<_> = replies.iter().filter(|r| r.1 == REP_INFO).map(|r| be16(&r.2, 0)).collect();
    assert_eq!(kinds, [INFO_EXPORT, INFO_BLOCK_SIZE, INFO_NAME, INFO_DESCRIPTION]);
    let sizes = &replies[1].2;
    assert_eq!((be32(sizes, 2), be32(sizes, 6), be32(sizes, 10)), (512, 4096, NBD_PAYLOAD_MAX));
    assert_eq!(&replies[2].2[2..], b"first");
}

#[test]
fn every_disk_is_listed() {
    let (_, replies) = negotiate(&[option(OPT_LIST, &[])]);
    let names: Vec<_> = replies.iter().filter(|r| r.1 == REP_SERVER).map(|r| r.2[4..].to_vec()).collect();
    assert_eq!(names, [b"first".to_vec(), b"second".to_vec(), b"sealed".to_vec()]);
}

#[test]
fn the_old_way_in_works_with_and_without_zeroes() {
    for (flags, length) in [(3u32, 10), (1, 134)] {
        let mut stream = flags.to_be_bytes().to_vec();
        stream.extend(option(OPT_EXPORT_NAME, b"second"));
        let record = run(&[&stream]);
        assert_eq!(record.events, [Event::Opened(1)]);
        assert_eq!(record.out.len(), 18 + length);
        assert_eq!(be64(&record.out, 18), 1 << 20);
    }
    let mut stream = 3u32.to_be_bytes().to_vec();
    stream.extend(option(OPT_EXPORT_NAME, b"nobody"));
    assert!(matches!(run(&[&stream]).events[..], [Event::Closed(_)]));
}

#[test]
fn what_is_unknown_malformed_or_too_long_is_refused_and_the_session_goes_on() {
    let (events, replies) = negotiate(&[
        option(5, &[]),
        option(77, &[1, 2, 3]),
        option(OPT_LIST, &[1]),
        option(OPT_GO, &[0, 0]),
        option(OPT_GO, &[0xff; 8]),
        option(OPT_SET_META_CONTEXT, &context("first", &[BASE_ALLOCATION])),
        option(OPT_LIST, &vec![0; OPTION_MAX + 1]),
        option(OPT_GO, &go("second", &[])),
    ]);
    let refused: Vec<_> = replies.iter().map(|r| r.1).take(7).collect();
    assert_eq!(
        refused,
        [
            REP_ERR_UNSUP,
            REP_ERR_UNSUP,
            REP_ERR_INVALID,
            REP_ERR_INVALID,
            REP_ERR_INVALID,
            REP_ERR_INVALID,
            REP_ERR_TOO_BIG
        ]
    );
    assert_eq!(events, [Event::Opened(1)]);
}

/// F47: hostile clients.
#[test]
fn options_without_end_and_giant_ones_end_the_session() {
    let (events, replies) = negotiate(&vec![option(77, &[]); 10_000]);
    assert!(matches!(events[..], [Event::Closed(_)]));
    assert_eq!(replies.len(), OPTIONS_MAX as usize);
    let mut giant = option(OPT_LIST, &[]);
    giant[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(negotiate(&[giant]).0[..], [Event::Closed(_)]));
}

#[test]
fn a_context_counts_only_for_the_export_it_was_chosen_for() {
    let ask = request(CMD_BLOCK_STATUS, 0, 0, 4096);
    let mut stream = 3u32.to_be_bytes().to_vec();
    stream.extend(option(OPT_STRUCTURED_REPLY, &[]));
    stream.extend(option(OPT_SET_META_CONTEXT, &context("first", &["other:x", BASE_ALLOCATION])));
    for (name, allowed) in [("first", true), ("second", false)] {
        let mut stream = stream.clone();
        stream.extend(option(OPT_GO, &go(name, &[])));
        stream.extend(&ask);
        assert_eq!(run(&[&stream]).events.len() == 2, allowed, "{name}");
    }
    let (_, replies) = negotiate(&[
        option(OPT_LIST_META_CONTEXT, &context("first", &[])),
        option(OPT_LIST_META_CONTEXT, &context("first", &["base:"])),
        option(OPT_LIST_META_CONTEXT, &context("first", &["qemu:"])),
    ]);
    assert_eq!(replies.iter().filter(|r| r.1 == REP_META_CONTEXT).count(), 2);
}

#[test]
fn commands_come_out_with_their_flags() {
    let mut bytes = request(CMD_READ, 0, 512, 1024);
    bytes.extend(request(CMD_WRITE, CMD_FLAG_FUA, 0, 512));
    bytes.extend([7; 512]);
    bytes.extend(request(CMD_FLUSH, 0, 0, 0));
    bytes.extend(request(CMD_TRIM, CMD_FLAG_FUA, 512, 512));
    bytes.extend(request(CMD_WRITE_ZEROES, CMD_FLAG_NO_HOLE, 0, 1 << 20));
    bytes.extend(request(CMD_WRITE_ZEROES, 0, 0, 512));
    bytes.extend(request(CMD_BLOCK_STATUS, CMD_FLAG_REQ_ONE, 0, 1 << 20));
    bytes.extend(request(CMD_DISC, 0, 0, 0));
    let (events, out) = served("first", true, &bytes);
    let whats: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Command(command) => Some(command.what),
            _ => None,
        })
        .collect();
    assert_eq!(
        whats,
        [
            What::Read { offset: 512, length: 1024 },
            What::Write { offset: 0, length: 512, fua: true },
            What::Flush,
            What::Trim { offset: 512, length: 512, fua: true },
            What::Zero { offset: 0, length: 1 << 20, may_punch: false, fua: false },
            What::Zero { offset: 0, length: 512, may_punch: true, fua: false },
            What::Status { offset: 0, length: 1 << 20, one: true },
            What::Disconnect,
        ]
    );
    assert!(matches!(events.last(), Some(Event::Closed(_))));
    assert_eq!(out, []);
}

/// F19: every kind of request.
#[test]
fn a_request_off_the_alignment_or_the_disk_changes_nothing() {
    let cases = [
        (CMD_WRITE, 0, 100, 512, 22),
        (CMD_WRITE, 0, 0, 1000, 22),
        (CMD_WRITE, 0, 0, 0, 22),
        (CMD_WRITE, 0, 1 << 20, 512, 28),
        (CMD_WRITE, 0, u64::MAX - 511, 512, 28),
        (CMD_WRITE_ZEROES, 0, 512, 1 << 20, 28),
        (CMD_TRIM, 0, 512, 1 << 20, 22),
        (CMD_READ, 0, 1 << 20, 512, 22),
        (CMD_READ, 0, 0, 513, 22),
        (CMD_READ, CMD_FLAG_DF, 0, 512, 22),
        (CMD_WRITE, CMD_FLAG_NO_HOLE, 0, 512, 22),
        (CMD_WRITE_ZEROES, 1 << 4, 0, 512, 22),
        (CMD_BLOCK_STATUS, 0, 0, 512, 22),
        (5, 0, 0, 512, 22),
        (99, 0, 0, 512, 22),
    ];
    for (command, flags, offset, length, error) in cases {
        let mut bytes = request(command, flags, offset, length);
        if command == CMD_WRITE {
            bytes.extend(vec![1; length as usize]);
        }
        bytes.extend(request(CMD_FLUSH, 0, 0, 0));
        let (events, out) = served("first", false, &bytes);
        assert_eq!(errors(&out), [error], "{command} {flags} {offset} {length}");
        assert!(matches!(events[..], [Event::Command(Command { what: What::Flush, .. })]));
    }
}

#[test]
fn an_overlong_write_is_skipped_whole() {
    let mut big = exports().to_vec();
    big[0].size = 1 << 40;
    let mut out = Vec::new();
    let mut session = Session::new(big.into(), &mut out);
    let mut stream = 3u32.to_be_bytes().to_vec();
    stream.extend(option(OPT_GO, &go("first", &[])));
    let (used, event) = session.advance(&stream, &mut out);
    assert_eq!((used, event), (stream.len(), Event::Opened(0)));
    let length = NBD_PAYLOAD_MAX + 512;
    out.clear();
    let (_, event) = session.advance(&request(CMD_WRITE, 0, 0, length), &mut out);
    assert_eq!((event, errors(&out)), (Event::Starved, vec![22]));
    let zeros = vec![0; 1 << 20];
    for _ in 0..length >> 20 {
        assert_eq!(session.advance(&zeros, &mut out), (1 << 20, Event::Starved));
    }
    let mut rest = vec![0; 512];
    rest.extend(request(CMD_FLUSH, 0, 0, 0));
    let (_, event) = session.advance(&rest, &mut out);
    assert!(matches!(event, Event::Command(Command { what: What::Flush, .. })));
}

#[test]
fn a_read_only_disk_refuses_changes() {
    let mut bytes = request(CMD_WRITE, 0, 0, 512);
    bytes.extend([1; 512]);
    bytes.extend(request(CMD_TRIM, 0, 0, 512));
    bytes.extend(request(CMD_WRITE_ZEROES, 0, 0, 512));
    bytes.extend(request(CMD_READ, 0, 0, 512));
    let (events, out) = served("sealed", false, &bytes);
    assert_eq!(errors(&out), [1, 1, 1]);
    assert_eq!(events.len(), 1);
}

#[test]
fn a_failed_read_is_told_in_the_negotiated_form() {
    let (_, out) = served("first", true, &request(CMD_READ, 0, 0, 100));
    assert_eq!((be32(&out, 0), be16(&out, 6), be32(&out, 20)), (CHUNK_MAGIC, CHUNK_ERROR, 22));
    let (_, out) = served("first", false, &request(CMD_READ, 0, 0, 100));
    assert_eq!(errors(&out), [22]);
}

/// A conversation with everything in it.
fn full_stream(writes: &[(u64, u32)]) -> Vec<u8> {
    let mut stream = 3u32.to_be_bytes().to_vec();
    stream.extend(option(OPT_LIST, &[]));
    stream.extend(option(OPT_STRUCTURED_REPLY, &[]));
    stream.extend(option(33, &vec![9; OPTION_MAX + 7]));
    stream.extend(option(OPT_SET_META_CONTEXT, &context("first", &[BASE_ALLOCATION])));
    stream.extend(option(OPT_GO, &go("first", &[INFO_NAME])));
    for &(offset, length) in writes {
        stream.extend(request(CMD_WRITE, 0, offset, length));
        stream.extend((0..length).map(|n| n as u8));
        stream.extend(request(CMD_READ, 0, offset, length));
    }
    stream.extend(request(CMD_DISC, 0, 0, 0));
    stream
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn where_the_stream_is_cut_does_not_matter(
        writes in proptest::collection::vec((0u64..2048, 1u32..2000), 0..12),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..40),
    ) {
        let stream = full_stream(&writes);
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        places.extend([0, stream.len()]);
        places.sort_unstable();
        let pieces: Vec<_> = places.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
        prop_assert_eq!(run(&pieces), run(&[&stream]));
    }

    #[test]
    fn a_stream_of_single_bytes_is_the_same_stream(offset in 0u64..2048, length in 1u32..600) {
        let stream = full_stream(&[(offset, length)]);
        let bytes: Vec<_> = stream.chunks(1).collect();
        prop_assert_eq!(run(&bytes), run(&[&stream]));
    }

    /// F47: hostile clients.
    #[test]
    fn foreign_bytes_never_panic_and_never_grow_without_bound(
        bytes in proptest::collection::vec(any::<u8>(), 0..4096),
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..16),
    ) {
        run(&[&bytes]);
        let mut stream = full_stream(&[(0, 512), (512, 1024)]);
        for (place, byte) in flips {
            let place = place.index(stream.len());
            stream[place] = byte;
        }
        let record = run(&[&stream]);
        prop_assert!(record.out.len() <= HANDSHAKE_OUT_MAX);
    }
}
