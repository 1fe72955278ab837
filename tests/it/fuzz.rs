//! Everything that reads foreign bytes, over every input that is kept: the corpora and what once failed. `make fuzz` looks
//! for more.

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use towline_tests::fuzz::TARGETS;

/// A corpus is a few inputs that reach far: the first that a merge by cover keeps. A campaign's own is not committed.
const FILES_MAX: usize = 40;
const BYTES_MAX: u64 = 32 << 10;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The paths in a folder; none if there is no folder.
fn paths(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.expect("the folder can be read").path()).collect()
}

/// F47, F49: bytes from nowhere.
#[test]
fn every_input_that_is_kept_is_refused_or_sound() {
    let mut failed = Vec::new();
    for target in TARGETS {
        let kept = ["corpus", "failures"].map(|kind| paths(&folder().join(kind).join(target.name)));
        let bytes: u64 = kept[0].iter().map(|path| fs::metadata(path).expect("it is there").len()).sum();
        assert!((1..=FILES_MAX).contains(&kept[0].len()), "{}: {} files", target.name, kept[0].len());
        assert!(bytes <= BYTES_MAX, "{}: {bytes} bytes", target.name);
        for path in kept.into_iter().flatten() {
            let data = fs::read(&path).expect("it can be read");
            failed.extend(catch_unwind(|| (target.run)(&data)).is_err().then_some(path));
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn every_target_has_a_fuzzer_and_every_input_a_target() {
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    let programs = manifest.split("[[bin]]").skip(1).map(|bin| bin.split('"').nth(1).unwrap().to_owned());
    assert_eq!(programs.collect::<BTreeSet<_>>(), names);
    for name in &names {
        let program = fs::read_to_string(folder().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("fuzz::{name}::run(data)")), "{name}");
    }
    let decoders = fs::read_to_string(folder().join("decoders")).unwrap();
    let fed = decoders.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (target, file) = line.split_once(' ').unwrap();
        let file = file.split(' ').next().unwrap();
        assert!(folder().join("../..").join(file).is_file(), "{line}");
        target.to_owned()
    });
    assert_eq!(fed.collect::<BTreeSet<_>>(), names, "each target feeds some decoder");
    for kind in ["corpus", "failures"] {
        for path in paths(&folder().join(kind)) {
            assert!(names.contains(path.file_name().unwrap().to_str().unwrap()), "{}", path.display());
        }
    }
}

/// The table of `make fuzz-coverage` has every decoder, and the inputs that are kept reach nine tenths of each.
#[test]
fn every_decoder_is_reached_in_nine_regions_of_ten() {
    let table = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("COVERAGE.md")).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [target, file, functions, regions, reached, share] = cells[..] else { panic!("{line}") };
        let [regions, reached] = [regions, reached].map(|count| count.parse::<u32>().unwrap());
        assert!(
            regions > 0 && 10 * reached >= 9 * regions && share.parse::<f64>().unwrap() >= 90.0,
            "{line}"
        );
        format!("{target} {file} {functions}").trim_end().to_owned()
    });
    let decoders = fs::read_to_string(folder().join("decoders")).unwrap();
    let named: Vec<_> = decoders.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    assert_eq!(rows.collect::<Vec<_>>(), named, "renew the table with `make fuzz-coverage`");
}
