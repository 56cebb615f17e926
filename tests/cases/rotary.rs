use snapc_ir::Grid;
use snapc_ir::ops::Rotary;

use super::{Case, f64s, numbers};

pub fn cases() -> Vec<Case> {
    vec![
        case("rotary", Grid { rows: 2, cols: 3, start: 0.0, stride: 1.0 }, 1),
        case("rotary_centres", Grid { rows: 3, cols: 2, start: 0.5, stride: 2.0 }, 2),
    ]
}

fn case(name: &str, grid: Grid, batch: usize) -> Case {
    let (heads, dim, theta) = (2, 8, 100.0f32);
    let tokens = grid.rows * grid.cols;
    let x = numbers(29, &[batch, tokens, heads, dim]);
    let mut expected = f64s(&x);
    for (index, head) in expected.chunks_mut(dim).enumerate() {
        let token = index / heads % tokens;
        for (axis, place) in [token / grid.cols, token % grid.cols].into_iter().enumerate() {
            let position = f64::from(grid.start) + f64::from(grid.stride) * place as f64;
            let size = dim / 2;
            for i in 0..size / 2 {
                let angle = position * f64::from(theta).powf(-2.0 * i as f64 / size as f64);
                let (first, second) = (axis * size + i, axis * size + i + size / 2);
                let (a, b) = (head[first], head[second]);
                head[first] = a * angle.cos() - b * angle.sin();
                head[second] = b * angle.cos() + a * angle.sin();
            }
        }
    }
    Case::new(name, "rotary", vec![("x", x)], vec![], |b, v| b.op(Rotary { theta, grid }, v), vec![expected])
}
