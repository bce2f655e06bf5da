//! Beginnings of conversations on disk, so that they are found again after a restart.
//!
//! A page is one file, named by a key over everything that its bytes depend on: the network, who may
//! find it, and all tokens up to its end. So a folder may hold pages of several models, a page of
//! another is simply never asked for, and what was not used for longest goes first when the folder
//! is full. A file is believed when its length, its tokens and its checksum are right; otherwise it
//! is removed and counted. Files are written by a thread of their own, under another name first, and
//! never waited for: a page that cannot be written is computed again some day.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use protocol::TokenId;
use sha2::{Digest, Sha256};

use crate::batch::PageBytes;
use crate::prefixes::Scope;

use writer::{Order, Writer};

mod writer;

/// First bytes of a file.
const MAGIC: [u8; 8] = *b"zndpref1";
/// Bytes of a checksum, and of a key.
const DIGEST_BYTES: usize = 32;
/// Files in the folder, at most.
const FILES_MAX: usize = 65_536;
/// How the files' names end.
const ENDING: &str = "page";

/// Where beginnings are kept over a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixFolder {
    /// The folder; made where there is none, for its owner alone.
    pub path: PathBuf,
    /// Bytes of its files, at most.
    pub bytes_max: u64,
}

/// Names a page and all that stands before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; DIGEST_BYTES]);

/// The pages on disk that this network may take.
pub(crate) struct PrefixStore {
    folder: PathBuf,
    bytes_max: u64,
    identity: [u8; 32],
    page_tokens: usize,
    page_bytes: usize,
    files: HashMap<Key, Kept>,
    /// By their last use, the one that was left longest first.
    order: BTreeMap<u64, Key>,
    clock: u64,
    bytes: u64,
    writer: Writer,
    damaged: u64,
}

/// What is known of a file without opening it.
#[derive(Debug, Clone, Copy)]
struct Kept {
    bytes: u64,
    used: u64,
}

/// A file that is not what its name says.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    #[error("it has {found} bytes, a page has {wanted}")]
    Length { found: u64, wanted: u64 },
    #[error("it holds another page")]
    Foreign,
    #[error("its checksum is wrong")]
    Checksum,
}

impl PrefixStore {
    /// Looks through the folder, or makes it.
    ///
    /// Errors: a folder that cannot be made or read, and a system without threads.
    pub(crate) fn open(
        folder: &PrefixFolder,
        network: &dyn PageBytes,
        page_tokens: u32,
    ) -> io::Result<Self> {
        make_folder(&folder.path)?;
        let mut store = Self {
            folder: folder.path.clone(),
            bytes_max: folder.bytes_max,
            identity: network.identity(),
            page_tokens: page_tokens as usize,
            page_bytes: network.page_bytes(),
            files: HashMap::new(),
            order: BTreeMap::new(),
            clock: 0,
            bytes: 0,
            writer: Writer::start(&folder.path)?,
            damaged: 0,
        };
        for (_, key, bytes) in found(&folder.path)? {
            store.insert(key, bytes);
        }
        store.make_room(0);
        let (files, bytes) = (store.files.len(), store.bytes);
        tracing::info!(folder = %store.folder.display(), files, bytes, "beginnings on disk");
        Ok(store)
    }

    /// The keys of the full pages of `tokens`, one behind the other.
    pub(crate) fn keys(&self, scope: &Scope, tokens: &[TokenId]) -> Vec<Key> {
        let mut start = Sha256::new();
        start.update(MAGIC);
        start.update(self.identity);
        start.update((self.page_tokens as u64).to_le_bytes());
        start.update(scope.0.as_bytes());
        let mut parent: [u8; DIGEST_BYTES] = start.finalize().into();
        let key = |page: &[TokenId]| {
            let mut next = Sha256::new();
            next.update(parent);
            page.iter().for_each(|token| next.update(token.0.to_le_bytes()));
            parent = next.finalize().into();
            Key(parent)
        };
        tokens.chunks_exact(self.page_tokens).map(key).collect()
    }

    /// Whether a page is there, as far as is known without opening it.
    pub(crate) fn holds(&self, key: &Key) -> bool {
        self.files.contains_key(key)
    }

    /// Notes that a page was of use.
    pub(crate) fn touch(&mut self, key: &Key) {
        self.clock += 1;
        if let Some(kept) = self.files.get_mut(key) {
            self.order.remove(&kept.used);
            kept.used = self.clock;
            self.order.insert(self.clock, *key);
        }
    }

