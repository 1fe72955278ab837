//! Old points against whoever has a shipper's credentials and its group's key: object lock, and what is done with it.
//!
//! moto keeps versions and locks, and refuses to delete what is locked; that no lock is shortened is a rule of Amazon's that the
//! tests add to it (`tools/moto-locks.py`). Amazon's own service was not there to be attacked.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use towline::store::location::{Location, Options};
use towline::store::remote::answer::{self, Version};
use towline::store::remote::{Environment, RemoteStore};
use towline::store::{Put, Store, StoreErrorKind};
use towline_tests::live::process::{NO_MEMORY, Outcome, Site, run, until};
use towline_tests::live::proxy::{Fault, Proxy};
use towline_tests::live::servers::{BUCKET, Server};
use towline_tests::live::stamp::BLOCK;

/// A disk whose vault is at this server; its shipper has the store's credentials and its group's key.
fn site_at(server: &Server) -> Site {
    let mut site = Site::memory();
    site.url = Some(server.url("vaults/one"));
    site.environment = server.environment();
    site.environment.push(("HOME".into(), site.path("home").to_str().unwrap().to_owned()));
    site.environment.push(("TOWLINE_STATE_DIR".into(), site.path("state").to_str().unwrap().to_owned()));
    site
}

/// A command of the administrator's, who has the master key, on a host without memory.
fn admin(site: &Site, words: &[&str]) -> Outcome {
    let mut command = Command::new(site.programs.join("towline"));
    command.args(words).envs(site.environment.iter().map(|(name, value)| (name, value)));
    command.env_remove("TOWLINE_GROUP_KEY").env("TOWLINE_KEY_FILE", site.path("master.key"));
    run(command.env(NO_MEMORY.0, NO_MEMORY.1))
}

/// As [`admin`], on the vault.
fn admin_of(site: &Site, words: &[&str]) -> Outcome {
    let vault = site.vault();
    admin(site, &[words, &["--vault", vault.to_str().unwrap()]].concat())
}

/// Makes a sealed vault, and gives the site the key of its group.
fn make_vault(site: &mut Site, more: &[&str]) {
    let (vault, key) = (site.vault(), site.path("group.key"));
    let (vault, key) = (vault.to_str().unwrap(), key.to_str().unwrap().to_owned());
    admin(site, &[&["vault", "init", vault], more].concat()).good();
    admin(site, &["vault", "key", "export-group", vault, &site.group(), "--to", &key]).good();
    site.environment.push(("TOWLINE_GROUP_KEY".into(), key));
}

/// Bytes that don't compress.
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

/// Ships points of a disk that changes by packs and by what rides in entries, with folds; each with the disk as it was.
fn grow(site: &Site, turns: u64, more: &[&str]) -> Vec<(String, Vec<u8>)> {
    fs::write(site.first(), noise(99, 2 << 20)).unwrap();
    let tracker = site.start(&[]);
    let mut client = tracker.client("").unwrap();
    let mut points = Vec::new();
    for turn in 0..turns {
        let length = if turn % 2 == 0 { BLOCK } else { 3 << 19 };
        client.write((turn % 8) * BLOCK as u64, &noise(turn, length)).unwrap();
        client.flush().unwrap();
        let point = site.once(&[&["--fold-every", "2", "--pack-size", "1MiB"], more].concat());
        points.push((point["id"].as_str().unwrap().to_owned(), fs::read(site.first()).unwrap()));
    }
    tracker.stop();
    points
}

/// The clock that is in front of all that is put now. The store's times are of whole seconds.
fn now() -> String {
    std::thread::sleep(Duration::from_millis(1100));
    let now = jiff::Timestamp::now();
    std::thread::sleep(Duration::from_millis(1100));
    format!("{now:.0}")
}

/// All versions in the bucket, of the server's own words.
fn versions(server: &Server) -> Vec<Version> {
    let (mut all, mut target) = (Vec::new(), format!("/{BUCKET}?versions"));
    loop {
        let (status, told) = server.ask("GET", &target, &[], b"");
        assert_eq!(status, 200, "{told}");
        let page = answer::versions(&told).unwrap_or_else(|| panic!("{told}"));
        all.extend(page.found);
        let Some((key, id)) = page.next else { return all };
        target = format!("/{BUCKET}?versions&key-marker={key}&version-id-marker={id}");
    }
}

