//! How much memory do the two processes need at their peak?

use crate::fio::{Guest, WORKLOADS};
use crate::report::{Report, Table};
use crate::room::{Room, random_file};
use crate::server::Server;
use crate::ship::Shipper;
use crate::{Options, Result};
use std::path::Path;
use towline_tracker::id::TargetId;

const MIB: f64 = 1048576.0;
const TIB: u64 = 1 << 40;

/// Answers the question.
pub(crate) fn ask(room: &Room, options: &Options, report: &mut Report) -> Result<()> {
    Room::needs(&["fio"])?;
    let mut table = Table::new("Peak memory", &["what", "MiB"]);
    if options.wants("shipper") {
        let size = options.size();
        let path = room.memory.path().join("shipped.raw");
        random_file(&path, size, size)?;
        let server = Server::tracker(room, &path, &[])?;
        let shipper = Shipper::new(room, room.memory.path())?;
        let guest = Guest::start(&server, WORKLOADS[0], room.memory.path())?;
        let peak = shipper.once(&server)?.1.peak_bytes as f64 / MIB;
        guest.stop()?;
        let tracker = server.process.memory("VmHWM")? as f64 / MIB;
        drop(server);
        std::fs::remove_file(&path)?;
        table.row(["shipper, initial replication under uniform writes".into(), format!("{peak:.1}")]);
        table.row(["tracker meanwhile (mapped maps included)".into(), format!("{tracker:.1}")]);
        report.at_most("shipper's peak, MiB", peak, 256.0, format!("{peak:.1}"));
    }
    if options.wants("tracker") {
        tracker(room, &mut table, report)?;
    }
    report.table(table);
    Ok(())
}

/// A disk of 1 TiB of holes: idle, and with every page of the preserved map in use.
fn tracker(room: &Room, table: &mut Table, report: &mut Report) -> Result<()> {
    let path = room.disk.path().join("tib.raw");
    let base = {
        std::fs::File::create(&path)?.set_len(4096)?;
        let server = Server::tracker(room, &path, &[])?;
        std::thread::sleep(std::time::Duration::from_millis(500));
        let used = used(&server)?;
        drop(server);
        std::fs::remove_file(&path)?;
        used
    };
    std::fs::File::create(&path)?.set_len(TIB)?;
    let server = Server::tracker(room, &path, &[])?;
    let mut client = server.client()?;
    // One write in each page of the open map.
    let step = 4096 * 8 * 4096;
    let touch = |client: &mut towline_tracker::frontend::nbd::client::Client| -> Result<()> {
        for page in 0..TIB / step {
            client.write(page * step, &[7; 4096])?;
        }
        Ok(())
    };
    touch(&mut client)?;
    let idle = used(&server)?;
    let mut control = server.control()?;
    let attach = control.attach(TargetId::random())?.attach;
    let handed = control.cut(attach, true)?;
    touch(&mut client)?;
    let status = control.status()?;
    let frozen = used(&server)?;
    drop(handed);
    drop(server);
    crate::room::forget(&path)?;
    std::fs::remove_file(&path)?;
    let mib = |bytes: u64| bytes as f64 / MIB;
    table.row(["tracker, disk of 4 KiB".into(), format!("{:.1}", mib(base))]);
    table.row(["tracker, disk of 1 TiB, every page of its map touched".into(), format!("{:.1}", mib(idle))]);
    table.row([
        "the same, frozen whole, every page of the preserved map in use".into(),
        format!("{:.1}", mib(frozen)),
    ]);
    let (idle, frozen) = (mib(idle.saturating_sub(base)), mib(frozen.saturating_sub(base)));
    report.at_most("tracker for each TiB, no freeze, MiB", idle, 72.0, format!("{idle:.1}"));
    report.at_most(
        "tracker for each TiB, frozen and overwritten, MiB",
        frozen,
        104.0,
        format!("{frozen:.1}"),
    );
    report.note(format!(
        "The tracker's own memory and the maps' files on tmpfs; {} blocks were preserved; maps locked in memory: {}, \
         buffers registered: {}.",
        status.preserved_blocks, status.memory_locked, status.buffers_registered
    ));
    Ok(())
}

/// Anonymous memory at its peak, and all map files of this disk's folder on tmpfs, mapped or not.
fn used(server: &Server) -> Result<u64> {
    let shared = server.process.memory("RssShmem")?;
    let anonymous = server.process.memory("RssAnon")?;
    Ok(anonymous + shared.max(maps(Path::new("/dev/shm"), server)?))
}

/// Blocks of the files on tmpfs that this tracker holds mapped or open.
fn maps(shm: &Path, server: &Server) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    let mapped = server.process.mapped_files()?;
    let mut seen = std::collections::HashSet::new();
    for file in mapped {
        if let (true, Ok(data)) = (file.starts_with(shm), std::fs::metadata(&file))
            && seen.insert(data.ino())
        {
            bytes += data.blocks() * 512;
        }
    }
    Ok(bytes)
}
