//! The journal as its users see it: what was confirmed is there in the next life.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use journal::{Change, Journal, JournalError, Key, Limits, Recovered};

const HOUR: Duration = Duration::from_secs(3600);

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("state/journal.sqlite")
    }

    fn open(&self) -> (Journal, Recovered) {
        Journal::open(&self.file(), Limits::default()).expect("opens")
    }
}

fn key(id: &str) -> Key {
    Key { client: b"plc7".to_vec(), id: id.into(), digest: [7; 32] }
}

fn open(journal: &Journal, id: &str, request: &[u8]) -> u64 {
    let number = journal.number();
    write(journal, opening(number, id, request)).expect("written");
    number
}

fn opening(number: u64, id: &str, request: &[u8]) -> Change {
    Change::Open {
        number,
        key: key(id),
        address: b"back".to_vec(),
        request: request.to_vec(),
        lifetime: HOUR,
    }
}

fn close(number: u64, id: &str, reply: &[u8], lifetime: Duration) -> Change {
    Change::Close { number, key: key(id), reply: reply.to_vec(), lifetime }
}

fn write(journal: &Journal, change: Change) -> Result<(), JournalError> {
    let (done, hears) = mpsc::channel();
    journal.write(change, move |result| done.send(result).expect("heard"))?;
    hears.recv().expect("an answer")
}

fn ids(recovered: &Recovered) -> (Vec<String>, Vec<String>) {
    let name = |key: &Key| String::from_utf8(key.id.clone()).expect("text");
    (
        recovered.open.iter().map(|entry| name(&entry.key)).collect(),
        recovered.closed.iter().map(|entry| name(&entry.key)).collect(),
    )
}

#[test]
fn what_was_confirmed_is_there_in_the_next_life() {
    let folder = Folder::new();
    let (journal, nothing) = folder.open();
    assert!(nothing.open.is_empty() && nothing.closed.is_empty());
    open(&journal, "runs", b"question");
    let ended = open(&journal, "ended", b"question");
    write(&journal, close(ended, "ended", b"answer", HOUR)).expect("written");
    let told = open(&journal, "told", b"question");
    write(&journal, close(told, "told", b"answer 2", HOUR)).expect("written");
    write(&journal, Change::Settle { number: told, keep: true }).expect("written");
    let gone = open(&journal, "gone", b"question");
    write(&journal, close(gone, "gone", b"busy", HOUR)).expect("written");
    write(&journal, Change::Settle { number: gone, keep: false }).expect("written");
    write(&journal, Change::Mark { client: b"plc7".to_vec(), id: b"x".to_vec() }).expect("written");
    drop(journal);

    let (journal, recovered) = folder.open();
    assert_eq!(ids(&recovered), (vec!["runs".into()], vec!["ended".into(), "told".into()]));
    let runs = &recovered.open[0];
    assert_eq!(
        (runs.address.as_slice(), runs.request.as_slice()),
        (&b"back"[..], &b"question"[..])
    );
    assert_eq!((runs.attempts, &runs.key), (1, &key("runs")));
    assert!(runs.left <= HOUR && runs.left > HOUR / 2);
    let flags: Vec<_> = recovered.closed.iter().map(|e| (e.reply.clone(), e.settled)).collect();
    assert_eq!(flags, [(b"answer".to_vec(), false), (b"answer 2".to_vec(), true)]);
    assert_eq!(recovered.marks.len(), 1);
    assert!(journal.number() > told, "no number names two entries");
}

#[test]
fn each_life_counts_an_attempt() {
    let folder = Folder::new();
    let (journal, _) = folder.open();
    open(&journal, "a", b"");
    drop(journal);
    for attempts in 1..=3 {
        let (_journal, recovered) = folder.open();
        assert_eq!(recovered.open[0].attempts, attempts);
    }
}