/// Tries to destroy every version that there is, and to hide what is left; the versions that are gone.
fn destroy(server: &Server) -> Vec<Version> {
    let before = versions(server);
    let unlock = |mode: &str, date: &str| {
        format!("<Retention><Mode>{mode}</Mode><RetainUntilDate>{date}</RetainUntilDate></Retention>")
    };
    let bypass = ("x-amz-bypass-governance-retention", "true");
    let summed = ("x-amz-sdk-checksum-algorithm", "SHA256");
    for version in &before {
        let (object, id) = (format!("/{BUCKET}/{}", version.key), &version.id);
        for headers in [&[summed][..], &[summed, bypass]] {
            for (mode, date) in
                [("COMPLIANCE", "2020-01-01T00:00:00Z"), ("GOVERNANCE", "2100-01-01T00:00:00Z")]
            {
                server.ask(
                    "PUT",
                    &format!("{object}?retention&versionId={id}"),
                    headers,
                    unlock(mode, date).as_bytes(),
                );
            }
            server.ask(
                "PUT",
                &format!("{object}?retention&versionId={id}"),
                headers,
                b"<Retention></Retention>",
            );
            server.ask("DELETE", &format!("{object}?versionId={id}"), headers, b"");
        }
    }
    let named = |version: &Version| {
        format!("<Object><Key>{}</Key><VersionId>{}</VersionId></Object>", version.key, version.id)
    };
    let all: String = before.iter().map(named).collect();
    server.ask("POST", &format!("/{BUCKET}?delete"), &[bypass], format!("<Delete>{all}</Delete>").as_bytes());
    let suspend = "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>";
    server.ask("PUT", &format!("/{BUCKET}?versioning"), &[], suspend.as_bytes());
    let keys: BTreeSet<&String> = before.iter().map(|version| &version.key).collect();
    for (n, key) in keys.into_iter().enumerate() {
        let object = format!("/{BUCKET}/{key}");
        // Something else, something else and a mark over it, or a mark alone.
        if n % 3 < 2 {
            assert_eq!(server.ask("PUT", &object, &[], b"garbage").0, 200);
        }
        if n % 3 > 0 {
            assert_eq!(server.ask("DELETE", &object, &[], b"").0, 204);
        }
    }
    let after: BTreeSet<_> = versions(server).into_iter().map(|version| (version.key, version.id)).collect();
    before.into_iter().filter(|one| !after.contains(&(one.key.clone(), one.id.clone()))).collect()
}

/// What a shipper's key can say in the group's log and catalog: everything is let go, collected and taken over.
fn forge(site: &Site) {
    let (vault, group) = (site.vault(), site.group());
    let place = ["--vault", vault.to_str().unwrap(), "--group", &group];
    let bad = |words: &[&str]| site.towline([words, &place].concat());
    bad(&["prune", "--keep-last", "1"]).good();
    bad(&["collect"]).good();
    // Another disk, of the same name.
    let mut theirs = Site::memory();
    (theirs.url, theirs.environment) = (site.url.clone(), site.environment.clone());
    fs::write(theirs.first(), noise(666, 1 << 20)).unwrap();
    let tracker = theirs.start(&[]);
    theirs.once(&["--take-over"]);
    theirs.once(&[]);
    tracker.stop();
    bad(&["prune", "--keep-last", "1"]).good();
    bad(&["collect"]).good();
}

/// What a point is restored to, if it is.
fn restored(site: &Site, point: &str, more: &[&str]) -> Option<Vec<u8>> {
    let (to, group) = (site.path("restored"), site.group());
    let words = ["restore", "--force", "--point", point, "--group", &group, "--to", to.to_str().unwrap()];
    let told = admin_of(site, &[&words, more].concat());
    (told.code == Some(0)).then(|| fs::read(&to).unwrap())
}

/// What is left of a vault after an attack.
struct Attacked {
    site: Site,
    server: Server,
    /// The points from before that were not let go then, with the disk as it was.
    points: Vec<(String, Vec<u8>)>,
    /// When nothing had been attacked yet.
    before: String,
    /// How many versions of then are gone.
    gone: usize,
}

/// An attack on six points, of which one was let go before.
fn attacked(lock: &[&str]) -> Attacked {
    let server = Server::moto_that_keeps_locks();
    let mut site = site_at(&server);
    make_vault(&mut site, lock);
    let mut points = grow(&site, 6, lock);
    admin_of(&site, &[&["prune", "--keep-last", "5"], lock].concat()).good();
    points.remove(0);
    let before = now();
    forge(&site);
    let slots =
        admin(&site, &["vault", "key", "list", "--json", site.vault().to_str().unwrap()]).good().json();
    let slot = slots["slots"][0]["id"].as_str().unwrap().to_owned();
    let last = site.towline(["vault", "key", "remove", site.vault().to_str().unwrap(), &slot]);
    assert_eq!(last.code, Some(2), "it is the last slot: {}", last.stderr);
    let time = before.parse::<jiff::Timestamp>().unwrap().into();
    let gone = destroy(&server).iter().filter(|version| version.time <= time).count();
    Attacked { site, server, points, before, gone }
}

