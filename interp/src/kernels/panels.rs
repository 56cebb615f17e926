//! The second matrix of a product as it is read: panels of columns, each as wide as a tile, `[panels, depth, width]`, the last one filled up
//! with zeros.

use super::blocks;
use super::product::Matrix;
use super::tile::columns as width;

/// Columns that are laid out beside each other.
const BESIDE: usize = 8;

/// Numbers of the panels of so many columns.
pub fn size(columns: usize, depth: usize) -> usize {
    columns.next_multiple_of(width()) * depth
}

/// Lays out one panel from rows of `depth` numbers, one for each column.
pub fn lay_out(panel: &mut [f32], rows: &[f32], depth: usize) {
    let width = panel.len() / depth.max(1);
    if rows.len() < panel.len() || !width.is_multiple_of(BESIDE) {
        panel.fill(0.0);
        for (lane, row) in rows.chunks_exact(depth).enumerate() {
            panel.chunks_exact_mut(width).zip(row).for_each(|(to, x)| to[lane] = *x);
        }
        return;
    }
    for (number, rows) in rows.chunks_exact(depth * BESIDE).enumerate() {
        let mut rows = rows.chunks_exact(depth);
        let rows: [&[f32]; BESIDE] = std::array::from_fn(|_| rows.next().unwrap_or_default());
        for (at, to) in panel.chunks_exact_mut(width).enumerate() {
            let to = &mut to[number * BESIDE..][..BESIDE];
            to.iter_mut().zip(&rows).for_each(|(to, row)| *to = row[at]);
        }
    }
}

/// Lays out a matrix `[depth, columns]`.
pub fn lay_out_matrix(panels: &mut [f32], b: Matrix) {
    let [depth, columns] = b.size();
    let width = width();
    blocks(panels, depth * width, |panel, to| {
        let first = panel * width;
        let count = width.min(columns - first);
        if b.transposed && b.stride == depth {
            return lay_out(to, &b.values[first * depth..][..count * depth], depth);
        }
        for (place, to) in to.chunks_exact_mut(width).enumerate() {
            let (to, rest) = to.split_at_mut(count);
            rest.fill(0.0);
            if b.transposed {
                let column = b.values[first * b.stride + place..].iter().step_by(b.stride);
                to.iter_mut().zip(column).for_each(|(to, x)| *to = *x);
            } else {
                to.copy_from_slice(&b.values[place * b.stride + first..][..count]);
            }
        }
    });
}

/// A weight `[columns, depth]` that is laid out once and shared by all steps.
#[derive(Debug)]
pub struct Panels {
    values: Vec<f32>,
    depth: usize,
}

impl Panels {
    /// From rows of `depth` numbers, one for each column.
    pub fn new(weight: &[f32], depth: usize) -> Self {
        let columns = weight.len() / depth.max(1);
        let mut values = vec![0.0; size(columns, depth)];
        lay_out_matrix(&mut values, Matrix::new(weight, columns, depth).t());
        Panels { values, depth }
    }

    /// The panels.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Rows of the weight from that one on.
    pub fn rows(&self, first: usize, rows: &mut [f32]) {
        let width = width();
        for (column, row) in (first..).zip(rows.chunks_exact_mut(self.depth.max(1))) {
            let panel = &self.values[column / width * self.depth * width..];
            let lane = column % width;
            row.iter_mut().zip(panel.chunks_exact(width)).for_each(|(to, from)| *to = from[lane]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_come_back() {
        for (columns, depth) in [(1, 1), (5, 7), (64, 128), (33, 513), (100, 1030), (8, 8)] {
            let weight: Vec<f32> = (0..columns * depth).map(|at| at as f32).collect();
            let panels = Panels::new(&weight, depth);
            let mut back = vec![f32::NAN; weight.len()];
            panels.rows(0, &mut back);
            assert_eq!(back, weight);
            let mut row = vec![f32::NAN; depth];
            panels.rows(columns - 1, &mut row);
            assert_eq!(row, weight[(columns - 1) * depth..]);
        }
    }

    #[test]
    fn a_matrix_however_it_lies() {
        let (depth, columns, gap) = (19, 37, 3);
        let at = |place: usize, column: usize| (place * columns + column) as f32;
        let along: Vec<f32> = (0..depth * (columns + gap))
            .map(|number| at(number / (columns + gap), number % (columns + gap)))
            .collect();
        let across: Vec<f32> = (0..columns * (depth + gap))
            .map(|number| at(number % (depth + gap), number / (depth + gap)))
            .collect();
        for b in [
            Matrix::with_stride(&along, depth, columns, columns + gap),
            Matrix::with_stride(&across, columns, depth, depth + gap).t(),
        ] {
            let mut panels = vec![f32::NAN; size(columns, depth)];
            lay_out_matrix(&mut panels, b);
            for (number, found) in panels.iter().enumerate() {
                let (panel, within) = (number / (depth * width()), number % (depth * width()));
                let column = panel * width() + within % width();
                let expected = if column < columns { at(within / width(), column) } else { 0.0 };
                assert_eq!(*found, expected);
            }
        }
    }
}