#[test]
fn the_file_is_its_users_alone() {
    let folder = Folder::new();
    let (journal, _) = folder.open();
    open(&journal, "a", b"question");
    for name in ["journal.sqlite", "journal.sqlite-wal"] {
        let path = folder.file().with_file_name(name);
        let mode = std::fs::metadata(&path).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let second = Journal::open(&folder.file(), Limits::default());
    assert!(matches!(second, Err(JournalError::InUse { .. })), "{second:?}");
}

#[test]
fn what_has_ended_leaves_no_trace_of_its_request() {
    let folder = Folder::new();
    let (journal, _) = folder.open();
    let number = open(&journal, "a", b"canary-in-the-request");
    write(&journal, close(number, "a", b"canary-in-the-reply", HOUR)).expect("written");
    write(&journal, Change::Settle { number, keep: false }).expect("written");
    drop(journal);
    for entry in std::fs::read_dir(folder.file().parent().expect("a folder")).expect("read") {
        let bytes = std::fs::read(entry.expect("read").path()).expect("read");
        let found = bytes.windows(6).any(|window| window == b"canary");
        assert!(!found, "deleted bytes are still on the disk");
    }
}

#[test]
fn a_full_file_refuses_and_recovers() {
    let folder = Folder::new();
    let limits = Limits { file_bytes_max: 512 << 10, ..Limits::default() };
    let (journal, _) = Journal::open(&folder.file(), limits).expect("opens");
    let small = open(&journal, "small", b"question");
    let large = journal.number();
    let error = write(&journal, opening(large, "large", &vec![1; 1 << 20])).expect_err("no room");
    assert!(error.is_full(), "{error}");
    write(&journal, close(small, "small", b"answer", HOUR)).expect("the rest goes on");
    open(&journal, "next", b"question");
    drop(journal);
    let (_journal, recovered) = folder.open();
    assert_eq!(ids(&recovered), (vec!["next".into()], vec!["small".into()]));
}

#[test]
fn one_that_does_not_fit_takes_no_other_along() {
    let folder = Folder::new();
    let limits = Limits { file_bytes_max: 512 << 10, ..Limits::default() };
    let (journal, _) = Journal::open(&folder.file(), limits).expect("opens");
    let (done, hears) = mpsc::channel();
    for index in 0..64_u64 {
        let bytes = if index % 16 == 7 { 1 << 20 } else { 100 };
        let number = journal.number();
        let done = done.clone();
        let change = opening(number, &index.to_string(), &vec![1; bytes]);
        journal
            .write(change, move |result| done.send((index, result)).expect("heard"))
            .expect("ok");
    }
    drop(done);
    for (index, result) in hears {
        assert_eq!(result.is_err(), index % 16 == 7, "{index}: {result:?}");
    }
    drop(journal);
    assert_eq!(folder.open().1.open.len(), 60);
}

#[test]
fn entries_and_bytes_are_bounded() {
    let folder = Folder::new();
    let limits = Limits {
        entries_max: 2,
        bytes_max: 10_000,
        settled_max: 3,
        marks_max: 4,
        ..Limits::default()
    };
    let (journal, _) = Journal::open(&folder.file(), limits).expect("opens");
    let first = open(&journal, "0", b"");
    open(&journal, "1", b"");
    let third = journal.number();
    let error = write(&journal, opening(third, "2", b"")).expect_err("too many");
    assert!(matches!(error, JournalError::Limit { what: "entries", limit: 2 }), "{error}");
    write(&journal, Change::Settle { number: first, keep: false }).expect("written");
    let error = write(&journal, opening(third, "2", &[0; 20_000])).expect_err("too much");
    assert!(matches!(error, JournalError::Limit { what: "bytes", .. }), "{error}");
    for id in 0..10 {
        let number = journal.number();
        write(&journal, close(number, &format!("done{id}"), b"answer", HOUR)).expect("written");
        write(&journal, Change::Settle { number, keep: true }).expect("written");
        write(&journal, Change::Mark { client: vec![], id: vec![id] }).expect("written");
    }
    drop(journal);
    let (_journal, recovered) = folder.open();
    let kept: Vec<String> = (7..10).map(|id| format!("done{id}")).collect();
    assert_eq!(ids(&recovered), (vec!["1".into()], kept));
    let marks: Vec<u8> = recovered.marks.iter().map(|mark| mark.id[0]).collect();
    assert_eq!(marks, [6, 7, 8, 9]);
}

#[test]
fn a_late_reply_is_tried_once_more_and_then_given_up() {
    let folder = Folder::new();
    let (journal, _) = folder.open();
    let number = journal.number();
    write(&journal, close(number, "late", b"answer", Duration::ZERO)).expect("written");
    drop(journal);
    let (journal, recovered) = folder.open();
    assert_eq!(recovered.closed[0].left, Duration::from_secs(60));
    drop(journal);
    let (_journal, recovered) = folder.open();
    assert_eq!((recovered.closed.len(), recovered.expired), (0, 1));
}

#[test]
fn a_file_that_is_no_database_is_moved_aside() {
    let folder = Folder::new();
    let path = folder.file();
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(&path, b"this is no database at all, and it never was one".repeat(100))
        .expect("written");
    let (journal, recovered) = folder.open();
    let aside = recovered.set_aside.expect("moved aside");
    assert!(std::fs::read(&aside).expect("kept").starts_with(b"this is no database"));
    open(&journal, "a", b"question");
    drop(journal);
    assert_eq!(folder.open().1.open.len(), 1);
}

#[test]
fn a_flipped_bit_is_found_and_the_rest_goes_on() {
    let folder = Folder::new();
    let (journal, _) = folder.open();
    for id in 0..20 {
        open(&journal, &format!("entry-{id}"), format!("question {id} ").repeat(100).as_bytes());
    }
    drop(journal);
    flip(&folder.file(), b"question 7 question 7 ");
    let (journal, recovered) = folder.open();
    assert_eq!(recovered.open.len(), 19);
    assert_eq!(recovered.damaged.len(), 1);
    assert_eq!(recovered.damaged[0].id, b"entry-7");
    drop(journal);
    assert!(folder.open().1.damaged.is_empty(), "it is told once");
}

#[test]
fn a_torn_page_costs_only_what_lay_on_it() {
    let folder = Folder::new();
    let (journal, _) = folder.open();
    for id in 0..40 {
        open(&journal, &format!("entry-{id}"), &[id; 3000]);
    }
    drop(journal);
    let path = folder.file();
    let mut bytes = std::fs::read(&path).expect("read");
    // A leaf in the middle of the table.
    let page = bytes.windows(8).position(|window| window == b"entry-20").expect("is there") / 4096;
    bytes[page * 4096..(page + 1) * 4096].fill(0xff);
    std::fs::write(&path, bytes).expect("written");
    let (_journal, recovered) = folder.open();
    assert!(recovered.set_aside.is_some());
    assert!(recovered.open.len() >= 36, "{} were saved", recovered.open.len());
}

#[test]
fn a_newer_file_is_left_alone() {
    let folder = Folder::new();
    drop(folder.open());
    let connection = rusqlite::Connection::open(folder.file()).expect("opens");
    connection.execute_batch("PRAGMA user_version = 9").expect("written");
    drop(connection);
    let error = Journal::open(&folder.file(), Limits::default()).expect_err("refused");
    assert!(matches!(error, JournalError::Newer { found: 9, .. }), "{error}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = Folder::new();
    let blocked = folder.0.path().join("file");
    std::fs::write(&blocked, "").expect("written");
    let error = Journal::open(&blocked.join("journal"), Limits::default()).expect_err("refused");
    assert!(error.to_string().contains("file/journal"), "{error}");
}

fn flip(path: &Path, near: &[u8]) {
    let mut bytes = std::fs::read(path).expect("read");
    let at = bytes.windows(near.len()).position(|window| window == near).expect("is there");
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("written");
}
