//! What a server's answer says, beside the object in it: foreign text, read here and nowhere else. Without I/O.

use crate::store::tally::Class;
use std::time::{Duration, SystemTime};

/// What became of the last request of a try.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// Who was asked: host and port.
    pub host: String,
    /// What was asked, by how providers count it.
    pub class: Option<Class>,
    /// Bytes of the request's body.
    pub up: u64,
    /// Bytes of the answer's, as far as it was read or it says so.
    pub down: u64,
    /// The status, if there was an answer.
    pub status: Option<u16>,
    /// The error's code: `SlowDown`.
    pub code: String,
    /// The error's words, for people.
    pub message: String,
    /// The object's whole length, if a part of it was answered.
    pub whole: Option<u64>,
    /// How long the server asks to wait.
    pub retry_after: Option<Duration>,
    /// The status says success and the body an error.
    pub lie: bool,
    /// Why there was no answer, and whether the request can't have been sent.
    pub broken: Option<(String, bool)>,
}

impl Note {
    /// Takes down an error, of whose headers some are asked for: its code, its words, and the wait that it asks for.
    pub fn fail<'a>(&mut self, header: impl Fn(&str) -> Option<&'a str>, body: &'a str, now: SystemTime) {
        let code = header("x-ms-error-code").or_else(|| element(body, "Code"));
        self.code = code.unwrap_or_default().to_owned();
        let words = element(body, "Message").unwrap_or_default();
        self.message = words.lines().next().unwrap_or_default().to_owned();
        self.retry_after = header("retry-after").and_then(|text| wait(text, now));
    }
}

/// F33: whether the body of a success is none: of a listing (`true`), or of a put. Bodies of objects are not looked at: they
/// prove themselves.
pub fn is_lie(body: &str, listing: bool) -> bool {
    let has = |roots: &[&str]| roots.iter().any(|root| body.contains(root));
    match listing {
        true => !has(&["<ListBucketResult", "<EnumerationResults"]),
        false => has(&["<Error", "<html", "<!DOCTYPE"]),
    }
}

/// The object's whole length, if the answer is a part of it: of its `Content-Range`.
pub fn whole(range: &str) -> Option<u64> {
    range.rsplit_once('/')?.1.parse().ok()
}

/// The text of the first element of this name.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once("</")?.0.trim())
}

/// Retry-After: seconds, or a time.
fn wait(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    Some(SystemTime::from(until).duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_to_wait_is_read_in_both_forms() {
        let now = "2026-11-27T12:00:00Z".parse::<jiff::Timestamp>().unwrap().into();
        for (text, seconds) in [
            ("7", Some(7)),
            ("Fri, 27 Nov 2026 12:00:09 GMT", Some(9)),
            ("Fri, 27 Nov 2026 11:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(wait(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn an_errors_code_and_words_are_found_and_nothing_else_is_shown() {
        let xml = "<?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><Message>It does not.\nLine</Message>\
                   <StringToSign>secret</StringToSign></Error>";
        let mut note = Note::default();
        note.fail(|_| None, xml, SystemTime::UNIX_EPOCH);
        assert_eq!((note.code.as_str(), note.message.as_str()), ("SignatureDoesNotMatch", "It does not."));
    }
}
