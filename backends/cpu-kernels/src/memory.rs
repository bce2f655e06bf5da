//! Memory for panels and for the cache: in large pages where the system has them.

use std::ops::Range;
use std::sync::Mutex;

use memmap2::{MmapMut, MmapOptions};
use weights::Encoding;

use crate::panels::{pack, panel_bytes};
use crate::threads;

/// A large page, and the alignment that one needs.
const LARGE_PAGE: usize = 2 << 20;
/// Bytes that one task packs.
const TASK_BYTES: usize = 1 << 20;

/// The panels of a matrix.
#[derive(Debug)]
pub struct PanelMemory {
    map: MmapMut,
    used: Range<usize>,
}

impl PanelMemory {
    /// Takes memory, which nothing occupies until it is written.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(bytes: usize) -> std::io::Result<Self> {
        // Some more, so that the first byte lies where a large page can begin.
        let map = MmapOptions::new().len(bytes + LARGE_PAGE).map_anon()?;
        #[cfg(target_os = "linux")]
        // A system without large pages serves with small ones.
        let _refused = map.advise(memmap2::Advice::HugePage);
        let first = map.as_ptr().align_offset(LARGE_PAGE).min(LARGE_PAGE);
        Ok(Self { map, used: first..first + bytes })
    }

    /// Moves a matrix, rows as the file has them, into panels.
    ///
    /// Threads: all of the pool.
    /// Panics: when the memory is not the panels of these rows.
    pub fn pack(&mut self, encoding: Encoding, cols: usize, rows: &[u8]) {
        let panel = panel_bytes(encoding, cols).expect("rows are whole blocks");
        let panels = &mut self.map[self.used.clone()];
        let task_panels = (TASK_BYTES / panel).max(1);
        let tasks: Vec<Mutex<(&[u8], &mut [u8])>> = rows
            .chunks(task_panels * panel)
            .zip(panels.chunks_mut(task_panels * panel))
            .map(Mutex::new)
            .collect();
        threads::for_each(tasks.len(), |task| {
            // Each task is taken once, so the lock is free.
            if let Ok(mut task) = tasks[task].lock() {
                let (rows, panels) = &mut *task;
                pack(encoding, cols, rows, panels);
            }
        });
    }
}

/// Asks the system for large pages under memory that nothing was written to yet.
///
/// They save the look-ups that reading a long context costs. A system without them serves with
/// small ones; so does memory without room for a whole large page.
pub fn prefer_large_pages(memory: &mut [u8]) {
    let first = memory.as_ptr().align_offset(LARGE_PAGE).min(memory.len());
    let bytes = (memory.len() - first) / LARGE_PAGE * LARGE_PAGE;
    let whole = &mut memory[first..first + bytes];
    #[cfg(target_os = "linux")]
    if !whole.is_empty() {
        // SAFETY: the range is ours and whole pages, and this advice leaves what they hold alone.
        let _refused =
            unsafe { libc::madvise(whole.as_mut_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _small = whole;
}

impl AsRef<[u8]> for PanelMemory {
    fn as_ref(&self) -> &[u8] {
        &self.map[self.used.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_leaves_what_memory_holds() {
        for bytes in [0, 1, LARGE_PAGE - 1, 3 * LARGE_PAGE + 5] {
            let mut memory: Vec<u8> = (0..bytes).map(|i| (i >> 3) as u8).collect();
            prefer_large_pages(&mut memory);
            assert!(memory.iter().enumerate().all(|(i, byte)| *byte == (i >> 3) as u8));
        }
    }

    #[test]
    fn memory_is_packed_as_a_slice_is_and_begins_at_a_large_page() {
        let rows: Vec<u8> = (0..300 * 34 * 40).map(|i| ((i * 7) >> 3) as u8).collect();
        let cols = 32 * 40;
        let panel = panel_bytes(Encoding::Q8_0, cols).unwrap();
        let mut memory = PanelMemory::new(19 * panel).unwrap();
        memory.pack(Encoding::Q8_0, cols, &rows);
        let mut expected = vec![0; 19 * panel];
        pack(Encoding::Q8_0, cols, &rows, &mut expected);
        assert!(memory.as_ref() == expected);
        assert!(memory.as_ref().as_ptr().addr().is_multiple_of(LARGE_PAGE));
    }
}
