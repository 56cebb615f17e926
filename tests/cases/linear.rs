use snapc_ir::ops::Linear;

use super::{Case, f64s, numbers};

pub fn cases() -> Vec<Case> {
    vec![
        case("linear", &[2, 3], true),
        case("linear_without_bias", &[5], false),
        case("linear_rank_4", &[2, 2, 3], true),
    ]
}

fn case(name: &str, outer: &[usize], bias: bool) -> Case {
    let (input, output) = (6, 4);
    let x = numbers(14, &[outer, &[input]].concat());
    let w = numbers(15, &[output, input]);
    let bias = bias.then(|| numbers(16, &[output]));
    let (ws, bs) = (f64s(&w), bias.as_ref().map(f64s));
    let expected = f64s(&x)
        .chunks(input)
        .flat_map(|row| {
            (0..output)
                .map(|o| {
                    let dot: f64 = row.iter().zip(&ws[o * input..]).map(|(x, w)| x * w).sum();
                    dot + bs.as_ref().map_or(0.0, |bias| bias[o])
                })
                .collect::<Vec<_>>()
        })
        .collect();
    let mut weights = vec![("w", w)];
    weights.extend(bias.map(|bias| ("bias", bias)));
    Case::new(name, "linear", vec![("x", x)], weights, |b, v| b.op(Linear {}, v), vec![expected])
}