    /// A page's bytes. `None` where it is not there or damaged; then it is forgotten.
    pub(crate) fn read(&mut self, key: &Key, tokens: &[TokenId]) -> Option<Vec<u8>> {
        let path = key.path(&self.folder);
        match self.checked(&path, key, tokens) {
            Ok(bytes) => {
                self.touch(key);
                Some(bytes)
            }
            // A page that waits to be written is not there yet.
            Err(Damage::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => {
                self.forget(key);
                None
            }
            Err(damage) => {
                tracing::warn!(file = %path.display(), %damage, "a kept page is not used");
                self.damaged += 1;
                self.forget(key);
                self.writer.order(Order::Remove(*key));
                None
            }
        }
    }

    /// Whether another page can be handed over to be written.
    pub(crate) fn has_room(&self) -> bool {
        self.writer.has_room()
    }

    /// Has a page written, and older ones removed for it.
    pub(crate) fn keep(&mut self, key: Key, tokens: &[TokenId], bytes: &[u8]) {
        let file = frame(&key, tokens, bytes);
        let file_bytes = file.len() as u64;
        if file_bytes > self.bytes_max {
            return;
        }
        self.make_room(file_bytes);
        if self.writer.order(Order::Write(key, file)) {
            self.insert(key, file_bytes);
        }
    }

    /// Files that were not what their names say.
    pub(crate) fn damaged(&self) -> u64 {
        self.damaged
    }

    pub(crate) fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    fn insert(&mut self, key: Key, bytes: u64) {
        self.forget(&key);
        self.files.insert(key, Kept { bytes, used: 0 });
        self.bytes += bytes;
        self.touch(&key);
    }

    fn forget(&mut self, key: &Key) {
        if let Some(kept) = self.files.remove(key) {
            self.order.remove(&kept.used);
            self.bytes -= kept.bytes;
        }
    }

    fn make_room(&mut self, more: u64) {
        while self.bytes + more > self.bytes_max || self.files.len() >= FILES_MAX {
            let Some((_, oldest)) = self.order.pop_first() else {
                return;
            };
            self.forget(&oldest);
            self.writer.order(Order::Remove(oldest));
        }
    }

    fn checked(&self, path: &Path, key: &Key, tokens: &[TokenId]) -> Result<Vec<u8>, Damage> {
        let mut file = File::open(path)?;
        let head = head(key, tokens, self.page_bytes);
        let (found, wanted) =
            (file.metadata()?.len(), (head.len() + self.page_bytes + DIGEST_BYTES) as u64);
        if found != wanted {
            return Err(Damage::Length { found, wanted });
        }
        let mut stated = vec![0; head.len()];
        file.read_exact(&mut stated)?;
        if stated != head {
            return Err(Damage::Foreign);
        }
        let (mut bytes, mut checksum) = (vec![0; self.page_bytes], [0; DIGEST_BYTES]);
        file.read_exact(&mut bytes)?;
        file.read_exact(&mut checksum)?;
        if checksum != digest(&head, &bytes) {
            return Err(Damage::Checksum);
        }
        // The next start looks at this time; without it, only the order of removal suffers.
        let _ = file.set_modified(SystemTime::now());
        Ok(bytes)
    }
}

impl Key {
    fn name(&self) -> String {
        let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{hex}.{ENDING}")
    }

    fn path(&self, folder: &Path) -> PathBuf {
        folder.join(self.name())
    }

    fn of_name(name: &str) -> Option<Self> {
        let hex = name.strip_suffix(ENDING)?.strip_suffix('.')?;
        let digits = hex.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if hex.len() != 2 * DIGEST_BYTES || !digits {
            return None;
        }
        let mut key = [0; DIGEST_BYTES];
        for (byte, pair) in key.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(key))
    }
}

/// The pages in a folder, the one that was used longest ago first; what was left half written goes.
fn found(folder: &Path) -> io::Result<Vec<(SystemTime, Key, u64)>> {
    let mut pages = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if writer::is_unfinished(name) {
            let _ = fs::remove_file(entry.path());
            continue;
        }
        let (Some(key), Ok(metadata)) = (Key::of_name(name), entry.metadata()) else { continue };
        if metadata.is_file() {
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            pages.push((used, key, metadata.len()));
        }
    }
    pages.sort_by_key(|(used, ..)| *used);
    Ok(pages)
}

fn make_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// What stands before a page's bytes: magic, key, numbers of tokens and bytes, tokens.
fn head(key: &Key, tokens: &[TokenId], page_bytes: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(MAGIC.len() + DIGEST_BYTES + 16 + 4 * tokens.len());
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&key.0);
    head.extend_from_slice(&(tokens.len() as u64).to_le_bytes());
    head.extend_from_slice(&(page_bytes as u64).to_le_bytes());
    tokens.iter().for_each(|token| head.extend_from_slice(&token.0.to_le_bytes()));
    head
}

fn digest(head: &[u8], bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    Sha256::new().chain_update(head).chain_update(bytes).finalize().into()
}

/// A file: head, bytes, checksum.
fn frame(key: &Key, tokens: &[TokenId], bytes: &[u8]) -> Vec<u8> {
    let head = head(key, tokens, bytes.len());
    let checksum = digest(&head, bytes);
    [&head, bytes, &checksum].concat()
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
