//! Between the library and its HTTP client: what the server answered is noted for whoever judges it, word for word, and a
//! success that is none is made a failure. The library itself tells neither an error's code nor Retry-After.

use super::answer::{self, Note};
use super::connect::host_of;
use crate::store::tally::Class;
use futures_util::StreamExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService, ReqwestConnector,
};
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::time::SystemTime;

/// Of an error's body.
const ERROR_MAX: usize = 64 << 10;
/// Of a listing: a thousand names, each with a kilobyte about it, several times over.
const LISTING_MAX: usize = 16 << 20;

tokio::task_local! {
    static NOTE: RefCell<Note>;
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
        let host = request.uri().authority().map(|host| host_of(host.as_str())).unwrap_or_default();
        let put = request.method() == "PUT";
        let query = request.uri().query().unwrap_or_default();
        let listing = ["list-type=2", "comp=list", "versions"]
            .iter()
            .any(|part| query.split('&').any(|one| one == *part));
        let head = request.method() == "HEAD";
        let class = match request.method().as_str() {
            "DELETE" => Class::Delete,
            "GET" | "HEAD" if !listing => Class::Get,
            _ => Class::Put,
        };
        let up = request.body().content_length() as u64;
        note(|note| *note = Note { host, class: Some(class), up, ..Note::default() });
        let response = self.client.execute(request).await.inspect_err(broken)?;
        let (parts, body) = response.into_parts();
        note(|note| note.status = Some(parts.status.as_u16()));
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        if !parts.status.is_success() {
            let text = read(body, ERROR_MAX).await?;
            let words = String::from_utf8_lossy(&text);
            note(|note| note.fail(header, &words, SystemTime::now()));
            return Ok(HttpResponse::from_parts(parts, text.into()));
        }
        // F33: a success with an error in it.
        if put || listing {
            let bytes = read(body, if put { ERROR_MAX } else { LISTING_MAX }).await?;
            let text = String::from_utf8_lossy(&bytes);
            if answer::is_lie(&text, listing) {
                note(|note| {
                    note.fail(header, &text, SystemTime::now());
                    note.lie = true;
                });
                return Err(HttpError::new(
                    HttpErrorKind::Decode,
                    std::io::Error::other("an error as a success"),
                ));
            }
            return Ok(HttpResponse::from_parts(parts, bytes.into()));
        }
        let length = header("content-length").and_then(|length| length.parse().ok()).filter(|_| !head);
        note(|note| {
            note.whole = header("content-range").and_then(answer::whole);
            note.down = length.unwrap_or(0);
        });
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
        note(|note| note.down = bytes.len() as u64);
        if bytes.len() > limit {
            return Err(HttpError::new(
                HttpErrorKind::Decode,
                std::io::Error::other("the answer is too long"),
            ));
        }
    }
    Ok(bytes)
}
