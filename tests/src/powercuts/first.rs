//! The machine's first file system, in memory: our programs, the libraries that they need, busybox and the kernel's modules.

use crate::live::process::{programs, run};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The kernel's modules for file systems, in the order in which they need each other.
const MODULES: [&str; 5] = ["libcrc32c", "xfs", "raid6_pq", "xor", "btrfs"];
/// Its driver of our drives: as long as it has none, it knows nothing of what is on them.
const DRIVER: &str = "virtio_blk";

/// What the first program says when only a life's own words are missing.
pub(super) const BOOTED: &str = "booted";

/// The first program of the machine. It comes as far as it can without drives and says so ([`BOOTED`]); here the machine is
/// saved, and every life begins with the line that it is given then: the time, the kind of file system, and its orders.
const INIT: &str = "#!/bin/busybox sh
b=/bin/busybox
export TOWLINE_BIN_DIR=/bin
$b mkdir -p /proc /sys /dev /tmp /run /near /far /apart
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b mkdir -p /dev/shm
$b mount -t tmpfs tmpfs /dev/shm
$b mount -t tmpfs tmpfs /run
$b mount -t tmpfs tmpfs /tmp
for module in $($b cat /modules/order); do $b insmod /modules/$module; done
echo booted
read -r now fs orders
export orders
$b date -u -s @$now >/dev/null
$b insmod /modules/virtio_blk
[ ! -e /dev/vdd ] || $b mount -t ext4 /dev/vdd /apart
$b mount -t $fs /dev/vda /near && $b mount -t ext4 /dev/vdb /far &&
    # Whoever looks comes first; what it starts is as anybody.
    exec /bin/chrt -R -f 10 /bin/towline-guest
echo failed to mount | $b dd of=/dev/vdc bs=512 conv=sync oflag=direct
";

/// Packs the first file system.
pub(super) fn pack(guest: &Path, to: &Path) {
    let mut archive = Archive(io::BufWriter::new(File::create(to).expect("a file")), 0);
    for folder in ["bin", "modules", "lib", "lib64", "lib/x86_64-linux-gnu"] {
        archive.add(folder, 0o40755, b"");
    }
    archive.add("init", 0o100_755, INIT.as_bytes());
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists());
    archive.add_file("bin/busybox", busybox.expect("busybox-static is installed: make tools"));
    let mut libraries = BTreeSet::new();
    let ours = ["towline", "towline-tracker", "towline-guest"].map(|name| programs().join(name));
    for program in ours.into_iter().chain(["/usr/bin/chrt", "/usr/sbin/fsfreeze"].map(PathBuf::from)) {
        let name = program.file_name().expect("a name").to_str().expect("a plain name");
        let bare = to.with_extension(name);
        assert!(program.exists(), "{} is not built", program.display());
        run(Command::new("strip").arg("-o").arg(&bare).arg(&program)).good();
        archive.add_file(&format!("bin/{name}"), &bare);
        let said = run(Command::new("ldd").arg(&program)).good();
        let words = said.stdout.split_whitespace().filter(|word| word.starts_with("/lib"));
        libraries.extend(words.map(String::from));
    }
    for library in libraries {
        archive.add_file(library.trim_start_matches('/'), Path::new(&library));
    }
    for module in MODULES.into_iter().chain([DRIVER]) {
        let bare = to.with_extension(module);
        run(Command::new("strip").arg("-g").arg("-o").arg(&bare).arg(guest.join(format!("{module}.ko"))))
            .good();
        archive.add_file(&format!("modules/{module}"), &bare);
    }
    archive.add("modules/order", 0o100_644, MODULES.join("\n").as_bytes());
    archive.add("TRAILER!!!", 0, b"");
    archive.0.flush().expect("an archive can be written");
}

/// The kernel's kind of archive (cpio, "newc").
struct Archive(io::BufWriter<File>, u32);

impl Archive {
    fn add_file(&mut self, name: &str, file: &Path) {
        let bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mode = fs::metadata(file).map_or(0o755, |found| found.permissions().mode());
        self.add(name, 0o100_000 | mode & 0o777, &bytes);
    }

    fn add(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        self.1 += 1;
        let (length, name_length) = (bytes.len() as u32, name.len() as u32 + 1);
        let fields = [self.1, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_length, 0];
        let mut header = String::from("070701");
        fields.iter().for_each(|field| header += &format!("{field:08x}"));
        header += name;
        let padding = |length: usize| [0; 4][..length.next_multiple_of(4) - length].to_vec();
        let head = [header.as_bytes(), b"\0"].concat();
        for part in [&head, &padding(head.len()), bytes, &padding(bytes.len())] {
            self.0.write_all(part).expect("an archive can be written");
        }
    }
}
