use snapc_ir::ops::MASKED;
use snapc_ir::{Grid, Table};

/// The numbers of a computed table; in f64, rounded once.
pub fn table_values(table: &Table) -> Vec<f32> {
    match *table {
        Table::RotaryCos { head_dim, theta, grid } => rotary(head_dim, theta, grid, |angle, _| angle.cos()),
        Table::RotarySin { head_dim, theta, grid } => {
            rotary(head_dim, theta, grid, |angle, first| if first { -angle.sin() } else { angle.sin() })
        }
        Table::CausalMask { queries, keys, repeat } => (0..queries * repeat)
            .flat_map(|row| (0..keys).map(move |key| if key <= row / repeat { 0.0 } else { MASKED }))
            .collect(),
        Table::TimestepFrequencies { dim } => {
            (0..dim / 2).map(|i| 10000f64.powf(-2.0 * i as f64 / dim as f64) as f32).collect()
        }
    }
}

/// `of(angle, is the first number of its pair)` for every token and number of a head.
fn rotary(head_dim: usize, theta: f32, grid: Grid, of: impl Fn(f64, bool) -> f64) -> Vec<f32> {
    let (half, quarter) = (head_dim / 2, head_dim / 4);
    let mut values = Vec::with_capacity(grid.rows * grid.cols * head_dim);
    for token in 0..grid.rows * grid.cols {
        for number in 0..head_dim {
            let place = if number < half { token / grid.cols } else { token % grid.cols };
            let position = f64::from(grid.start) + f64::from(grid.stride) * place as f64;
            let pair = number % quarter;
            let frequency = f64::from(theta).powf(-2.0 * pair as f64 / half as f64);
            values.push(of(position * frequency, number % half < quarter) as f32);
        }
    }
    values
}
