//! Files and jobs on the disk: who sees them, what survives, what is refused.
#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

use std::path::Path;

use journal::{BatchLimits, Batches, FileKind, Job, JobState, JournalError, NewJob};

const LIMITS: BatchLimits = BatchLimits {
    files_max: 3,
    file_bytes_max: 1000,
    jobs_max: 2,
    items_max: 3,
    bytes_max: 8 << 20,
};

fn open(path: Option<&Path>) -> Batches {
    Batches::open(path, LIMITS).unwrap()
}

fn job(batches: &Batches, owner: &str, id: &str, items: &[&str]) -> Result<Job, JournalError> {
    batches.add_job(&NewJob {
        id: id.into(),
        owner: owner.into(),
        about: b"about".to_vec(),
        lifetime_s: 60,
        items: items.iter().map(|item| item.as_bytes().to_vec()).collect(),
    })
}

#[test]
fn everything_belongs_to_its_owner() {
    let batches = open(None);
    let file = batches.add_file("ann", "f", "in.jsonl", b"a\nb").unwrap();
    assert_eq!((file.bytes, file.lines, file.kind), (3, 2, FileKind::Brought));
    job(&batches, "ann", "j", &["1"]).unwrap();
    assert_eq!(batches.files("ann").unwrap(), [file]);
    assert_eq!(batches.content("ann", "f").unwrap().unwrap(), b"a\nb");
    assert_eq!(batches.jobs("ann").unwrap().len(), 1);
    for other in ["bob", "", "ANN"] {
        assert!(batches.files(other).unwrap().is_empty());
        assert_eq!(batches.file(other, "f").unwrap(), None);
        assert_eq!(batches.content(other, "f").unwrap(), None);
        assert!(!batches.remove_file(other, "f").unwrap());
        assert!(batches.jobs(other).unwrap().is_empty());
        assert_eq!(batches.job(other, "j").unwrap(), None);
        assert_eq!(batches.cancel(other, "j").unwrap(), None);
        assert!(!batches.remove_job(other, "j").unwrap());
    }
    assert_eq!(batches.job("ann", "j").unwrap().unwrap().state, JobState::Queued);
}

#[test]
fn a_job_goes_from_items_to_files() {
    let batches = open(None);
    let asked = job(&batches, "ann", "j", &["1", "2", "3"]).unwrap();
    assert_eq!(batches.next_job(&[]).unwrap().as_ref(), Some(&asked));
    assert_eq!(batches.next_job(&["j".into()]).unwrap(), None);
    let first = batches.begin(&asked, &[]).unwrap().unwrap();
    let second = batches.begin(&asked, &[first.number]).unwrap().unwrap();
    assert_eq!((&first.body[..], &second.body[..]), (&b"1"[..], &b"2"[..]));
    batches.settle(&asked, second.number, Err(b"no")).unwrap();
    batches.settle(&asked, first.number, Ok(b"yes")).unwrap();
    batches.settle(&asked, first.number, Err(b"again")).unwrap();
    let third = batches.begin(&asked, &[]).unwrap().unwrap();
    batches.settle(&asked, third.number, Ok(b"yes too")).unwrap();
    assert_eq!(batches.begin(&asked, &[]).unwrap(), None);
    let running = batches.job("ann", "j").unwrap().unwrap();
    assert_eq!((running.state, running.done, running.failed), (JobState::Running, 2, 1));
    assert!(!batches.remove_job("ann", "j").unwrap(), "it is not over");
    batches.end(&running, JobState::Done, ["a", "f"]).unwrap();
    let over = batches.job("ann", "j").unwrap().unwrap();
    assert_eq!(
        (over.state, over.begun_s.is_some(), over.ended_s.is_some()),
        (JobState::Done, true, true)
    );
    assert_eq!(
        batches.content("ann", over.answers.as_deref().unwrap()).unwrap().unwrap(),
        b"yes\nyes too\n"
    );
    assert_eq!(batches.content("ann", over.faults.as_deref().unwrap()).unwrap().unwrap(), b"no\n");
    assert_eq!(batches.next_job(&[]).unwrap(), None);
    assert!(batches.remove_job("ann", "j").unwrap());
    assert_eq!(batches.files("ann").unwrap().len(), 2, "files stay");
}

