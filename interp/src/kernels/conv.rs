//! Convolution without columns: windows of step 1 lie behind each other along a row, so a row of the padded map is read as it is, once
//! for each number of the kernel.

use pulp::{Arch, Simd, WithSimd};

use super::tile::{self, LOW, MIDDLE, TALL, Tile, WIDEST, step, store, zeros};
use super::{blocks, row_blocks};

/// A convolution of step 1 in one group; `x [channels, height, width]` and all results of one image.
#[derive(Clone, Copy, Debug)]
pub struct Conv<'a> {
    /// Channels of `x`.
    pub channels: usize,
    /// Rows and columns of `x`.
    pub size: [usize; 2],
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Zeros on each side.
    pub padding: usize,
    /// `[out, channels, rows, columns]`.
    pub weight: &'a [f32],
    /// `[out]`.
    pub bias: Option<&'a [f32]>,
}

impl Conv<'_> {
    /// Writes `[out, rows, columns]`; `pad` is a buffer of [`Conv::padded`] numbers.
    pub fn run(&self, out: &mut [f32], x: &[f32], pad: &mut [f32]) {
        let [height, width] = self.size;
        let [padded_height, line] = self.lines();
        row_blocks(pad, line, |first, block| {
            for (row, to) in block.chunks_exact_mut(line).enumerate() {
                let (channel, row) = ((first + row) / padded_height, (first + row) % padded_height);
                to.fill(0.0);
                let row = row.wrapping_sub(self.padding);
                if row < height && channel < self.channels {
                    to[self.padding..][..width]
                        .copy_from_slice(&x[(channel * height + row) * width..][..width]);
                }
            }
        });
        let places: usize = self.result().iter().product();
        let depth = self.channels * self.kernel[0] * self.kernel[1];
        let outputs = self.weight.len() / depth;
        let maps = maps_of_a_tile(outputs);
        blocks(out, maps * places, |number, out| {
            let first = number * maps;
            let mut weight = vec![0.0; depth * maps];
            for lane in 0..maps.min(outputs - first) {
                let from = &self.weight[(first + lane) * depth..][..depth];
                weight.chunks_exact_mut(maps).zip(from).for_each(|(to, x)| to[lane] = *x);
            }
            Arch::new().dispatch(Maps { conv: self, pad, weight: &weight, maps, first, out });
        });
    }

    /// Numbers of a padded map, with room behind each row for a whole tile.
    pub fn padded(&self) -> usize {
        self.channels * self.lines().iter().product::<usize>()
    }

    fn lines(&self) -> [usize; 2] {
        [self.size[0] + 2 * self.padding, self.size[1] + 2 * self.padding + WIDEST]
    }

    fn result(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.size[axis] + 2 * self.padding + 1 - self.kernel[axis])
    }
}

/// Maps of the result that are worked on at once.
fn maps_of_a_tile(outputs: usize) -> usize {
    match tile::rows() {
        LOW if outputs.next_multiple_of(MIDDLE) <= outputs.next_multiple_of(LOW) => MIDDLE,
        rows => rows,
    }
}

/// A few maps of the result.
struct Maps<'a> {
    conv: &'a Conv<'a>,
    pad: &'a [f32],
    /// `[channels, kernel rows, kernel columns, maps]`.
    weight: &'a [f32],
    /// Rows of a tile.
    maps: usize,
    /// The first of them.
    first: usize,
    out: &'a mut [f32],
}

impl WithSimd for Maps<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.maps {
            TALL => self.lines::<S, TALL>(simd),
            MIDDLE => self.lines::<S, MIDDLE>(simd),
            _ => self.lines::<S, LOW>(simd),
        }
    }
}

impl Maps<'_> {
    #[inline(always)]
    fn lines<S: Simd, const R: usize>(self, simd: S) {
        let [rows, cols] = self.conv.result();
        let width = tile::width::<S>();
        let mut sums = [0.0; TALL * WIDEST];
        for row in 0..rows {
            for col in (0..cols).step_by(width) {
                let tile = self.tile::<S, R>(simd, row, col);
                store::<S, R>(&tile, &mut sums[..R * width]);
                let count = width.min(cols - col);
                let maps = self.out.chunks_exact_mut(rows * cols);
                for (lane, (map, sums)) in maps.zip(sums.chunks_exact(width)).enumerate() {
                    let bias = self.conv.bias.map_or(0.0, |bias| bias[self.first + lane]);
                    let to = &mut map[row * cols + col..][..count];
                    to.iter_mut().zip(sums).for_each(|(to, sum)| *to = sum + bias);
                }
            }
        }
    }

    /// The sums of places behind each other in a row.
    #[inline(always)]
    fn tile<S: Simd, const R: usize>(&self, simd: S, row: usize, col: usize) -> Tile<S, R> {
        let [kernel_rows, kernel_cols] = self.conv.kernel;
        let [height, line] = self.conv.lines();
        let width = tile::width::<S>();
        let mut tile = zeros::<S, R>(simd);
        let mut weights = self.weight.as_chunks::<R>().0.chunks_exact(kernel_cols);
        for map in self.pad.chunks_exact(height * line) {
            let lines = map[row * line..].chunks_exact(line).take(kernel_rows);
            for (line, weights) in lines.zip(&mut weights) {
                for (weight, places) in weights.iter().zip(line[col..].windows(width)) {
                    step(simd, &mut tile, weight, places);
                }
            }
        }
        tile
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * 7919 + seed * 104_729) % 1009) as f32 * 0.002 - 1.0).collect()
    }

    #[test]
    fn as_the_plain_loops() {
        let cases = [
            (1, 1, [1, 1], [1, 1], 0),
            (3, 5, [7, 9], [3, 3], 1),
            (4, 17, [6, 70], [3, 1], 1),
            (9, 8, [33, 32], [1, 1], 0),
            (2, 3, [5, 40], [5, 2], 2),
        ];
        for (channels, outputs, size, kernel, padding) in cases {
            let depth = channels * kernel[0] * kernel[1];
            let (weight, bias) = (numbers(outputs * depth, 1), numbers(outputs, 2));
            let x = numbers(channels * size[0] * size[1], 3);
            let conv = Conv { channels, size, kernel, padding, weight: &weight, bias: Some(&bias) };
            let [rows, cols] = conv.result();
            let mut out = vec![f32::NAN; outputs * rows * cols];
            conv.run(&mut out, &x, &mut vec![f32::NAN; conv.padded()]);
            for (at, found) in out.iter().enumerate() {
                let (output, row, col) = (at / (rows * cols), at / cols % rows, at % cols);
                let mut expected = f64::from(bias[output]);
                for part in 0..depth {
                    let (channel, down, right) =
                        (part / (kernel[0] * kernel[1]), part / kernel[1] % kernel[0], part % kernel[1]);
                    let (row, col) =
                        ((row + down).wrapping_sub(padding), (col + right).wrapping_sub(padding));
                    if row < size[0] && col < size[1] {
                        let x = x[(channel * size[0] + row) * size[1] + col];
                        expected += f64::from(x) * f64::from(weight[output * depth + part]);
                    }
                }
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }
}
