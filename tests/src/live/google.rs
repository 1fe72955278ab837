//! A mock of Google Cloud Storage's XML interface, as far as our client uses it: no server of Google's protocol that keeps
//! generations can be had here. What passes against it says that we speak as documented, not that Google hears it so.

use super::proxy::{Message, answer};
use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use towline::store::memory::MemoryStore;
use towline::store::{Put, Store};

/// The token that it takes.
const TOKEN: &str = "a-token-of-the-tests";

/// The mock; it ends with its owner.
#[derive(Debug)]
pub struct Google {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Google {
    /// Starts it, with an empty bucket.
    ///
    /// # Panics
    /// If it can't listen.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        let ended = Arc::new(AtomicBool::new(false));
        let (objects, stop) = (MemoryStore::new(), ended.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), objects) = (client, objects.clone()) else { continue };
                std::thread::spawn(move || drop(converse(&client, &objects)));
            }
        });
        Self { address, ended }
    }

    /// The variables that lead to it.
    pub fn environment(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://{}", self.address);
        [("GOOGLE_BASE_URL", &*endpoint), ("GOOGLE_BEARER_TOKEN", TOKEN)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }
}

impl Drop for Google {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn converse(mut client: &TcpStream, objects: &MemoryStore) -> io::Result<()> {
    let mut requests = BufReader::new(client.try_clone()?);
    while let Some(request) = Message::read(&mut requests, false)? {
        client.write_all(&reply(&request, objects))?;
    }
    Ok(())
}

fn reply(request: &Message, objects: &MemoryStore) -> Vec<u8> {
    let mut words = request.first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if request.header("authorization") != Some(format!("Bearer {TOKEN}")) {
        return error(401, "AuthenticationRequired");
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let name = plain(path.trim_start_matches('/').split_once('/').map_or("", |(_, name)| name));
    let generation = "x-goog-generation: 1\r\nETag: \"1\"\r\nLast-Modified: Fri, 27 Nov 2026 12:00:00 GMT";
    match method {
        "GET" if name.is_empty() => list(query, objects),
        "PUT" => match request.header("x-goog-if-generation-match").as_deref() {
            None => match objects.put(&name, &request.body) {
                Ok(()) => answer(200, generation, ""),
                Err(_) => error(400, "InvalidArgument"),
            },
            Some("0") => match objects.put_if_absent(&name, &request.body) {
                Ok(Put::Created) => answer(200, generation, ""),
                Ok(Put::AlreadyExists) => error(412, "PreconditionFailed"),
                Err(_) => error(400, "InvalidArgument"),
            },
            Some(_) => error(400, "InvalidArgument"),
        },
        "GET" | "HEAD" => {
            let Ok(data) = objects.get(&name, usize::MAX) else { return error(404, "NoSuchKey") };
            let range = request.header("range").and_then(|range| {
                let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
                Some((start.parse::<usize>().ok()?, end.parse::<usize>().ok()?))
            });
            let (status, part, told) = match range {
                Some((start, _)) if start >= data.len() => return error(416, "InvalidRange"),
                Some((start, end)) => {
                    let end = end.min(data.len() - 1);
                    let told = format!("Content-Range: bytes {start}-{end}/{}\r\n", data.len());
                    (206, &data[start..=end], told)
                }
                None => (200, &data[..], String::new()),
            };
            let head = format!(
                "HTTP/1.1 {status} So\r\n{told}{generation}\r\nContent-Length: {}\r\n\r\n",
                part.len()
            );
            let body = if method == "GET" { part } else { &[] };
            [head.as_bytes(), body].concat()
        }
        "DELETE" => match objects.len(&name) {
            Ok(_) => {
                objects.delete(&name).map_or_else(|_| error(400, "InvalidArgument"), |()| answer(204, "", ""))
            }
            Err(_) => error(404, "NoSuchKey"),
        },
        _ => error(405, "MethodNotAllowed"),
    }
}

fn list(query: &str, objects: &MemoryStore) -> Vec<u8> {
    let value = |key: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == key).map(|(_, value)| plain(value))
    };
    let most = value("max-keys").and_then(|most| most.parse().ok()).unwrap_or(1000usize);
    let after = value("continuation-token").or_else(|| value("start-after")).unwrap_or_default();
    let mut found = objects.list(&value("prefix").unwrap_or_default(), &after, most + 1).unwrap_or_default();
    let more = found.len() > most;
    found.truncate(most);
    let mut xml = "<?xml version='1.0'?><ListBucketResult>".to_owned();
    for object in &found {
        xml.push_str(&format!(
            "<Contents><Key>{}</Key><Size>{}</Size><ETag>\"1\"</ETag>\
            <LastModified>2026-11-27T12:00:00.000Z</LastModified></Contents>",
            object.name, object.length
        ));
    }
    if let (true, Some(last)) = (more, found.last()) {
        xml.push_str(&format!("<NextContinuationToken>{}</NextContinuationToken>", last.name));
    }
    answer(200, "Content-Type: application/xml", &(xml + "</ListBucketResult>"))
}

fn error(status: u16, code: &str) -> Vec<u8> {
    answer(status, "", &format!("<Error><Code>{code}</Code><Message>So it is.</Message></Error>"))
}

/// `%2F` and its like as what they stand for.
fn plain(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let hex = more.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            _ => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
