//! Between the library and its HTTP client: what the server answered is noted for whoever judges it, word for word, and a
//! success that is none is made a failure. The library itself tells neither an error's code nor Retry-After.

use futures_util::StreamExt;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService, ReqwestConnector,
};
use object_store::{ClientOptions, HeaderMap};
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// Of an error's body.
const ERROR_MAX: usize = 64 << 10;
/// Of a listing: a thousand names, each with a kilobyte about it, several times over.
const LISTING_MAX: usize = 16 << 20;

tokio::task_local! {
    static NOTE: RefCell<Note>;
}

/// What became of the last request of a try.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Note {
    /// Who was asked: host and port.
    pub(super) host: String,
    /// The status, if there was an answer.
    pub(super) status: Option<u16>,
    /// The error's code: `SlowDown`.
    pub(super) code: String,
    /// The error's words, for people.
    pub(super) message: String,
    /// The object's whole length, if a part of it was answered.
    pub(super) whole: Option<u64>,
    /// How long the server asks to wait.
    pub(super) retry_after: Option<Duration>,
    /// The status says success and the body an error.
    pub(super) lie: bool,
    /// Why there was no answer, and whether the request can't have been sent.
    pub(super) broken: Option<(String, bool)>,
}

/// Runs a try and answers what it answered, and the note of its last request.
pub(super) async fn noted<T>(ask: impl Future<Output = T>) -> (T, Note) {
    NOTE.scope(RefCell::default(), async {
        let answer = ask.await;
        (answer, NOTE.with(RefCell::take))
    })
    .await
}

fn note(change: impl FnOnce(&mut Note)) {
    // Outside of a try nobody reads it.
    let _ = NOTE.try_with(|note| change(&mut note.borrow_mut()));
}

/// Makes clients that take notes.
#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Wire { client: ReqwestConnector::default().connect(options)? }))
    }
}

#[derive(Debug)]
struct Wire {
    client: HttpClient,
}

impl HttpService for Wire {
    // What the macro `async_trait` makes of an asynchronous function.
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.exchange(request))
    }
}

impl Wire {
    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        note(|note| *note = Note { host, ..Note::default() });
        let put = request.method() == "PUT";
        let query = request.uri().query().unwrap_or_default();
        let listing =
            ["list-type=2", "comp=list"].iter().any(|part| query.split('&').any(|one| one == *part));
        let response = self.client.execute(request).await.inspect_err(broken)?;
        let (parts, body) = response.into_parts();
        note(|note| note.status = Some(parts.status.as_u16()));
        if !parts.status.is_success() {
            let text = read(body, ERROR_MAX).await?;
            note(|note| failed(note, &parts.headers, &String::from_utf8_lossy(&text)));
            return Ok(HttpResponse::from_parts(parts, text.into()));
        }
        // F33: a success with an error in it. Bodies of objects are not looked at: they prove themselves.
        if put || listing {
            let bytes = read(body, if put { ERROR_MAX } else { LISTING_MAX }).await?;
            let text = String::from_utf8_lossy(&bytes);
            let roots = ["<ListBucketResult", "<EnumerationResults"];
            let lie = match listing {
                true => !roots.iter().any(|root| text.contains(root)),
                false => ["<Error", "<html", "<!DOCTYPE"].iter().any(|root| text.contains(root)),
            };
            if lie {
                note(|note| {
                    failed(note, &parts.headers, &text);
                    note.lie = true;
                });
                return Err(HttpError::new(
                    HttpErrorKind::Decode,
                    std::io::Error::other("an error as a success"),
                ));
            }
            return Ok(HttpResponse::from_parts(parts, bytes.into()));
        }
        let range = parts.headers.get("content-range").and_then(|range| range.to_str().ok());
        let whole = range.and_then(|range| range.rsplit_once('/')?.1.parse().ok());
        note(|note| note.whole = whole);
        Ok(HttpResponse::from_parts(parts, body))
    }
}

fn broken(error: &HttpError) {
    // "Connect" is known not to have sent anything. The library takes more for that ("Request"), wrongly: a connection
    // that ends in the middle of an answer is among it.
    let unsent = error.kind() == HttpErrorKind::Connect;
    let mut words = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        words.push(error.to_string());
        cause = error.source();
    }
    note(|note| note.broken = Some((words.join(": "), unsent)));
}

async fn read(body: HttpResponseBody, limit: usize) -> Result<Vec<u8>, HttpError> {
    let (mut stream, mut bytes) = (body.bytes_stream(), Vec::new());
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece.inspect_err(broken)?);
        if bytes.len() > limit {
            return Err(HttpError::new(
                HttpErrorKind::Decode,
                std::io::Error::other("the answer is too long"),
            ));
        }
    }
    Ok(bytes)
}

fn failed(note: &mut Note, headers: &HeaderMap, body: &str) {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    note.code = header("x-ms-error-code").or_else(|| element(body, "Code")).unwrap_or_default().to_owned();
    note.message = element(body, "Message").unwrap_or_default().lines().next().unwrap_or_default().to_owned();
    note.retry_after = header("retry-after").and_then(|text| wait(text, jiff::Timestamp::now()));
}

/// The text of the first element of this name.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once("</")?.0.trim())
}

/// Retry-After: seconds, or a time.
fn wait(text: &str, now: jiff::Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    Some(Duration::try_from(until.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_to_wait_is_read_in_both_forms() {
        let now = "2026-11-27T12:00:00Z".parse().unwrap();
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
        failed(&mut note, &HeaderMap::new(), xml);
        assert_eq!((note.code.as_str(), note.message.as_str()), ("SignatureDoesNotMatch", "It does not."));
    }
}
