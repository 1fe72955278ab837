//! `towline stat`: what a vault holds, what its cycles put, what it costs.

use super::{ReadArgs, bytes, json, print, time};
use crate::stat::prices::{Cost, Prices, Use};
use crate::stat::{CyclePut, Day, Kept, Kinds, stat};
use crate::store::tally::Requests;
use crate::vault::Group;
use crate::{Error, Kind, Result};
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;

/// What a cycle reads: the entry before its own, whether there is a newer catalog, and for the audit a page of an index or two.
const GETS_A_CYCLE: f64 = 4.0;

/// `towline stat ...`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    read: ReadArgs,
    /// Prices (JSON), in place of the built-in examples: {"name": "ours", "dated": "2026-11", "currency": "USD",
    /// "storage_gib_month": 0.023, "put_1000": 0.005, "get_1000": 0.0004, "delete_1000": 0, "egress_gib": 0.09}, or a list
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
}

#[derive(Serialize)]
struct Told {
    vault: String,
    groups: Vec<GroupTold>,
    /// Of all these groups.
    costs: Vec<Cost>,
    /// What this command asked the store.
    asked: Requests,
}

#[derive(Serialize)]
struct GroupTold {
    group: String,
    all: Kept,
    kinds: Kinds,
    points: u64,
    first: Option<String>,
    last: Option<String>,
    day: Option<Day>,
    cycles: Vec<CyclePut>,
}

/// Runs the command.
///
/// # Errors
/// `Usage` for prices that are none; `GroupNotFound`; `RolledBack`; `Damage` after telling what can be read; the store's.
pub fn run(args: Args) -> Result<()> {
    let Args { read: args, prices } = args;
    let prices = prices.map(|path| Prices::of_file(&path)).transpose()?;
    let vault = args.open()?;
    let prices = prices.unwrap_or_else(|| Prices::built_in(&vault.store.url()));
    let groups: Vec<Group> = match &args.group {
        Some(name) => vec![vault.group(name)],
        None => vault.groups()?,
    };
    let (mut told, mut used, mut damage) = (Vec::new(), Use::default(), Vec::new());
    for group in groups {
        let mut stat = stat(&vault, &group)?;
        damage.append(&mut stat.damage);
        // What is damaged has no head that could be believed.
        if damage.is_empty() {
            args.heads().check(&vault, &group)?;
        }
        let all = stat.kinds.all();
        used.bytes += all.bytes;
        used.puts_day += stat.day.map_or(0.0, |day| day.requests_put);
        used.gets_day += stat.day.map_or(0.0, |day| day.cycles * GETS_A_CYCLE);
        told.push(GroupTold {
            group: group.name,
            all,
            kinds: stat.kinds,
            points: stat.points.map_or(0, |(_, _, count)| count),
            first: stat.points.map(|(first, _, _)| time(first)),
            last: stat.points.map(|(_, last, _)| time(last)),
            day: stat.day,
            cycles: stat.cycles,
        });
    }
    let told = Told {
        vault: vault.id().to_string(),
        groups: told,
        costs: prices.iter().map(|prices| prices.cost(used)).collect(),
        asked: args.access.access().tally().so_far(),
    };
    print(&if args.json { json(&told)? } else { text(&told)? })?;
    match damage.first() {
        None => Ok(()),
        Some(first) => Err(Error::new(
            Kind::Damage,
            format!("{} entries can't be read ({}); run `towline verify`", damage.len(), first.line()),
        )),
    }
}

fn text(told: &Told) -> Result<String> {
    let mut text = String::new();
    write(&mut text, told).map_err(|error| Error::caused(Kind::Other, "the text can't be made", error))?;
    Ok(text)
}

fn write(text: &mut String, told: &Told) -> std::fmt::Result {
    for group in &told.groups {
        writeln!(text, "group {}", group.group)?;
        let Kinds { log, packs, indexes, catalog, other } = group.kinds;
        let kinds =
            [("log", log), ("packs", packs), ("indexes", indexes), ("catalog", catalog), ("other", other)];
        let kinds = kinds.into_iter().filter(|(_, kept)| kept.objects > 0);
        for (kind, kept) in kinds.chain([("in all", group.all)]) {
            writeln!(text, "  {kind:<8} {:>9} objects  {:>10}", kept.objects, bytes(kept.bytes))?;
        }
        let (first, last) = (group.first.as_deref().unwrap_or("-"), group.last.as_deref().unwrap_or("-"));
        writeln!(text, "  {} points, the first of {first}, the last of {last}", group.points)?;
        if let Some(day) = &group.day {
            writeln!(
                text,
                "  a day, by the last {:.1}: {:.0} cycles, changed {}, put {} in {:.0} requests",
                day.days,
                day.cycles,
                bytes(day.bytes_changed as u64),
                bytes(day.bytes_put as u64),
                day.requests_put
            )?;
        }
        for cycle in &group.cycles {
            writeln!(
                text,
                "  {}  {}  {:<5}  changed {:>10}  put {:>10} in {}",
                cycle.id,
                time(cycle.time_ns),
                cycle.kind,
                bytes(cycle.bytes_changed),
                bytes(cycle.bytes_put),
                cycle.requests_put
            )?;
        }
    }
    if told.groups.is_empty() {
        text.push_str("the vault has no groups yet\n");
    }
    for cost in &told.costs {
        writeln!(
            text,
            "a month: {:.2} {currency} (storage {:.2}, requests {:.2}), to read it all once {:.2} {currency}; {}, as of {}",
            cost.month,
            cost.storage_month,
            cost.requests_month,
            cost.read_all,
            cost.prices,
            cost.dated,
            currency = cost.currency
        )?;
    }
    let Requests { requests_put, requests_get, bytes_down, .. } = told.asked;
    writeln!(
        text,
        "asked for this: {requests_put} requests of the class put (listings), {requests_get} of the class get, {}",
        bytes(bytes_down)
    )
}
