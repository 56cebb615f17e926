use snapc_ir::ops::MASKED;
use snapc_ir::{Grid, Pairs, Table};

/// The numbers of a computed table; in f64, rounded once. The functions are not the system's, whose last bits differ from system to system.
pub fn table_values(table: &Table) -> Vec<f32> {
    match *table {
        Table::RotaryCos { head_dim, theta, grid, pairs } => {
            rotary(head_dim, theta, grid, pairs, |angle, _| libm::cos(angle))
        }
        Table::RotarySin { head_dim, theta, grid, pairs } => {
            let turned = |angle: f64, first| if first { -libm::sin(angle) } else { libm::sin(angle) };
            rotary(head_dim, theta, grid, pairs, turned)
        }
        Table::CausalMask { queries, keys, repeat } => (0..queries * repeat)
            .flat_map(|row| (0..keys).map(move |key| if key <= row / repeat { 0.0 } else { MASKED }))
            .collect(),
        Table::ChunkOnes { chunks, size, ones } => (0..chunks)
            .flat_map(|chunk| std::iter::repeat_n(if ones >> chunk & 1 == 1 { 1.0 } else { 0.0 }, size))
            .collect(),
        Table::TimestepFrequencies { dim } => {
            (0..dim / 2).map(|i| libm::pow(10000.0, -2.0 * i as f64 / dim as f64) as f32).collect()
        }
    }
}

/// `of(angle, is the first number of its pair)` for every token and number of a head.
fn rotary(head_dim: usize, theta: f32, grid: Grid, pairs: Pairs, of: impl Fn(f64, bool) -> f64) -> Vec<f32> {
    let mut values = Vec::with_capacity(grid.rows * grid.cols * head_dim);
    let numbers: Vec<(usize, f64, bool)> = (0..head_dim)
        .map(|number| {
            let (axis, pair, first) = pairs.of(number, head_dim);
            (axis, libm::pow(f64::from(theta), -2.0 * pair as f64 / (head_dim / 2) as f64), first)
        })
        .collect();
    for position in grid.positions() {
        let turn =
            |&(axis, frequency, first): &(usize, f64, bool)| of(position[axis] * frequency, first) as f32;
        values.extend(numbers.iter().map(turn));
    }
    values
}
