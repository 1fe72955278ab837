//! How much does a restore read of a vault with a history, whose packs are full of blocks that were overwritten since?

use crate::delta::change;
use crate::process::Ended;
use crate::report::{Report, Table};
use crate::room::{Room, bytes_below, forget, random_file};
use crate::server::Server;
use crate::stats::digits;
use crate::tool::{Place, Store, Tool};
use crate::{Options, Result};
use std::process::Command;

/// Bytes that a restore fetched, of those that are data in its image.
pub(crate) fn fetched(ended: &Ended) -> Result<f64> {
    #[derive(serde::Deserialize)]
    struct Disk {
        data_bytes: u64,
        fetched_bytes: u64,
    }
    #[derive(serde::Deserialize)]
    struct Done {
        disks: Vec<Disk>,
    }
    let done: Done = serde_json::from_str(&ended.output)?;
    let disk = done.disks.first().ok_or("a restore of no disk")?;
    Ok(disk.fetched_bytes as f64 / disk.data_bytes as f64)
}

/// Points after the first shipping, each with 4 % of the disk written anew in pieces of 4 to 64 KiB; then a restore.
pub(crate) fn ask(room: &Room, options: &Options, report: &mut Report, size: u64) -> Result<()> {
    let points = if options.quick { 5 } else { 25 };
    let folder = room.memory.path();
    let path = folder.join("history.raw");
    random_file(&path, size, size)?;
    let server = Server::tracker(room, &path, &[])?;
    let store = Store::new(Tool::Sealed, room, folder, Place::Folder(folder))?;
    store.ship(&server)?;
    let mut table = Table::new(
        format!("A restore of the newest point, {} MiB of random data (tmpfs, sealed)", size >> 20),
        &["points", "vault / image", "fetched / image", "s"],
    );
    let mut most = 0f64;
    for point in 0..=points {
        if point > 0 {
            // Odd ones only, as for the deltas.
            change(&mut server.client()?, size, size / 25, 77 + 2 * point)?;
            store.ship(&server)?;
        }
        if point % 5 != 0 {
            continue;
        }
        let restored = tempfile::Builder::new().prefix("restored-").tempdir_in(folder)?;
        let ended = store.restore("", "history.raw", restored.path())?;
        crate::process::finish(Command::new("cmp").arg(&path).arg(restored.path().join("history.raw")))?;
        let fetched = fetched(&ended)?;
        most = most.max(fetched);
        let vault = bytes_below(store.home())? as f64 / size as f64;
        table.row([(point + 1).to_string(), digits(vault), digits(fetched), digits(ended.seconds)]);
    }
    drop(server);
    forget(&path)?;
    std::fs::remove_file(&path)?;
    report.table(table);
    report.at_most("history: bytes that a restore fetches, of the image's data", most, 1.2, digits(most));
    report.note("Fetched are frames of packs; index pages are read besides and not in it.");
    Ok(())
}
