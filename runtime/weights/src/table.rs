//! The table of contents of one or several files: each tensor once, and inside its file.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use crate::mapped::{KEY_BYTES_MAX, Mapped};
use crate::{Encoding, TensorLayout, WeightsError};

/// Rows of a panel.
pub(crate) const PANEL_ROWS: usize = 16;
/// Tensors of one model.
pub(crate) const TENSORS_MAX: usize = 65_536;
/// Dimensions of one tensor.
pub(crate) const DIMENSIONS_MAX: usize = 8;

/// Where a tensor lies.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Index of the file it is in.
    pub(crate) file: usize,
    /// Rows first.
    pub(crate) shape: Vec<usize>,
    pub(crate) encoding: Encoding,
    pub(crate) layout: TensorLayout,
    /// Within the file.
    pub(crate) range: Range<usize>,
}

/// Every tensor by the name its container gives it.
#[derive(Debug, Default)]
pub(crate) struct Table {
    places: BTreeMap<String, Place>,
}

impl Table {
    /// Adds a tensor of `file`. Its range must have been checked against the file.
    pub(crate) fn insert(
        &mut self,
        file: &Mapped,
        name: String,
        place: Place,
    ) -> Result<(), WeightsError> {
        file.within("the length of a tensor's name in bytes", name.len() as u64, KEY_BYTES_MAX)?;
        if self.places.len() >= TENSORS_MAX {
            let found = self.places.len() as u64 + 1;
            return file.within("the number of tensors", found, TENSORS_MAX as u64);
        }
        match self.places.entry(name) {
            Entry::Vacant(vacant) => {
                vacant.insert(place);
                Ok(())
            }
            Entry::Occupied(there) => {
                let at = format!("tensor `{}`", there.key());
                Err(file.malformed(at, "the name is there twice"))
            }
        }
    }

    pub(crate) fn place(&self, name: &str) -> Option<&Place> {
        self.places.get(name)
    }

    /// By name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Place)> {
        self.places.iter().map(|(name, place)| (name.as_str(), place))
    }
}

/// Bytes of a tensor, rows first, if they can be counted and its rows are whole blocks.
pub(crate) fn tensor_bytes(encoding: Encoding, shape: &[usize]) -> Option<usize> {
    let (columns, rows) = match shape.split_last() {
        Some((&columns, rows)) => (columns, rows),
        None => (1, shape),
    };
    let row_bytes = encoding.row_bytes(columns).ok()?;
    rows.iter().try_fold(row_bytes, |bytes, &dimension| bytes.checked_mul(dimension))
}

/// Bytes of the panels of a matrix, under the same conditions; `None` for what is no matrix.
pub(crate) fn panels_bytes(encoding: Encoding, shape: &[usize]) -> Option<usize> {
    let &[rows, columns] = shape else { return None };
    tensor_bytes(encoding, &[rows.checked_next_multiple_of(PANEL_ROWS)?, columns])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_cannot_be_counted_is_none() {
        assert_eq!(tensor_bytes(Encoding::F32, &[]), Some(4));
        assert_eq!(tensor_bytes(Encoding::Q4K, &[3, 512]), Some(864));
        assert_eq!(tensor_bytes(Encoding::Q4K, &[512, 3]), None);
        assert_eq!(tensor_bytes(Encoding::F32, &[1 << 32, 1 << 32]), None);
        assert_eq!(panels_bytes(Encoding::Q4K, &[3, 512]), Some(16 * 288));
        assert_eq!(panels_bytes(Encoding::Q4K, &[32, 512]), Some(32 * 288));
        assert_eq!(panels_bytes(Encoding::F32, &[16]), None);
        assert_eq!(panels_bytes(Encoding::F32, &[usize::MAX, 1]), None);
    }
}
