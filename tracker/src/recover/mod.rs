//! What a start believes of what it finds (DESIGN 3.5). The table, decided row by row for each disk; the first row that
//! fits counts:
//!
//! | stop | maps | evidence | verdict |
//! |---|---|---|---|
//! | any | any | no meta, no mark on the disk | fresh: everything is compared with what the vault has, if anything |
//! | any | any | no meta, a mark on the disk | resynchronization: the sidecar is gone |
//! | any | any | the disk was no member of the group before | resynchronization |
//! | any | any | the mark says that writes went untracked (S4, tracking off) | resynchronization |
//! | any | any | fingerprint mismatch (S3) | resynchronization |
//! | another boot | any | doubtful: a sync had failed (W6) | resynchronization |
//! | process died, host died | any | bad intents | resynchronization |
//! | any | any | more pending logs than a meta lists | resynchronization |
//! | clean, process died | good | | continue in the same map inodes |
//! | any | not good | a bad log | resynchronization |
//! | clean | not good | | open map = unreleased logs |
//! | process died, host died | not good | | open map = intents ∪ unreleased logs, to be compared |
//!
//! Maps are good if their header is of this boot, of these disks, and names the start that the sidecar of each names (S1,
//! [`crate::map::header`]); a host that died has none. A freeze survives only with the maps:
//!
//! | freeze, maps good | what the successor does |
//! |---|---|
//! | draining | all orphans are done, for the lock was free (S2): sync, seal |
//! | synced | seal, into a fresh log |
//! | sealed, exact or fuzzy | goes on; without its log it is undone |
//! | releasing | a meta with the anchor: the release is completed on all; none: sealed and fuzzy, for preserving had stopped |
//! | undoing | folds again from the beginning |
//! | any, maps not good | forgotten: preserved data was never synced; its log, sealed or not, is pending |

use crate::format::meta::{Clean, Fingerprint};
use crate::mutant;

/// How the last session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// By a clean stop.
    Clean,
    /// The process died; the page cache lives.
    Process,
    /// The host died, and what was not synced with it.
    Host,
}

/// What was found of one disk that has a meta.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// How the last session ended.
    pub stop: Stop,
    /// The maps can be believed (S1).
    pub maps: bool,
    /// It belonged to this group before.
    pub member: bool,
    /// The mark on the disk says that writes went untracked (S4).
    pub untracked: bool,
    /// A sync of it had failed (W6).
    pub doubtful: bool,
    /// What is wrong with the fingerprint (S3).
    pub changed: Option<String>,
    /// The last session served in this boot.
    pub same_boot: bool,
    /// The intents can't be believed.
    pub rotten: bool,
    /// There are more pending logs than a meta lists.
    pub crowded: bool,
    /// What is wrong with the logs.
    pub damaged: Option<String>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// In the same maps.
    Continue,
    /// From logs and, unless the stop was clean, intents.
    Rebuild {
        /// What is rebuilt holds more than what changed: compare.
        compare: bool,
    },
    /// Everything is to be compared, for this reason.
    Resync(String),
}

/// The table.
pub fn decide(found: &Evidence) -> Verdict {
    if !found.member {
        return Verdict::Resync("the disk is new in the group".into());
    }
    if found.untracked {
        return Verdict::Resync("writes went untracked".into());
    }
    if let Some(why) = &found.changed {
        return Verdict::Resync(format!("the disk changed while it was not tracked: {why}"));
    }
    if found.doubtful && !found.same_boot {
        return Verdict::Resync("a sync of the disk had failed before the host went down".into());
    }
    if found.rotten {
        return Verdict::Resync("the intents are damaged".into());
    }
    if found.crowded {
        return Verdict::Resync("too many change logs were left by earlier sessions".into());
    }
    if found.maps && found.stop != Stop::Host {
        return Verdict::Continue;
    }
    if let Some(why) = &found.damaged {
        return Verdict::Resync(format!("the sidecar is damaged: {why}"));
    }
    Verdict::Rebuild { compare: found.stop != Stop::Clean }
}

/// The times that S3 compares with, all in nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The dead process's last sign of life: its heartbeat or, if the maps are gone, a minute after its last stamp.
    pub heartbeat_ns: i128,
    /// When this boot began.
    pub boot_ns: i128,
    /// The last session served in this boot.
    pub same_boot: bool,
}

