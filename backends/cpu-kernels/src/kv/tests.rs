use super::*;

fn layout(encoding: KvEncoding) -> KvLayout {
    KvLayout { kv_heads: 2, head_dim: 4, page_tokens: 2, encoding }
}

/// A quarter turn at every position.
fn quarter(pairing: RopePairing) -> Rotation<'static> {
    Rotation { table: &[0.0, 0.0, 1.0, 1.0], pairing }
}

/// One token without queries, in slot 3: the second place of the second page.
fn stored(encoding: KvEncoding, pairing: RopePairing) -> (KvLayout, Vec<u8>) {
    let layout = layout(encoding);
    let mut pool = vec![0xff; 2 * layout.page_bytes()];
    let keys = [1.0, 2.0, 3.0, 4.0, 127.0, 0.0, 64.0, -1.0];
    let values = [5.0, 6.0, 7.0, 8.0, -254.0, 2.0, 1e6, 0.0];
    let qkv: Vec<f32> = keys.into_iter().chain(values).collect();
    store(&mut pool, layout, 0, &qkv, &[3], &[0], &quarter(pairing));
    (layout, pool)
}

fn half(bytes: &[u8], index: usize) -> f32 {
    f16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32()
}

#[test]
fn keys_stand_by_dimension_and_values_by_token() {
    let rotated = [
        (RopePairing::Adjacent, [-2.0, 1.0, -4.0, 3.0]),
        (RopePairing::HalfSplit, [-3.0, -4.0, 1.0, 2.0]),
    ];
    for (pairing, rotated) in rotated {
        let (layout, pool) = stored(KvEncoding::F16, pairing);
        let page = &pool[layout.page_bytes()..];
        let keys: Vec<f32> = (0..4).map(|d| half(page, 2 * d + 1)).collect();
        assert_eq!(keys, rotated);
        let values: Vec<f32> = (12..16).map(|d| half(page, d)).collect();
        assert_eq!(values, [5.0, 6.0, 7.0, 8.0]);
        let too_great = half(&page[layout.head_bytes()..], 14);
        assert_eq!(too_great, 65504.0);
    }
}

#[test]
fn nothing_but_the_slot_is_written() {
    for (encoding, bytes) in [(KvEncoding::F16, 32), (KvEncoding::Int8, 32), (KvEncoding::F32, 64)]
    {
        let (layout, pool) = stored(encoding, RopePairing::Adjacent);
        let (first, second) = pool.split_at(layout.page_bytes());
        assert!(first.iter().all(|byte| *byte == 0xff));
        let untouched = second.iter().filter(|byte| **byte == 0xff).count();
        assert!(untouched >= bytes / 2, "{untouched}");
        let piece = &second[..layout.head_bytes()];
        let dims = piece[..layout.values_at()].chunks(2 * encoding.bytes());
        for dim in dims {
            assert!(dim[..encoding.bytes()].iter().all(|byte| *byte == 0xff));
        }
    }
}

#[test]
fn bytes_have_the_scale_of_their_token_and_head() {
    let (layout, pool) = stored(KvEncoding::Int8, RopePairing::Adjacent);
    assert_eq!(layout.page_bytes(), 2 * (2 * 8 + 2 * 8));
    let piece = &pool[layout.page_bytes() + layout.head_bytes()..];
    let keys: Vec<i8> = (0..4).map(|d| piece[2 * d + 1].cast_signed()).collect();
    assert_eq!(keys, [0, 127, 1, 64]);
    let scale = |at: usize| f32::from_le_bytes(piece[at + 4..][..4].try_into().unwrap());
    assert_eq!(scale(layout.key_scales_at()), 1.0);
    assert_eq!(scale(layout.value_scales_at()), 1e6 / 127.0);
}

#[test]
fn zeros_and_hardly_numbers_are_zeros() {
    let layout = KvLayout { kv_heads: 1, ..layout(KvEncoding::Int8) };
    let mut pool = vec![0xff; layout.page_bytes()];
    let qkv = [0.0, 0.0, 0.0, 0.0, 1e-42, -1e-42, 0.0, 0.0];
    store(&mut pool, layout, 0, &qkv, &[0], &[0], &quarter(RopePairing::Adjacent));
    assert_eq!(pool[8..12], [0; 4]);
    assert_eq!(pool[layout.value_scales_at()..][..4], [0; 4]);
}

#[test]
fn many_tokens_are_stored_as_one_by_one() {
    for encoding in [KvEncoding::F16, KvEncoding::Int8, KvEncoding::F32] {
        let layout = KvLayout { kv_heads: 8, head_dim: 64, page_tokens: 16, encoding };
        let (tokens, width) = (100, 20 * 64);
        let qkv: Vec<f32> = (0..tokens * width).map(|i| (i * 7 % 1009) as f32 - 500.0).collect();
        let slots: Vec<i32> = (0..tokens as i32).map(|token| token * 37 % 112).collect();
        let positions: Vec<i32> = (0..tokens as i32).collect();
        let table: Vec<f32> = (0..tokens * 64).map(|i| (i as f32).sin()).collect();
        let rotation = Rotation { table: &table, pairing: RopePairing::HalfSplit };
        let mut together = vec![0; 7 * layout.page_bytes()];
        let mut single = together.clone();
        store(&mut together, layout, 4, &qkv, &slots, &positions, &rotation);
        for token in 0..tokens {
            let (one, qkv) = (token..=token, &qkv[token * width..][..width]);
            let (slots, positions) = (&slots[one.clone()], &positions[one]);
            store(&mut single, layout, 4, qkv, slots, positions, &rotation);
        }
        assert!(together == single);
    }
}

#[test]
#[should_panic(expected = "beyond the 4 of the pool")]
fn a_slot_beyond_the_pool_is_a_mistake() {
    let layout = layout(KvEncoding::F16);
    let mut pool = vec![0; 2 * layout.page_bytes()];
    store(&mut pool, layout, 0, &[0.0; 16], &[4], &[0], &quarter(RopePairing::Adjacent));
}
