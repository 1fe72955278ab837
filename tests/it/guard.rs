//! No forgotten files.

#[test]
fn every_file_of_this_folder_is_listed_in_main() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("it");
    let main = std::fs::read_to_string(folder.join("main.rs")).unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.extension().is_some_and(|end| end == "rs") && stem != "main" {
            assert!(main.lines().any(|line| line == format!("mod {stem};")), "{stem}.rs is not listed");
            seen += 1;
        }
    }
    assert!(seen > 0);
}

/// The subjects of these rows are not built yet.
const LATER: [u32; 8] = [11, 12, 14, 24, 44, 45, 46, 48];

/// The comment in front of a test, if the text has such a test.
fn comment_of(text: &str, test: &str) -> Option<String> {
    let start = format!("fn {test}(");
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let at = lines.iter().position(|line| line.starts_with(&start))?;
    let before =
        || lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("///"));
    before().any(|line| *line == "#[test]").then(|| {
        let mut comment: Vec<&str> = before().filter_map(|line| line.strip_prefix("///")).collect();
        comment.reverse();
        comment.join("\n")
    })
}

/// What is said to be proved is, by tests that say so themselves; and no failure is forgotten. The shipper's tests are
/// named here only.
#[test]
fn every_row_of_the_failures_has_its_tests_or_is_open() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let table = std::fs::read_to_string(root.join("tests/FAILURES.md")).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| F") || line.starts_with("| T")).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [row, what, proofs, open] = cells[..] else { panic!("{line}") };
        assert!(
            !what.is_empty() && (!proofs.is_empty() || !open.is_empty()),
            "{row} is neither proved nor open"
        );
        let names = proofs.split_whitespace().map(|name| {
            let name = name.strip_prefix('`').and_then(|name| name.strip_suffix('`'));
            name.and_then(|name| name.rsplit_once("::")).unwrap_or_else(|| panic!("{row}: {proofs}"))
        });
        for (path, test) in names {
            let text = std::fs::read_to_string(root.join(path))
                .unwrap_or_else(|error| panic!("{row}: {path}: {error}"));
            let comment =
                comment_of(&text, test).unwrap_or_else(|| panic!("{row}: {path} has no test {test}"));
            let named = comment.split(|letter: char| !letter.is_ascii_alphanumeric()).any(|word| word == row);
            assert!(
                named || path.starts_with("shipper/"),
                "{path}: the comment of {test} does not name {row}"
            );
        }
        (row.as_bytes()[0], row[1..].parse().unwrap())
    });
    let (rows, threats): (Vec<_>, Vec<_>) = rows.partition(|(kind, _): &(u8, u32)| *kind == b'F');
    assert!(!threats.is_empty());
    let rows: Vec<u32> = rows.into_iter().map(|(_, row)| row).collect();
    let all: Vec<u32> = (1..=50).filter(|row| !LATER.contains(row)).collect();
    assert_eq!(rows, all);
}

#[test]
fn a_test_is_found_with_its_comment_and_a_helper_is_none() {
    let text =
        "/// F1, and\n/// F2.\n#[test]\nfn it_holds() {}\n\nfn helper() {}\n  fn of_a_macro(n in 0..3) {";
    assert_eq!(comment_of(text, "it_holds").as_deref(), Some(" F1, and\n F2."));
    assert!(comment_of(text, "helper").is_none() && comment_of(text, "it_hold").is_none());
}

