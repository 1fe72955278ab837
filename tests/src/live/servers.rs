//! Servers of objects, as real as they can be had here, each on a free port of the loopback and with a bucket in it. They end
//! with their owner. `tests/tools/install.sh` installs them.

use super::process::{PATIENCE, Running, programs, run};
use super::proxy::Proxy;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use towline::store::location::{Location, Options};
use towline::store::remote::{Environment, RemoteStore};

/// The bucket's or container's name.
pub const BUCKET: &str = "bucket";
/// The well-known account of Azure's emulators, and its key.
const ACCOUNT: [&str; 2] = [
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
];
/// Of the S3 servers.
const KEYS: [&str; 2] = ["towline-tests", "a-secret-of-the-tests"];

/// A server.
#[derive(Debug)]
pub struct Server {
    running: Running,
    _before: Option<Proxy>,
    /// Where it listens.
    pub address: SocketAddr,
    /// The vault's scheme: `s3`.
    pub scheme: &'static str,
    encrypted: bool,
    folder: TempDir,
}

/// A tool that was installed for the tests.
fn tool(name: &str) -> PathBuf {
    let path = programs().parent().expect("a target folder").join("tools").join(name);
    assert!(path.exists(), "{} is not there: make tools, or tests/tools/install.sh", path.display());
    path
}

impl Server {
    /// s3s-fs: S3 over a folder. It checks signatures and checksums. It keeps conditions of those who come one after another
    /// only, so a proxy lets its creates pass one at a time.
    ///
    /// # Panics
    /// If it does not serve.
    #[track_caller]
    pub fn s3() -> Self {
        let command = |port: u16, folder: &TempDir| {
            std::fs::create_dir_all(folder.path().join("root").join(BUCKET)).expect("a bucket is a folder");
            let mut command = Command::new(tool("s3s-fs/bin/s3s-fs"));
            command.args(["--access-key", KEYS[0], "--secret-key", KEYS[1], "--host", "127.0.0.1"]);
            command.args(["--port", &port.to_string()]).arg(folder.path().join("root"));
            command
        };
        let mut server = Self::start("s3", false, command);
        let before = Proxy::one_create_at_a_time(server.address);
        server.address = before.address;
        server._before = Some(before);
        server
    }

    /// moto: S3 in memory, with versions and object lock. It keeps conditions, and checks neither signatures nor checksums.
    ///
    /// # Panics
    /// If it does not serve.
    #[track_caller]
    pub fn moto() -> Self {
        let server = Self::start("s3", false, |port, _| {
            let mut command = Command::new(tool("moto/bin/moto_server"));
            command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
            command
        });
        server.make_bucket(BUCKET, true);
        server
    }

    /// moto with two rules of Amazon's that it does not keep by itself: nobody shortens a lock of the mode COMPLIANCE, and a
    /// bucket with object lock keeps versions for ever. So far it proves what is done about such rules, and not that a store
    /// keeps them.
    ///
    /// # Panics
    /// If it does not serve.
    #[track_caller]
    pub fn moto_that_keeps_locks() -> Self {
        let server = Self::start("s3", false, |port, _| {
            let mut command = Command::new(tool("moto/bin/python3"));
            command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/moto-locks.py"));
            command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
            command
        });
        server.make_bucket(BUCKET, true);
        server
    }

    /// Makes a bucket of moto's, with object lock or without.
    ///
    /// # Panics
    /// If it can't be.
    #[track_caller]
    pub fn make_bucket(&self, name: &str, locks: bool) {
        let headers: &[_] = if locks { &[("x-amz-bucket-object-lock-enabled", "true")] } else { &[] };
        let (status, told) = self.ask("PUT", &format!("/{name}"), headers, b"");
        assert_eq!(status, 200, "no bucket: {told}");
    }

