//! Products with a small weight that is laid out once, as the kernel reads it, and shared by all steps.

use pulp::{Arch, Simd, WithSimd};

use super::blocks;
use super::tile::{self, Tile, WIDEST, store, zeros};

/// Rows of `x` in a tile, where there are so many.
const ROWS: usize = 6;

/// Rows of `x` that go through one panel after the other while they are near.
const NEAR: usize = 4 * ROWS;

/// Numbers of a sum that are added up before the next panel.
const DEPTH: usize = 512;

/// Steps of a sum behind each other without a look at their number.
const STEPS: usize = 8;

/// Multiplications that are worth a thread.
const FEW: usize = 1 << 20;

/// A weight `[columns, depth]` as panels of columns, each as wide as a tile: `[panels, depth, width]`.
#[derive(Debug)]
pub struct Panels {
    values: Vec<f32>,
    columns: usize,
    depth: usize,
    width: usize,
}

impl Panels {
    /// From rows of `depth` numbers, one for each column of a product.
    pub fn new(weight: &[f32], depth: usize) -> Self {
        struct Width;
        impl WithSimd for Width {
            type Output = usize;

            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) -> usize {
                tile::width::<S>()
            }
        }
        let width = Arch::new().dispatch(Width);
        let columns = weight.len() / depth.max(1);
        let mut values = vec![0.0; columns.next_multiple_of(width) * depth];
        let panels = values.chunks_exact_mut((depth * width).max(1));
        for (panel, rows) in panels.zip(weight.chunks((depth * width).max(1))) {
            for (lane, row) in rows.chunks_exact(depth).enumerate() {
                panel.chunks_exact_mut(width).zip(row).for_each(|(to, x)| to[lane] = *x);
            }
        }
        Panels { values, columns, depth, width }
    }

    /// Rows of the weight from that one on.
    pub fn rows(&self, first: usize, rows: &mut [f32]) {
        for (column, row) in (first..).zip(rows.chunks_exact_mut(self.depth.max(1))) {
            let panel = &self.values[column / self.width * self.depth * self.width..];
            let lane = column % self.width;
            row.iter_mut().zip(panel.chunks_exact(self.width)).for_each(|(to, from)| *to = from[lane]);
        }
    }

    /// `out = x W^T + bias`: `x` is `[rows, depth]`, `out` is `[rows, columns]`. Each number is added up in one order.
    pub fn product(&self, out: &mut [f32], x: &[f32], bias: Option<&[f32]>) {
        if self.depth == 0 {
            return out.fill(0.0);
        }
        let rows = (FEW / (self.columns * self.depth).max(1)).max(1).next_multiple_of(NEAR);
        blocks(out, rows * self.columns, |number, out| {
            let x = &x[number * rows * self.depth..][..out.len() / self.columns * self.depth];
            Arch::new().dispatch(Product { panels: self, out, x, bias });
        });
    }
}

/// Some rows of a product.
struct Product<'a> {
    panels: &'a Panels,
    out: &'a mut [f32],
    x: &'a [f32],
    bias: Option<&'a [f32]>,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Panels { values, columns, depth, width } = self.panels;
        for (out, x) in self.out.chunks_mut(NEAR * columns).zip(self.x.chunks(NEAR * depth)) {
            for start in (0..*depth).step_by(DEPTH) {
                let end = (start + DEPTH).min(*depth);
                for (panel, first) in values.chunks_exact(depth * width).zip((0..*columns).step_by(*width)) {
                    let part = Part {
                        panel: &panel[start * width..end * width],
                        columns: first..(first + width).min(*columns),
                        depth: start..end,
                        // What the first part begins with, the others go on from.
                        bias: self.bias.map(|bias| &bias[first..(first + width).min(*columns)]),
                        row: [*columns, *depth],
                    };
                    part.all_rows(simd, out, x);
                }
            }
        }
    }
}

/// A panel and a part of its depth.
struct Part<'a> {
    panel: &'a [f32],
    columns: std::ops::Range<usize>,
    depth: std::ops::Range<usize>,
    bias: Option<&'a [f32]>,
    /// Numbers of a row of the result and of `x`.
    row: [usize; 2],
}