/// T10, T11, T12, F43, goal: with the shipper's credentials and its group's key no point from before is destroyed for as long
/// as locks last. Method: everything that the protocol has against an object, and everything that the key can say in the
/// log; then every point is restored as of a time before, and compared. Nothing but the past is asked to be sound.
#[test]
fn an_attack_with_a_shippers_credentials_destroys_no_point_that_is_locked() {
    let Attacked { site, server, points, before, gone } = attacked(&["--immutable-for", "1d"]);
    assert_eq!(gone, 0, "a version that was locked is gone");
    let as_of = ["--as-of", &*before];
    let all_are_there = || {
        for (point, image) in &points {
            assert!(restored(&site, point, &as_of).as_ref() == Some(image), "point {point}");
        }
        let listed = admin_of(&site, &[&["points", "--json"], &as_of[..]].concat()).good().json();
        let listed = listed["groups"][0]["points"].as_array().unwrap().clone();
        let listed: Vec<_> = listed.iter().map(|point| point["id"].as_str().unwrap()).collect();
        assert_eq!(listed, points.iter().map(|(point, _)| &**point).collect::<Vec<_>>());
        let verified = admin_of(&site, &[&["verify", "--json"], &as_of[..]].concat()).good().json();
        assert_eq!(verified["sound"], true);
    };
    all_are_there();
    // As it is now it is not sound, and nothing of it is taken for what it was.
    for (point, image) in &points {
        assert!(restored(&site, point, &[]).is_none_or(|found| found == *image), "point {point}");
    }
    assert_ne!(admin_of(&site, &["verify"]).code, Some(0));
    let told = admin_of(&site, &[&["protect", "--json", "--immutable-for", "2d"], &as_of[..]].concat());
    assert_eq!(told.code, Some(9), "{}", told.stderr);
    let told = told.json();
    assert!(told["objects_touched"].as_u64().unwrap() > 10 && told["groups"][0]["points"] == 5, "{told}");
    assert_eq!(told["objects"], told["objects_extended"]);
    destroy(&server);
    all_are_there();
    // The past is no place to write.
    let told = admin_of(&site, &[&["protect", "--immutable-for", "1d"], &as_of[..]].concat());
    assert_eq!(told.code, Some(9), "{}", told.stderr);
}

/// T10: that the attack is one: what is not locked does not survive it.
#[test]
fn without_locks_the_same_attack_destroys_points() {
    let Attacked { site, server: _server, points, before, gone } = attacked(&[]);
    assert!(gone > 0);
    assert!(points.iter().all(|(point, _)| restored(&site, point, &["--as-of", &before]).is_none()));
}

/// T10, goal: locks end, what is needed is locked again, and what is not needed goes when its lock is over and not before, without
/// an error. Method: a lock of seconds on everything, a protection of a day for what is kept.
#[test]
fn what_is_locked_is_collected_when_its_time_is_over_and_what_is_needed_is_locked_again() {
    let server = Server::moto_that_keeps_locks();
    let mut site = site_at(&server);
    let lock = ["--immutable-for", "12s"];
    make_vault(&mut site, &lock);
    let points = grow(&site, 4, &lock);
    let prune = |more: &[&str]| {
        let told = admin_of(&site, &[&["prune", "--json", "--keep-last", "1"], more].concat());
        told.good().json()["groups"][0].clone()
    };
    let first = prune(&[]);
    assert!(first["objects_locked"].as_u64().unwrap() > 0, "{first}");
    let protect = || {
        let told = admin_of(&site, &["protect", "--json", "--immutable-for", "1d"]).good().json();
        ["objects", "objects_extended", "objects_touched"].map(|name| told[name].as_u64().unwrap())
    };
    let [objects, extended, touched] = protect();
    assert!(objects > 3 && extended == objects && touched == 0, "{objects} {extended} {touched}");
    assert_eq!(protect(), [objects, 0, 0], "once is enough");
    until("the first locks are over", || {
        std::thread::sleep(Duration::from_millis(500));
        let told = prune(&[]);
        told["objects_locked"] == 0
    });
    // Whatever is deleted now, what is kept is locked for a day.
    let kept = points.iter().skip(2);
    for (point, image) in kept {
        assert!(restored(&site, point, &[]).as_ref() == Some(image));
    }
    let there = versions(&server);
    assert!(there.iter().all(|version| !version.hides), "a collection leaves no marks");
    let before = now();
    destroy(&server);
    let (point, image) = points.last().unwrap();
    assert!(restored(&site, point, &["--as-of", &before]).as_ref() == Some(image));
}