/// What S3 has against the disk, if anything.
pub fn changed(
    stop: Stop,
    stamp: &Fingerprint,
    clean: Option<&Clean>,
    found: &Fingerprint,
    times: Times,
) -> Option<String> {
    const SLACK_NS: i128 = 2_000_000_000;
    // Mutant: whoever was killed has left all as it was.
    if stop == Stop::Process && mutant::active("fingerprint-not-checked") {
        return None;
    }
    if found.inode == 0 && !(stop == Stop::Clean && times.same_boot) {
        // A block device has no times. Its counters prove something only across a clean stop within one boot: those of a
        // dead process's last requests can't be told from somebody else's.
        return Some("a block device can't prove that nobody else wrote to it".into());
    }
    if let Some(clean) = clean {
        return (clean.fingerprint != *found).then(|| "it is not as it was at the clean stop".into());
    }
    let rules = [
        (found.inode != stamp.inode, "another file (inode)"),
        (found.birth_ns != stamp.birth_ns, "another file (birth time)"),
        (found.size != stamp.size, "its size differs"),
        (found.mtime_ns < stamp.mtime_ns, "it is older than when it was last synced"),
        (found.ctime_ns < stamp.ctime_ns, "its inode is older than when it was last synced"),
    ];
    if let Some((_, why)) = rules.iter().find(|(broken, _)| *broken) {
        return Some((*why).into());
    }
    let limit = if stop == Stop::Host { times.boot_ns } else { times.heartbeat_ns };
    (found.mtime_ns.max(found.ctime_ns) > limit + SLACK_NS)
        .then(|| "it was touched after the tracker's end".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(stop: Stop, maps: bool) -> Evidence {
        let same_boot = stop != Stop::Host;
        let (changed, damaged) = (None, None);
        let (member, untracked, doubtful, rotten, crowded) = (true, false, false, false, false);
        Evidence { stop, maps, member, untracked, doubtful, same_boot, rotten, crowded, changed, damaged }
    }

    #[test]
    fn every_row_of_the_table_is_decided_as_written() {
        let bad = |change: fn(&mut Evidence), stop, maps| {
            let mut evidence = good(stop, maps);
            change(&mut evidence);
            decide(&evidence)
        };
        for stop in [Stop::Clean, Stop::Process, Stop::Host] {
            for maps in [false, true] {
                let resync = |verdict| matches!(verdict, Verdict::Resync(_));
                assert!(resync(bad(|found| found.member = false, stop, maps)));
                assert!(resync(bad(|found| found.untracked = true, stop, maps)));
                assert!(resync(bad(|found| found.changed = Some("x".into()), stop, maps)));
                let survives = stop != Stop::Host && maps;
                assert_eq!(resync(bad(|found| found.damaged = Some("x".into()), stop, maps)), !survives);
                assert!(resync(bad(|found| found.rotten = true, stop, maps)));
                assert!(resync(bad(|found| found.crowded = true, stop, maps)));
                assert_eq!(resync(bad(|found| found.doubtful = true, stop, maps)), stop == Stop::Host);
                let elsewhere = |found: &mut Evidence| (found.doubtful, found.same_boot) = (true, false);
                assert!(resync(bad(elsewhere, stop, maps)), "doubtful, then another boot, clean or not");
                let expected = match (stop, maps) {
                    (Stop::Clean | Stop::Process, true) => Verdict::Continue,
                    (Stop::Clean, false) => Verdict::Rebuild { compare: false },
                    _ => Verdict::Rebuild { compare: true },
                };
                assert_eq!(decide(&good(stop, maps)), expected);
            }
        }
    }

    /// F15: changed while nobody tracked.
    #[test]
    fn a_disk_that_was_put_back_or_touched_is_noticed() {
        let stamp = Fingerprint { size: 10, inode: 5, birth_ns: 1, mtime_ns: 1_000, ctime_ns: 1_000 };
        let times = Times { heartbeat_ns: 50_000_000_000, boot_ns: 20_000_000_000, same_boot: true };
        let check = |stop, change: fn(&mut Fingerprint)| {
            let mut found = Fingerprint { mtime_ns: 2_000, ctime_ns: 2_000, ..stamp };
            change(&mut found);
            changed(stop, &stamp, None, &found, times).is_some()
        };
        for stop in [Stop::Process, Stop::Host] {
            assert!(!check(stop, |_| ()));
            assert!(check(stop, |found| found.inode = 6));
            assert!(check(stop, |found| found.birth_ns = 2));
            assert!(check(stop, |found| found.size = 11));
            assert!(check(stop, |found| found.mtime_ns = 999));
            assert!(check(stop, |found| found.mtime_ns = 53_000_000_000));
            assert!(check(stop, |found| found.ctime_ns = 53_000_000_000));
        }
        assert!(
            check(Stop::Host, |found| found.mtime_ns = 23_000_000_000),
            "touched in this boot, before us"
        );
        let clean = Clean {
            fingerprint: stamp,
            log: crate::format::meta::LogLength { generation: crate::id::Generation(1), length: 0 },
        };
        assert!(changed(Stop::Clean, &stamp, Some(&clean), &stamp, times).is_none());
        let device = Clean { fingerprint: Fingerprint { inode: 0, ..stamp }, ..clean.clone() };
        let seen = device.fingerprint;
        assert!(changed(Stop::Clean, &seen, Some(&device), &seen, times).is_none());
        assert!(
            changed(Stop::Clean, &seen, Some(&device), &seen, Times { same_boot: false, ..times }).is_some()
        );
        assert!(changed(Stop::Process, &seen, None, &seen, times).is_some(), "a device after a kill");
        let touched = Fingerprint { ctime_ns: 1_001, ..stamp };
        assert!(changed(Stop::Clean, &stamp, Some(&clean), &touched, times).is_some());
    }
}
