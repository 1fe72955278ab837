//! Whoever stands between a client and a server of objects: hands on request after request, and does to each what its script
//! says. HTTP/1.1 as far as these clients and servers speak it.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request, as far as scripts look at it.
#[derive(Clone, Debug)]
pub struct Request {
    /// `PUT`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Its headers, each a line.
    pub headers: Vec<String>,
    /// Requests of any connection before it.
    pub before: u64,
    /// Of these, how often the same was asked: method and target.
    pub asked: u64,
}

impl Request {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self.headers.iter().filter_map(|line| line.split_once(':'));
        pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// Whether it is a put that must not replace anything.
    pub fn creates(&self) -> bool {
        self.method == "PUT"
            && ["if-none-match", "x-goog-if-generation-match"].iter().any(|name| self.header(name).is_some())
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is done and answered.
    None,
    /// It is done, and the connection ends before the answer.
    LoseAnswer,
    /// The connection ends, and nothing is done.
    Drop,
    /// Nothing is done, and this is answered: status, a header, body.
    Answer(u16, &'static str, &'static str),
    /// It is done, and this is answered.
    DoneBut(u16, &'static str, &'static str),
    /// It is done later.
    Delay(Duration),
    /// It is done, and the connection ends in the middle of the answer.
    Truncate,
    /// It is done twice; the second answer is told.
    Twice,
    /// It is done without this header.
    Without(&'static str),
}

type Script = dyn Fn(&Request) -> Fault + Send + Sync;

struct Shared {
    server: SocketAddr,
    script: Box<Script>,
    /// What was asked, for `Request::asked`; locked for a moment.
    asked: Mutex<Vec<(String, String)>>,
    /// Held while a conditional put is under way, if they come one after another.
    one_at_a_time: Option<Mutex<()>>,
    ended: AtomicBool,
}

/// A proxy; it ends with its owner.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Before this server.
    ///
    /// # Panics
    /// If it can't listen.
    pub fn new(server: SocketAddr, script: impl Fn(&Request) -> Fault + Send + Sync + 'static) -> Self {
        Self::start(server, Box::new(script), None)
    }

    /// Before a server that looks whether an object is there and then writes it: of its conditional puts one at a time passes.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn one_create_at_a_time(server: SocketAddr) -> Self {
        Self::start(server, Box::new(|_| Fault::None), Some(Mutex::new(())))
    }

    fn start(server: SocketAddr, script: Box<Script>, one_at_a_time: Option<Mutex<()>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        let (asked, ended) = (Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { server, script, asked, one_at_a_time, ended });
        let all = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if all.ended.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), one) = (client, all.clone()) else { continue };
                // What breaks is the client's or the server's connection, and ends this one.
                std::thread::spawn(move || drop(one.converse(client)));
            }
        });
        Self { address, shared }
    }

    /// How often a request of which this is true was made.
    pub fn count(&self, of: impl Fn(&str, &str) -> bool) -> usize {
        let asked = self.shared.asked.lock().expect("no thread panics with the lock");
        asked.iter().filter(|(method, target)| of(method, target)).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // So that it looks.
        let _ = TcpStream::connect(self.address);
    }
}

/// A request's or an answer's first line, headers and body.
#[derive(Clone)]
pub(super) struct Message {
    pub(super) first: String,
    headers: Vec<String>,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// The next one; `None` at the end.
    pub(super) fn read(from: &mut impl BufRead, without_body: bool) -> io::Result<Option<Self>> {
        let mut line = || {
            let mut line = String::new();
            from.read_line(&mut line).map(|_| line.trim_end().to_owned())
        };
        let first = line()?;
        if first.is_empty() {
            return Ok(None);
        }
        let mut headers = Vec::new();
        loop {
            match line()? {
                end if end.is_empty() => break,
                header => headers.push(header),
            }
        }
        let mut message = Self { first, headers, body: Vec::new() };
        let length = message.header("content-length").and_then(|length| length.parse().ok());
        match (message.header("transfer-encoding").is_some(), length) {
            _ if without_body => {}
            (true, _) => message.body = chunks(from)?,
            (false, Some(length)) => {
                message.body = vec![0; length];
                from.read_exact(&mut message.body)?;
            }
            (false, None) => {}
        }
        Ok(Some(message))
    }

