//! A client's conversation. It does not matter where the stream is cut; every option has one answer; every request has
//! the answer or the command that a model of the protocol says (W9).

use super::Input;
use std::sync::{Arc, LazyLock};
use towline_tracker::frontend::nbd::session::{
    Command, Event, Export, Extent, HANDSHAKE_OUT_MAX, OPTION_MAX, Session, What,
};
use towline_tracker::frontend::nbd::wire::*;
use towline_tracker::group::Errno;
use towline_tracker::limits::NBD_PAYLOAD_MAX;

/// A stream is not longer.
const STREAM_MAX: usize = 24 << 10;
const GREETING: usize = 18;
const SIZE: u64 = 1 << 40;

fn exports() -> Arc<[Export]> {
    static EXPORTS: LazyLock<Arc<[Export]>> = LazyLock::new(made_exports);
    EXPORTS.clone()
}

fn made_exports() -> Arc<[Export]> {
    let export = |name: &str, align, read_only| Export {
        name: name.into(),
        description: "a disk".into(),
        size: SIZE,
        align,
        read_only,
    };
    [export("a", 512, false), export("b", 1, false), export("c", 4096, true)].into()
}

/// Holds a made-up conversation.
pub fn run(data: &[u8]) {
    let exports = exports();
    let (stream, cuts) = stream(&mut Input::new(data));
    let whole = talk(&exports, &stream, &[]);
    assert_eq!(talk(&exports, &stream, &cuts), whole);
    let opened = whole.events.iter().find_map(|(at, event)| match event {
        Event::Opened(export) => Some((*at, *export)),
        _ => None,
    });
    let Some((at, export)) = opened else {
        options(&whole.out[GREETING..], false);
        assert!(
            whole.events.iter().all(|(_, event)| matches!(event, Event::Closed(_))),
            "{:?}",
            whole.events
        );
        return;
    };
    let (negotiation, rest) = whole.out.split_at(whole.opened_out);
    assert!(negotiation.len() <= HANDSHAKE_OUT_MAX);
    let Granted { structured, context } = options(&negotiation[GREETING..], true);
    // For which export the context was chosen, the model takes from the session.
    let status = |event: &Event| matches!(event, Event::Command(Command { what: What::Status { .. }, .. }));
    let told = whole.events.iter().any(|(_, event)| status(event));
    assert!(context || !told);
    let export = &exports[export];
    let mut model = Model { export, structured, context: told, events: Vec::new(), out: Vec::new() };
    model.requests(&stream, at);
    assert_eq!(whole.events.iter().skip(1).cloned().collect::<Vec<_>>(), model.events);
    assert_eq!(rest, model.out);
}

/// What a stream does. Events with the place in the stream behind them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Talk {
    events: Vec<(usize, Event)>,
    out: Vec<u8>,
    /// Bytes written when the export was opened.
    opened_out: usize,
}

fn talk(exports: &Arc<[Export]>, stream: &[u8], cuts: &[usize]) -> Talk {
    let mut talk = Talk::default();
    let mut session = Session::new(exports.clone(), &mut talk.out);
    let (mut at, mut payload) = (0, 0);
    for end in cuts.iter().copied().chain([stream.len()]) {
        loop {
            // The payload of a write is the caller's.
            let taken = payload.min(end - at);
            (at, payload) = (at + taken, payload - taken);
            if payload > 0 {
                break;
            }
            let (used, event) = session.advance(&stream[at..end], &mut talk.out);
            at += used;
            assert!(at <= end);
            match event {
                Event::Starved => {
                    assert!(end - at <= OPTION_LEN + OPTION_MAX, "no more than an option is kept");
                    break;
                }
                Event::Opened(_) => talk.opened_out = talk.out.len(),
                Event::Command(Command { what: What::Write { length, .. }, .. }) => payload = length as usize,
                _ => {}
            }
            talk.events.push((at, event));
            match event {
                Event::Closed(_) => return talk,
                Event::Command(command) => answer(&session, &command),
                _ => {}
            }
        }
    }
    talk
}

/// What is written in reply is whole.
fn answer(session: &Session, command: &Command) {
    let mut out = Vec::new();
    let length = match command.what {
        What::Read { offset, length } => {
            session.reply_data(command.cookie, offset, length, &mut out);
            let header = if be32(&out, 0) == SIMPLE_MAGIC { SIMPLE_LEN } else { CHUNK_LEN + 8 };
            assert_eq!(out.len(), header);
            return;
        }
        What::Status { length, .. } => {
            let extents =
                [Extent { length: length.div_ceil(2), hole: true }, Extent { length: 1, hole: false }];
            session.reply_status(command.cookie, &extents, &mut out);
            CHUNK_LEN + be32(&out, 16) as usize
        }
        _ => {
            session.reply(command.cookie, Err(Errno(command.cookie as u8 as i32)), &mut out);
            SIMPLE_LEN
        }
    };
    assert_eq!(out.len(), length);
}

