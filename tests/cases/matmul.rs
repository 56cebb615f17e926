use snapc_ir::ops::Matmul;

use super::{Case, at, f64s, numbers, places};

pub fn cases() -> Vec<Case> {
    let table: [(&str, &[usize], &[usize], &[usize]); 4] = [
        ("matmul", &[], &[], &[]),
        ("matmul_batched", &[2, 3], &[2, 3], &[2, 3]),
        ("matmul_broadcast", &[2, 1], &[1, 3], &[2, 3]),
        ("matmul_shared", &[2, 2], &[2, 1], &[2, 2]),
    ];
    let mut cases = Vec::new();
    for (name, outer_a, outer_b, outer) in table {
        for transpose_b in [false, true] {
            let (m, k, n) = (3, 5, 4);
            let a = numbers(20, &[outer_a, &[m, k]].concat());
            let b_inner: &[usize] = if transpose_b { &[n, k] } else { &[k, n] };
            let b = numbers(21, &[outer_b, b_inner].concat());
            let (x, y) = (f64s(&a), f64s(&b));
            let (a_shape, b_shape) = (a.ty.shape.clone(), b.ty.shape.clone());
            let expected = places(&[outer, &[m, n]].concat())
                .iter()
                .map(|p| {
                    let (outer, inner) = p.split_at(p.len() - 2);
                    (0..k)
                        .map(|i| {
                            let right = if transpose_b { [inner[1], i] } else { [i, inner[1]] };
                            x[at(&a_shape, &[outer, &[inner[0], i]].concat())]
                                * y[at(&b_shape, &[outer, &right].concat())]
                        })
                        .sum()
                })
                .collect();
            let name = if transpose_b { format!("{name}_transposed") } else { name.to_string() };
            let build = |b: &mut snapc_ir::Builder, v: &[snapc_ir::ValueId]| b.op(Matmul { transpose_b }, v);
            cases.push(Case::new(&name, "matmul", vec![("a", a), ("b", b)], vec![], build, vec![expected]));
        }
    }
    cases
}
