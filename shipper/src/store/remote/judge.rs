//! What an answer means for whoever asked: what can be done about it, whether to try again, and whether it may have been
//! done all the same. Without I/O.

use super::answer::Note;
use crate::store::StoreErrorKind;
use crate::store::location::without_secrets;
use std::time::Duration;

/// A try that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What failed.
    pub what: What,
    /// Trying again soon may help.
    pub again: bool,
    /// It may have been done, or be done yet: the answer is lost, or says nothing.
    pub lost: bool,
    /// For people, without secrets.
    pub text: String,
    /// How long the server asks to wait.
    pub retry_after: Option<Duration>,
    /// The object's whole length, if a part of it was answered.
    pub whole: Option<u64>,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A condition: an object of that name is there.
    Exists,
    /// The range begins at the object's end or behind it.
    PastEnd,
    /// Anything else, by its kind.
    Kind(StoreErrorKind),
}

/// The words of the library, if it was the library that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// There was no answer in time.
    Late,
    /// The object is longer than the caller takes.
    TooLarge,
    /// Of a missing object.
    Missing,
    /// Of an object that may not be touched: its words.
    Refused(String),
    /// Whatever else: its words.
    Failed(String),
}

impl From<object_store::Error> for Trouble {
    fn from(error: object_store::Error) -> Self {
        match error {
            // Also of a part of an answer to several questions, whose own status is another: Azure's deletes.
            object_store::Error::NotFound { .. } => Self::Missing,
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. }
            | object_store::Error::AlreadyExists { .. } => Self::Refused(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

/// Whether the store's host was asked, and not somebody else for credentials.
pub fn is_of(note: &Note, host: &str) -> bool {
    note.host.ends_with(host)
}

/// Codes of a store that is full, by whoever uses them.
const FULL: [&str; 5] = [
    "QuotaExceeded",
    "InsufficientStorage",
    "XMinioStorageFull",
    "EntityTooLargeForQuota",
    "AccountLimitExceeded",
];
/// A request came otherwise than it was sent.
const GARBLED: [&str; 7] = [
    "BadDigest",
    "IncompleteBody",
    "Md5Mismatch",
    "RequestTimeout",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
    "RequestTimeTooSlow",
];
/// Credentials that are over, which S3 tells as a bad request.
const EXPIRED: [&str; 4] = ["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"];
/// The bucket itself is not there.
const NO_BUCKET: [&str; 4] =
    ["NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "AccountNotFound"];

/// Judges a try by what the library and the server said. `host` is the store's: what another host says is about
/// credentials.
pub fn judge(trouble: Trouble, note: &Note, host: &str) -> Failure {
    use StoreErrorKind::{Denied, Locked, NoSpace, NotFound, Other, TooLarge, Transient};
    let (code, status) = (note.code.as_str(), note.status);
    let failure = |what, again, lost| Failure {
        what,
        again,
        lost,
        text: words(&trouble, note),
        retry_after: note.retry_after,
        whole: note.whole,
    };
    let last = |kind| failure(What::Kind(kind), false, false);
    let again = |lost| failure(What::Kind(Transient), true, lost);
    if !note.host.is_empty() && !is_of(note, host) {
        // Nobody to ask for credentials: they have to be given.
        let unsent = matches!(note.broken, Some((_, true))) || trouble == Trouble::Late;
        let text = format!(
            "no credentials in the environment or in the usual files, and {} gives none ({})",
            note.host,
            words(&trouble, note)
        );
        let kind = if unsent || status.is_some_and(|status| status < 500) { Denied } else { Transient };
        return Failure { text, ..last(kind) };
    }
    match (&trouble, &note.broken, status) {
        (Trouble::TooLarge, ..) => last(TooLarge),
        (Trouble::Late, ..) => again(true),
        // Somebody in between, or a wrong name: no time mends it.
        (_, Some((text, _)), _) if text.contains("certificate") => last(Other),
        (_, Some((_, unsent)), _) => again(!unsent),
        (Trouble::Missing, _, Some(200..=299)) => last(NotFound),
        (Trouble::Refused(words) | Trouble::Failed(words), _, Some(200..=299)) if is_immutable(words) => {
            last(Locked)
        }
        (Trouble::Refused(_), _, Some(200..=299)) => last(Denied),
        // F33.
        (_, _, Some(200..=299)) => again(true),
        (_, _, Some(304 | 412)) => failure(What::Exists, false, false),
        (_, _, Some(409)) if code == "BlobAlreadyExists" => failure(What::Exists, false, false),
        (_, _, Some(409)) if code.contains("Immutable") || code.contains("LegalHold") => last(Locked),
        // Others ask for the same name just now.
        (_, _, Some(409)) => again(false),
        (_, _, Some(507)) => last(NoSpace),
        (_, _, Some(_)) if FULL.contains(&code) => last(NoSpace),
        (_, _, Some(404)) if NO_BUCKET.contains(&code) => last(Other),
        (_, _, Some(404)) => last(NotFound),
        (_, _, Some(416)) => failure(What::PastEnd, false, false),
        (_, _, Some(400)) if EXPIRED.contains(&code) => last(Denied),
        (_, _, Some(400)) if GARBLED.contains(&code) => again(false),
        // To HEAD no reason is given.
        (_, _, Some(401 | 403)) if code.is_empty() => {
            let text = words(&trouble, note) + " (wrong credentials, or they may not do this)";
            Failure { text, ..last(Denied) }
        }
        (_, _, Some(401 | 403)) => last(Denied),
        (_, _, Some(429)) => again(false),
        (_, _, Some(501 | 505)) => last(Other),
        (_, _, Some(408 | 500..)) => again(true),
        (_, _, Some(_)) => last(Other),
        // Nothing was asked.
        (_, _, None) => last(Other),
    }
}

/// Whether the words of a part of an answer say that a policy keeps the object, as Azure documents them.
fn is_immutable(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    ["immutable due to", "immutability", "legal hold", "legalhold"].iter().any(|one| words.contains(one))
}

fn words(trouble: &Trouble, note: &Note) -> String {
    let text = match (note, trouble) {
        (_, Trouble::TooLarge) => String::new(),
        (Note { broken: Some((text, _)), .. }, _) => text.clone(),
        (_, Trouble::Late) => "no answer in time".to_owned(),
        (Note { status: Some(status), lie: true, code, .. }, _) => {
            format!("HTTP {status}, but with an error in it ({code})")
        }
        (Note { status: Some(status), code, message, .. }, _) if !(200..300).contains(status) => {
            let mut text = format!("HTTP {status}");
            for (between, part) in [(" ", code), (": ", message)] {
                if !part.is_empty() {
                    text.push_str(between);
                    text.push_str(part);
                }
            }
            match status {
                300..=399 => text + " (is it the right region and endpoint?)",
                _ => text,
            }
        }
        (_, Trouble::Failed(text) | Trouble::Refused(text)) => text.clone(),
        (_, Trouble::Missing) => "not found".to_owned(),
    };
    without_secrets(&text).chars().take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, code: &str) -> Failure {
        let note = Note { host: "b.host".into(), status: Some(status), code: code.into(), ..Note::default() };
        judge(Trouble::Failed("GET http://u:secret@x/?sig=secret".into()), &note, "host")
    }

    /// F32, F33, F41: what each answer means.
    #[test]
    fn every_answer_has_its_kind_and_says_whether_to_try_again_and_whether_it_may_be_done() {
        use StoreErrorKind::{Denied, Locked, NoSpace, NotFound, Other, Transient};
        let (exists, past_end) = (What::Exists, What::PastEnd);
        for (status, code, what, again, lost) in [
            (200, "", What::Kind(Transient), true, true),
            (301, "PermanentRedirect", What::Kind(Other), false, false),
            (304, "", exists, false, false),
            (400, "InvalidArgument", What::Kind(Other), false, false),
            (400, "ExpiredToken", What::Kind(Denied), false, false),
            (400, "BadDigest", What::Kind(Transient), true, false),
            (401, "", What::Kind(Denied), false, false),
            (403, "RequestTimeTooSkewed", What::Kind(Denied), false, false),
            (404, "NoSuchKey", What::Kind(NotFound), false, false),
            (404, "NoSuchBucket", What::Kind(Other), false, false),
            (408, "", What::Kind(Transient), true, true),
            (409, "ConditionalRequestConflict", What::Kind(Transient), true, false),
            (409, "", What::Kind(Transient), true, false),
            (409, "BlobAlreadyExists", exists, false, false),
            (409, "BlobImmutableDueToPolicy", What::Kind(Locked), false, false),
            (412, "PreconditionFailed", exists, false, false),
            (416, "InvalidRange", past_end, false, false),
            (429, "", What::Kind(Transient), true, false),
            (500, "InternalError", What::Kind(Transient), true, true),
            (501, "NotImplemented", What::Kind(Other), false, false),
            (503, "SlowDown", What::Kind(Transient), true, true),
            (503, "QuotaExceeded", What::Kind(NoSpace), false, false),
            (507, "", What::Kind(NoSpace), false, false),
        ] {
            let found = answered(status, code);
            assert_eq!((found.what, found.again, found.lost), (what, again, lost), "{status} {code}");
            assert!(!found.text.contains("secret"), "{}", found.text);
        }
    }

    #[test]
    fn a_request_that_was_not_sent_is_not_done_and_any_other_may_be() {
        for (unsent, lost) in [(true, false), (false, true)] {
            let broken = Some(("tcp connect error".to_owned(), unsent));
            let note = Note { host: "host".into(), broken, ..Note::default() };
            let failure = judge(Trouble::Failed(String::new()), &note, "host");
            assert_eq!((failure.again, failure.lost), (true, lost));
        }
        let late = judge(Trouble::Late, &Note { host: "host".into(), ..Note::default() }, "host");
        assert_eq!((late.again, late.lost), (true, true));
    }

    /// Azure deletes several at once, and answers for each within a success.
    #[test]
    fn what_a_part_of_an_answer_refuses_is_refused() {
        let note = Note { host: "host".into(), status: Some(202), ..Note::default() };
        let judged = |trouble| judge(trouble, &note, "host").what;
        assert_eq!(judged(Trouble::Refused(String::new())), What::Kind(StoreErrorKind::Denied));
        assert_eq!(judged(Trouble::Missing), What::Kind(StoreErrorKind::NotFound));
        let kept = "409: This operation is not permitted as the blob is immutable due to a policy.";
        assert_eq!(judged(Trouble::Failed(kept.into())), What::Kind(StoreErrorKind::Locked));
    }

    #[test]
    fn nobody_who_gives_credentials_is_a_missing_right() {
        let broken = Some(("tcp connect error".to_owned(), true));
        let note = Note { host: "169.254.169.254".into(), broken, ..Note::default() };
        let failure = judge(Trouble::Failed(String::new()), &note, "host");
        assert_eq!(failure.what, What::Kind(StoreErrorKind::Denied));
        assert!(failure.text.contains("credentials"), "{}", failure.text);
    }
}