/// Every file with `unsafe` in it: how often, and why it is sound. Each block says its part of it beside itself.
const UNSAFE: [(&str, usize, &str); 26] = [
    (
        "tracker/src/map/words.rs",
        4,
        "Maps and headers are reached as slices of atomic words alone, and their owner goes with the last clone. What the \
         orders of these accesses promise is in `group/schedules/models.rs`.",
    ),
    (
        "tracker/src/sidecar/maps.rs",
        7,
        "Mappings of whole files made here: page-aligned, of the mapped length, never truncated (C3), unmapped once, by \
         the owner of their words.",
    ),
    (
        "tracker/src/sidecar/disk_file.rs",
        8,
        "System calls on our own descriptor, which fill or read structs and buffers of the length told; one buffer with \
         the disk's alignment, given back with the layout that it came with.",
    ),
    (
        "tracker/src/io/buffer.rs",
        7,
        "A buffer is the only owner of its piece of an anonymous mapping, initialized by the kernel; the pool outlives \
         its buffers or leaks the arena.",
    ),
    (
        "tracker/src/io/uring.rs",
        3,
        "What an entry points to is on the heap and owned by its place in flight until its completion is reaped; a fresh \
         descriptor of the kernel's has one owner.",
    ),
    (
        "tracker/src/io/outgoing.rs",
        3,
        "The message header points to what the same value owns, and is described anew before each call.",
    ),
    (
        "tracker/src/io/plain.rs",
        4,
        "System calls that fill at most the length told of our memory, or touch none.",
    ),
    ("tracker/src/io/schedule.rs", 4, "Structs of integers with their size, about the calling thread."),
    (
        "tracker/src/control/sys.rs",
        2,
        "The kernel fills a vector of the length told; descriptors that it has just installed have one owner.",
    ),
    ("tracker/src/socket.rs", 3, "A test's child process, which calls nothing that a fork forbids."),
    ("tracker/tests/memory.rs", 5, "An allocator that hands on to the system's, and counts."),
    (
        "shipper/src/source/preserved.rs",
        5,
        "A read-only mapping of a file that its writer never truncates (C3), unmapped once, by the owner of its words.",
    ),
    (
        "shipper/src/source/ring.rs",
        1,
        "A buffer neither moves nor is touched until its last completion is reaped; dropping the reader waits for it.",
    ),
    ("shipper/src/source/frozen.rs", 1, "One vector into a living buffer."),
    ("shipper/src/source/holes.rs", 1, "A system call without pointers."),
    ("shipper/src/source/tests.rs", 2, "A mapping that a test never unmaps, reached by atomic words alone."),
    ("shipper/src/cli/background.rs", 5, "Attributes of the calling thread, by number."),
    ("shipper/src/ship/stop.rs", 1, "A signal handler that only stores to an atomic."),
    ("tests/src/sim/coroutine.rs", 1, "The yielder of the process that runs, on its own stack."),
    ("tests/src/live/process.rs", 2, "A signal to a child that is not reaped; a seek."),
    ("tests/src/bin/towline-demo.rs", 1, "Two strings that end with zero."),
    ("tests/it/full.rs", 1, "Two strings that end with zero, and a buffer of the length told."),
    ("tests/it/cycle.rs", 1, "The user's number, which can't fail."),
    ("tests/it/lineage.rs", 1, "As above."),
    ("benches/src/process.rs", 4, "A signal to a child, and its usage, into a struct of integers."),
    ("benches/src/room.rs", 1, "Two strings that end with zero."),
];

/// The lines with the word `unsafe` outside of comments, and whether a block or an implementation among them lacks its SAFETY
/// comment right before the statement.
fn unsafe_lines(text: &str) -> (usize, Option<usize>) {
    // Not as one word, or this file would be in the list.
    let word = ["un", "safe"].concat();
    let lines: Vec<&str> = text.lines().collect();
    let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    let of_a_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let found: Vec<usize> = (0..lines.len())
        .filter(|at| code(lines[*at]).split(|letter| !of_a_word(letter)).any(|one| one == word))
        .collect();
    let argued = |at: usize| {
        let before = lines[at.saturating_sub(4)..at].iter().rev().take_while(|line| !line.trim().is_empty());
        before.into_iter().any(|line| line.trim_start().starts_with("// SAFETY: "))
    };
    let bare = found.iter().copied().find(|at| {
        let code = code(lines[*at]);
        let opens = [" {", " impl"].iter().any(|what| code.contains(&format!("{word}{what}")));
        opens && !argued(*at)
    });
    (found.len(), bare.map(|at| at + 1))
}

