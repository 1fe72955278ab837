//! Restores into NBD exports, of the servers that people have.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use towline_tests::live::process::{Outcome, Running, Site, run, until};
use towline_tests::live::stamp::BLOCK;

/// Not whole blocks, and not whole requests of an export that takes no less than 4 KiB.
const SIZE: usize = (6 << 20) + 3 * 512;
/// What is in an export before.
const OLD: u8 = 0xaa;

/// Data with holes, and a vault with a point of it.
fn shipped(site: &Site) -> Vec<u8> {
    let mut content = vec![0; SIZE];
    for (number, block) in content.chunks_mut(BLOCK).enumerate().filter(|(number, _)| number % 7 < 4) {
        block
            .iter_mut()
            .enumerate()
            .for_each(|(at, byte)| *byte = (number * 31 + at * 7 + at / 256) as u8 | 1);
    }
    fs::write(site.first(), &content).unwrap();
    site.init();
    let tracker = site.start(&[]);
    site.once(&[]);
    tracker.stop();
    content
}

fn restore(site: &Site, to: &str, more: &[&str]) -> Outcome {
    let mut command = Command::new(site.programs.join("towline"));
    command
        .args(["restore", "--json", "--group", "disk", "--to", to, "--vault"])
        .arg(site.vault())
        .args(more);
    command.envs(site.environment.iter().map(|(name, value)| (name, value)));
    run(&mut command)
}

fn server(command: &mut Command, listens: impl Fn() -> bool) -> Running {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = Running::new(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
    until("the server listens", || {
        assert_eq!(running.ended(), None, "{command:?}");
        listens()
    });
    running
}

fn nbdkit(socket: &Path, arguments: &[&str]) -> Running {
    let _ = fs::remove_file(socket);
    let mut command = Command::new("nbdkit");
    command.args(["--foreground", "--unix"]).arg(socket).args(arguments);
    server(&mut command, || UnixStream::connect(socket).is_ok())
}

/// Goal: an export is what the disk was, whatever its server can. Method: servers with and without write-zeroes, with requests
/// of a smallest and a largest size, over a unix socket and TCP, whose exports are larger than the disk and full of old bytes.
#[test]
fn exports_of_every_server_become_the_disk() {
    let site = Site::memory();
    let content = shipped(&site);
    let (file, socket) = (site.path("export.raw"), site.path("export"));
    let plugin = format!("file={}", file.display());
    let unix = format!("nbd+unix:///?socket={}", socket.display());
    let port = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    type Serve<'a> = Box<dyn Fn() -> (Running, String) + 'a>;
    let kit = |arguments: &'static [&'static str]| -> Serve<'_> {
        let all: Vec<&str> = arguments.iter().copied().chain(["file", &plugin]).collect();
        let (socket, unix) = (&socket, unix.clone());
        let all: Vec<String> = all.into_iter().map(String::from).collect();
        Box::new(move || {
            let mut all: Vec<&str> = all.iter().map(String::as_str).collect();
            // Settings of filters stand behind the plugin's name.
            let settings: Vec<&str> =
                all.iter().filter(|word| word.contains('=') && !word.starts_with("--")).copied().collect();
            all.retain(|word| word.starts_with("--") || *word == "file");
            all.extend(settings);
            (nbdkit(socket, &all), unix.clone())
        })
    };
    let limits = &[
        "--filter=blocksize-policy",
        "blocksize-minimum=4096",
        "blocksize-maximum=64K",
        "blocksize-error-policy=error",
    ][..];
    let servers: Vec<(&str, u64, Serve<'_>)> = vec![
        ("nbdkit", 5000, kit(&[])),
        ("nbdkit without write-zeroes", 5000, kit(&["--filter=nozero", "zeromode=none"])),
        ("nbdkit without flush", 0, kit(&["--filter=fua", "fuamode=discard"])),
        ("nbdkit with limits", (3 * BLOCK - 3 * 512) as u64, kit(limits)),
        ("qemu-nbd", 512, {
            let (file, socket) = (&file, &socket);
            Box::new(move || {
                let _ = fs::remove_file(socket);
                let mut command = Command::new("qemu-nbd");
                command.args(["-f", "raw", "-t", "-x", "a b", "-k"]).arg(socket).arg(file);
                let running = server(&mut command, || UnixStream::connect(socket).is_ok());
                (running, format!("nbd+unix:///a%20b?socket={}", socket.display()))
            })
        }),
        ("qemu-nbd over TCP", 512, {
            let file = &file;
            Box::new(move || {
                let port = port();
                let mut command = Command::new("qemu-nbd");
                command.args(["-f", "raw", "-t", "-b", "127.0.0.1", "-p", &port.to_string()]).arg(file);
                let listens = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
                (server(&mut command, listens), format!("nbd://localhost:{port}"))
            })
        }),
    ];
    for (name, more, serve) in servers {
        fs::write(&file, vec![OLD; SIZE + more as usize]).unwrap();
        let (running, uri) = serve();
        let refused = restore(&site, &uri, &[]);
        assert_eq!(refused.code, Some(7), "{name}: {}", refused.stderr);
        let done = restore(&site, &uri, &["--force"]);
        assert_eq!(done.code, Some(0), "{name}: {}", done.stderr);
        assert_eq!(done.stderr.contains("larger than the disk"), more > 0, "{name}: {}", done.stderr);
        assert_eq!(done.json()["disks"][0]["path"], uri.as_str(), "{name}");
        drop(running);
        let found = fs::read(&file).unwrap();
        let differs = content.iter().zip(&found).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{name}: the first byte that differs");
        // An end within the smallest request is filled up with zeros; nothing else is touched.
        let rest = &found[SIZE..];
        let filled = rest.iter().take_while(|byte| **byte == 0).count();
        assert!(filled == 0 || name.contains("limits") && filled == BLOCK - 3 * 512, "{name}: {filled}");
        assert!(rest[filled..].iter().all(|byte| *byte == OLD), "{name}: what is behind the disk is gone");
    }
}

