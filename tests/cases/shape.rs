use snapc_ir::DType;
use snapc_ir::ops::{Cast, Reshape, Slice, Transpose};

use super::{Case, at, f64s, numbers, places};

pub fn cases() -> Vec<Case> {
    let shape = [2, 3, 4];
    let x = numbers(30, &shape);
    let mut cases = vec![Case::new(
        "reshape",
        "reshape",
        vec![("x", x.clone())],
        vec![],
        |b, v| b.op(Reshape { shape: vec![4, 6] }, v),
        vec![f64s(&x)],
    )];
    for perm in [[0, 2, 1], [2, 0, 1], [2, 1, 0]] {
        let sizes = perm.map(|axis| shape[axis]);
        let expected = places(&sizes)
            .iter()
            .map(|place| {
                let mut old = [0; 3];
                perm.iter().zip(place).for_each(|(&axis, &index)| old[axis] = index);
                f64s(&x)[at(&shape, &old)]
            })
            .collect();
        cases.push(Case::new(
            &format!("transpose_{}{}{}", perm[0], perm[1], perm[2]),
            "transpose",
            vec![("x", x.clone())],
            vec![],
            |b, v| b.op(Transpose { perm: perm.to_vec() }, v),
            vec![expected],
        ));
    }
    for (axis, start, size) in [(0, 1, 1), (1, 0, 2), (2, 1, 3)] {
        let expected = places(&shape)
            .iter()
            .filter(|place| (start..start + size).contains(&place[axis]))
            .map(|place| f64s(&x)[at(&shape, place)])
            .collect();
        cases.push(Case::new(
            &format!("slice_{axis}"),
            "slice",
            vec![("x", x.clone())],
            vec![],
            |b, v| b.op(Slice::of_axis(&shape, axis, start, size), v),
            vec![expected],
        ));
    }
    let (starts, sizes) = (vec![1, 0, 1], vec![1, shape[1], 2]);
    let inside = |place: &[usize]| {
        (0..3).all(|axis| (starts[axis]..starts[axis] + sizes[axis]).contains(&place[axis]))
    };
    cases.push(Case::new(
        "slice_two_axes",
        "slice",
        vec![("x", x.clone())],
        vec![],
        |b, v| b.op(Slice { starts: starts.clone(), sizes: sizes.clone() }, v),
        vec![
            places(&shape)
                .iter()
                .filter(|place| inside(place))
                .map(|place| f64s(&x)[at(&shape, place)])
                .collect(),
        ],
    ));
    // There and back, so that the output is f32 as an artifact's outputs are.
    let rounded = x.values().iter().map(|&value| f64::from(half::f16::from_f32(value))).collect();
    cases.push(Case::new(
        "cast",
        "cast",
        vec![("x", x)],
        vec![],
        |b, v| {
            let half = b.one(Cast { dtype: DType::F16 }, v)?;
            b.op(Cast { dtype: DType::F32 }, &[half])
        },
        vec![rounded],
    ));
    cases
}