/// What a negotiation granted.
#[derive(Default)]
struct Granted {
    structured: bool,
    context: bool,
}

/// Walks the answers to options. The old way in ends with an answer without a header.
fn options(mut out: &[u8], opened: bool) -> Granted {
    let mut granted = Granted::default();
    let mut unfinished = None;
    while out.len() >= OPTION_REPLY_LEN && be64(out, 0) == OPTION_REPLY_MAGIC {
        let (option, kind, length) = (be32(out, 8), be32(out, 12), be32(out, 16) as usize);
        assert!(unfinished.is_none_or(|other| other == option), "answers of two options are mixed");
        let last = kind == REP_ACK || kind >> 31 == 1;
        unfinished = (!last).then_some(option);
        granted.structured |= option == OPT_STRUCTURED_REPLY && kind == REP_ACK;
        granted.context |= option == OPT_SET_META_CONTEXT && kind == REP_META_CONTEXT;
        out = &out[OPTION_REPLY_LEN + length..];
    }
    assert_eq!(unfinished, None, "an option was answered in part");
    assert!(out.is_empty() || (opened && [10, 134].contains(&out.len())), "{} bytes more", out.len());
    granted
}

/// What the protocol and W9 say of the requests.
struct Model<'a> {
    export: &'a Export,
    structured: bool,
    context: bool,
    events: Vec<(usize, Event)>,
    out: Vec<u8>,
}

impl Model<'_> {
    fn requests(&mut self, stream: &[u8], mut at: usize) {
        while let Some(bytes) = stream.get(at..).and_then(|rest| rest.first_chunk::<REQUEST_LEN>()) {
            at += REQUEST_LEN;
            let Some(header) = RequestHeader::read(bytes) else {
                self.events.push((at, Event::Closed("a request has a wrong magic")));
                return;
            };
            match self.what(&header) {
                Ok(what) => self.events.push((at, Event::Command(Command { cookie: header.cookie, what }))),
                Err(error) => self.refuse(&header, error),
            }
            match header.command {
                CMD_DISC => {
                    self.events.push((at, Event::Closed("the client disconnected")));
                    return;
                }
                CMD_WRITE => at += header.length as usize,
                _ => {}
            }
        }
    }

    fn refuse(&mut self, header: &RequestHeader, error: u32) {
        if self.structured && matches!(header.command, CMD_READ | CMD_BLOCK_STATUS) {
            self.out.extend_from_slice(&chunk_header(CHUNK_DONE, CHUNK_ERROR, header.cookie, 6));
            self.out.extend_from_slice(&error.to_be_bytes());
            self.out.extend_from_slice(&[0; 2]);
        } else {
            self.out.extend_from_slice(&simple_reply(error, header.cookie));
        }
    }

    fn what(&self, header: &RequestHeader) -> Result<What, u32> {
        let [perm, inval, nospc] = [1, 22, 28];
        let RequestHeader { flags, command, offset, length, .. } = *header;
        if command == CMD_DISC {
            return Ok(What::Disconnect);
        }
        let own = match command {
            CMD_READ if self.structured => CMD_FLAG_DF,
            CMD_WRITE_ZEROES => CMD_FLAG_NO_HOLE,
            CMD_BLOCK_STATUS => CMD_FLAG_REQ_ONE,
            CMD_READ | CMD_WRITE | CMD_TRIM | CMD_FLUSH => 0,
            _ => return Err(inval),
        };
        if flags & !(own | CMD_FLAG_FUA) != 0 {
            return Err(inval);
        }
        if command == CMD_FLUSH {
            return Ok(What::Flush);
        }
        if self.export.read_only && ![CMD_READ, CMD_BLOCK_STATUS].contains(&command) {
            return Err(perm);
        }
        let align = u64::from(self.export.align);
        if length == 0 || offset % align != 0 || u64::from(length) % align != 0 {
            return Err(inval);
        }
        if u128::from(offset) + u128::from(length) > u128::from(SIZE) {
            return Err(if [CMD_WRITE, CMD_WRITE_ZEROES].contains(&command) { nospc } else { inval });
        }
        let fua = flags & CMD_FLAG_FUA != 0;
        match command {
            CMD_READ | CMD_WRITE if length > NBD_PAYLOAD_MAX => Err(inval),
            CMD_READ => Ok(What::Read { offset, length }),
            CMD_WRITE => Ok(What::Write { offset, length, fua }),
            CMD_TRIM => Ok(What::Trim { offset, length, fua }),
            CMD_WRITE_ZEROES => {
                Ok(What::Zero { offset, length, may_punch: flags & CMD_FLAG_NO_HOLE == 0, fua })
            }
            _ if !self.context => Err(inval),
            _ => Ok(What::Status { offset, length, one: flags & CMD_FLAG_REQ_ONE != 0 }),
        }
    }
}

