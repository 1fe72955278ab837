//! How long does a cut hold the writes? Thousands of cuts under load; the tracker measures its own hold.

use crate::fio::{Guest, WORKLOADS};
use crate::report::{Report, Table};
use crate::room::{Room, random_file};
use crate::server::Server;
use crate::stats::percentile;
use crate::{Options, Result};
use towline_tracker::control::client::ClientError;
use towline_tracker::id::{Anchor, TargetId, VaultId};

/// Answers the question.
pub(crate) fn ask(room: &Room, options: &Options, report: &mut Report) -> Result<()> {
    Room::needs(&["fio"])?;
    let wanted = if options.quick { 200 } else { 2_500 };
    let path = room.memory.path().join("cut.raw");
    let size = if options.quick { 256 << 20 } else { 1 << 30 };
    random_file(&path, size, size)?;
    let server = Server::tracker(room, &path, &[])?;
    let guest = Guest::start(&server, WORKLOADS[0], room.memory.path())?;
    let mut control = server.control()?;
    let target = TargetId::random();
    let attach = control.attach(target)?.attach;
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    while wall.len() < wanted {
        let handed = match control.cut(attach, false) {
            Ok(handed) => handed,
            Err(ClientError::Refused(refusal)) => return Err(format!("a cut is refused: {refusal}").into()),
            Err(error) => return Err(error.into()),
        };
        let status = control.status()?;
        wall.push(status.cut_hold_ns_last);
        cpu.push(status.cut_cpu_ns_last);
        // As if the entry were published: nothing looks into this vault.
        let anchor = Anchor { vault: VaultId(target.0), seq: wall.len() as u64, hash: [1; 32] };
        control.release(target, attach, handed.frozen.cut, anchor)?;
    }
    let status = control.status()?;
    let seen = guest.stop()?;
    drop(server);
    wall.sort_unstable();
    cpu.sort_unstable();
    let mut table = Table::new(
        format!("Hold of {} cuts under 4 KiB random writes at depth 32, microseconds", wall.len()),
        &["", "p50", "p90", "p99", "p99.9", "max"],
    );
    let us = |values: &[u64], part: f64| percentile(values, part) as f64 / 1000.0;
    for (name, values) in [("wall", &wall), ("the thread's CPU", &cpu)] {
        let cells = [0.5, 0.9, 0.99, 0.999, 1.0].map(|part| format!("{:.1}", us(values, part)));
        table.row(std::iter::once(name.to_string()).chain(cells));
    }
    report.table(table);
    report.at_most("cut hold, wall, p99, us", us(&wall, 0.99), 1000.0, format!("{:.1}", us(&wall, 0.99)));
    report.at_most("cut hold, CPU, p99.9, us", us(&cpu, 0.999), 200.0, format!("{:.1}", us(&cpu, 0.999)));
    report.note(format!(
        "Meanwhile the guest wrote {:.0}/s (p99 {:.0} us); {} writes were in flight at the cuts, {} requests waited for \
         a drain, {} blocks were preserved, {} freezes turned fuzzy.",
        seen.iops,
        seen.p99_us,
        status.in_flight_at_cuts,
        status.waited_drain,
        status.preserved_blocks,
        status.fuzzy_freezes
    ));
    report.raw("wall_ns", &wall);
    report.raw("cpu_ns", &cpu);
    Ok(())
}