/// STYLE 20: `unsafe` stands in few files, listed above with their argument, and each block says why it is sound.
#[test]
fn unsafe_code_is_listed_and_argued() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut folders: Vec<_> = ["tracker", "shipper", "tests", "benches"].map(|name| root.join(name)).into();
    let mut listed = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|end| end != "rs") {
                continue;
            }
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            let (count, bare) = unsafe_lines(&std::fs::read_to_string(&path).unwrap());
            assert_eq!(bare, None, "{name}: no SAFETY comment before this line");
            let known = UNSAFE.iter().find(|(file, ..)| *file == name);
            assert_eq!(count, known.map_or(0, |(_, count, _)| *count), "{name}: the list says otherwise");
            listed += usize::from(count > 0);
        }
    }
    assert_eq!(listed, UNSAFE.len(), "the list has files that are gone");
}

#[test]
fn an_unsafe_block_without_its_comment_is_found() {
    let word = ["un", "safe"].concat();
    let block = format!("    // SAFETY: so.\n    let it =\n        {word} {{ f() }};\n");
    assert_eq!(unsafe_lines(&block), (1, None));
    assert_eq!(unsafe_lines(&block.replace("// SAFETY", "// Sure")), (1, Some(3)));
    assert_eq!(unsafe_lines(&block.replace(".\n", ".\n\n")), (1, Some(4)));
    assert_eq!(unsafe_lines(&format!("// {word} {{\nlet {word}_here = 1;")), (0, None));
    assert_eq!(unsafe_lines(&format!("{word} fn f() {{}}\n{word} impl A for B {{}}")), (2, Some(2)));
}

/// The names in the source of the bugs that can be switched on, `mutant::active("name")`, outside of comments.
fn mutants_in(folder: &std::path::Path, names: &mut std::collections::BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            mutants_in(&path, names);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let code: String = code.flat_map(|line| line.split_whitespace()).collect();
            let found = code.split("mutant::active(\"").skip(1).filter_map(|rest| rest.split_once('"'));
            names.extend(found.map(|(name, _)| name.to_owned()));
        }
    }
}

/// Each bug that the product has on demand is in the list and in the table with its killer, and the other way round.
#[test]
fn every_mutant_is_listed_with_its_killer() {
    use std::collections::BTreeSet;
    use towline_tests::mutants::{By, MUTANTS};
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut names = BTreeSet::new();
    ["tracker/src", "shipper/src"].iter().for_each(|folder| mutants_in(&root.join(folder), &mut names));
    let listed: BTreeSet<String> = MUTANTS.iter().map(|mutant| mutant.name.to_owned()).collect();
    assert_eq!(names, listed, "in the source, and in the list");
    let table = std::fs::read_to_string(root.join("tests/MUTANTS.md")).unwrap();
    let models = std::fs::read_to_string(root.join("tracker/src/group/schedules/models.rs")).unwrap();
    for mutant in MUTANTS {
        let start = format!("| {} | {} | {} | `", mutant.rule, mutant.name, mutant.bug);
        let (By::Seeds(test) | By::Test(test) | By::Model(test)) = mutant.by;
        assert!(
            table.lines().any(|line| line.starts_with(&start) && line.contains(test)),
            "{} is not in the table: make mutants",
            mutant.name
        );
        if let By::Model(test) = mutant.by {
            let body = models.split_once(&format!("fn {test}()")).expect(test).1.split("\n}").next();
            assert!(body.is_some_and(|body| body.contains(mutant.name)), "{test} has another bug");
        }
    }
    assert_eq!(
        table.lines().filter(|line| line.ends_with(" |") && line.contains(" | `")).count(),
        MUTANTS.len()
    );
}
