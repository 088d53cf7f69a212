//! `file.read` and `file.write` in a temporary folder.

use std::{fs, os::unix::fs::symlink};

use dandori::ErrorClass;
use dandori_steps::Settings;
use serde_json::json;
use tempfile::TempDir;

use crate::{fails, kind, run};

fn root() -> (TempDir, Settings) {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::default().with_files_root(folder.path());
    (folder, settings)
}

#[tokio::test]
async fn a_file_is_written_as_a_whole_and_read_back() {
    let (folder, settings) = root();
    let path = "資料/深い/段取り.md";
    for text in ["old and longer", "あ"] {
        let output =
            run(&settings, "file.write", json!({ "path": path, "text": text })).await;
        assert_eq!(output.unwrap()["path"], path);
    }
    let output =
        run(&settings, "file.write", json!({ "path": path, "text": "abc" })).await;
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(output, Ok(json!({ "path": path, "bytes": 3, "sha256": digest })));
    let output = run(&settings, "file.read", json!({ "path": path })).await;
    assert_eq!(output, Ok(json!({ "text": "abc", "bytes": 3 })));
    // Nothing temporary is left beside it.
    let names: Vec<_> =
        fs::read_dir(folder.path().join("資料/深い")).unwrap().collect();
    assert_eq!(names.len(), 1);
}

#[tokio::test]
async fn json_is_written_as_it_is_and_text_is_appended() {
    let (folder, settings) = root();
    let with = json!({ "path": "a.json", "json": { "b": [1, null] } });
    run(&settings, "file.write", with).await.unwrap();
    run(&settings, "file.write", json!({ "path": "n.json", "json": null }))
        .await
        .unwrap();
    for line in ["one\n", "two\n"] {
        let with = json!({ "path": "logs/a.txt", "text": line, "append": true });
        run(&settings, "file.write", with).await.unwrap();
    }
    let read = |path| fs::read_to_string(folder.path().join(path)).unwrap();
    assert_eq!(read("a.json"), r#"{"b":[1,null]}"#);
    assert_eq!(read("n.json"), "null");
    assert_eq!(read("logs/a.txt"), "one\ntwo\n");
}

#[tokio::test]
async fn no_path_leaves_the_root() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "canary").unwrap();
    let (folder, settings) = root();
    fs::write(folder.path().join("plain"), "text").unwrap();
    symlink(outside.path(), folder.path().join("out")).unwrap();
    symlink(outside.path().join("secret"), folder.path().join("link")).unwrap();
    symlink(outside.path().join("new"), folder.path().join("dangling")).unwrap();

    let long = "あ".repeat(100);
    for path in [
        "../x",
        "a/../../x",
        "/etc/passwd",
        "..",
        ".",
        "dir/",
        "a\0b",
        "out/secret",
        "link",
        "plain/x",
        "",
        &long,
    ] {
        for (kind, with) in [
            ("file.read", json!({ "path": path })),
            ("template.render", json!({ "file": path })),
        ] {
            let failure = fails(&settings, kind, with).await;
            let expected = ("invalid_path".to_owned(), ErrorClass::Permanent);
            assert_eq!(failure, expected, "{kind} {path:?}");
        }
    }
    for path in ["../x", "/tmp/x", "out/new", "plain/x"] {
        for append in [false, true] {
            let with = json!({ "path": path, "text": "t", "append": append });
            let failure = fails(&settings, "file.write", with).await;
            assert_eq!(failure.0, "invalid_path", "{path} {append}");
        }
    }
    // A link at the very end is refused too: it is neither followed nor replaced.
    for path in ["link", "dangling"] {
        for append in [true, false] {
            let with = json!({ "path": path, "text": "t", "append": append });
            let failure = fails(&settings, "file.write", with).await;
            assert_eq!(failure.0, "invalid_path", "{path} {append}");
        }
        assert!(folder.path().join(path).symlink_metadata().unwrap().is_symlink());
    }
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "canary");
    assert!(!outside.path().join("new").exists());
}

#[tokio::test]
async fn missing_large_and_binary_files_have_their_codes() {
    let (folder, settings) = root();
    fs::create_dir(folder.path().join("dir")).unwrap();
    fs::write(folder.path().join("binary"), [0xff, 0xfe]).unwrap();
    let large = fs::File::create(folder.path().join("large")).unwrap();
    large.set_len(16 * 1024 * 1024 + 1).unwrap();
    for (path, code) in [
        ("missing", "not_found"),
        ("dir", "invalid_path"),
        ("binary", "not_text"),
        ("large", "too_large"),
    ] {
        let error =
            run(&settings, "file.read", json!({ "path": path })).await.unwrap_err();
        let found = (error.code.as_ref(), error.class);
        assert_eq!(found, (code, ErrorClass::Permanent), "{error}");
        let place = folder.path().to_str().unwrap();
        assert!(!error.message.contains(place), "{error}");
    }
    let with = json!({ "path": "dir", "text": "t" });
    assert_eq!(fails(&settings, "file.write", with).await.1, ErrorClass::Permanent);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn documents_with_wrong_paths_are_refused() {
    let (_folder, settings) = root();
    for path in ["../x", "/etc/passwd", ""] {
        assert!(kind(&settings, "file.read").check(&json!({ "path": path })).is_err());
    }
    let write = kind(&settings, "file.write");
    assert!(write.check(&json!({ "path": "a" })).is_err());
    assert!(write.check(&json!({ "path": "a", "text": "t", "json": 1 })).is_err());
    assert!(
        write.check(&json!({ "path": "${{ task.path }}.md", "text": "t" })).is_ok()
    );
}

#[tokio::test]
async fn a_file_keeps_its_mode_and_protected_files_are_left_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let (folder, settings) = root();
    let path = folder.path().join("private");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    run(&settings, "file.write", json!({ "path": "private", "text": "new" }))
        .await
        .unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let database = folder.path().join("engine.db");
    fs::write(&database, "rows").unwrap();
    fs::hard_link(&database, folder.path().join("alias")).unwrap();
    let settings = settings.with_protected_database(&database);
    for name in ["engine.db", "alias"] {
        for (kind, with) in [
            ("file.write", json!({ "path": name, "text": "t" })),
            ("file.write", json!({ "path": name, "text": "t", "append": true })),
            ("file.read", json!({ "path": name })),
        ] {
            assert_eq!(fails(&settings, kind, with).await.0, "invalid_path", "{name}");
        }
    }
    assert_eq!(fs::read_to_string(&database).unwrap(), "rows");
}
