//! Where a vault is: URLs and options of a command line. A place that is understood has one spelling, and what is refused, or
//! told of an error, shows nobody's key.

use super::{Input, told};
use std::path::Path;
use towline::Kind;
use towline::store::location::{Addressing, Location, Options, without_secrets};

/// A key, as nothing else here reads.
const KEY: &str = "\u{1f511}";

/// Takes a made-up URL apart.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let way = input.u8();
    let option = |input: &mut Input<'_>| {
        let length = usize::from(input.u8() % 64);
        str::from_utf8(input.take(length)).ok().map(str::to_owned)
    };
    let (Some(first), Some(second)) = (option(&mut input), option(&mut input)) else { return };
    let Ok(rest) = str::from_utf8(input.rest()) else { return };
    if [&first, &second, rest].iter().any(|text| text.contains(KEY)) {
        return;
    }
    let scheme = ["s3", "gs", "az", "https", "http", "file", "ftp", "S3"][usize::from(way) % 8];
    understood(&format!("{scheme}://{first}/{second}{rest}"));
    understood(rest);
    hidden(scheme, &first, &second, rest);
    let addressing = [None, Some(Addressing::Path), Some(Addressing::Virtual)][usize::from(way >> 3) % 3];
    let some = |text: &str, bit: u8| (way >> bit & 1 == 1).then(|| text.to_owned());
    let options = Options {
        endpoint: some(&first, 5),
        region: some("r", 6),
        addressing,
        ca: None,
        proxy: some(&second, 7),
        ..Options::default()
    };
    for place in ["s3://b", "az://b", "/folder"] {
        let location = Location::parse(place).expect("it is a place");
        let accepted = told(options.check(&location)).is_some();
        let has_host = |url: &str| {
            let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            host.is_some_and(|host| {
                !host.is_empty() && !host.starts_with('/') && !host.contains(['@', '?', '#'])
            })
        };
        let urls = [&options.endpoint, &options.proxy].into_iter().flatten();
        let expected = match place {
            "/folder" => options == Options::default(),
            "az://b" => {
                options.region.is_none() && addressing.is_none() && urls.clone().all(|url| has_host(url))
            }
            _ => urls.clone().all(|url| has_host(url)),
        };
        assert_eq!(accepted, expected, "{options:?} at {place}");
    }
}

fn understood(url: &str) {
    match told(Location::parse(url)) {
        None => {}
        Some(Location::Directory(path)) => {
            assert_eq!(path, Path::new(url.strip_prefix("file://").unwrap_or(url)))
        }
        Some(Location::Bucket(bucket)) => {
            let again = bucket.url();
            assert_eq!(again.trim_end_matches('/'), url.trim_end_matches('/'));
            assert_eq!(Location::parse(&again).expect("our own"), Location::Bucket(bucket));
        }
    }
}

/// A key in front of the host, or in the query.
fn hidden(scheme: &str, user: &str, host: &str, rest: &str) {
    for url in
        [format!("{scheme}://{user}:{KEY}{rest}@{host}"), format!("{scheme}://{host}/{user}?{rest}{KEY}")]
    {
        // A folder's name may have any letters.
        if scheme != "file" {
            let error = Location::parse(&url).expect_err("no bucket has such letters");
            assert!(error.kind() == Kind::Usage && !error.line().contains(KEY), "{}", error.line());
        }
        let options = Options { endpoint: Some(url.clone()), proxy: Some(url.clone()), ..Options::default() };
        let error =
            options.check(&Location::parse("s3://b").expect("it is a place")).expect_err("it has a key");
        assert!(!error.line().contains(KEY), "{}", error.line());
        let word: String = url.split_whitespace().collect();
        let shown = without_secrets(&format!("{rest}\n{word} {host}"));
        assert!(!shown.contains(KEY) && !shown.contains('\n'), "{shown}");
    }
}
