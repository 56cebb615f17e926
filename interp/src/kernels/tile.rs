//! The product that attention and convolution are made of: a few rows that are broadcast, times two vectors.

use pulp::{Arch, Simd, WithSimd};

/// Rows of a tile whose sums stay in 32 registers, and in fewer.
pub const TALL: usize = 8;
pub const LOW: usize = 4;

/// The most rows whose sums stay in 16 registers.
pub const MIDDLE: usize = 6;

/// Vectors of a row. One would be as many loads as products.
pub const VECTORS: usize = 2;

/// The most numbers in a row of a tile.
pub const WIDEST: usize = 32;

/// Sums of a tile of `R` rows.
pub type Tile<S, const R: usize> = [[<S as Simd>::f32s; VECTORS]; R];

/// Rows of a tile on this CPU, [`TALL`] or [`LOW`], and numbers of a row.
fn size() -> [usize; 2] {
    struct Size;
    impl WithSimd for Size {
        type Output = [usize; 2];

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> [usize; 2] {
            [if is_tall::<S>() { TALL } else { LOW }, width::<S>()]
        }
    }
    Arch::new().dispatch(Size)
}

/// Rows of a tile on this CPU: [`TALL`] or [`LOW`].
pub fn rows() -> usize {
    size()[0]
}

/// Numbers of a row on this CPU.
pub fn columns() -> usize {
    size()[1]
}

/// Whether tiles are [`TALL`].
#[inline(always)]
pub fn is_tall<S: Simd>() -> bool {
    S::REGISTER_COUNT >= 32
}

/// Numbers of a row.
#[inline(always)]
pub fn width<S: Simd>() -> usize {
    VECTORS * S::F32_LANES
}

/// A tile of zeros.
#[inline(always)]
pub fn zeros<S: Simd, const R: usize>(simd: S) -> Tile<S, R> {
    [[simd.splat_f32s(0.0); VECTORS]; R]
}

/// Adds `a b`: `a` is `[depth, R]`, `b` is `[depth, width]`.
#[inline(always)]
pub fn multiply<S: Simd, const R: usize>(simd: S, tile: &mut Tile<S, R>, a: &[f32], b: &[f32]) {
    let mut sums = *tile;
    let (b, _) = S::as_simd_f32s(b);
    for (a, b) in a.as_chunks::<R>().0.iter().zip(b.as_chunks::<VECTORS>().0) {
        add(simd, &mut sums, a, b);
    }
    *tile = sums;
}

/// Adds one row of `b`, as wide as the tile, times each number of `a`.
#[inline(always)]
pub fn step<S: Simd, const R: usize>(simd: S, sums: &mut Tile<S, R>, a: &[f32; R], b: &[f32]) {
    let (b, _) = S::as_simd_f32s(b);
    if let [b] = b.as_chunks::<VECTORS>().0 {
        add(simd, sums, a, b);
    }
}

/// Adds a row of vectors times each number of `a`.
#[inline(always)]
fn add<S: Simd, const R: usize>(simd: S, sums: &mut Tile<S, R>, a: &[f32; R], b: &[S::f32s; VECTORS]) {
    for (sums, &a) in sums.iter_mut().zip(a) {
        let a = simd.splat_f32s(a);
        for (sum, &b) in sums.iter_mut().zip(b) {
            *sum = simd.mul_add_f32s(a, b, *sum);
        }
    }
}

/// Writes a tile as rows behind each other.
#[inline(always)]
pub fn store<S: Simd, const R: usize>(tile: &Tile<S, R>, rows: &mut [f32]) {
    let (vectors, _) = S::as_mut_simd_f32s(rows);
    for (to, from) in vectors.as_chunks_mut::<VECTORS>().0.iter_mut().zip(tile) {
        *to = *from;
    }
}
