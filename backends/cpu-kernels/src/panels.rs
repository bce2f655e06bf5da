//! The layout that kernels read: 16 rows side by side.
//!
//! A *panel* is 16 rows of a matrix, block after block. It holds the very bytes of the file's
//! blocks, moved in units: what one row has at some place of its block stands beside what the other
//! 15 rows have there, so that one vector holds the same four columns of many rows. First come the
//! fields of two bytes, which are 16-bit floats, then units of four bytes, all in the order in which
//! a kernel reads them. So decoding reads memory from a panel's first byte to its last and each
//! byte once, which is what processors fetch ahead by themselves.
//!
//! Nothing is added and nothing is lost: a panel takes the bytes of its rows. The last panel of a
//! matrix is filled up with zeros.

use weights::Encoding;

/// Rows of a panel.
pub(crate) const ROWS: usize = 16;
/// Bytes of a unit of 16 rows.
pub(crate) const UNIT: usize = 4 * ROWS;
/// Bytes of a field of two bytes of 16 rows.
pub(crate) const HALF: usize = 2 * ROWS;
/// Units of the greatest block.
const UNITS_MAX: usize = 52;

/// Where the fields of a block lie in the file, in the order of the panel.
pub(crate) struct Fields {
    /// Offsets of the fields of two bytes.
    halves: &'static [usize],
    /// Runs of units, first byte and end, one behind the other.
    units: &'static [(usize, usize)],
}

impl Fields {
    pub(crate) const fn of(encoding: Encoding) -> Self {
        let (halves, units): (&[usize], &[(usize, usize)]) = match encoding {
            Encoding::F32 => (&[], &[(0, 4)]),
            Encoding::F16 | Encoding::Bf16 => (&[0], &[]),
            Encoding::Q8_0 => (&[0], &[(2, 34)]),
            Encoding::Q4_0 | Encoding::Iq4Nl => (&[0], &[(2, 18)]),
            Encoding::Q4_1 => (&[0, 2], &[(4, 20)]),
            Encoding::Q5_0 => (&[0], &[(2, 22)]),
            Encoding::Q5_1 => (&[0, 2], &[(4, 24)]),
            Encoding::Q2K => (&[80, 82], &[(0, 80)]),
            Encoding::Q3K => (&[108], &[(96, 108), (0, 96)]),
            Encoding::Q4K => (&[0, 2], &[(4, 144)]),
            Encoding::Q5K => (&[0, 2], &[(4, 176)]),
            Encoding::Q6K => (&[208], &[(192, 208), (0, 192)]),
            Encoding::Iq4Xs => (&[0, 2], &[(4, 136)]),
        };
        Self { halves, units }
    }

    /// Bytes of the fields of two bytes of one block of 16 rows.
    pub(crate) const fn half_bytes(&self) -> usize {
        self.halves.len() * HALF
    }

    /// Units of a block.
    pub(crate) const fn units(&self) -> usize {
        let (mut count, mut run) = (0, 0);
        while run < self.units.len() {
            count += (self.units[run].1 - self.units[run].0) / 4;
            run += 1;
        }
        count
    }

    /// Each unit's offset in the file's block.
    fn unit_offsets(&self, encoding: Encoding) -> ([usize; UNITS_MAX], usize) {
        let mut offsets = [0; UNITS_MAX];
        let runs = self.units.iter().flat_map(|(first, end)| (*first..*end).step_by(4));
        offsets.iter_mut().zip(runs).for_each(|(offset, at)| *offset = at);
        if encoding == Encoding::Q6K {
            // Four runs of 32 values share bytes: the units of each 16 of them stand together.
            for (index, offset) in offsets[4..].iter_mut().enumerate() {
                let (half, side, step, part) =
                    (index / 24, index / 12 % 2, index / 3 % 4, index % 3);
                let within = side * 16 + step * 4;
                *offset = if part == 2 {
                    128 + half * 32 + within
                } else {
                    half * 64 + part * 32 + within
                };
            }
        }
        (offsets, self.units())
    }
}

/// Bytes of one panel of so many columns; `None` if they are not whole blocks.
pub fn panel_bytes(encoding: Encoding, cols: usize) -> Option<usize> {
    encoding.row_bytes(cols).ok()?.checked_mul(ROWS)
}

