use tempfile::TempDir;

use super::*;

const GOOD: &str = r#"[plugin]
id = "com.example.a"
version = "1.2.0"
kind = "filter"
form = "native"
api = "zonda.filter/1"
file = "a.so"
sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
min_host = "1.0"
[rights]
all = true
[limits]
memory_mb = 32
call_ms = 50
[config]
fail = "open"
"#;

fn folder_with(text: &str) -> (TempDir, PathBuf) {
    let all = tempfile::tempdir().unwrap();
    let folder = all.path().join("com.example.a");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("plugin.toml"), text).unwrap();
    (all, folder)
}

fn refusal(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    let (_all, folder) = folder_with(&GOOD.replace(from, to));
    Manifest::read(&folder).unwrap_err().to_string()
}

#[test]
fn a_manifest_is_read_with_its_defaults() {
    let (_all, folder) = folder_with(GOOD);
    let manifest = Manifest::read(&folder).unwrap();
    assert_eq!((manifest.kind, manifest.fail), (Kind::Filter, Fail::Open));
    assert_eq!(manifest.memory_bytes, 32 << 20);
    assert_eq!(manifest.call_max, Duration::from_millis(50));
    assert_eq!((manifest.restarts, manifest.restart_window), (5, Duration::from_secs(300)));
    assert_eq!(manifest.file, folder.join("a.so"));
}

#[test]
fn what_a_manifest_must_not_say_is_named() {
    for (from, to, why) in [
        ("all = true", "", "say so by [rights] all = true"),
        ("all = true", "all = true\nnetwork = [\"*\"]", "rights.network is not enforced"),
        ("all = true", "all = true\nfs_read = [\"/\"]", "rights.fs_read is not enforced"),
        ("all = true", "all = true\ngpu = true", "unknown field `gpu`"),
        ("form = \"native\"", "form = \"wasm\"", "runs \"native\" alone"),
        ("zonda.filter/1", "zonda.filter/2", "goes with \"zonda.filter/1\""),
        ("kind = \"filter\"", "kind = \"tool\"", "goes with \"zonda.tool/1\""),
        ("kind = \"filter\"", "kind = \"backend\"", "unknown variant `backend`"),
        ("file = \"a.so\"", "file = \"../a.so\"", "beside plugin.toml"),
        ("file = \"a.so\"", "file = \"/lib/a.so\"", "beside plugin.toml"),
        ("id = \"com.example.a\"", "id = \"com.example.b\"", "must be the same"),
        ("e3b0c4", "zzzzzz", "64 hexadecimal digits"),
        ("min_host = \"1.0\"", "min_host = \"1.1\"", "needs version 1.1"),
        ("min_host = \"1.0\"", "min_host = \"2.0\"", "needs version 2.0"),
        ("call_ms = 50", "call_ms = 0", "limits.call_ms is 0"),
        ("call_ms = 50", "memory = 50", "unknown field `memory`"),
        ("fail = \"open\"", "schema = \"a.json\"", "unknown field `schema`"),
    ] {
        let found = refusal(from, to);
        assert!(found.contains(why), "{to}: {found}");
    }
}

#[test]
fn the_library_must_be_the_stated_one_and_no_link() {
    let (_all, folder) = folder_with(GOOD);
    let manifest = Manifest::read(&folder).unwrap();
    assert!(matches!(manifest.verify(), Err(ManifestError::Read { .. })));
    std::fs::write(&manifest.file, "").unwrap();
    manifest.verify().unwrap();
    std::fs::write(&manifest.file, "changed").unwrap();
    let error = manifest.verify().unwrap_err().to_string();
    assert!(error.contains("the file was changed"), "{error}");
    std::fs::remove_file(&manifest.file).unwrap();
    std::fs::write(folder.join("empty"), "").unwrap();
    std::os::unix::fs::symlink("empty", &manifest.file).unwrap();
    assert!(manifest.verify().unwrap_err().to_string().contains("no plain file"));
}

#[test]
fn a_scan_lists_good_and_bad_and_reads_nothing_too_long() {
    let (all, _folder) = folder_with(GOOD);
    let bad = all.path().join("bad");
    std::fs::create_dir(&bad).unwrap();
    std::fs::write(bad.join("plugin.toml"), "x".repeat(1 << 20)).unwrap();
    std::fs::create_dir(all.path().join("nothing")).unwrap();
    let found = scan(all.path()).unwrap();
    let ids: Vec<_> = found.iter().map(|found| found.id.as_str()).collect();
    assert_eq!(ids, ["bad", "com.example.a"]);
    let error = found[0].manifest.as_ref().unwrap_err().to_string();
    assert!(error.contains("larger than 65536 bytes"), "{error}");
    assert!(found[1].manifest.is_ok());
}

#[test]
fn ids_are_names_of_folders() {
    for good in ["a", "com.example.pii", "a-b_c.9"] {
        assert!(is_id(good), "{good}");
    }
    for bad in ["", ".", "..", "A", "a/b", "-a", "ä", &"a".repeat(65)] {
        assert!(!is_id(bad), "{bad}");
    }
}
