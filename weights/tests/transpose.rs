//! Axes change places as a plain loop says.

use snapc_weights::transpose;

/// The number at each place of the result, one by one.
fn plain(values: &[u32], shape: &[usize], perm: &[usize]) -> Vec<u32> {
    let strides = |shape: &[usize]| -> Vec<usize> {
        (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect()
    };
    let after: Vec<usize> = perm.iter().map(|&axis| shape[axis]).collect();
    let (old, new) = (strides(shape), strides(&after));
    let source = |at: usize| -> usize {
        (0..perm.len()).map(|axis| at / new[axis] % after[axis] * old[perm[axis]]).sum()
    };
    (0..values.len()).map(|at| values[source(at)]).collect()
}

#[test]
fn as_the_plain_loop() {
    let cases: [(&[usize], &[usize]); 7] = [
        (&[5, 7], &[1, 0]),
        (&[2, 130, 70], &[0, 2, 1]),
        (&[2, 3, 4, 5], &[0, 2, 1, 3]),
        (&[2, 3, 4, 5], &[3, 1, 0, 2]),
        (&[2, 33, 4, 65], &[0, 1, 2, 3]),
        (&[1, 300, 80], &[2, 1, 0]),
        (&[], &[]),
    ];
    for (shape, perm) in cases {
        let values: Vec<u32> = (0..shape.iter().product::<usize>() as u32).collect();
        let mut found = vec![0; values.len()];
        transpose(&mut found, &values, shape, perm);
        assert_eq!(found, plain(&values, shape, perm));
    }
}
