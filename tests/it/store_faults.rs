//! A network that fails between a shipper and its store, one request at a time: nothing is taken for done that is not, and
//! nothing that is done is taken for somebody else's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use towline::store::remote::RemoteStore;
use towline::store::tally::Tally;
use towline::store::{Put, Store, StoreError, StoreErrorKind};
use towline_tests::live::process::Site;
use towline_tests::live::proxy::{Fault, Proxy, Request};
use towline_tests::live::servers::Server;

const ERROR: &str =
    "<?xml version=\"1.0\"?><Error><Code>InternalError</Code><Message>Sorry.</Message></Error>";
const SLOW_DOWN: &str = "<Error><Code>SlowDown</Code><Message>Please.</Message></Error>";
const CONFLICT: &str = "<Error><Code>ConditionalRequestConflict</Code></Error>";

/// A server, whoever stands before it, and a store behind both.
fn behind(
    server: &Server,
    script: impl Fn(&Request) -> Fault + Send + Sync + 'static,
) -> (Proxy, RemoteStore) {
    let proxy = Proxy::new(server.address, script);
    let store = server.store_at(proxy.address, "faults");
    (proxy, store)
}

/// The first time that the same is asked this happens, and then nothing more.
fn once(fault: Fault) -> impl Fn(&Request) -> Fault + Send + Sync {
    move |request| if request.asked == 0 { fault.clone() } else { Fault::None }
}

/// Every question of a store, about an object `there` with `bytes` and none `new`.
fn everything(store: &dyn Store) -> Result<(), StoreError> {
    store.put("there", b"bytes")?;
    assert_eq!(store.put_if_absent("new", b"new")?, Put::Created);
    assert_eq!(store.put_if_absent("there", b"other")?, Put::AlreadyExists);
    assert_eq!(store.get("there", 10)?, b"bytes");
    assert_eq!(store.get_range("there", 1, 3)?, b"yte");
    assert_eq!(store.len("there")?, 5);
    assert_eq!(store.list("", "", 10)?.len(), 2);
    store.delete("new")
}

/// What a store tells of its requests is what arrives at the server, with the tries that failed and the looks after a lost
/// answer, each in its class.
#[test]
fn every_request_that_is_sent_is_counted_in_its_class() {
    for server in [Server::s3(), Server::azurite()] {
        for fault in [Fault::None, Fault::LoseAnswer, Fault::Answer(503, "", SLOW_DOWN)] {
            let seen = Arc::new(Mutex::new([0; 3]));
            let (counts, script) = (seen.clone(), once(fault.clone()));
            let (_proxy, store) = behind(&server, move |request| {
                let listing = request.target.contains("list-type=2") || request.target.contains("comp=list");
                let class = match request.method.as_str() {
                    "GET" | "HEAD" if !listing => 1,
                    "DELETE" => 2,
                    _ => 0,
                };
                counts.lock().unwrap()[class] += 1;
                script(request)
            });
            let tally = Arc::new(Tally::default());
            let store = store.counted_by(tally.clone());
            everything(&store).unwrap();
            store.delete("there").unwrap();
            let told = tally.so_far();
            let counted = [told.requests_put, told.requests_get, told.requests_delete];
            assert_eq!(counted, *seen.lock().unwrap(), "{} {fault:?}", store.url());
            // Three objects were sent and two read, at least; a listing is longer than its names.
            assert!(told.bytes_up >= 13 && told.bytes_down >= 8 + 10, "{told:?}");
            assert!(fault != Fault::None || told.bytes_up < 2000, "{told:?}");
        }
    }
}

/// F31, F32, F33: what passes soon is sat out in every question, whatever of it was done, and its answer is the right one.
#[test]
fn one_failure_of_every_question_changes_no_answer() {
    for server in [Server::s3(), Server::azurite()] {
        for fault in [
            Fault::LoseAnswer,
            Fault::Drop,
            Fault::Answer(429, "", SLOW_DOWN),
            Fault::Answer(500, "", ERROR),
            Fault::Answer(503, "", SLOW_DOWN),
            Fault::DoneBut(500, "", ERROR),
            Fault::DoneBut(503, "", SLOW_DOWN),
            Fault::DoneBut(504, "", ""),
            Fault::Twice,
            Fault::Truncate,
            Fault::Delay(Duration::from_millis(30)),
        ] {
            // Twice, a create that is done says that it is there: whoever sent it twice is not we.
            let script = once(fault.clone());
            let (proxy, store) = behind(&server, move |request| match script(request) {
                Fault::Twice if request.creates() => Fault::None,
                fault => fault,
            });
            everything(&store).unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
            assert!(store.list("", "", 10).unwrap().iter().all(|object| object.name == "there"), "{fault:?}");
            store.delete("there").unwrap();
            assert!(proxy.count(|method, _| method == "PUT") >= 3);
        }
    }
}

