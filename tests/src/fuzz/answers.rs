//! What servers of objects answer beside the objects: codes, words, waits. What is made of it is known, shows nobody's key, and
//! never calls done what is not, or not done what may be.

use super::Input;
use std::time::{Duration, SystemTime};
use towline::store::StoreErrorKind::{Denied, Transient};
use towline::store::remote::answer::{Note, is_lie, versions, whole};
use towline::store::remote::judge::{Trouble, What, judge};

/// A key in a URL.
const KEY: &str = "\u{1f511}";
/// What servers say; the fuzzer puts it together.
const WORDS: &[&str] = &[
    "<Error>",
    "<Code>",
    "</Code>",
    "<Message>",
    "</Message>",
    "<html",
    "<!DOCTYPE",
    "<ListBucketResult",
    "<EnumerationResults",
    "BlobAlreadyExists",
    "BlobImmutableDueToPolicy",
    "QuotaExceeded",
    "NoSuchBucket",
    "ExpiredToken",
    "BadDigest",
    "SlowDown",
    "certificate",
    "http://u:\u{1f511}@h/?sig=\u{1f511}",
    "Fri, 27 Nov 2026 12:00:09 GMT",
    "bytes 0-1/",
    "7",
    "\n",
    " ",
    "é",
    "<ListVersionsResult",
    "<Version><Key>a</Key><VersionId>v</VersionId>",
    "<LastModified>2026-11-27T12:00:00.000Z</LastModified>",
    "<Size>7</Size>",
    "</Version>",
    "<DeleteMarker><Key>a</Key><VersionId>v</VersionId>",
    "</DeleteMarker>",
    "<IsTruncated>true</IsTruncated>",
    "<NextKeyMarker>a</NextKeyMarker>",
];
/// Statuses with a meaning of their own, and their neighbours.
const STATUSES: &[u16] = &[
    200, 204, 206, 301, 304, 400, 401, 403, 404, 405, 408, 409, 412, 416, 418, 429, 500, 501, 503, 505, 507,
    599, 100,
];

/// Judges a made-up answer.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let [code, wait, range, words] = [0; 4].map(|_| text(&mut input));
    let body = text(&mut input);
    let header = |name: &str| match name {
        "x-ms-error-code" => code.strip_prefix(' '),
        "retry-after" => Some(&*wait),
        _ => None,
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(input.number() >> 24);
    let host = ["b.host", "host", "169.254.169.254", ""][usize::from(input.u8() % 4)];
    let mut note = Note { host: host.to_owned(), ..Note::default() };
    note.fail(header, &body, now);
    assert!(body.contains(&note.code) || header("x-ms-error-code") == Some(&*note.code), "{note:?}");
    assert!(body.contains(&note.message) && !note.message.contains('\n'), "{note:?}");
    let digits = wait.trim().parse().ok().map(Duration::from_secs);
    assert!(digits.is_none() || note.retry_after == digits, "{wait:?}");
    assert!(whole(&range).is_none_or(|length| range.trim_start_matches('+').contains(&length.to_string())));
    let roots = ["<ListBucketResult", "<EnumerationResults", "<ListVersionsResult"];
    let listed = roots.iter().any(|root| body.contains(root));
    assert_eq!(is_lie(&body, true), !listed);

    if let Some(page) = versions(&body) {
        let told = |text: &str| body.contains(text);
        assert!(
            page.found.iter().all(|version| told(&version.key) && told(&version.id) && told(&version.tag))
        );
        assert!(page.next.is_none_or(|(name, version)| told(&name) && told(&version)));
    }
    note.status = (input.u8() < 250).then(|| STATUSES[usize::from(input.u8()) % STATUSES.len()]);
    note.lie = is_lie(&body, false);
    note.whole = whole(&range);
    note.broken = (input.u8() > 200).then(|| (words.clone(), input.bool()));
    let trouble = match input.u8() % 5 {
        0 => Trouble::Late,
        1 => Trouble::TooLarge,
        2 => Trouble::Missing,
        3 => Trouble::Refused(words),
        _ => Trouble::Failed(words),
    };
    check(&note, &trouble, host != "169.254.169.254");
}

/// Up to a handful of words, and letters of the fuzzer's between them.
fn text(input: &mut Input<'_>) -> String {
    let mut text = String::new();
    for _ in 0..input.u8() % 6 {
        match input.u8() {
            word if usize::from(word) < WORDS.len() => text.push_str(WORDS[usize::from(word)]),
            // Not the key alone: it is hidden in URLs.
            length => {
                let letters = String::from_utf8_lossy(input.take(usize::from(length % 16)));
                text.push_str(&letters.replace(KEY, ""));
            }
        }
    }
    text
}

fn check(note: &Note, trouble: &Trouble, store: bool) {
    let failure = judge(trouble.clone(), note, "host");
    let hidden = !failure.text.contains(KEY) && !failure.text.contains('\n');
    assert!(hidden && failure.text.chars().count() <= 600, "{}", failure.text);
    assert_eq!((failure.whole, failure.retry_after), (note.whole, note.retry_after));
    let asked_store = store || note.host.is_empty();
    if !asked_store && note.host == "169.254.169.254" {
        assert!(matches!(failure.what, What::Kind(Denied | Transient)) && !failure.again && !failure.lost);
        return;
    }
    let answered = note.broken.is_none() && !matches!(trouble, Trouble::Late | Trouble::TooLarge);
    let is = |statuses: &[u16]| answered && note.status.is_some_and(|status| statuses.contains(&status));
    if failure.what == What::Exists {
        assert!(is(&[304, 412]) || is(&[409]) && note.code == "BlobAlreadyExists", "{note:?}");
    }
    if failure.what == What::PastEnd {
        assert!(is(&[416]), "{note:?}");
    }
    // What is tried again is what may pass.
    assert!(!failure.again || failure.what == What::Kind(Transient), "{failure:?}");
    assert!(!failure.lost || failure.again, "{failure:?}");
    let unsent = matches!(note.broken, Some((_, true)));
    assert!(
        !failure.lost || !unsent || *trouble == Trouble::Late,
        "what was not sent was not done: {note:?}"
    );
    // A success without what belongs to one says nothing.
    if answered && matches!(trouble, Trouble::Failed(_)) && is(&[200, 204, 206]) {
        assert!(failure.again && failure.lost, "{note:?}");
    }
}
