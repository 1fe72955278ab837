//! The clients that people use: fio, QEMU's tools, libnbd's and nbdkit's, all against a tracker with the shipper at
//! work; then a point is made and restored, and is the disk.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;
use towline_tests::live::process::{Outcome, Site, run, same};

const SIZE: &str = "64MiB";

fn sites() -> Vec<Site> {
    let mut buffered = Site::disk();
    buffered.arguments.extend(["--cache", "buffered"].map(String::from));
    vec![Site::memory(), Site::disk(), buffered]
}

#[track_caller]
fn tool<S: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = S>) -> Outcome {
    run(Command::new(name).args(arguments))
}

/// A point is made of what the clients left, and is the disk.
#[track_caller]
fn point_is_the_disk(site: &Site) {
    site.once(&[]);
    site.latest_is_the_disk();
}

#[test]
fn fio_verifies_what_it_wrote_while_points_are_made() {
    for site in sites() {
        site.init();
        let tracker = site.start(&["--create", SIZE]);
        let shipper = site.shipper("ship", &["--every", "500ms"]);
        let uri = format!("--uri={}", site.uri("disk.raw"));
        let common = [
            "--ioengine=nbd",
            &uri,
            "--size=64M",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--randrepeat=1",
        ];
        for job in [
            &["--name=small", "--rw=randwrite", "--bs=4k", "--iodepth=32"][..],
            &["--name=mixed", "--rw=randwrite", "--bsrange=4k-256k", "--iodepth=8", "--fsync=64"],
            &["--name=large", "--rw=write", "--bs=1M", "--iodepth=4", "--numjobs=1"],
            &["--name=odd", "--rw=write", "--bs=12k", "--iodepth=2"],
        ] {
            tool("fio", common.iter().chain(job)).good();
        }
        let trims = ["--ioengine=nbd", &uri, "--size=64M", "--name=trim", "--rw=randtrim", "--bs=64k"];
        tool("fio", trims.iter().chain(&["--io_size=8M"])).good();
        drop(shipper);
        point_is_the_disk(&site);
        tracker.stop();
    }
}

#[test]
fn qemu_img_reads_converts_and_compares() {
    for site in sites() {
        site.init();
        let tracker = site.start(&["--create", SIZE]);
        let (uri, source) = (site.uri(""), site.path("source.raw"));
        let mut bytes = vec![0u8; 64 << 20];
        for (at, chunk) in bytes.chunks_mut(1 << 20).enumerate().filter(|(at, _)| at % 3 != 0) {
            chunk.iter_mut().enumerate().for_each(|(n, byte)| *byte = (at * 31 + n / 512) as u8);
        }
        fs::write(&source, &bytes).unwrap();
        let info = tool("qemu-img", ["info", "--output=json", &uri]).good();
        assert_eq!(info.json_whole()["virtual-size"], 64 << 20);
        let source_text = source.to_str().unwrap();
        tool("qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", source_text, &uri]).good();
        tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", source_text, &uri]).good();
        let back = site.path("back.qcow2");
        tool("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", &uri, back.to_str().unwrap()]).good();
        tool("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", source_text, back.to_str().unwrap()]).good();
        point_is_the_disk(&site);
        same(&source, &site.first());
        tracker.stop();
    }
}

trait Whole {
    fn json_whole(&self) -> serde_json::Value;
}

