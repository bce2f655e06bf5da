//! What this box can give: bytes from memory, 8-bit operations, and how much memory was held.

use std::time::Instant;

use model::OpenDevice;

/// Larger than any cache; smaller only where little memory is free.
const BUFFER_BYTES: u64 = 512 << 20;
const BUFFER_BYTES_MIN: u64 = 64 << 20;
/// The share of free memory that the buffer may take: it must not push out the model's file.
const FREE_SHARE: u64 = 8;
const PASSES: usize = 7;
/// Readings of the buffer in one pass: so long that a short burst does not pass for a speed.
const READINGS: usize = 4;
/// Words of a cache line.
const LINE: usize = 8;

/// What memory gave to all threads together. Bytes per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bandwidth {
    /// The fastest pass: what the box can do.
    pub(super) best: f64,
    /// The middle pass: what it did while measured; far below `best` on a box with other work.
    pub(super) median: f64,
}

impl Bandwidth {
    fn of(mut passes: Vec<f64>) -> Self {
        passes.sort_by(f64::total_cmp);
        let at = |place: usize| passes.get(place).copied().unwrap_or(0.0);
        Self { best: at(passes.len().saturating_sub(1)), median: at(passes.len() / 2) }
    }
}

/// Measures limits and keeps their buffers out of the process' highest memory use.
#[derive(Debug)]
pub(super) struct Probes {
    /// The GPU that computes, if one does: then its memory is the limit.
    device: Option<OpenDevice>,
    threads: usize,
    peak_bytes: Option<u64>,
}

impl Probes {
    /// `configured`: threads that compute, 0 for all cores.
    pub(super) fn new(configured: u32, device: OpenDevice) -> Self {
        let threads = match configured {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count as usize,
        };
        let device = Some(device).filter(|device| !device.is_cpu());
        Self { device, threads, peak_bytes: None }
    }

    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// How fast all threads together read memory, or the GPU copies its own, now.
    pub(super) fn bandwidth(&mut self) -> Bandwidth {
        if let Some(passes) = self.device.as_ref().and_then(model::copy_bandwidth) {
            return Bandwidth::of(passes);
        }
        let threads = self.threads;
        self.apart(|| bandwidth(threads))
    }

    /// 8-bit multiplications and additions per second of all threads together, now; `None` where a GPU
    /// computes.
    pub(super) fn int8_peak(&mut self) -> Option<f64> {
        self.device.is_none().then(|| self.apart(model::int8_peak))
    }

    /// The most memory that the process held outside of probes, in bytes; `None` where the system
    /// does not say. Where it keeps no mark that can be set back, the probes' buffers count too.
    pub(super) fn peak_resident_bytes(&mut self) -> Option<u64> {
        self.peak_bytes = self.peak_bytes.max(high_water_bytes());
        self.peak_bytes
    }

    fn apart<T>(&mut self, probe: impl FnOnce() -> T) -> T {
        self.peak_resident_bytes();
        let outcome = probe();
        // 5 sets VmHWM back to what is held now; a refusal leaves the mark where it is.
        let _refused = std::fs::write("/proc/self/clear_refs", "5");
        outcome
    }
}

fn high_water_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

fn bandwidth(threads: usize) -> Bandwidth {
    let free = model::available_bytes().unwrap_or(u64::MAX);
    let bytes = (free / FREE_SHARE).clamp(BUFFER_BYTES_MIN, BUFFER_BYTES);
    // Ones, because pages of zeros may all be one page.
    let buffer = vec![[1u64; LINE]; bytes as usize / (8 * LINE)];
    Bandwidth::of((0..PASSES).map(|_| pass(&buffer, threads)).collect())
}

/// Bytes per second of one pass over the buffer.
fn pass(buffer: &[[u64; LINE]], threads: usize) -> f64 {
    let began = Instant::now();
    let total: u64 = std::thread::scope(|scope| {
        let parts = buffer.chunks(buffer.len().div_ceil(threads));
        let read = |part| (0..READINGS).map(|_| sum(std::hint::black_box(part))).sum::<u64>();
        let sums: Vec<_> = parts.map(|part| scope.spawn(move || read(part))).collect();
        sums.into_iter().map(|sum| sum.join().unwrap_or(0)).sum()
    });
    let seconds = began.elapsed().as_secs_f64();
    // The sum is used, so that the reads cannot be left out.
    let words = (buffer.len() * LINE * READINGS) as u64;
    assert_eq!(std::hint::black_box(total), words, "memory does not hold what was written");
    words as f64 * 8.0 / seconds
}

/// Four places are read at a time with sums of their own, so that neither one stream's page
/// boundaries nor one sum's additions hold up the reads.
fn sum(part: &[[u64; LINE]]) -> u64 {
    let quarter = part.len() / 4;
    let (first, rest) = part.split_at(quarter);
    let (second, rest) = rest.split_at(quarter);
    let (third, rest) = rest.split_at(quarter);
    let (fourth, rest) = rest.split_at(quarter);
    let mut sums = [[0u64; LINE]; 4];
    for (((a, b), c), d) in first.iter().zip(second).zip(third).zip(fourth) {
        for (sums, line) in sums.iter_mut().zip([a, b, c, d]) {
            for (sum, word) in sums.iter_mut().zip(line) {
                *sum = sum.wrapping_add(*word);
            }
        }
    }
    let left = rest.iter().flatten().fold(0u64, |sum, word| sum.wrapping_add(*word));
    sums.iter().flatten().fold(left, |sum, word| sum.wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_whatever_the_length() {
        for lines in [0, 1, 3, 4, 9, 128] {
            let part: Vec<[u64; LINE]> = vec![[1; LINE]; lines];
            assert_eq!(sum(&part), (lines * LINE) as u64);
        }
    }

    #[test]
    fn memory_held_by_a_probe_does_not_count() {
        let cpu = model::open_device(model::BackendChoice::Flex).unwrap();
        let mut probes = Probes::new(1, cpu);
        let mark = std::fs::OpenOptions::new().write(true).open("/proc/self/clear_refs");
        let (Some(before), Ok(_)) = (probes.peak_resident_bytes(), mark) else {
            println!("skipped: this system has no mark of memory that can be set back");
            return;
        };
        probes.apart(|| std::hint::black_box(vec![1u8; 256 << 20]).len());
        let grown = probes.peak_resident_bytes().unwrap() - before;
        assert!(grown < 200 << 20, "{grown} bytes");
    }
}
