use snapc_ir::ops::{Concat, Embedding, MergeHeads, Split, SplitHeads};

use super::{Case, f64s, integers, numbers};

pub fn cases() -> Vec<Case> {
    let x = numbers(9, &[2, 3, 8]);
    let heads = numbers(10, &[2, 3, 4, 2]);
    let table = numbers(11, &[5, 3]);
    let ids = [4, 0, 2, 2];
    let rows = f64s(&table);
    let picked = ids.iter().flat_map(|&id| rows[id as usize * 3..][..3].to_vec()).collect();
    vec![
        Case::new(
            "split_heads",
            "split_heads",
            vec![("x", x.clone())],
            vec![],
            |b, v| b.op(SplitHeads { head_dim: 2 }, v),
            vec![f64s(&x)],
        ),
        Case::new(
            "merge_heads",
            "merge_heads",
            vec![("x", heads.clone())],
            vec![],
            |b, v| b.op(MergeHeads {}, v),
            vec![f64s(&heads)],
        ),
        Case::new(
            "embedding",
            "embedding",
            vec![("ids", integers(&[2, 2], ids.to_vec()))],
            vec![("table", table)],
            |b, v| b.op(Embedding {}, v),
            vec![picked],
        ),
        split("split_last", 2, 4),
        split("split_middle", 1, 3),
        concat("concat_last", 2),
        concat("concat_first", 0),
    ]
}

/// The runs of numbers that lie on one side of a cut of an axis.
fn cut(values: &[f64], shape: &[usize], axis: usize, start: usize, size: usize) -> Vec<f64> {
    let inner: usize = shape[axis + 1..].iter().product();
    let block = shape[axis] * inner;
    (0..values.len())
        .filter(|index| (start..start + size).contains(&(index % block / inner)))
        .map(|index| values[index])
        .collect()
}

fn split(name: &str, axis: usize, parts: usize) -> Case {
    let shape = [2, 6, 8];
    let x = numbers(12, &shape);
    let size = shape[axis] / parts;
    let expected = (0..parts).map(|part| cut(&f64s(&x), &shape, axis, part * size, size)).collect();
    Case::new(name, "split", vec![("x", x)], vec![], |b, v| b.op(Split { axis, parts }, v), expected)
}

fn concat(name: &str, axis: usize) -> Case {
    let whole = numbers(13, &[6, 2, 6]);
    let shape = whole.ty.shape.clone();
    let sizes = [1, 2, 3];
    let mut start = 0;
    let mut inputs = Vec::new();
    for (input, size) in ["a", "b", "c"].into_iter().zip(sizes) {
        let mut part = shape.clone();
        part[axis] = size;
        let values = cut(&f64s(&whole), &shape, axis, start, size).into_iter().map(|value| value as f32);
        inputs.push((input, snapc_weights::Tensor::f32(part, values.collect())));
        start += size;
    }
    Case::new(name, "concat", inputs, vec![], |b, v| b.op(Concat { axis }, v), vec![f64s(&whole)])
}
