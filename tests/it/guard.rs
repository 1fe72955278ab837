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
    let rows = table.lines().filter(|line| line.starts_with("| F")).map(|line| {
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
        row[1..].parse().unwrap()
    });
    let rows: Vec<u32> = rows.collect();
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
