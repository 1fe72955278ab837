//! A user of the tracker as a library, without a network protocol: the layer below is not shaped by one.

use std::fs;
use std::path::Path;
use std::time::Duration;
use towline_tests::live::process::{Site, towline};
use towline_tracker::control::serve::{Access, Served, serve};
use towline_tracker::engine::{self, Operation, Options};
use towline_tracker::id::DiskIndex;
use towline_tracker::sidecar::{self, Config, DiskConfig, Tracking};

fn config(site: &Site) -> Config {
    let disk = |name: &String| DiskConfig { name: name.clone(), path: site.path(name) };
    Config {
        group: site.group(),
        disks: site.disks.iter().map(disk).collect(),
        block_shift: 12,
        region_shift: 16,
        intent_budget: 4 << 20,
        preserve_limit: None,
        preserve_deadline: Duration::from_secs(30),
        direct: None,
        log_dir: None,
        tracking: Tracking::Availability,
        read_only: false,
        create: Some(32 << 20),
    }
}

#[test]
fn a_program_with_the_tracker_inside_is_replicated_like_any_other() {
    for site in [Site::memory(), Site::disk()] {
        site.init();
        for round in 0..2u8 {
            let opening = sidecar::open(&config(&site)).unwrap();
            let handout = opening.handout.clone();
            let engine = engine::spawn(opening, Options::default()).unwrap();
            let listener = std::os::unix::net::UnixListener::bind(site.control()).unwrap();
            let served = Served { asker: engine.asker(), handout };
            let server = serve(listener, served, Access { group: None }).unwrap();
            let (port, disk) = (engine.port(), DiskIndex(0));
            for n in 0..512u64 {
                let data = vec![round * 100 + n as u8 % 50 + 1; 16384];
                port.submit(disk, Operation::Write { offset: n * 65536, data, fua: n % 64 == 0 }, n).unwrap();
            }
            for _ in 0..512 {
                port.completions().recv_timeout(Duration::from_secs(60)).unwrap().result.unwrap();
            }
            port.call(disk, Operation::Discard { offset: 1 << 20, length: 1 << 20 }).unwrap();
            let zero = Operation::Zero { offset: 4 << 20, length: 8192, may_punch: false, fua: true };
            port.call(disk, zero).unwrap();
            let point = site.once(&[]);
            assert_eq!(point["kind"], "point");
            // Without a change there is still a point.
            let none = site.once(&[]);
            assert_eq!((none["bytes_changed"].as_u64(), none["kind"].as_str()), (Some(0), Some("point")));
            engine.stop();
            engine.join().unwrap();
            server.stop();
            let _ = fs::remove_file(site.control());
            site.latest_is_the_disk();
        }
        let points = site.points();
        assert_eq!(points.len(), 4);
        assert!(points[2]["bytes_read"].as_u64().unwrap() < 16 << 20, "a delta: {points:?}");
        check_vault(&site.vault());
    }
}

fn check_vault(vault: &Path) {
    let said = towline(["verify", "--vault", vault.to_str().unwrap(), "--json"]).good();
    assert_eq!(said.json()["sound"], true);
}
