//! temporary
use burn::tensor::{Int, Tensor, TensorData};
use fused_ops::*;
use std::time::Instant;
fn main() {
    let names = std::env::var("ZONDA_TEST_BACKENDS").unwrap_or_else(|_| "flex,ndarray".into());
    for name in names.split(',') {
        let device = open(name.parse().unwrap()).unwrap();
        let ix = |v: Vec<i32>| { let n = v.len(); Tensor::<1, Int>::from_data(TensorData::new(v, [n]), &device.device) };
        let width = 1024usize;
        for slots in [1usize << 12, 1 << 15, 1 << 18] {
            let mut keys = Tensor::<2>::zeros([slots, width], &device.device);
            let mut values = Tensor::<2>::zeros([slots, width], &device.device);
            let mut best_store = f64::MAX; let mut best_attend = f64::MAX;
            for step in 0..20usize {
                let context = 64 + step;
                let rows = Tensor::<2>::ones([1, width], &device.device);
                let t = Instant::now();
                keys.inplace(|p| store_kv(p, rows.clone(), ix(vec![context as i32 - 1])));
                values.inplace(|p| store_kv(p, rows, ix(vec![context as i32 - 1])));
                let s = t.elapsed().as_secs_f64();
                let pages = context.div_ceil(16);
                let map = PageMap { pages: ix((0..pages as i32).collect()), positions: ix(vec![context as i32 - 1]), page_tokens: 16,
                    spans: vec![PageSpan { query_start: 0, query_tokens: 1, context_tokens: context, first_page: 0 }] };
                let q = Tensor::<3>::ones([1, 32, 128], &device.device);
                let t = Instant::now();
                let out = paged_attention(q, keys.clone(), values.clone(), &map, AttentionOptions { kv_heads: 8, scale: 0.1, window_tokens: None });
                let v: Vec<f32> = out.into_data().into_vec().unwrap();
                assert!(v[0].is_finite());
                let a = t.elapsed().as_secs_f64();
                if step > 2 { best_store = best_store.min(s); best_attend = best_attend.min(a); }
            }
            println!("{name}: two pools of {} MiB: store {:.1} us, attend {:.1} us", slots * width * 4 >> 20, best_store * 1e6, best_attend * 1e6);
        }
    }
}
