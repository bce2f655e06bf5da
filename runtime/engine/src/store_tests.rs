use std::time::Duration;

use protocol::{Event, Service};

use super::*;
use crate::fixture::{END, capacity, read, request, serving};
use crate::script::Scripted;
use crate::{Counters, EngineLimits, EngineService, Extras};

const PAGE_TOKENS: u32 = 4;
const PAGE_BYTES: usize = 24;

struct Network(u8);

impl PageBytes for Network {
    fn identity(&self) -> [u8; 32] {
        [self.0; 32]
    }

    fn page_bytes(&self) -> usize {
        PAGE_BYTES
    }

    fn read(&mut self, _: u32) -> Result<Vec<u8>, String> {
        Err("nothing is here".into())
    }

    fn write(&mut self, _: u32, _: &[u8]) {}
}

fn folder(path: &Path) -> PrefixFolder {
    PrefixFolder { path: path.join("made/for/it"), bytes_max: 1 << 20 }
}

fn open(folder: &PrefixFolder, network: u8) -> PrefixStore {
    PrefixStore::open(folder, &Network(network), PAGE_TOKENS).unwrap()
}

fn scope(name: &str) -> Scope {
    Scope(name.into())
}

fn tokens(numbers: std::ops::Range<u32>) -> Vec<TokenId> {
    numbers.map(TokenId).collect()
}

/// The only file in a folder.
fn only_file(folder: &PrefixFolder) -> PathBuf {
    let mut files = fs::read_dir(&folder.path).unwrap().map(|entry| entry.unwrap().path());
    let file = files.next().unwrap();
    assert_eq!(files.next(), None);
    file
}

#[test]
fn a_key_is_of_all_that_a_page_depends_on() {
    let root = tempfile::tempdir().unwrap();
    let store = open(&folder(root.path()), 1);
    let keys = store.keys(&scope(""), &tokens(0..11));
    assert_eq!(keys.len(), 2, "full pages only");
    assert!(keys == store.keys(&scope(""), &tokens(0..8)));
    assert!(keys[0] != store.keys(&scope("me"), &tokens(0..8))[0], "who may find it");
    let other = open(&folder(root.path()), 2);
    assert!(keys[0] != other.keys(&scope(""), &tokens(0..8))[0], "the network");
    let moved = [tokens(1..5), tokens(4..8)].concat();
    assert!(keys[1] != store.keys(&scope(""), &moved)[1], "the tokens before it");
}

#[test]
fn a_page_is_found_after_a_restart_and_by_its_own_network() {
    let root = tempfile::tempdir().unwrap();
    let folder = folder(root.path());
    let (page, bytes) = (tokens(0..4), [7; PAGE_BYTES]);
    let mut store = open(&folder, 1);
    let key = store.keys(&scope(""), &page)[0];
    store.keep(key, &page, &bytes);
    drop(store);
    let mut store = open(&folder, 1);
    assert_eq!(store.read(&key, &page), Some(bytes.to_vec()));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder.path), mode(&only_file(&folder))), (0o700, 0o600));
    }
    let other = open(&folder, 2);
    assert!(!other.holds(&other.keys(&scope(""), &page)[0]));
}

#[test]
fn what_is_damaged_is_removed_and_counted() {
    type Harm = fn(&mut Vec<u8>);
    let harms: [Harm; 5] = [
        |file| file[60] ^= 1,
        |file| file.truncate(file.len() - 1),
        |file| file.clear(),
        |file| *file.last_mut().unwrap() ^= 1,
        |file| file.push(0),
    ];
    for harm in harms {
        let root = tempfile::tempdir().unwrap();
        let folder = folder(root.path());
        let page = tokens(0..4);
        let mut store = open(&folder, 1);
        let key = store.keys(&scope(""), &page)[0];
        store.keep(key, &page, &[7; PAGE_BYTES]);
        drop(store);
        let file = only_file(&folder);
        let mut bytes = fs::read(&file).unwrap();
        harm(&mut bytes);
        fs::write(&file, bytes).unwrap();
        let mut store = open(&folder, 1);
        assert!(store.holds(&key));
        assert_eq!((store.read(&key, &page), store.damaged()), (None, 1));
        assert!(!store.holds(&key));
        drop(store);
        assert!(!file.exists());
    }
}