impl Whole for Outcome {
    fn json_whole(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// Runs commands of qemu-io; every pattern that it verifies must fit.
#[track_caller]
fn qemu_io(uri: &str, commands: &[&str]) {
    let mut all: Vec<&str> = vec!["-f", "raw"];
    commands.iter().for_each(|command| all.extend(["-c", command]));
    let said = tool("qemu-io", all.iter().chain(&[uri])).good();
    assert!(!said.stdout.contains("failed"), "{}", said.stdout);
}

/// F19: every kind of request.
#[test]
fn qemu_io_finds_every_pattern_again() {
    for site in sites() {
        site.init();
        let tracker = site.start(&["--create", SIZE]);
        let uri = site.uri("disk.raw");
        let begin = ["write -P 0x11 0 1M", "write -P 0x22 512k 4k", "write -z 64k 64k", "read -P 0 64k 64k"];
        qemu_io(&uri, &begin);
        site.once(&[]);
        qemu_io(
            &uri,
            &[
                "read -P 0x11 0 64k",
                "read -P 0x22 512k 4k",
                "aio_write -P 0x33 1M 1M",
                "aio_write -P 0x44 3M 512k",
                "aio_flush",
                "aio_read -P 0x33 1M 1M",
                "aio_flush",
                "discard 0 512k",
                "read -P 0 0 512k",
                "write -f -P 0x55 63M 1M",
                "write -P 0x66 5000k 12k",
                "flush",
                "read -P 0x44 3M 512k",
            ],
        );
        point_is_the_disk(&site);
        qemu_io(&uri, &["read -P 0x55 63M 1M", "read -P 0x66 5000k 12k"]);
        tracker.stop();
    }
}

#[test]
fn libnbds_tools_and_shell_are_served() {
    for mut site in sites() {
        site.disks.push("second.raw".into());
        site.init();
        let tracker = site.start(&["--create", SIZE]);
        let uri = site.uri("disk.raw");
        let list = tool("nbdinfo", ["--list", "--json", &site.uri("")]).good().json_whole();
        let exports = list["exports"].as_array().unwrap();
        let names: Vec<_> = exports.iter().map(|export| export["export-name"].as_str().unwrap()).collect();
        assert!(names.contains(&"disk.raw") && names.contains(&"second.raw"), "{names:?}");
        let info = tool("nbdinfo", ["--json", &uri]).good().json_whole();
        let export = &info["exports"][0];
        assert_eq!(export["export-size"], 64 << 20);
        for can in ["can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn"] {
            assert_eq!(export[can], true, "{can}");
        }
        assert_eq!(info["structured"], true);

        let source = site.path("source.raw");
        let mut bytes = vec![0u8; 64 << 20];
        bytes[4 << 20..12 << 20].fill(0xa5);
        fs::write(&source, &bytes).unwrap();
        tool("nbdcopy", [source.to_str().unwrap(), &uri]).good();
        let copy = site.path("copy.raw");
        tool("nbdcopy", [&uri, copy.to_str().unwrap()]).good();
        same(&source, &copy);

        // Data where data is; holes may be told as data, never the other way.
        let map = tool("nbdinfo", ["--map=base:allocation", "--json", &uri]).good().json_whole();
        let mut end = 0;
        for extent in map.as_array().unwrap() {
            let (offset, length) = (extent["offset"].as_u64().unwrap(), extent["length"].as_u64().unwrap());
            assert_eq!(offset, end);
            end = offset + length;
            let zeros = extent["type"].as_u64().unwrap() & 2 != 0;
            let overlaps = offset < 12 << 20 && end > 4 << 20;
            assert!(!(zeros && overlaps), "{map}");
        }
        assert_eq!(end, 64 << 20);

        let script = r"
h.pwrite(b'x' * 8192, 8192)
h.zero(4096, 8192)
assert h.pread(4096, 8192) == bytes(4096)
assert h.pread(4096, 12288) == b'x' * 4096
h.trim(1 << 20, 8 << 20)
h.pwrite(b'y' * 4096, 9 << 20, nbd.CMD_FLAG_FUA)
h.flush()
cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([n] * 4096)), (16 << 20) + n * 4096) for n in range(64)]
while any(not h.aio_command_completed(c) for c in cookies[:1]) : h.poll(-1)
while h.aio_in_flight() > 0: h.poll(-1)
assert h.pread(4096, (16 << 20) + 63 * 4096) == bytes([63] * 4096)
for bad in (lambda: h.pread(512, h.get_size()), lambda: h.pwrite(bytes(512), h.get_size())):
    try:
        bad()
    except nbd.Error:
        pass
    else:
        raise AssertionError('a request beyond the end was done')
h.shutdown()
";
        nbdsh(&uri, script);
        point_is_the_disk(&site);
        tracker.stop();
    }
}

/// The shell of libnbd, with Debian's own interpreter: the first python3 on the path may be another.
#[track_caller]
fn nbdsh(uri: &str, script: &str) {
    // Requests beyond the end must reach the server, not be refused by the client.
    let prelude = format!("import nbd\nh = nbd.NBD()\nh.set_strict_mode(0)\nh.connect_uri({uri:?})\n");
    tool("/usr/bin/python3", ["-c", &(prelude + script)]).good();
    let mut shell = Command::new("/usr/bin/nbdsh");
    shell.env("PATH", "/usr/bin:/bin").args(["-u", uri, "-c", "assert h.get_size() == 64 << 20"]);
    run(&mut shell).good();
}

/// F2: the tracker dies under a client.
#[test]
fn a_client_that_reconnects_survives_the_trackers_death() {
    for site in sites() {
        site.init();
        let tracker = site.start(&["--create", SIZE]);
        // nbdkit passes on to us and repeats what our death interrupted.
        let relay = site.path("relay");
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--unix"]).arg(&relay).args(["--filter=retry", "nbd"]);
        command.arg(format!("uri={}", site.uri("disk.raw"))).arg("retry-delay=1");
        command.args(["retry-exponential=no", "retries=60"]).stderr(std::process::Stdio::null());
        let relay_process = towline_tests::live::process::Running::new(command.spawn().unwrap());
        towline_tests::live::process::until("nbdkit listens", || {
            std::os::unix::net::UnixStream::connect(&relay).is_ok()
        });
        let uri = format!("--uri=nbd+unix:///?socket={}", relay.display());
        let fio = std::thread::spawn(move || {
            let job = ["--name=kill", "--ioengine=nbd", &uri, "--size=64M", "--rw=randwrite", "--bs=4k"];
            let more = [
                "--iodepth=16",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--verify_state_save=0",
                "--time_based=0",
                "--rate_iops=4000",
            ];
            tool("fio", job.iter().chain(&more))
        });
        let mut tracker = Some(tracker);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(900));
            site.once(&[]);
            tracker.take().unwrap().kill();
            tracker = Some(site.start(&[]));
        }
        fio.join().unwrap().good();
        drop(relay_process);
        // The process's death cost nothing: no comparison, no resynchronization.
        assert!(site.status()["disks"][0]["resync"].is_null());
        point_is_the_disk(&site);
        tracker.unwrap().stop();
    }
}
