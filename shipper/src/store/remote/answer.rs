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
        true => !has(&["<ListBucketResult", "<EnumerationResults", "<ListVersionsResult"]),
        false => has(&["<Error", "<html", "<!DOCTYPE"]),
    }
}

/// The object's whole length, if the answer is a part of it: of its `Content-Range`.
pub fn whole(range: &str) -> Option<u64> {
    range.rsplit_once('/')?.1.parse().ok()
}

/// A page of versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// Of an object the newest first; versions and marks each in their order.
    pub found: Vec<Version>,
    /// Where the next page begins, if there is one: name and version.
    pub next: Option<(String, String)>,
}

/// A version of an object, or a mark over those before it that says that there is no object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The object's whole name.
    pub key: String,
    /// The version's own.
    pub id: String,
    /// When the store took it, by its own clock.
    pub time: SystemTime,
    /// Its length; 0 of a mark.
    pub length: u64,
    /// What the store knows its bytes by; empty of a mark.
    pub tag: String,
    /// It is a mark.
    pub hides: bool,
}

/// A listing of versions; `None` if it can't be read.
pub fn versions(xml: &str) -> Option<Versions> {
    const VERSION: [&str; 2] = ["<Version>", "</Version>"];
    const MARK: [&str; 2] = ["<DeleteMarker>", "</DeleteMarker>"];
    let mut found = Vec::new();
    for ([begin, end], hides) in [(VERSION, false), (MARK, true)] {
        for part in xml.split(begin).skip(1) {
            let part = part.split_once(end)?.0;
            let time: jiff::Timestamp = element(part, "LastModified")?.parse().ok()?;
            let length = element(part, "Size").filter(|_| !hides);
            found.push(Version {
                key: element(part, "Key")?.to_owned(),
                id: element(part, "VersionId")?.to_owned(),
                time: time.into(),
                length: length.map_or(Some(0).filter(|_| hides), |size| size.parse().ok())?,
                tag: element(part, "ETag").unwrap_or_default().to_owned(),
                hides,
            });
        }
    }
    let more = element(xml, "IsTruncated") == Some("true");
    let next = || {
        let id = element(xml, "NextVersionIdMarker").unwrap_or_default();
        Some((element(xml, "NextKeyMarker")?.to_owned(), id.to_owned()))
    };
    // A page that has another one and does not say where is no page.
    let next = if more { Some(next()?) } else { None };
    Some(Versions { found, next })
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
    fn versions_and_what_hides_them_are_read_and_half_a_page_is_none() {
        let page = "<ListVersionsResult><IsTruncated>true</IsTruncated><NextKeyMarker>b</NextKeyMarker>\
            <NextVersionIdMarker>v</NextVersionIdMarker><Version><ETag>&quot;x&quot;</ETag><Key>a/b</Key><VersionId>1</VersionId>\
            <IsLatest>false</IsLatest><LastModified>2026-11-27T12:00:00.000Z</LastModified><Size>7</Size></Version>\
            <DeleteMarker><Key>a/b</Key><VersionId>2</VersionId><IsLatest>true</IsLatest>\
            <LastModified>2026-11-27T12:00:01Z</LastModified></DeleteMarker></ListVersionsResult>";
        let read = versions(page).unwrap();
        assert_eq!(read.next, Some(("b".into(), "v".into())));
        let told: Vec<_> = read.found.iter().map(|v| (&*v.key, &*v.id, v.length, v.hides)).collect();
        assert_eq!(told, [("a/b", "1", 7, false), ("a/b", "2", 0, true)]);
        assert!(read.found[0].time < read.found[1].time);
        for lost in [
            "<NextKeyMarker>b</NextKeyMarker>",
            "<VersionId>1</VersionId>",
            "</DeleteMarker>",
            "<Size>7</Size>",
        ] {
            assert_eq!(versions(&page.replace(lost, "")), None, "{lost}");
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
