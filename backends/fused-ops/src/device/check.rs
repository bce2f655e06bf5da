//! Whether a device that has just been opened computes what it is asked.

use super::OpenDevice;

/// Multiplies whole numbers by each kernel, because there are drivers that answer zeros without an
/// error. Where that fails, it may be the matrix units alone: without them once more.
///
/// # Errors
/// What the device does not do.
#[cfg(feature = "cube")]
pub(super) fn products(open: &mut OpenDevice) -> Result<(), String> {
    if let Err(reason) = try_products(open) {
        cube_kernels::refuse_matrix_units(true);
        if try_products(open).is_err() {
            cube_kernels::refuse_matrix_units(false);
            return Err(reason);
        }
    }
    if cube_kernels::matrix_units_refused() {
        open.name.push_str(", without matrix units, which fail here");
    }
    Ok(())
}

#[cfg(not(feature = "cube"))]
#[expect(clippy::unnecessary_wraps, reason = "as where there are kernels")]
pub(super) fn products(_open: &mut OpenDevice) -> Result<(), String> {
    Ok(())
}

#[cfg(feature = "cube")]
fn try_products(open: &OpenDevice) -> Result<(), String> {
    use burn::tensor::{Tensor, TensorData};
    use weights::{Encoding, RawTensor, TensorLayout};

    use crate::{Weight, linear_add};

    const ROWS: usize = 40;
    const COLS: usize = 64;
    // Blocks of 32 with a scale of one. One activation of each 32 is the greatest integer, so that
    // rounding changes none.
    let weight = |row: usize, col: usize| ((row * 7 + col * col) % 15) as i8 - 7;
    let x = |token: usize, col: usize| match col % 32 {
        5 => 127.0,
        _ => ((token + col * 3) % 11) as f32 - 5.0,
    };
    let block = |row: usize, block: usize| {
        let values = (0..32).map(move |col| weight(row, block * 32 + col).to_le_bytes()[0]);
        [0x00, 0x3c].into_iter().chain(values)
    };
    let bytes: Vec<u8> = (0..ROWS * COLS / 32)
        .flat_map(|index| block(index / (COLS / 32), index % (COLS / 32)))
        .collect();
    let raw = RawTensor {
        shape: vec![ROWS, COLS],
        encoding: Encoding::Q8_0,
        bytes: bytes.into(),
        layout: TensorLayout::Rows,
    };
    let matrix = Weight::new(&[raw], open).map_err(|error| error.to_string())?;
    for tokens in [1, 9, 70] {
        let values: Vec<f32> =
            (0..tokens * COLS).map(|index| x(index / COLS, index % COLS)).collect();
        let product = linear_add(
            Tensor::from_data(TensorData::new(values, [tokens, COLS]), &open.device),
            &matrix,
            Tensor::zeros([tokens, ROWS], &open.device),
        );
        let data = product.try_into_data().map_err(|error| error.to_string())?;
        let found: Vec<f32> = data.try_into_vec().map_err(|error| format!("{error:?}"))?;
        let expected = (0..tokens * ROWS).map(|index| {
            let (token, row) = (index / ROWS, index % ROWS);
            (0..COLS).map(|col| x(token, col) * f32::from(weight(row, col))).sum::<f32>()
        });
        if !expected.eq(found) {
            return Err(
                "its driver computes wrong numbers; update the driver, or use another backend"
                    .into(),
            );
        }
    }
    Ok(())
}
