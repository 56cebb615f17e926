//! The product that attention and convolution are made of: a few rows that are broadcast, times a few vectors.

use pulp::Simd;

/// Rows of a tile.
pub const ROWS: usize = 8;

/// The most numbers in a row of a tile.
pub const WIDEST: usize = 32;

/// Sums of a tile: rows of `N` vectors.
pub type Tile<S, const N: usize> = [[<S as Simd>::f32s; N]; ROWS];

/// A tile of zeros.
#[inline(always)]
pub fn zeros<S: Simd, const N: usize>(simd: S) -> Tile<S, N> {
    [[simd.splat_f32s(0.0); N]; ROWS]
}

/// Adds `a b`: `a` is `[depth, ROWS]`, `b` is `[depth, N vectors]`.
#[inline(always)]
pub fn multiply<S: Simd, const N: usize>(simd: S, tile: &mut Tile<S, N>, a: &[f32], b: &[f32]) {
    let mut sums = *tile;
    let (b, _) = S::as_simd_f32s(b);
    for (a, b) in a.as_chunks::<ROWS>().0.iter().zip(b.as_chunks::<N>().0) {
        step(simd, &mut sums, a, b);
    }
    *tile = sums;
}

/// Adds one row of `b` times each number of `a`.
#[inline(always)]
pub fn step<S: Simd, const N: usize>(simd: S, sums: &mut Tile<S, N>, a: &[f32; ROWS], b: &[S::f32s; N]) {
    for (sums, &a) in sums.iter_mut().zip(a) {
        let a = simd.splat_f32s(a);
        for (sum, &b) in sums.iter_mut().zip(b) {
            *sum = simd.mul_add_f32s(a, b, *sum);
        }
    }
}

/// Writes a tile as rows behind each other.
#[inline(always)]
pub fn store<S: Simd, const N: usize>(tile: &Tile<S, N>, rows: &mut [f32]) {
    let (vectors, _) = S::as_mut_simd_f32s(rows);
    for (to, from) in vectors.as_chunks_mut::<N>().0.iter_mut().zip(tile) {
        *to = *from;
    }
}