/// F31, F33: a create whose answer was lost is ours if our bytes are there, and nobody else's is ours.
#[test]
fn a_create_whose_answer_was_lost_is_read_back_and_compared() {
    let server = Server::s3();
    for fault in
        [Fault::LoseAnswer, Fault::DoneBut(500, "", ERROR), Fault::DoneBut(200, "ETag: \"1\"", ERROR)]
    {
        let told = fault.clone();
        let (proxy, store) = behind(&server, move |request| match (request.creates(), request.asked) {
            (true, 0) => told.clone(),
            _ => Fault::None,
        });
        assert_eq!(store.put_if_absent("mine", b"mine").unwrap(), Put::Created, "{fault:?}");
        assert_eq!(proxy.count(|method, _| method == "PUT"), 2, "it was put again, {fault:?}");
        server.store("faults").put("theirs", b"theirs").unwrap();
        assert_eq!(store.put_if_absent("theirs", b"mine").unwrap(), Put::AlreadyExists, "{fault:?}");
        assert_eq!(store.put_if_absent("theirs", b"mine too").unwrap(), Put::AlreadyExists, "{fault:?}");
        assert_eq!(store.get("theirs", 10).unwrap(), b"theirs");
        store.delete("mine").unwrap();
    }
    // No answer ever, but it is done: it can be read.
    let (_proxy, store) = behind(&server, |request| match request.method.as_str() {
        "PUT" => Fault::LoseAnswer,
        _ => Fault::None,
    });
    assert_eq!(store.put_if_absent("mine", b"mine").unwrap(), Put::Created);
    // It is there, and nobody can say whose it is; or the right to ask is gone meanwhile.
    for (status, kind) in [(500, StoreErrorKind::Transient), (403, StoreErrorKind::Denied)] {
        let (_proxy, store) = behind(&server, move |request| match (request.creates(), request.asked) {
            (true, 0) => Fault::LoseAnswer,
            (true, _) if status == 500 => Fault::None,
            _ => Fault::Answer(status, "", ""),
        });
        let name = format!("unknown-{status}");
        assert_eq!(store.put_if_absent(&name, b"mine").unwrap_err().kind(), kind, "{status}");
    }
}

/// F32: a store that fails on and on is away, for now; one that is slow is left alone as long as it asks.
#[test]
fn failures_without_end_may_pass_and_waits_that_are_asked_for_are_kept() {
    let server = Server::s3();
    for (status, body) in [(409, CONFLICT), (429, SLOW_DOWN), (500, ERROR), (503, SLOW_DOWN)] {
        let (proxy, store) = behind(&server, move |_| Fault::Answer(status, "", body));
        assert_eq!(store.put_if_absent("a", b"x").unwrap_err().kind(), StoreErrorKind::Transient, "{status}");
        let tries = proxy.count(|_, _| true);
        assert!((2..20).contains(&tries), "{tries} tries");
    }
    let (_proxy, store) = behind(&server, once(Fault::Answer(409, "", CONFLICT)));
    assert_eq!(store.put_if_absent("b", b"x").unwrap(), Put::Created);

    let (_proxy, store) = behind(&server, |request| match request.before {
        0 => Fault::Answer(503, "Retry-After: 2", SLOW_DOWN),
        _ => Fault::None,
    });
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| store.put("slow", b"x"));
        first.join().expect("no panic").unwrap();
    });
    assert!(begun.elapsed() >= Duration::from_secs(2), "it was asked for");
}

/// F33: what looks like a success and is none is a failure, and never an empty listing or a short object.
#[test]
fn a_success_that_is_none_is_a_failure() {
    let server = Server::s3();
    server.store("faults").put("there", b"0123456789").unwrap();
    for fault in [
        Fault::Answer(200, "", ERROR),
        Fault::Answer(200, "ETag: \"1\"", ERROR),
        Fault::Answer(200, "ETag: \"1\"", "<html>Log in, please.</html>"),
        Fault::Truncate,
        Fault::LoseAnswer,
    ] {
        let (_proxy, store) = behind(&server, move |_| fault.clone());
        for error in [
            store.put("new", b"x").unwrap_err(),
            store.list("", "", 10).unwrap_err(),
            store.get_range("there", 0, 5).unwrap_err(),
        ] {
            assert_eq!(error.kind(), StoreErrorKind::Transient, "{error:?}");
        }
    }
    for (status, kind) in
        [(301, StoreErrorKind::Other), (307, StoreErrorKind::Other), (507, StoreErrorKind::NoSpace)]
    {
        let (_proxy, store) =
            behind(&server, move |_| Fault::Answer(status, "Location: http://127.0.0.1:1/", ""));
        assert_eq!(store.put("new", b"x").unwrap_err().kind(), kind, "{status}");
        assert_eq!(store.put_if_absent("new", b"x").unwrap_err().kind(), kind, "{status}");
    }
}