    pub(super) fn header(&self, name: &str) -> Option<String> {
        let mut pairs = self.headers.iter().filter_map(|line| line.split_once(':'));
        pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    }

    /// Its bytes, with the body at once.
    fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.first);
        let chunked = self.header("transfer-encoding").is_some();
        for header in &self.headers {
            if !header.to_ascii_lowercase().starts_with("transfer-encoding") {
                text.push_str(&format!("{header}\r\n"));
            }
        }
        if chunked {
            text.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        let mut bytes = format!("{text}\r\n").into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

fn chunks(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let length = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        from.take(length).read_to_end(&mut body)?;
        line.clear();
        from.read_line(&mut line)?;
        if length == 0 {
            return Ok(body);
        }
    }
}

impl Shared {
    fn converse(&self, client: TcpStream) -> io::Result<()> {
        let mut requests = BufReader::new(client.try_clone()?);
        let server = TcpStream::connect(self.server)?;
        let mut answers = BufReader::new(server.try_clone()?);
        // Both ends of both connections are small messages and large bodies, one after another.
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        while let Some(request) = Message::read(&mut requests, false)? {
            if self.ended.load(Ordering::SeqCst) || !self.exchange(request, &client, &server, &mut answers)? {
                break;
            }
        }
        client.shutdown(Shutdown::Both)?;
        server.shutdown(Shutdown::Both)
    }

    /// Whether the connection goes on.
    fn exchange(
        &self,
        mut request: Message,
        mut client: &TcpStream,
        mut server: &TcpStream,
        answers: &mut impl BufRead,
    ) -> io::Result<bool> {
        let mut words = request.first.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let seen = {
            let mut asked = self.asked.lock().expect("no thread panics with the lock");
            let same = asked.iter().filter(|one| (&one.0, &one.1) == (&method, &target)).count();
            asked.push((method.clone(), target.clone()));
            Request {
                headers: request.headers.clone(),
                before: asked.len() as u64 - 1,
                asked: same as u64,
                method,
                target,
            }
        };
        let fault = (self.script)(&seen);
        // To HEAD nobody answers a body.
        let body = |body: &'static str| if seen.method == "HEAD" { "" } else { body };
        match &fault {
            Fault::Drop => return Ok(false),
            Fault::Answer(status, header, text) => {
                client.write_all(&answer(*status, header, body(text)))?;
                return Ok(true);
            }
            Fault::Delay(time) => std::thread::sleep(*time),
            Fault::Without(name) => {
                request
                    .headers
                    .retain(|line| !line.to_ascii_lowercase().starts_with(&name.to_ascii_lowercase()));
            }
            _ => {}
        }
        let mut done = || {
            let alone = self.one_at_a_time.as_ref().filter(|_| seen.creates());
            let _alone = alone.map(|lock| lock.lock().expect("no thread panics with the lock"));
            server.write_all(&request.bytes())?;
            loop {
                let answer = Message::read(answers, seen.method == "HEAD")?;
                let answer = answer.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
                // "100 Continue" is none.
                if !answer.first.contains(" 100 ") {
                    return io::Result::Ok(answer);
                }
            }
        };
        let mut told = done()?;
        if fault == Fault::Twice {
            told = done()?;
        }
        match fault {
            Fault::LoseAnswer => return Ok(false),
            Fault::DoneBut(status, header, text) => client.write_all(&answer(status, header, body(text)))?,
            Fault::Truncate => {
                let bytes = told.bytes();
                client.write_all(&bytes[..bytes.len() - told.body.len().div_ceil(2).max(1)])?;
                return Ok(false);
            }
            _ => client.write_all(&told.bytes())?,
        }
        Ok(true)
    }
}

pub(super) fn answer(status: u16, header: &str, body: &str) -> Vec<u8> {
    let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
    format!("HTTP/1.1 {status} So\r\n{header}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}
