//! Stores behind a network, against real servers.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use towline::store::{Store, StoreErrorKind, conformance};
use towline_tests::live::google::Google;
use towline_tests::live::process::{Site, run, until};
use towline_tests::live::proxy::{Fault, Proxy};
use towline_tests::live::servers::{Server, store};

/// Stores in a bucket, each with a prefix of its own.
fn fresh(server: &Server) -> impl Fn() -> Box<dyn Store> {
    let next = AtomicU32::new(0);
    move || Box::new(server.store(&format!("fresh/{}", next.fetch_add(1, Ordering::Relaxed))))
}

/// s3s-fs has a folder for every name that others begin with, and answers 500 for it.
#[test]
fn an_s3_server_keeps_the_contract() {
    conformance::run_without_folders(fresh(&Server::s3()));
}

#[test]
fn an_s3_server_with_versions_and_object_lock_keeps_the_contract() {
    conformance::run(fresh(&Server::moto()));
}

#[test]
fn an_azure_server_keeps_the_contract() {
    conformance::run(fresh(&Server::azurite()));
}

/// F41: with wrong credentials nothing can be done, which the error says, without them.
#[test]
fn wrong_credentials_are_denied_and_told_to_nobody() {
    for server in [Server::s3(), Server::azurite()] {
        let mut environment = server.environment();
        // Of the same form.
        let wrong = environment[1].1.replace(['a', 'b', 'c'], "d");
        environment[1].1.clone_from(&wrong);
        let store = store(&server.url("x"), environment);
        let errors = [
            store.put("a", b"x").unwrap_err(),
            store.put_if_absent("a", b"x").unwrap_err(),
            store.get("a", 1).unwrap_err(),
            store.list("", "", 1).unwrap_err(),
            store.delete("a").unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), StoreErrorKind::Denied, "{error:?}");
            assert!(!format!("{error:?}").contains(&wrong), "{error:?}");
        }
    }
}

