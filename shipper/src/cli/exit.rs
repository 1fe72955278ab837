//! The exit codes of `towline`: 0 is success, 2 bad arguments, and every class of failure has its own.
//!
//! | code | meaning | remedy |
//! |---|---|---|
//! | 0 | done | |
//! | 1 | another failure | read the line on standard error |
//! | 2 | bad arguments | see `--help` |
//! | 3 | not a vault | give the vault's URL, or `towline vault init` |
//! | 4 | the vault is newer than this version | update towline |
//! | 5 | no such group, or no such disk in it | `towline points --vault URL` shows what there is |
//! | 6 | no such recovery point | `towline points --vault URL` shows what there is |
//! | 7 | the output exists | another path, or `--force` |
//! | 8 | not enough space | make room, nothing was left behind |
//! | 9 | damage found | `towline verify` says which points are affected; `towline ship --full --distrust` makes the next ones sound; a bucket that keeps versions can be read `--as-of` a time before |
//! | 10 | broken lineage: the log went on without this tracker | another vault, or `--take-over` |
//! | 11 | the group belongs to other disks | another `--group`, or `--take-over` |
//! | 12 | taken over: another shipper serves this tracker or claimed the log | this one ends; nothing to do |
//! | 13 | given up: the guest overwrites faster than a freeze can be kept exact | more bandwidth or `--preserve-limit` |
//! | 14 | no tracker answers | start `towline-tracker`, or check `--tracker` |
//! | 15 | the tracker refused | the line says why |
//! | 16 | permission missing | run as a user that may |
//! | 17 | the store, or the NBD server, can't be reached | try again: a restore and a verification go on |
//! | 18 | stopped by a signal before it was done | run it again: it goes on |
//! | 19 | a block of the disk can't be read, twice in a row | replace the disk's device; what the guest overwrites may heal it |
//! | 20 | the group's log can take no more cycles | a new vault, or another `--group` |
//! | 21 | the audit found changes that the tracker had not seen; the new point has them | find out who writes past the tracker; `towline points` shows the points before |
//! | 22 | the vault is sealed, and the key given does not open it (or it is not sealed, and a key is given) | `--key-file`, `--passphrase-file` or `--group-key`; `towline vault key list` shows what opens it |
//! | 23 | the vault is older than it was, or has another history | find the newer copy of it, or who has replaced it; the line says how to accept it |

use crate::Kind;

/// The exit code of a failure.
pub fn code(kind: Kind) -> u8 {
    match kind {
        Kind::Other => 1,
        Kind::Usage => 2,
        Kind::NotAVault => 3,
        Kind::NewerVault => 4,
        Kind::GroupNotFound => 5,
        Kind::PointNotFound => 6,
        Kind::OutputExists => 7,
        Kind::NoSpace => 8,
        Kind::Damage => 9,
        Kind::BrokenLineage => 10,
        Kind::ForeignOwner => 11,
        Kind::Revoked => 12,
        Kind::FuzzyGiveUp => 13,
        Kind::TrackerNotRunning => 14,
        Kind::TrackerRefused => 15,
        Kind::Denied => 16,
        Kind::Unreachable => 17,
        Kind::Stopped => 18,
        Kind::Unreadable => 19,
        Kind::GroupFull => 20,
        Kind::Untracked => 21,
        Kind::Locked => 22,
        Kind::RolledBack => 23,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::collections::BTreeSet;

    /// Every failure's code is told by the help and by the table above, which tell no others, and no two share one.
    #[test]
    fn every_code_is_documented_and_says_one_thing() {
        let kinds = [
            Kind::Other,
            Kind::Usage,
            Kind::NotAVault,
            Kind::NewerVault,
            Kind::GroupNotFound,
            Kind::PointNotFound,
            Kind::OutputExists,
            Kind::NoSpace,
            Kind::Damage,
            Kind::BrokenLineage,
            Kind::ForeignOwner,
            Kind::Revoked,
            Kind::FuzzyGiveUp,
            Kind::TrackerNotRunning,
            Kind::TrackerRefused,
            Kind::Denied,
            Kind::Unreachable,
            Kind::Stopped,
            Kind::Unreadable,
            Kind::GroupFull,
            Kind::Untracked,
            Kind::Locked,
            Kind::RolledBack,
        ];
        let mut codes: BTreeSet<u8> = kinds.iter().map(|kind| code(*kind)).collect();
        assert_eq!(codes.len(), kinds.len());
        codes.insert(0);
        let help = crate::cli::Cli::command().get_after_help().unwrap().to_string();
        let told = help.split([':', ',']).filter_map(|part| part.trim().split(' ').next()?.parse().ok());
        assert_eq!(told.collect::<BTreeSet<u8>>(), codes, "{help}");
        let rows = include_str!("exit.rs").lines().filter_map(|line| line.strip_prefix("//! | "));
        let listed = rows.filter_map(|row| row.split(' ').next()?.parse().ok());
        assert_eq!(listed.collect::<BTreeSet<u8>>(), codes);
    }
}
