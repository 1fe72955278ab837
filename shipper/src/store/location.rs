//! Where a vault is: a URL, taken apart, and what else must be known of a store behind a network.

use super::check_name;
use super::remote::oldest::AsOf;
use crate::{Error, Kind, Result};
use std::path::PathBuf;
use std::time::Duration;

/// What the URLs look like, for errors and help.
pub const FORMS: &str = "file:///folder, a path, s3://bucket/prefix, az://container/prefix, \
https://ACCOUNT.blob.core.windows.net/container/prefix or gs://bucket/prefix";

/// A place for objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder.
    Directory(PathBuf),
    /// A part of a bucket.
    Bucket(Bucket),
}

/// A part of a bucket (Azure: a container): all objects whose names begin with the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Whose protocol is spoken.
    pub service: Service,
    /// The bucket's or container's name.
    pub name: String,
    /// Empty, or components without a slash at either end.
    pub prefix: String,
}

/// A protocol of object stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// Amazon S3, or whoever speaks like it.
    S3,
    /// Azure Blob Storage, at the account's URL if that was given.
    Azure(Option<String>),
    /// Google Cloud Storage.
    Google,
}

/// How a store behind a network is reached, beside its URL. What is not said here is taken from the provider's usual
/// environment variables and files, as are all credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The server, where it is not the provider's own: `https://host:port`. Only `http://` is not encrypted.
    pub endpoint: Option<String>,
    /// S3: the region that requests are signed for.
    pub region: Option<String>,
    /// S3: where the bucket's name stands.
    pub addressing: Option<Addressing>,
    /// A file of certificates (PEM) that are believed besides the system's.
    pub ca: Option<PathBuf>,
    /// A proxy: `http://host:port`.
    pub proxy: Option<String>,
    /// S3: how long what is put can't be deleted by anybody.
    pub immutable_for: Option<Duration>,
    /// S3: read the store as it was.
    pub as_of: Option<AsOf>,
}

/// Where the name of an S3 bucket stands in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Addressing {
    /// In the path: `https://host/bucket/object`
    Path,
    /// In the host's name: `https://bucket.host/object`
    Virtual,
}

impl Location {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// `Usage`, with what is wrong.
    pub fn parse(url: &str) -> Result<Self> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return match url {
                "" => Err(usage(format_args!("the vault's URL is empty; give {FORMS}"))),
                path => Ok(Self::Directory(path.into())),
            };
        };
        let bucket = |service, rest: &str| Bucket::parse(service, rest).map(Self::Bucket);
        // Not the whole URL: somebody may have given one with a password, or signed.
        let bare = || shown(url).split_whitespace().collect::<Vec<_>>().join(" ");
        match scheme {
            "file" if rest.starts_with('/') => Ok(Self::Directory(rest.into())),
            "file" => {
                Err(usage(format_args!("{}: a file URL is file:///folder, with three slashes", bare())))
            }
            "s3" => bucket(Service::S3, rest),
            "gs" => bucket(Service::Google, rest),
            "az" => bucket(Service::Azure(None), rest),
            "https" => match rest.split_once('/') {
                Some((host, rest)) if host.contains(".blob.") && !host.contains('@') => {
                    bucket(Service::Azure(Some(format!("https://{host}"))), rest)
                }
                _ => Err(usage(format_args!(
                    "{}: only an Azure account's URL begins with https; for an S3 server give s3://bucket/prefix and \
                    --store-endpoint https://host",
                    bare()
                ))),
            },
            _ => Err(usage(format_args!("{} is no kind of store; give {FORMS}", bare()))),
        }
    }
}

impl Bucket {
    fn parse(service: Service, rest: &str) -> Result<Self> {
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'$');
        if name.is_empty() || !name.bytes().all(letter) {
            return Err(usage("a bucket's name is missing in the vault's URL, or has letters that none has"));
        }
        if !prefix.is_empty() && check_name(prefix).is_err() {
            return Err(usage(
                "the prefix in the vault's URL may have letters, digits, '-', '_' and '.' between its slashes, and \
                begin with no '.'",
            ));
        }
        Ok(Self { service, name: name.to_owned(), prefix: prefix.to_owned() })
    }

    /// The URL, which has no secrets.
    pub fn url(&self) -> String {
        let start = match &self.service {
            Service::S3 => "s3:/",
            Service::Google => "gs:/",
            Service::Azure(None) => "az:/",
            Service::Azure(Some(account)) => account,
        };
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        format!("{start}/{}{slash}{}", self.name, self.prefix)
    }
}