/// Writes the files of Amazon's tools into a home: a profile `mine` with these keys.
fn write_profile(home: &Path, id: &str, secret: &str) {
    let folder = home.join(".aws");
    std::fs::create_dir_all(&folder).unwrap();
    let text = format!("[mine]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    // As who renews keys does it: whole, or not at all.
    std::fs::write(folder.join("new"), text).unwrap();
    std::fs::rename(folder.join("new"), folder.join("credentials")).unwrap();
}

/// F41: keys that are written anew under a running process count from then on. Method: a server that checks signatures, and files
/// with wrong keys, the right ones, wrong ones again, under one store.
#[test]
fn keys_of_a_profile_are_read_again_when_they_change() {
    let (server, home) = (Server::s3(), tempfile::tempdir().unwrap());
    let all = server.environment();
    let [id, secret] = [0, 1].map(|at: usize| all[at].1.clone());
    write_profile(home.path(), &id, "an-old-secret");
    let environment = [
        ("HOME".to_owned(), home.path().to_str().unwrap().to_owned()),
        ("AWS_PROFILE".to_owned(), "mine".to_owned()),
        all[2].clone(),
    ];
    let store = store(&server.url("x"), environment);
    let denied = |name: &str| assert_eq!(store.put(name, b"x").unwrap_err().kind(), StoreErrorKind::Denied);
    denied("a");
    write_profile(home.path(), &id, &secret);
    store.put("a", b"x").unwrap();
    assert_eq!(store.get("a", 1).unwrap(), b"x");
    write_profile(home.path(), &id, "the-next-secret");
    denied("b");
}

/// F41, goal: a shipper outlives the renewal of its keys. Method: points of a running shipper, before and after the old key is
/// replaced in the profile and then refused by whoever stands before the server.
#[test]
fn a_shipper_goes_on_with_the_keys_that_replaced_its_own() {
    let server = Server::moto();
    let renewed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_over = renewed.clone();
    let proxy = Proxy::new(server.address, move |request| {
        let old = request.header("authorization").is_some_and(|text| text.contains("the-old-key/"));
        match old && is_over.load(Ordering::SeqCst) {
            true => Fault::Answer(403, "", "<Error><Code>InvalidAccessKeyId</Code></Error>"),
            false => Fault::None,
        }
    });
    let mut site = site_at(&server);
    site.environment = server.environment_at(proxy.address).split_off(2);
    let home = site.path("home");
    site.environment.push(("HOME".into(), home.to_str().unwrap().to_owned()));
    site.environment.push(("AWS_PROFILE".into(), "mine".into()));
    write_profile(&home, "the-old-key", "x");
    std::fs::write(site.first(), noise(1, 1 << 20)).unwrap();
    site.init();
    let tracker = site.start(&[]);
    let mut shipper = site.shipper("renewed", &["--json", "--every", "500ms"]);
    let mut published = |count: usize| {
        until("points are published", || {
            assert!(
                shipper.ended().is_none(),
                "{}",
                std::fs::read_to_string(site.path("renewed.err")).unwrap()
            );
            let told = std::fs::read_to_string(site.path("renewed.out")).unwrap();
            told.matches("\"kind\":\"point\"").count() >= count
        });
    };
    published(1);
    write_profile(&home, "the-new-key", "x");
    renewed.store(true, Ordering::SeqCst);
    tracker.client("").unwrap().write(0, &noise(2, 4096)).unwrap();
    let points = site.points().len();
    published(points + 2);
    shipper.signal(libc::SIGTERM);
    assert_eq!(shipper.wait().unwrap().code(), Some(0));
    site.latest_is_the_disk();
    // The proof's own: the old key is refused.
    write_profile(&home, "the-old-key", "x");
    let told = site.towline(["points".as_ref(), "--vault".as_ref(), site.vault().as_os_str()]);
    assert_eq!(told.code, Some(16), "{}", told.stderr);
    tracker.stop();
}

/// Not Google: a mock that keeps generations as Google's documents say.
#[test]
fn a_mock_of_google_cloud_storage_is_spoken_to_as_documented() {
    let (google, next) = (Google::start(), AtomicU32::new(0));
    conformance::run(|| {
        let url = format!("gs://bucket/fresh/{}", next.fetch_add(1, Ordering::Relaxed));
        Box::new(store(&url, google.environment()))
    });
    let error =
        store("gs://bucket", [google.environment()[0].clone(), ("GOOGLE_BEARER_TOKEN".into(), "x".into())]);
    assert_eq!(error.get("a", 1).unwrap_err().kind(), StoreErrorKind::Denied);
}

/// A site whose vault is in a bucket of this server.
fn site_at(server: &Server) -> Site {
    let mut site = Site::memory();
    site.url = Some(server.url("vaults/one"));
    site.environment = server.environment();
    // Nothing of the user's own.
    site.environment.push(("HOME".into(), site.path("home").to_str().unwrap().to_owned()));
    site
}

/// Bytes that don't compress, by number.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Goal: a disk is protected in a bucket by the real programs as in a folder. Method: three points of a disk that changes,
/// the first of many packs, the others of what rides in an entry and of one pack; each is restored and compared, and all is
/// verified.
fn a_disk_is_protected_at(server: &Server) {
    const SIZE: u64 = 48 << 20;
    let site = site_at(server);
    let first = noise(1, SIZE as usize / 2);
    std::fs::write(site.first(), &first).unwrap();
    std::fs::File::options().write(true).open(site.first()).unwrap().set_len(SIZE).unwrap();
    site.init();
    let tracker = site.start(&[]);
    let again = site.towline([
        "vault".as_ref(),
        "init".as_ref(),
        "--no-encryption".as_ref(),
        site.vault().as_os_str(),
    ]);
    assert_eq!(again.code, Some(7), "{}", again.stderr);
    let mut client = tracker.client("").unwrap();
    let mut images = Vec::new();
    for (seed, length) in [(2, 4096), (3, 64 << 10), (4, 6 << 20)] {
        let point = site.once(&["--pack-size", "4MiB"])["id"].as_str().unwrap().to_owned();
        images.push((point, std::fs::read(site.first()).unwrap()));
        client.write((SIZE / 2) - 2048 + seed * 4096, &noise(seed, length)).unwrap();
        client.flush().unwrap();
    }
    site.once(&[]);
    site.latest_is_the_disk();
    for (point, image) in images {
        assert!(std::fs::read(&site.restore(&point)[0]).unwrap() == image, "point {point}");
    }
    assert_eq!(site.points().len(), 4);
    let verified =
        site.towline(["verify".as_ref(), "--json".as_ref(), "--vault".as_ref(), site.vault().as_os_str()]);
    assert_eq!(verified.good().json()["sound"], true);
    tracker.stop();
}

#[test]
fn a_disk_is_protected_in_an_s3_bucket() {
    a_disk_is_protected_at(&Server::s3());
}

#[test]
fn a_disk_is_protected_in_an_azure_container() {
    a_disk_is_protected_at(&Server::azurite());
}

/// F41: what a person meets: exit codes, and lines that name the remedy and no secret.
#[test]
fn what_is_missing_to_reach_a_store_is_told_in_one_line() {
    let server = Server::s3();
    let site = site_at(&server);
    let init = |url: &str, environment: &[(&str, &str)], more: &[&str]| {
        let mut command = Command::new(site.programs.join("towline"));
        command.args(["vault", "init", "--no-encryption", url]).args(more);
        command.env_clear().env("HOME", site.path("home")).envs(environment.iter().copied());
        // No machine that gives credentials is asked for long.
        command.env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1");
        run(&mut command)
    };
    let all = server.environment();
    let all: Vec<(&str, &str)> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let (keys, endpoint) = all.split_at(2);
    let wrong = [keys[0], ("AWS_SECRET_ACCESS_KEY", "the-wrong-secret"), endpoint[0]];
    for (url, environment, more, code, word) in [
        ("s3://bucket/x", &wrong[..], &[][..], 16, "wrong credentials"),
        ("s3://bucket/x", endpoint, &[], 16, "credentials"),
        ("s3://other/x", &all, &[], 1, "NoSuchBucket"),
        ("s3://bucket/x", keys, &["--store-endpoint", "http://127.0.0.1:1"], 17, "refused"),
        ("s3://bucket/x", keys, &["--store-endpoint", "http://a:secret@host"], 2, "--store-endpoint"),
        ("az://bucket/x", &[], &[], 2, "AZURE_STORAGE_ACCOUNT_NAME"),
        ("s3://bucket/x", &[("AWS_PROFILE", "none")], &[], 2, "none"),
        ("ftp://bucket/x", &[], &[], 2, "ftp"),
    ] {
        let told = init(url, environment, more);
        assert_eq!(told.code, Some(code), "{url} {more:?}: {}", told.stderr);
        assert!(told.stderr.contains(word) && !told.stderr.contains("secret"), "{word}: {}", told.stderr);
        assert_eq!(told.stderr.lines().count(), 1, "{}", told.stderr);
    }
    // A profile has all of it.
    let aws = site.path("home/.aws");
    std::fs::create_dir_all(&aws).unwrap();
    let (id, secret) = (keys[0].1, keys[1].1);
    let keys = format!("[mine]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    std::fs::write(aws.join("credentials"), keys).unwrap();
    std::fs::write(aws.join("config"), format!("[profile mine]\nendpoint_url = {}\n", endpoint[0].1))
        .unwrap();
    init("s3://bucket/profile", &[("AWS_PROFILE", "mine")], &["--store-region", "eu-central-1"]).good();
}

/// A certificate that nobody else knows is believed if it is given, and only then.
#[test]
fn an_encrypted_server_is_believed_with_its_certificate_alone() {
    let server = Server::moto_encrypted();
    let site = site_at(&server);
    let init = |more: &[&str]| {
        let url = server.url("vault");
        site.towline(["vault", "init", "--no-encryption", &url].iter().chain(more))
    };
    let told = init(&[]);
    assert_eq!(told.code, Some(1), "{}", told.stderr);
    assert!(told.stderr.contains("certificate"), "{}", told.stderr);
    let certificate = server.certificate();
    init(&["--store-ca", certificate.to_str().unwrap()]).good();
    std::fs::write(site.path("empty"), "").unwrap();
    assert_eq!(init(&["--store-ca", site.path("empty").to_str().unwrap()]).code, Some(2));
}

/// Everything goes through a proxy that is given, which also sees where the bucket's name stands.
#[test]
fn a_proxy_is_used_and_the_buckets_name_stands_where_it_shall() {
    let server = Server::s3();
    let proxy = Proxy::new(server.address, |_| Fault::None);
    let mut site = site_at(&server);
    // A name that only the proxy would know.
    site.environment[2].1 = "http://store.invalid".to_owned();
    let url = server.url("vault");
    let at = format!("http://{}", proxy.address);
    site.towline(["vault", "init", "--no-encryption", &url, "--store-proxy", &at]).good();
    assert!(proxy.count(|method, target| method == "PUT" && target.starts_with("http://store.invalid/")) > 1);
    assert!(!server.store("vault").list("", "", 10).unwrap().is_empty());
    let _ = site.towline([
        "vault",
        "init",
        "--no-encryption",
        &url,
        "--store-proxy",
        &at,
        "--store-addressing",
        "virtual",
    ]);
    assert!(proxy.count(|_, target| target.starts_with("http://bucket.store.invalid/vault/")) > 0);
}

/// The most memory that a process ever had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a process has a peak");
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// Goal: `--memory` bounds the process also where objects go through a network. Method: as for a folder, with the packs that
/// come of it; half as much again is allowed for code, allocator and what is on its way.
#[test]
fn memory_bounds_a_shipper_to_a_bucket() {
    let server = Server::s3();
    let site = site_at(&server);
    std::fs::write(site.first(), noise(5, 400 << 20)).unwrap();
    site.init();
    let tracker = site.start(&[]);
    let mut shipper = site.shipper("bounded", &["--memory", "64MiB", "--json", "--every", "1h"]);
    until("the point is published", || {
        assert!(shipper.ended().is_none(), "{}", std::fs::read_to_string(site.path("bounded.err")).unwrap());
        std::fs::read_to_string(site.path("bounded.out")).unwrap().contains("\"point\"")
    });
    let peak = peak_kib(shipper.pid());
    assert!(peak < 96 << 10, "{peak} KiB of 64 MiB");
    shipper.signal(libc::SIGTERM);
    assert_eq!(shipper.wait().unwrap().code(), Some(0));
    tracker.stop();
}
