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