#[test]
fn the_page_left_longest_makes_room_and_a_half_written_one_goes() {
    let root = tempfile::tempdir().unwrap();
    let file_bytes = frame(&Key([0; 32]), &tokens(0..4), &[0; PAGE_BYTES]).len() as u64;
    let folder = PrefixFolder { path: root.path().to_owned(), bytes_max: 2 * file_bytes };
    let mut store = open(&folder, 1);
    let pages = [tokens(0..4), tokens(4..8), tokens(8..12)];
    let keys = pages.each_ref().map(|page| store.keys(&scope(""), page)[0]);
    for (key, page) in keys.iter().zip(&pages).take(2) {
        store.keep(*key, page, &[7; PAGE_BYTES]);
    }
    store.touch(&keys[0]);
    store.keep(keys[2], &pages[2], &[7; PAGE_BYTES]);
    drop(store);
    fs::write(root.path().join(format!("{}.part", keys[1].name())), [1]).unwrap();
    fs::write(root.path().join("notes.txt"), [1]).unwrap();
    let store = open(&folder, 1);
    assert_eq!(keys.map(|key| store.holds(&key)), [true, false, true]);
    let mut names: Vec<_> =
        fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 3, "two pages, and what is not ours: {names:?}");
}

/// Answers a prompt by an engine that keeps beginnings in `folder`, so often; what was cached, each
/// time, and what it counted.
fn serve(folder: &PrefixFolder, letters: &str, times: usize) -> (Vec<u32>, String, Counters) {
    let network = Scripted::new(capacity(), |context| {
        if context.len() < 16 { TokenId(context[context.len() / 2].0) } else { END }
    });
    let limits = EngineLimits { batch_tokens_max: 8, ..EngineLimits::default() };
    let extras = Extras { prefix_folder: Some(folder.clone()), ..Extras::default() };
    let service = EngineService::start_with(Box::new(network), serving(), limits, extras).unwrap();
    let (mut cached, mut answers) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let (said, last) = read(&mut service.submit(request("r", letters)).unwrap());
        match last {
            Event::Finished { usage, .. } => cached.push(usage.cached_tokens),
            other => panic!("{other:?}"),
        }
        answers.push(said);
    }
    service.shutdown(Duration::from_secs(10));
    let counters = service.counters();
    answers.dedup();
    assert_eq!(answers.len(), 1, "the same prompt has the same answer");
    (cached, answers.remove(0), counters)
}

#[test]
fn an_engine_finds_beginnings_of_the_one_before_it() {
    let root = tempfile::tempdir().unwrap();
    let folder = folder(root.path());
    let letters = "abcdefghijk";
    let (cached, said, counters) = serve(&folder, letters, 2);
    assert_eq!((cached, counters.pages_kept), (vec![0, 8], 2));
    let (cached, again, counters) = serve(&folder, letters, 1);
    assert_eq!((cached, counters.pages_recalled), (vec![8], 2));
    assert_eq!(again, said);
    let (cached, _, counters) = serve(&folder, "xyzabcdefgh", 1);
    assert_eq!((cached, counters.pages_recalled), (vec![0], 0));
}

#[test]
fn a_damaged_beginning_is_computed_anew() {
    let root = tempfile::tempdir().unwrap();
    let folder = folder(root.path());
    let (_, said, _) = serve(&folder, "abcdefghijk", 2);
    for entry in fs::read_dir(&folder.path).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        bytes[70] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let (cached, again, counters) = serve(&folder, "abcdefghijk", 1);
    assert_eq!((cached, counters.pages_damaged), (vec![0], 1), "what follows it is not asked for");
    assert_eq!(again, said);
}