#[test]
fn what_was_accepted_and_what_came_of_it_survives() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/batches.db");
    let batches = open(Some(&path));
    batches.add_file("ann", "f", "in.jsonl", b"a").unwrap();
    let asked = job(&batches, "ann", "j", &["1", "2"]).unwrap();
    let first = batches.begin(&asked, &[]).unwrap().unwrap();
    batches.settle(&asked, first.number, Ok(b"yes")).unwrap();
    batches.begin(&asked, &[]).unwrap().unwrap();
    let busy = Batches::open(Some(&path), LIMITS);
    assert!(matches!(busy, Err(JournalError::InUse { .. })), "{busy:?}");
    drop(batches);

    let batches = open(Some(&path));
    assert_eq!(batches.content("ann", "f").unwrap().unwrap(), b"a");
    let found = batches.next_job(&[]).unwrap().unwrap();
    assert_eq!((found.state, found.done), (JobState::Running, 1));
    let second = batches.begin(&found, &[]).unwrap().unwrap();
    assert_eq!((second.number, second.gave_up), (1, false), "the first has its outcome");
    drop(batches);

    let batches = open(Some(&path));
    let found = batches.next_job(&[]).unwrap().unwrap();
    assert!(batches.begin(&found, &[]).unwrap().unwrap().gave_up, "twice under way at the end");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn an_item_that_was_put_back_was_not_begun() {
    let batches = open(None);
    let asked = job(&batches, "ann", "j", &["1"]).unwrap();
    for _ in 0..5 {
        let item = batches.begin(&asked, &[]).unwrap().unwrap();
        assert!(!item.gave_up);
        batches.put_back(&asked, item.number).unwrap();
    }
}

#[test]
fn a_cancelled_job_is_cancelling_until_it_is_ended() {
    let batches = open(None);
    let asked = job(&batches, "ann", "j", &["1"]).unwrap();
    assert_eq!(batches.cancel("ann", "j").unwrap().unwrap().state, JobState::Cancelling);
    batches.end(&asked, JobState::Cancelled, ["a", "f"]).unwrap();
    let over = batches.cancel("ann", "j").unwrap().unwrap();
    assert_eq!((over.state, over.answers, over.faults), (JobState::Cancelled, None, None));
}

#[test]
fn every_limit_is_named() {
    let batches = open(None);
    let refused = |error: JournalError| match error {
        JournalError::Limit { what, limit } => (what, limit),
        other => panic!("{other}"),
    };
    let large = batches.add_file("ann", "f", "n", &[0; 1001]).unwrap_err();
    assert_eq!(refused(large), ("bytes in one file", 1000));
    for id in ["1", "2", "3"] {
        batches.add_file("ann", id, "n", b"x").unwrap();
    }
    assert_eq!(refused(batches.add_file("bob", "4", "n", b"x").unwrap_err()), ("files", 3));
    assert_eq!(refused(job(&batches, "ann", "j", &["x"; 4]).unwrap_err()), ("items in one job", 3));
    job(&batches, "ann", "1", &["x"]).unwrap();
    job(&batches, "ann", "2", &["x"]).unwrap();
    assert_eq!(refused(job(&batches, "bob", "3", &["x"]).unwrap_err()), ("jobs", 2));

    let tight = BatchLimits { bytes_max: 1 << 20, file_bytes_max: 1 << 21, ..LIMITS };
    let batches = Batches::open(None, tight).unwrap();
    batches.add_file("ann", "1", "n", &[7; 500_000]).unwrap();
    let full = batches.add_file("ann", "2", "n", &[7; 700_000]).unwrap_err();
    assert!(full.is_full(), "{full}");
    assert!(batches.remove_file("ann", "1").unwrap());
    batches.add_file("ann", "2", "n", &[7; 700_000]).unwrap();
}