/// F40: a real server whose condition is taken out on the way replaces what is there, and no vault is made in it. One that
/// does not check signatures: conditions are signed.
#[test]
fn a_store_that_ignores_conditions_is_refused_for_a_vault() {
    let server = Server::moto();
    for header in ["if-none-match", "x-nothing"] {
        let proxy = Proxy::new(server.address, move |_| Fault::Without(header));
        let mut site = Site::memory();
        site.url = Some(server.url("vault"));
        site.environment = server.environment_at(proxy.address);
        let made = site.towline([
            "vault".as_ref(),
            "init".as_ref(),
            "--no-encryption".as_ref(),
            site.vault().as_os_str(),
        ]);
        match header {
            "if-none-match" => {
                assert_eq!(made.code, Some(1), "{}", made.stderr);
                assert!(made.stderr.contains("another store"), "{}", made.stderr);
                assert!(server.store("vault").list("", "", 10).unwrap().is_empty(), "nothing is left");
            }
            _ => assert_eq!(made.code, Some(0), "{}", made.stderr),
        }
    }
}

/// Changes a disk through the tracker, block by block.
fn change(site: &Site, client: &mut towline_tracker::frontend::nbd::client::Client, seed: u64) {
    let size = std::fs::metadata(site.first()).unwrap().len();
    for n in 0..64 {
        let word = (seed * 64 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bytes: Vec<u8> = (0..4096u64).map(|at| (word.wrapping_mul(at | 1) >> 32) as u8).collect();
        client.write(word % (size / 4096) * 4096, &bytes).unwrap();
    }
    client.flush().unwrap();
}

/// F31, F32, F33, F41: Goal: whatever the network does, and while the credentials are refused, no point is lost and none is
/// wrong. Method: cycles over a proxy that harms every fifth request in turn; then one that is refused half way, and the same
/// again when it is not; at the end every point is restored without the proxy and compared.
fn no_point_is_lost_at(server: &Server) {
    let refused = Arc::new(AtomicBool::new(false));
    let denied = refused.clone();
    let proxy = Proxy::new(server.address, move |request| match request.before % 5 {
        _ if denied.load(Ordering::SeqCst) && request.before % 3 > 0 => {
            Fault::Answer(403, "", "<Error><Code>AccessDenied</Code><Message>No.</Message></Error>")
        }
        3 => match request.before / 5 % 9 {
            0 | 5 => Fault::LoseAnswer,
            1 => Fault::Drop,
            2 => Fault::Answer(503, "Retry-After: 1", SLOW_DOWN),
            3 => Fault::DoneBut(500, "", ERROR),
            4 => Fault::Truncate,
            6 => Fault::Answer(429, "", ""),
            7 if !request.creates() => Fault::Twice,
            _ => Fault::Delay(Duration::from_millis(50)),
        },
        _ => Fault::None,
    });
    let mut site = Site::memory();
    site.url = Some(server.url("vault"));
    site.environment = server.environment();
    std::fs::write(site.first(), vec![7; 8 << 20]).unwrap();
    site.init();
    site.environment = server.environment_at(proxy.address);
    let tracker = site.start(&[]);
    let mut client = tracker.client("").unwrap();
    let mut images = Vec::new();
    for seed in 0..6 {
        change(&site, &mut client, seed);
        if seed == 4 {
            refused.store(true, Ordering::SeqCst);
            let ended = site.ship(&["--once"]);
            assert_eq!(ended.code, Some(16), "{}", ended.stderr);
            assert!(ended.stderr.contains("AccessDenied"), "{}", ended.stderr);
            refused.store(false, Ordering::SeqCst);
            // The guest does not notice, and what it writes now belongs to the next point.
            change(&site, &mut client, 99);
        }
        let shipped = site.ship(&["--once", "--json", "--pack-size", "64KiB"]).good().json();
        images.push((shipped["id"].as_str().unwrap().to_owned(), std::fs::read(site.first()).unwrap()));
    }
    site.environment = server.environment();
    for (point, image) in images {
        assert!(std::fs::read(&site.restore(&point)[0]).unwrap() == image, "point {point}");
    }
    site.towline(["verify".as_ref(), "--vault".as_ref(), site.vault().as_os_str()]).good();
    tracker.stop();
}

/// F31, F32, F33, F41.
#[test]
fn no_point_is_lost_between_a_shipper_and_an_s3_server() {
    no_point_is_lost_at(&Server::s3());
}

/// F31, F32, F33, F41.
#[test]
fn no_point_is_lost_between_a_shipper_and_an_azure_server() {
    no_point_is_lost_at(&Server::azurite());
}