impl Part<'_> {
    #[inline(always)]
    fn all_rows<S: Simd>(&self, simd: S, out: &mut [f32], x: &[f32]) {
        let rows = x.len() / self.row[1];
        let mut row = 0;
        while row < rows {
            let (out, x) = (&mut out[row * self.row[0]..], &x[row * self.row[1]..]);
            row += match rows - row {
                ROWS.. => self.some_rows::<S, ROWS>(simd, out, x),
                4.. => self.some_rows::<S, 4>(simd, out, x),
                2.. => self.some_rows::<S, 2>(simd, out, x),
                _ => self.some_rows::<S, 1>(simd, out, x),
            };
        }
    }

    #[inline(always)]
    fn some_rows<S: Simd, const R: usize>(&self, simd: S, out: &mut [f32], x: &[f32]) -> usize {
        let tile = self.sums::<S, R>(simd, x);
        let width = tile::width::<S>();
        let mut sums = [[0.0; WIDEST]; R];
        sums.iter_mut().zip(&tile).for_each(|(to, from)| store::<S, 1>(&[*from], &mut to[..width]));
        for (sums, out) in sums.iter().zip(out.chunks_mut(self.row[0])) {
            let out = &mut out[self.columns.clone()];
            match (self.depth.start, self.bias) {
                (0, None) => out.iter_mut().zip(sums).for_each(|(to, sum)| *to = *sum),
                (0, Some(bias)) => {
                    out.iter_mut().zip(sums.iter().zip(bias)).for_each(|(to, (sum, bias))| *to = sum + bias);
                }
                _ => out.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum),
            }
        }
        R
    }

    #[inline(always)]
    fn sums<S: Simd, const R: usize>(&self, simd: S, x: &[f32]) -> Tile<S, R> {
        let rows: [&[f32]; R] = std::array::from_fn(|row| &x[row * self.row[1]..][self.depth.clone()]);
        let mut sums = zeros::<S, R>(simd);
        let (panel, _) = S::as_simd_f32s(self.panel);
        let (steps, rest) = panel.as_chunks::<{ tile::VECTORS }>().0.as_chunks::<STEPS>();
        let pieces = rows.map(|row| &row.as_chunks::<STEPS>().0[..steps.len()]);
        for (at, step) in steps.iter().enumerate() {
            let x: [&[f32; STEPS]; R] = std::array::from_fn(|row| &pieces[row][at]);
            for (place, panel) in step.iter().enumerate() {
                tile::add(simd, &mut sums, &x.map(|x| x[place]), panel);
            }
        }
        for (panel, place) in rest.iter().zip(steps.len() * STEPS..) {
            tile::add(simd, &mut sums, &rows.map(|row| row[place]), panel);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * 7919 + seed * 104_729) % 1009) as f32 * 0.002 - 1.0).collect()
    }

    #[test]
    fn as_the_plain_loop() {
        for (rows, depth, columns) in
            [(1, 1, 1), (3, 7, 5), (16, 128, 64), (29, 513, 33), (300, 1030, 100), (7, 8, 8)]
        {
            let (x, weight, bias) =
                (numbers(rows * depth, 1), numbers(columns * depth, 2), numbers(columns, 3));
            let panels = Panels::new(&weight, depth);
            let mut back = vec![f32::NAN; weight.len()];
            panels.rows(0, &mut back);
            assert_eq!(back, weight);
            for bias in [None, Some(&bias[..])] {
                let mut out = vec![f32::NAN; rows * columns];
                panels.product(&mut out, &x, bias);
                for (at, found) in out.iter().enumerate() {
                    let (row, column) = (at / columns, at % columns);
                    let pairs = x[row * depth..][..depth].iter().zip(&weight[column * depth..]);
                    let sum: f64 = pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                    let expected = sum + bias.map_or(0.0, |bias| f64::from(bias[column]));
                    assert!(
                        (f64::from(*found) - expected).abs() < 1e-6 * (depth as f64).max(10.0),
                        "{found} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_same_bits_with_any_number_of_threads_and_rows() {
        let (rows, depth, columns) = (301, 600, 150);
        let (x, weight) = (numbers(rows * depth, 1), numbers(columns * depth, 2));
        let panels = Panels::new(&weight, depth);
        let with = |threads: usize| {
            let mut out = vec![0.0; rows * columns];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| panels.product(&mut out, &x, None));
            out
        };
        let one = with(1);
        [2, 5].into_iter().for_each(|threads| assert_eq!(with(threads), one));
        // A row alone, as among others.
        for row in [0, 5, 299, 300] {
            let mut out = vec![0.0; columns];
            panels.product(&mut out, &x[row * depth..][..depth], None);
            assert_eq!(out, one[row * columns..][..columns]);
        }
    }
}
