//! Speed of the matrix products: `cargo bench -p candlelight-kernels --bench gemm`.

use candlelight_kernels::matmul::gemm::gemm;
use candlelight_kernels::matmul::{MatMut, MatRef, Precision};
use std::time::Instant;

/// (m, n, k) of MAE ViT-B/16 at batch 16: encoder MLP, decoder MLP, and a weight gradient.
const SHAPES: [(usize, usize, usize); 5] =
    [(800, 3072, 768), (800, 768, 3072), (3152, 2048, 512), (2048, 512, 3152), (6272, 192, 192)];

fn main() {
    for (m, n, k) in SHAPES {
        let (a, b) = (vec![0.5f32; m * k], vec![0.25f32; n * k]);
        let mut c = vec![0.0f32; m * n];
        for precision in [Precision::F32, Precision::Bf16] {
            for (name, nt) in [("x w^T", true), ("x w", false)] {
                let mut best = f64::INFINITY;
                for _ in 0..15 {
                    let av = MatRef::row_major(&a, m, k).expect("fits");
                    let bv = if nt {
                        MatRef::row_major(&b, n, k).expect("fits").t()
                    } else {
                        MatRef::row_major(&b, k, n).expect("fits")
                    };
                    let start = Instant::now();
                    gemm(precision, av, bv, MatMut::row_major(&mut c, m, n).expect("fits"), false).expect("shapes fit");
                    best = best.min(start.elapsed().as_secs_f64());
                }
                let gf = 2e-9 * (m * n * k) as f64 / best;
                println!("{m:5} x {n:5} x {k:5}  {precision:4}  {name:5}  {gf:7.1} GF/s");
            }
        }
    }
}
