use snapc_ir::ops::{Conv2d, Layout};

use super::{Case, f64s, numbers};

pub fn cases() -> Vec<Case> {
    // batch, channels, height, width, out, groups, kernel, stride, padding, bias
    let table = [
        ("same", [1, 3, 5, 6, 4, 1, 3, 1, 1, 1]),
        ("pointwise", [2, 4, 3, 3, 5, 1, 1, 1, 0, 1]),
        ("patches", [1, 2, 6, 4, 3, 1, 2, 2, 0, 1]),
        ("grouped", [1, 6, 4, 4, 4, 2, 2, 2, 0, 0]),
        ("depthwise", [1, 4, 4, 6, 4, 4, 2, 2, 0, 0]),
        ("stride_3", [2, 2, 9, 6, 2, 1, 3, 3, 0, 0]),
    ];
    table.iter().map(|(name, sizes)| case(name, *sizes)).collect()
}

fn case(name: &str, sizes: [usize; 10]) -> Case {
    let [batch, channels, height, width, out, groups, kernel, stride, padding, bias] = sizes;
    let part = channels / groups;
    let x = numbers(6, &[batch, channels, height, width]);
    let w = numbers(7, &[out, part, kernel, kernel]);
    let bias = (bias == 1).then(|| numbers(8, &[out]));
    let (rows, cols) =
        ((height + 2 * padding - kernel) / stride + 1, (width + 2 * padding - kernel) / stride + 1);
    let (xs, ws, bs) = (f64s(&x), f64s(&w), bias.as_ref().map(f64s));
    let mut expected = Vec::new();
    for b in 0..batch {
        for o in 0..out {
            for row in 0..rows {
                for col in 0..cols {
                    let mut sum = bs.as_ref().map_or(0.0, |bias| bias[o]);
                    for c in 0..part {
                        for i in 0..kernel {
                            for j in 0..kernel {
                                let (y, x) = (row * stride + i, col * stride + j);
                                if y < padding || x < padding || y - padding >= height || x - padding >= width
                                {
                                    continue;
                                }
                                let channel = o / (out / groups) * part + c;
                                let place =
                                    ((b * channels + channel) * height + y - padding) * width + x - padding;
                                sum += ws[((o * part + c) * kernel + i) * kernel + j] * xs[place];
                            }
                        }
                    }
                    expected.push(sum);
                }
            }
        }
    }
    let mut weights = vec![("w", w)];
    weights.extend(bias.map(|bias| ("bias", bias)));
    let build = |b: &mut snapc_ir::Builder, values: &[snapc_ir::ValueId]| {
        b.op(Conv2d { stride, padding, layout: Layout::Nchw }, values)
    };
    Case::new(&format!("conv2d_{name}"), "conv2d", vec![("x", x)], weights, build, vec![expected])
}