/// T10: what is asked of a server beside the library is signed and summed: moto checks neither. A server that does knows no locks, so
/// the store is not asked for them first.
#[test]
fn what_is_put_with_a_lock_is_signed_and_summed_and_keeps_its_condition() {
    let server = Server::s3();
    let Ok(Location::Bucket(bucket)) = Location::parse(&server.url("x")) else { panic!("it is a bucket") };
    let options = Options { immutable_for: Some(Duration::from_secs(60)), ..Options::default() };
    let open = |environment: Vec<(String, String)>| {
        RemoteStore::new(&bucket, &options, &Environment::from_iter(environment)).unwrap()
    };
    let store = open(server.environment());
    let body = noise(1, 100_000);
    store.put("a/b", &body).unwrap();
    assert_eq!(store.put_if_absent("a/c", &body).unwrap(), Put::Created);
    assert_eq!(store.put_if_absent("a/c", b"other").unwrap(), Put::AlreadyExists);
    for name in ["a/b", "a/c"] {
        assert!(server.store("x").get(name, body.len()).unwrap() == body);
    }
    let mut wrong = server.environment();
    wrong[1].1 = "wrong".into();
    assert_eq!(open(wrong).put("d", b"x").unwrap_err().kind(), StoreErrorKind::Denied);
    // Garbled on its way.
    let proxy = Proxy::new(server.address, |request| match request.method.as_str() {
        "PUT" => Fault::Without("x-amz-object-lock-mode"),
        _ => Fault::None,
    });
    let error = open(server.environment_at(proxy.address)).put("e", b"x").unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Denied, "a header that says the lock is signed: {error:?}");
}

/// Who asks for locks where there are none is refused, clearly, and nothing was put.
#[test]
fn a_store_that_locks_nothing_is_refused_before_anything_is_put() {
    let (moto, s3, azure) = (Server::moto(), Server::s3(), Server::azurite());
    moto.make_bucket("plain", false);
    let folder = Site::memory();
    let refused = |site: &Site, url: &OsStr, words: &[&str]| {
        let told = site.towline(
            [&["vault", "init", "--no-encryption", "--immutable-for", "1d"].map(OsStr::new)[..], &[url]]
                .concat(),
        );
        assert_eq!(told.code, Some(2), "{}", told.stderr);
        assert_eq!(told.stderr.lines().count(), 1, "{}", told.stderr);
        words.iter().for_each(|word| assert!(told.stderr.contains(word), "{word}: {}", told.stderr));
    };
    let plain = site_at(&moto);
    refused(&plain, "s3://plain/x".as_ref(), &["object lock", "--object-lock-enabled-for-bucket"]);
    refused(&site_at(&s3), s3.url("x").as_ref(), &["object lock"]);
    refused(&site_at(&azure), azure.url("x").as_ref(), &["retention policy"]);
    refused(&folder, folder.vault().as_os_str(), &["snapshots"]);
    assert!(
        !folder.vault().exists()
            && [s3.store("x"), azure.store("x")]
                .iter()
                .all(|store| store.list("", "", 1).unwrap().is_empty())
    );
    assert_eq!(moto.ask("GET", "/plain?list-type=2", &[], b"").1.matches("<Key>").count(), 0);
    // A shipper likewise, before it asks the tracker for anything.
    let url = Path::new("s3://plain/x");
    plain
        .towline([OsStr::new("vault"), OsStr::new("init"), OsStr::new("--no-encryption"), url.as_os_str()])
        .good();
    let told = run(Command::new(plain.programs.join("towline"))
        .args(["ship", "--once", "--immutable-for", "1d", "--tracker", "/nowhere", "--vault", "s3://plain/x"])
        .envs(plain.environment.iter().map(|(name, value)| (name, value))));
    assert_eq!(told.code, Some(2), "{}", told.stderr);
    let as_of = folder.towline(["points", "--as-of", "now", "--vault", "/nowhere"]);
    assert_eq!(as_of.code, Some(2), "{}", as_of.stderr);
}
