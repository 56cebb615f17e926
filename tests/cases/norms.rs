use snapc_ir::ops::{GroupNorm, LayerNorm, RmsNorm};

use super::{Case, f64s, numbers};

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn centred(values: &[f64], eps: f64) -> Vec<f64> {
    let middle = mean(values);
    let variance = mean(&values.iter().map(|x| (x - middle) * (x - middle)).collect::<Vec<_>>());
    values.iter().map(|x| (x - middle) / (variance + eps).sqrt()).collect()
}

pub fn cases() -> Vec<Case> {
    let size = 6;
    let x = numbers(22, &[2, 3, size]);
    let (weight, bias) = (numbers(23, &[size]), numbers(24, &[size]));
    let (ws, bs) = (f64s(&weight), f64s(&bias));
    let eps = 1e-2f32;
    let rms = |weighted: bool| -> Vec<f64> {
        f64s(&x)
            .chunks(size)
            .flat_map(|row| {
                let root = (mean(&row.iter().map(|x| x * x).collect::<Vec<_>>()) + f64::from(eps)).sqrt();
                row.iter()
                    .enumerate()
                    .map(|(i, x)| x / root * if weighted { ws[i] } else { 1.0 })
                    .collect::<Vec<_>>()
            })
            .collect()
    };
    let layer = |with: usize| -> Vec<f64> {
        f64s(&x)
            .chunks(size)
            .flat_map(|row| {
                let scaled = centred(row, f64::from(eps)).into_iter().enumerate();
                let affine = |(i, x): (usize, f64)| {
                    x * if with > 0 { ws[i] } else { 1.0 } + if with > 1 { bs[i] } else { 0.0 }
                };
                scaled.map(affine).collect::<Vec<_>>()
            })
            .collect()
    };
    let inputs = || vec![("x", x.clone())];
    let (w, wb) = (|| vec![("w", weight.clone())], || vec![("w", weight.clone()), ("bias", bias.clone())]);
    vec![
        Case::new(
            "rms_norm",
            "rms_norm",
            inputs(),
            vec![],
            |b, v| b.op(RmsNorm { eps }, v),
            vec![rms(false)],
        ),
        Case::new(
            "rms_norm_weight",
            "rms_norm",
            inputs(),
            w(),
            |b, v| b.op(RmsNorm { eps }, v),
            vec![rms(true)],
        ),
        Case::new(
            "layer_norm",
            "layer_norm",
            inputs(),
            vec![],
            |b, v| b.op(LayerNorm { eps }, v),
            vec![layer(0)],
        ),
        Case::new(
            "layer_norm_weight",
            "layer_norm",
            inputs(),
            w(),
            |b, v| b.op(LayerNorm { eps }, v),
            vec![layer(1)],
        ),
        Case::new(
            "layer_norm_affine",
            "layer_norm",
            inputs(),
            wb(),
            |b, v| b.op(LayerNorm { eps }, v),
            vec![layer(2)],
        ),
        group_norm(),
    ]
}

fn group_norm() -> Case {
    let (channels, groups, places, eps) = (6, 3, 4, 1e-2f32);
    let x = numbers(25, &[2, channels, 2, 2]);
    let (weight, bias) = (numbers(26, &[channels]), numbers(27, &[channels]));
    let (ws, bs) = (f64s(&weight), f64s(&bias));
    let normed: Vec<f64> = f64s(&x)
        .chunks(channels / groups * places)
        .flat_map(|group| centred(group, f64::from(eps)))
        .collect();
    let expected = normed
        .iter()
        .enumerate()
        .map(|(index, x)| x * ws[index / places % channels] + bs[index / places % channels])
        .collect();
    let weights = vec![("w", weight), ("bias", bias)];
    Case::new(
        "group_norm",
        "group_norm",
        vec![("x", x)],
        weights,
        |b, v| b.op(GroupNorm { groups, eps }, v),
        vec![expected],
    )
}