/// Panels of a matrix of so many rows.
pub fn panel_count(rows: usize) -> usize {
    rows.div_ceil(ROWS)
}

/// Moves rows as the file has them into panels.
///
/// Shapes: `rows: [≤ 16 · n][row_bytes]`, `panels: [n][panel_bytes]`, both whole; rows that lack in
/// the last panel become zeros.
/// Panics: when the slices do not have these lengths, or a row is not whole blocks.
pub fn pack(encoding: Encoding, cols: usize, rows: &[u8], panels: &mut [u8]) {
    let row_bytes = encoding.row_bytes(cols).expect("rows are whole blocks");
    assert!(rows.len().is_multiple_of(row_bytes), "rows are not whole");
    assert_eq!(
        panels.len(),
        panel_count(rows.len() / row_bytes) * row_bytes * ROWS,
        "panels do not hold these rows"
    );
    let fields = Fields::of(encoding);
    let (offsets, units) = fields.unit_offsets(encoding);
    let offsets = &offsets[..units];
    for (rows, panel) in
        rows.chunks(row_bytes * ROWS).zip(panels.chunks_exact_mut(row_bytes * ROWS))
    {
        if rows.len() < row_bytes * ROWS {
            panel.fill(0);
        }
        let blocks = panel.chunks_exact_mut(encoding.block_bytes() * ROWS).enumerate();
        for (block, panel) in blocks {
            let from = block * encoding.block_bytes();
            let (halves, panel) = panel.split_at_mut(fields.half_bytes());
            let (panel, _) = panel.as_chunks_mut::<UNIT>();
            // Row by row, because the file has a row's bytes together.
            for (row, bytes) in rows.chunks_exact(row_bytes).enumerate() {
                let bytes = &bytes[from..from + encoding.block_bytes()];
                for (half, at) in halves.chunks_exact_mut(HALF).zip(fields.halves) {
                    half[row * 2..row * 2 + 2].copy_from_slice(&bytes[*at..at + 2]);
                }
                for (unit, at) in panel.iter_mut().zip(offsets) {
                    unit[row * 4..row * 4 + 4].copy_from_slice(&bytes[*at..at + 4]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_cover_each_block_once() {
        for encoding in Encoding::ALL {
            let fields = Fields::of(encoding);
            let mut seen = vec![0; encoding.block_bytes()];
            let (offsets, units) = fields.unit_offsets(encoding);
            for at in offsets[..units].iter().flat_map(|at| *at..at + 4) {
                seen[at] += 1;
            }
            for at in fields.halves.iter().flat_map(|at| *at..at + 2) {
                seen[at] += 1;
            }
            assert!(seen.iter().all(|count| *count == 1), "{encoding:?}: {seen:?}");
            let bytes = fields.half_bytes() + fields.units() * UNIT;
            assert_eq!(bytes, encoding.block_bytes() * ROWS, "{encoding:?}");
        }
    }

    #[test]
    fn a_panel_holds_each_rows_units_side_by_side() {
        let (encoding, cols) = (Encoding::Q8_0, 64);
        let row_bytes = encoding.row_bytes(cols).unwrap();
        // Each byte says its row and its place.
        let rows: Vec<u8> =
            (0..18 * row_bytes).map(|i| (i / row_bytes * 7 + i % row_bytes) as u8).collect();
        let mut panels = vec![0xff; 2 * panel_bytes(encoding, cols).unwrap()];
        pack(encoding, cols, &rows, &mut panels);
        let (first, second) = panels.split_at(panels.len() / 2);
        let byte = |row: usize, at: usize| rows[row * row_bytes + at];
        // Block 1: the scale of row 15; unit 3 of row 5.
        let block = 34 * ROWS;
        assert_eq!(first[block + 30..][..2], [34, 35].map(|at| byte(15, at)));
        assert_eq!(
            first[block + 32 + 3 * 64 + 5 * 4..][..4],
            [48, 49, 50, 51].map(|at| byte(5, at))
        );
        assert_eq!(second[32 + 4..][..4], [2, 3, 4, 5].map(|at| byte(17, at)));
        assert!(second[32 + 8..][..56].iter().all(|byte| *byte == 0), "rows that lack are zeros");
    }
}