impl Options {
    /// Checks what can be checked without a network.
    ///
    /// # Errors
    /// `Usage`.
    pub fn check(&self, location: &Location) -> Result<()> {
        let is_s3 = matches!(location, Location::Bucket(Bucket { service: Service::S3, .. }));
        if self.as_of.is_some() && !is_s3 {
            return Err(usage("--as-of reads old versions of objects, which it can for s3:// alone"));
        }
        if self.immutable_for.is_some() && !is_s3 {
            let instead = match location {
                Location::Directory(_) => {
                    "keep snapshots of the file system that this host can't delete, or ship to a bucket with object lock"
                }
                Location::Bucket(_) => {
                    "its administrator can set a retention policy on the container or bucket, which then holds each object \
                    for a time after its upload, and no longer"
                }
            };
            return Err(usage(format_args!(
                "--immutable-for is for s3:// with object lock alone; {instead}"
            )));
        }
        let Location::Bucket(bucket) = location else {
            return match *self == Self::default() {
                true => Ok(()),
                false => {
                    Err(usage("the options --store-... are for a vault in an object store, not in a folder"))
                }
            };
        };
        if bucket.service != Service::S3 && (self.region.is_some() || self.addressing.is_some()) {
            return Err(usage("--store-region and --store-addressing are for s3:// alone"));
        }
        for (option, value) in [("--store-endpoint", &self.endpoint), ("--store-proxy", &self.proxy)] {
            let Some(value) = value else { continue };
            let host = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
            match host {
                Some(host) if host.contains(['@', '?', '#']) => {
                    return Err(usage(format_args!(
                        "{option} takes no user, password or query: arguments can be read by everybody on the host; a \
                        proxy's password can be given in the environment (HTTPS_PROXY)"
                    )));
                }
                Some(host) if !host.is_empty() && !host.starts_with('/') => {}
                _ => {
                    return Err(usage(format_args!(
                        "{option} is a URL: https://host:port, or http://host:port"
                    )));
                }
            }
        }
        Ok(())
    }
}

fn usage(message: impl std::fmt::Display) -> Error {
    Error::new(Kind::Usage, message.to_string())
}

/// A text with URLs as it may be shown: without users, passwords and queries, in which signatures stand.
pub fn without_secrets(text: &str) -> String {
    text.split_whitespace().map(shown).collect::<Vec<_>>().join(" ")
}

/// A URL likewise. Keys have slashes and question marks in them, and who gives one in a URL may not have escaped them: what
/// stands in front of the last `@` is never shown, nor what stands behind a question mark, nor anything if both may be it.
fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.split('?').next().unwrap_or_default().to_owned();
    };
    let host = match rest.split_once('?') {
        Some((_, query)) if query.contains('@') => "...",
        Some((head, _)) => head,
        None => rest,
    };
    // A library's words may have it in brackets.
    let plain = scheme.trim_start_matches(['(', '"', '\'']).bytes().all(|b| b.is_ascii_alphanumeric());
    let scheme = if plain { scheme } else { "..." };
    format!("{scheme}://{}", host.rsplit('@').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(url: &str) -> Bucket {
        match Location::parse(url) {
            Ok(Location::Bucket(bucket)) => bucket,
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn every_form_of_a_url_is_understood_and_told_again() {
        for (url, service, name, prefix) in [
            ("s3://b", Service::S3, "b", ""),
            ("s3://b/", Service::S3, "b", ""),
            ("s3://b.c-d/e/f/", Service::S3, "b.c-d", "e/f"),
            ("gs://b/e", Service::Google, "b", "e"),
            ("az://c/e", Service::Azure(None), "c", "e"),
            (
                "https://acc.blob.core.windows.net/c/e/f",
                Service::Azure(Some("https://acc.blob.core.windows.net".into())),
                "c",
                "e/f",
            ),
        ] {
            let parsed = bucket(url);
            assert_eq!(parsed, Bucket { service, name: name.into(), prefix: prefix.into() });
            assert_eq!(parsed.url(), url.trim_end_matches('/'));
        }
        for (path, folder) in [("/a/b", "/a/b"), ("a", "a"), ("file:///a/b", "/a/b")] {
            assert_eq!(Location::parse(path).unwrap(), Location::Directory(folder.into()));
        }
    }

    #[test]
    fn what_is_no_store_is_refused_in_one_clear_line_without_what_may_be_secret() {
        for url in [
            "",
            "file://host/x",
            "ftp://user:secret@host/x?sig=secret",
            "s3://",
            "s3:///x",
            "s3://key:secret@b/x",
            "s3://b/../x",
            "s3://b/a//x",
            "s3://b/x?secret",
            "https://user:secret@host/x?sig=secret",
            "https://user:secret@acc.blob.core.windows.net/c?sig=secret",
            "https://key:a/secret@host/x",
            "https://key:a?secret@acc.blob.core.windows.net/c",
            "https://key:a secret@host/x",
            "https://host/x?mail=a@b&sig=secret",
            "https://a://key:secret@host/x",
            "key:secret@host\n://x",
            "memory://",
        ] {
            let error = Location::parse(url).expect_err(url);
            assert_eq!(error.kind(), Kind::Usage);
            assert!(!error.line().contains("secret") && !error.line().contains('\n'), "{}", error.line());
        }
    }

    #[test]
    fn options_that_say_a_secret_or_mean_nothing_are_refused() {
        let s3 = Location::Bucket(bucket("s3://b"));
        let with = |endpoint: &str| Options { endpoint: Some(endpoint.into()), ..Options::default() };
        for good in ["https://host", "http://127.0.0.1:9000", "https://host/path"] {
            with(good).check(&s3).unwrap();
        }
        for bad in
            ["host:9000", "https://", "ftp://host", "https://key:secret@host", "https://host?sig=secret"]
        {
            let error = with(bad).check(&s3).expect_err(bad);
            assert!(error.kind() == Kind::Usage && !error.line().contains("secret"), "{}", error.line());
        }
        assert!(with("https://host").check(&Location::Directory("x".into())).is_err());
        let region = Options { region: Some("r".into()), ..Options::default() };
        assert!(region.check(&s3).is_ok() && region.check(&Location::Bucket(bucket("gs://b"))).is_err());
    }

    #[test]
    fn secrets_in_urls_are_not_shown() {
        let shown = without_secrets("PUT https://u:p@h/a?X-Amz-Signature=1 failed for http://h?sig=2, sorry");
        assert_eq!(shown, "PUT https://h/a failed for http://h sorry");
    }
}