/// What can't be is said in a line that names the export, with a code of its own.
#[test]
fn exports_that_can_not_be_the_disk_are_refused_by_name() {
    let site = Site::memory();
    shipped(&site);
    let (file, socket) = (site.path("export.raw"), site.path("export"));
    let plugin = format!("file={}", file.display());
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let none = format!("nbd+unix:///?socket={}", site.path("none").display());
    let length = SIZE.next_multiple_of(1 << 16);
    let large = [
        "--filter=blocksize-policy",
        "file",
        &plugin,
        "blocksize-minimum=64K",
        "blocksize-preferred=64K",
        "blocksize-maximum=1M",
        "blocksize-error-policy=error",
    ];
    let fails = ["--filter=error", "file", &plugin, "error-pwrite=EIO", "error-pwrite-rate=100%"];
    let full = ["--filter=error", "file", &plugin, "error-pwrite=ENOSPC", "error-pwrite-rate=100%"];
    for (arguments, length, code, told) in [
        (&["file", &plugin][..], SIZE - 512, 8, "give a larger one"),
        (&["--readonly", "file", &plugin], length, 16, "read-only"),
        (&large, length, 1, "multiples of 65536"),
        (&fails, length, 1, "byte "),
        (&full, length, 8, "byte "),
    ] {
        fs::write(&file, vec![OLD; length]).unwrap();
        let running = nbdkit(&socket, arguments);
        let refused = restore(&site, &uri, &["--force"]);
        assert_eq!(refused.code, Some(code), "{arguments:?}: {}", refused.stderr);
        let line = refused.stderr.lines().last().unwrap();
        assert!(
            line.starts_with("towline: ") && line.contains(&uri) && line.contains(told),
            "{}",
            refused.stderr
        );
        drop(running);
    }
    for (uri, code, told) in [
        (none.as_str(), 17, "No such file"),
        ("nbd://127.0.0.1:1", 17, "no NBD server answers"),
        ("nbds://localhost", 2, "TLS"),
        ("nbd+unix:///x", 2, "socket"),
    ] {
        let refused = restore(&site, uri, &["--force"]);
        assert_eq!(refused.code, Some(code), "{uri}: {}", refused.stderr);
        assert!(refused.stderr.contains(uri) && refused.stderr.contains(told), "{uri}: {}", refused.stderr);
    }
    // QEMU serves one export by its name; another is not there.
    let _ = fs::remove_file(&socket);
    let mut command = Command::new("qemu-nbd");
    command.args(["-f", "raw", "-t", "-x", "name", "-k"]).arg(&socket).arg(&file);
    let running = server(&mut command, || UnixStream::connect(&socket).is_ok());
    let refused = restore(&site, &format!("nbd+unix:///other?socket={}", socket.display()), &["--force"]);
    assert!(refused.code == Some(17) && refused.stderr.contains("no export named"), "{}", refused.stderr);
    drop(running);
}
