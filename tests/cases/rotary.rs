use snapc_ir::ops::Rotary;
use snapc_ir::{Grid, Pairs, TokenOrder};

use super::{Case, f64s, numbers};

pub fn cases() -> Vec<Case> {
    let order = TokenOrder::default();
    let squares = TokenOrder::new(&[2]).unwrap();
    vec![
        case("rotary", Grid { rows: 2, cols: 3, start: 0.0, stride: 1.0, order }, Pairs::ByAxis, 1),
        case("rotary_centres", Grid { rows: 3, cols: 2, start: 0.5, stride: 2.0, order }, Pairs::ByAxis, 2),
        case("rotary_halves", Grid { rows: 2, cols: 3, start: 0.0, stride: 1.0, order }, Pairs::ByHalf, 1),
        case(
            "rotary_squares",
            Grid { rows: 4, cols: 6, start: 0.0, stride: 1.0, order: squares },
            Pairs::ByHalf,
            2,
        ),
    ]
}

fn case(name: &str, grid: Grid, pairs: Pairs, batch: usize) -> Case {
    let (heads, dim, theta) = (2, 8, 100.0f32);
    let tokens = grid.rows * grid.cols;
    let x = numbers(29, &[batch, tokens, heads, dim]);
    let mut expected = f64s(&x);
    for (index, head) in expected.chunks_mut(dim).enumerate() {
        let token = index / heads % tokens;
        let place = match grid.order.sides() {
            [] => [token / grid.cols, token % grid.cols],
            // Squares of two: the square, then the place in it.
            _ => {
                let (square, inside) = (token / 4, token % 4);
                let across = grid.cols / 2;
                [square / across * 2 + inside / 2, square % across * 2 + inside % 2]
            }
        };
        for (axis, place) in place.into_iter().enumerate() {
            let position = f64::from(grid.start) + f64::from(grid.stride) * place as f64;
            let size = dim / 2;
            for i in 0..size / 2 {
                let angle = position * f64::from(theta).powf(-2.0 * i as f64 / size as f64);
                let (first, second) = match pairs {
                    Pairs::ByAxis => (axis * size + i, axis * size + i + size / 2),
                    Pairs::ByHalf => (axis * size / 2 + i, size + axis * size / 2 + i),
                };
                let (a, b) = (head[first], head[second]);
                head[first] = a * angle.cos() - b * angle.sin();
                head[second] = b * angle.cos() + a * angle.sin();
            }
        }
    }
    Case::new(
        name,
        "rotary",
        vec![("x", x)],
        vec![],
        |b, v| b.op(Rotary { theta, grid, pairs }, v),
        vec![expected],
    )
}