/// A client's bytes, mostly in the shape of the protocol, and where they are cut.
fn stream(input: &mut Input<'_>) -> (Vec<u8>, Vec<usize>) {
    let first = input.u8();
    let flags = if first < 200 { 3 } else { u32::from(first) };
    let (mut stream, mut cuts) = (flags.to_be_bytes().to_vec(), Vec::new());
    while !input.is_empty() && stream.len() < STREAM_MAX {
        match input.u8() % 8 {
            0 => {
                let length = usize::from(input.u8());
                stream.extend_from_slice(input.take(length));
            }
            1 => {
                let (code, length) = (u32::from(input.u8() % 16), usize::from(input.u8()));
                option(code, input.take(length), &mut stream);
            }
            2 => {
                let code = if input.bool() { OPT_GO } else { OPT_INFO };
                let mut data = text(name(input));
                let facts = input.u8() % 5;
                data.extend_from_slice(&u16::from(facts).to_be_bytes());
                (0..facts).for_each(|_| data.extend_from_slice(&u16::from(input.u8() % 6).to_be_bytes()));
                option(code, &data, &mut stream);
            }
            3 => {
                let code = if input.bool() { OPT_SET_META_CONTEXT } else { OPT_LIST_META_CONTEXT };
                let mut data = text(name(input));
                let queries = input.u8() % 4;
                data.extend_from_slice(&u32::from(queries).to_be_bytes());
                for _ in 0..queries {
                    data.extend(text([BASE_ALLOCATION, "base:", "x", ""][usize::from(input.u8() % 4)]));
                }
                option(code, &data, &mut stream);
            }
            4 | 5 => request(input, &mut stream),
            6 => cuts.push(stream.len().saturating_sub(usize::from(input.u8()))),
            _ => match input.u8() % 8 {
                // Too long to be looked at, and too long to be meant.
                0 => option(OPT_LIST, &vec![7; OPTION_MAX + usize::from(input.u8())], &mut stream),
                1 => {
                    stream.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
                    stream.extend_from_slice(&u32::from(input.u8()).to_be_bytes());
                    stream.extend_from_slice(&(input.number() as u32).to_be_bytes());
                }
                // More than anybody has.
                2 if input.u8() == 255 => (0..520).for_each(|_| option(99, &[], &mut stream)),
                2 => option(OPT_LIST, &[], &mut stream),
                _ => option(OPT_STRUCTURED_REPLY, &[], &mut stream),
            },
        }
    }
    cuts.sort_unstable();
    (stream, cuts)
}

fn name(input: &mut Input<'_>) -> &'static str {
    ["", "a", "b", "c", "nobody"][usize::from(input.u8() % 5)]
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn option(option: u32, data: &[u8], stream: &mut Vec<u8>) {
    stream.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    stream.extend_from_slice(&option.to_be_bytes());
    stream.extend_from_slice(&(data.len() as u32).to_be_bytes());
    stream.extend_from_slice(data);
}

fn request(input: &mut Input<'_>, stream: &mut Vec<u8>) {
    let (command, flags) = (u16::from(input.u8() % 10), u16::from(input.u8() % 32));
    // Around the disk's ends, on and off the alignment.
    let offset = match input.u8() % 4 {
        0 => u64::from(input.u8()) * 512,
        1 => SIZE - u64::from(input.u8()) * 512,
        2 => (SIZE - 128).wrapping_add(u64::from(input.u8())),
        _ => input.number(),
    };
    let length = match input.u8() % 4 {
        0 => u32::from(input.u8()) * 512,
        1 => u32::from(input.u8()),
        2 => NBD_PAYLOAD_MAX - 512 + u32::from(input.u8()) * 4,
        _ => input.number() as u32,
    };
    let cookie = u64::from(input.u8());
    stream.extend_from_slice(&RequestHeader { flags, command, cookie, offset, length }.bytes());
    if command == CMD_WRITE {
        let payload = (length as usize).min(STREAM_MAX.saturating_sub(stream.len()));
        stream.resize(stream.len() + payload, 0x55);
    }
}
