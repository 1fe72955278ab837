//! NBD URIs: `nbd://host:port/export` and `nbd+unix:///export?socket=/path`.

use crate::{Error, Kind, Result};
use std::path::{Path, PathBuf};

/// The port where none is given: the one that is registered for NBD.
const PORT: u16 = 10809;

/// An export of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// Where the server listens.
    pub server: Server,
    /// The export's name; empty: the server's first.
    pub export: String,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// A host and a port.
    Tcp(String, u16),
    /// A unix socket.
    Unix(PathBuf),
}

/// Whether a path is meant as an NBD URI. A file that is called so can be given as `./nbd:...`.
pub fn is_uri(target: &Path) -> bool {
    let scheme = target.to_str().and_then(|text| text.split_once("://")).map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| {
        ["nbd", "nbds"].contains(&scheme) || scheme.starts_with("nbd+") || scheme.starts_with("nbds+")
    })
}

impl Uri {
    /// Takes a URI apart. What follows `?` and is not known is passed over, as the specification asks.
    ///
    /// # Errors
    /// `Usage`, with what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: &str| Error::new(Kind::Usage, format!("{text}: {what}"));
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("no NBD URI"))?;
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let decoded =
            |text| decoded(text).ok_or_else(|| wrong("a % is followed by no two hexadecimal digits"));
        // A user is of use for TLS alone.
        let authority = authority.rsplit_once('@').map_or(authority, |(_, authority)| authority);
        let socket = query.split('&').find_map(|pair| pair.strip_prefix("socket="));
        let server = match scheme {
            "nbd" => {
                if authority.is_empty() || socket.is_some() {
                    return Err(wrong("give nbd://host:port/export, or nbd+unix:///export?socket=/path"));
                }
                let (host, port) = match authority.rsplit_once(':') {
                    // The colons of an IPv6 address stand in brackets.
                    Some((host, port)) if !port.ends_with(']') => {
                        let port = if port.is_empty() { Ok(PORT) } else { port.parse() };
                        (host, port.map_err(|_| wrong("the port is no number"))?)
                    }
                    _ => (authority, PORT),
                };
                let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
                Server::Tcp(decoded(host)?, port)
            }
            "nbd+unix" => {
                let socket = socket.filter(|socket| !socket.is_empty());
                let socket = socket
                    .ok_or_else(|| wrong("give the server's socket: nbd+unix:///export?socket=/path"))?;
                Server::Unix(decoded(socket)?.into())
            }
            "nbds" | "nbds+unix" | "nbds+vsock" => {
                return Err(wrong("NBD over TLS is not spoken; use a unix socket, or a tunnel"));
            }
            _ => return Err(wrong("only nbd:// and nbd+unix:// are known")),
        };
        Ok(Self { server, export: decoded(path)? })
    }
}

/// Text without its percent signs; `None` if one stands for nothing.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = rest.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_taken_apart_and_what_is_none_is_refused() {
        let tcp = |host: &str, port, export: &str| Uri {
            server: Server::Tcp(host.into(), port),
            export: export.into(),
        };
        let unix =
            |path: &str, export: &str| Uri { server: Server::Unix(path.into()), export: export.into() };
        for (text, uri) in [
            ("nbd://host", tcp("host", 10809, "")),
            ("nbd://host/", tcp("host", 10809, "")),
            ("nbd://host:1/a%20b/c", tcp("host", 1, "a b/c")),
            ("nbd://host//x", tcp("host", 10809, "/x")),
            ("nbd://me@[::1]/x?tls-certificates=y#z", tcp("::1", 10809, "x")),
            ("nbd://[::1]:7/", tcp("::1", 7, "")),
            ("nbd+unix:///?socket=/a", unix("/a", "")),
            ("nbd+unix:///e?x=y&socket=/a%26b", unix("/a&b", "e")),
        ] {
            assert!(is_uri(Path::new(text)), "{text}");
            assert_eq!(Uri::parse(text).unwrap(), uri, "{text}");
        }
        for text in [
            "nbd://",
            "nbd:///x",
            "nbd://host:x/",
            "nbd://host:70000/",
            "nbd://host/%2",
            "nbd://host/%zz",
            "nbd://host/x?socket=/a",
            "nbd+unix:///x",
            "nbd+unix:///x?socket=",
            "nbds://host/",
            "nbd+vsock:///",
        ] {
            assert!(is_uri(Path::new(text)), "{text}");
            assert_eq!(Uri::parse(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
        ["./nbd://host", "nbd", "/nbd://x", "s3://x", "nbdx://y"]
            .into_iter()
            .for_each(|text| assert!(!is_uri(Path::new(text)), "{text}"));
    }
}