    /// What a server that checks no signature answers to whoever speaks its protocol: status and body.
    ///
    /// # Panics
    /// If there is no answer.
    #[track_caller]
    pub fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.address);
        // Whose request it is: the server believes it.
        let date = "20261127/us-east-1/s3/aws4_request";
        head += &format!(
            "Authorization: AWS4-HMAC-SHA256 Credential={}/{date}, SignedHeaders=host, Signature=0\r\n",
            KEYS[0]
        );
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        head += &format!("Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body].concat()).expect("it takes the request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("{head}")), body.to_owned())
    }

    /// moto, encrypted, with a certificate of its own.
    ///
    /// # Panics
    /// If it does not serve.
    #[track_caller]
    pub fn moto_encrypted() -> Self {
        let command = |port: u16, folder: &TempDir| {
            let (key, certificate) = (folder.path().join("key"), folder.path().join("certificate"));
            let mut openssl = Command::new("openssl");
            openssl.args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=tests",
            ]);
            openssl.args([
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-addext",
                "basicConstraints=critical,CA:FALSE",
            ]);
            run(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate)).good();
            let mut command = Command::new(tool("moto/bin/moto_server"));
            command
                .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--ssl-cert"])
                .arg(&certificate);
            command.arg("--ssl-key").arg(&key);
            command
        };
        let server = Self::start("s3", true, command);
        const MAKE: &str = "import ssl, sys, urllib.request as r\n\
            r.urlopen(r.Request(sys.argv[1], method='PUT'), context=ssl._create_unverified_context()).read()";
        let url = format!("{}/{BUCKET}", server.endpoint());
        run(Command::new("/usr/bin/python3").args(["-c", MAKE, &url])).good();
        server
    }

    /// Of the encrypted server: its certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate")
    }

    /// Azurite: Azure Blob Storage. It keeps conditions and checks signatures.
    ///
    /// # Panics
    /// If it does not serve.
    #[track_caller]
    pub fn azurite() -> Self {
        let command = |port: u16, folder: &TempDir| {
            let programs = tool("azurite/node_modules/.bin");
            let mut command = Command::new(programs.join("azurite-blob"));
            // Its own Node before any other.
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{path}", programs.display()));
            command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--silent"]);
            // It would ask its maker for news, and refuses versions of the protocol that are newer than itself.
            command.args(["--disableTelemetry", "--skipApiVersionCheck", "--location"]).arg(folder.path());
            command
        };
        let server = Self::start("az", false, command);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/azure-container.py");
        run(Command::new("/usr/bin/python3").arg(script).arg(server.endpoint()).args(ACCOUNT).arg(BUCKET))
            .good();
        server
    }

    #[track_caller]
    fn start(scheme: &'static str, encrypted: bool, command: impl Fn(u16, &TempDir) -> Command) -> Self {
        let begun = Instant::now();
        loop {
            // Free now; who takes it meanwhile lets the server end, and we try another.
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            let address = listener.local_addr().expect("it has an address");
            drop(listener);
            let folder = tempfile::Builder::new().prefix("tow").tempdir().expect("a folder");
            let log = folder.path().join("log");
            let mut command = command(address.port(), &folder);
            let out = File::create(&log).expect("a log");
            command.stdin(Stdio::null()).stderr(out.try_clone().expect("a log")).stdout(out);
            let running =
                Running::new(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
            let mut server = Self { running, _before: None, address, scheme, encrypted, folder };
            while server.running.ended().is_none() {
                if server.answers() {
                    return server;
                }
                assert!(begun.elapsed() < PATIENCE, "{command:?} does not serve: {}", server.told());
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(begun.elapsed() < PATIENCE, "{command:?} ended: {}", server.told());
        }
    }

    /// What it said.
    pub fn told(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Whether it can be asked. An encrypted one has nothing to say to us.
    fn answers(&self) -> bool {
        match self.encrypted {
            true => TcpStream::connect(self.address).is_ok(),
            false => self.raw("GET / HTTP/1.1\r\n").is_some_and(|answer| answer.starts_with("HTTP/1.1 ")),
        }
    }

    /// The answer to a request without a body, if there is one.
    fn raw(&self, head: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream
            .write_all(format!("{head}Host: {}\r\nConnection: close\r\n\r\n", self.address).as_bytes())
            .ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        self.endpoint_at(self.address)
    }

    fn endpoint_at(&self, address: SocketAddr) -> String {
        match self.scheme {
            "az" => format!("http://{address}/{}", ACCOUNT[0]),
            _ if self.encrypted => format!("https://{address}"),
            _ => format!("http://{address}"),
        }
    }

    /// A vault's URL in the bucket.
    pub fn url(&self, prefix: &str) -> String {
        format!("{}://{BUCKET}/{prefix}", self.scheme)
    }

    /// The variables that lead to it, and no other file.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.environment_at(self.address)
    }

    /// The variables that lead to whoever stands before it.
    pub fn environment_at(&self, address: SocketAddr) -> Vec<(String, String)> {
        let endpoint = self.endpoint_at(address);
        let variables = match self.scheme {
            "az" => vec![
                ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT[0]),
                ("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT[1]),
                ("AZURE_STORAGE_ENDPOINT", &endpoint),
            ],
            _ => vec![
                ("AWS_ACCESS_KEY_ID", KEYS[0]),
                ("AWS_SECRET_ACCESS_KEY", KEYS[1]),
                ("AWS_ENDPOINT_URL", &endpoint),
            ],
        };
        variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// A store in the bucket, in this process.
    ///
    /// # Panics
    /// If it can't be.
    #[track_caller]
    pub fn store(&self, prefix: &str) -> RemoteStore {
        self.store_at(self.address, prefix)
    }

    /// A store in the bucket, behind whoever stands before it.
    ///
    /// # Panics
    /// If it can't be.
    #[track_caller]
    pub fn store_at(&self, address: SocketAddr, prefix: &str) -> RemoteStore {
        store(&self.url(prefix), self.environment_at(address))
    }
}

/// A store in this process, with these variables.
///
/// # Panics
/// If it can't be.
#[track_caller]
pub fn store(url: &str, environment: impl IntoIterator<Item = (String, String)>) -> RemoteStore {
    let Ok(Location::Bucket(bucket)) = Location::parse(url) else { panic!("{url}") };
    let store = RemoteStore::new(&bucket, &Options::default(), &Environment::from_iter(environment));
    store.unwrap_or_else(|error| panic!("{}", error.line()))
}
