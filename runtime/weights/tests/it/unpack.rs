//! Each unpack against the values that the `gguf` package gives for the same blocks.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use weights::Encoding;

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from("../../tests/fixtures/weights").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_encoding_unpacks_to_the_reference_bit_for_bit() {
    for encoding in Encoding::ALL {
        let blocks = fixture(&format!("{}.blocks", encoding.name()));
        let expected: Vec<u32> = fixture(&format!("{}.f32", encoding.name()))
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        let mut values = vec![0.0; expected.len()];
        encoding.unpack(&blocks, &mut values).unwrap();
        for (index, (value, expected)) in values.iter().zip(&expected).enumerate() {
            let expected = f32::from_bits(*expected);
            // Zeroes may differ in sign: the reference adds where this subtracts.
            let same = value.to_bits() == expected.to_bits() || (*value == 0.0 && expected == 0.0);
            assert!(same, "{} value {index}: {value}, expected {expected}", encoding.name());
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_an_unpack_panic(
        which in 0..Encoding::ALL.len(),
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        values in 0_usize..600,
    ) {
        let encoding = Encoding::ALL[which];
        let mut out = vec![0.0; values];
        let whole = bytes.len() % encoding.block_bytes() == 0
            && values % encoding.block_values() == 0
            && bytes.len() / encoding.block_bytes() == values / encoding.block_values();
        prop_assert_eq!(encoding.unpack(&bytes, &mut out).is_ok(), whole);
    }

    #[test]
    fn whole_blocks_of_any_bytes_unpack(
        which in 0..Encoding::ALL.len(),
        seed in proptest::collection::vec(any::<u8>(), 420),
    ) {
        let encoding = Encoding::ALL[which];
        let blocks = seed.len() / encoding.block_bytes();
        let mut out = vec![0.0; blocks * encoding.block_values()];
        prop_assert!(encoding.unpack(&seed[..blocks * encoding.block_bytes()], &mut out).is_ok());
    }
}
