use snapc_ir::ops::{ReduceMean, Softmax};

use super::{Case, at, f64s, numbers, places};

pub fn cases() -> Vec<Case> {
    let shape = [2, 3, 4];
    let x = numbers(28, &shape);
    let softmax = f64s(&x)
        .chunks(4)
        .flat_map(|row| {
            let sum: f64 = row.iter().map(|x| x.exp()).sum();
            row.iter().map(|x| x.exp() / sum).collect::<Vec<_>>()
        })
        .collect();
    let mut cases = vec![Case::new(
        "softmax",
        "softmax",
        vec![("x", x.clone())],
        vec![],
        |b, v| b.op(Softmax {}, v),
        vec![softmax],
    )];
    for axis in 0..3 {
        let mut kept = shape;
        kept[axis] = 1;
        let expected = places(&kept)
            .iter()
            .map(|place| {
                let mut place = place.clone();
                let sum: f64 = (0..shape[axis])
                    .map(|index| {
                        place[axis] = index;
                        f64s(&x)[at(&shape, &place)]
                    })
                    .sum();
                sum / shape[axis] as f64
            })
            .collect();
        let name = format!("reduce_mean_{axis}");
        let build = |b: &mut snapc_ir::Builder, v: &[snapc_ir::ValueId]| b.op(ReduceMean { axis }, v);
        cases.push(Case::new(&name, "reduce_mean", vec![("x", x.clone())], vec![], build, vec![expected]));
    }
    cases
}
