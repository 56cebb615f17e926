//! Rounding with error feedback, against the algorithm of the paper and against bounds that follow from it.

use half::f16;
use snapc_weights::quantize::{Feedback, Levels, decode, gptq_integers, gptq_palette, nearest, search_scale};

/// xorshift64*.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Nearly normal: the sum of 12 uniform numbers.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> Vec<f32> {
        (0..rows * cols).map(|_| self.normal() as f32).collect()
    }
}

/// Inputs that share few causes, and their second moments: `x = z M + 0.1 noise`.
fn correlated(random: &mut Random, samples: usize, cols: usize) -> (Vec<f64>, Vec<f64>) {
    let causes = cols / 8;
    let mix = random.matrix(causes, cols);
    let mut inputs = vec![0.0; samples * cols];
    for row in inputs.chunks_exact_mut(cols) {
        row.iter_mut().for_each(|value| *value = 0.1 * random.normal());
        for of_cause in mix.chunks_exact(cols) {
            let cause = random.normal();
            row.iter_mut().zip(of_cause).for_each(|(value, mix)| *value += cause * f64::from(*mix));
        }
    }
    let mut moments = vec![0.0; cols * cols];
    for row in inputs.chunks_exact(cols) {
        for (a, of_a) in row.iter().zip(moments.chunks_exact_mut(cols)) {
            of_a.iter_mut().zip(row).for_each(|(sum, b)| *sum += a * b / samples as f64);
        }
    }
    (inputs, moments)
}

/// `||X (W - Q)^T||^2`.
fn output_error(inputs: &[f64], weights: &[f32], rounded: &[f32], cols: usize) -> f64 {
    let mut sum = 0.0;
    for (row, of_rounded) in weights.chunks_exact(cols).zip(rounded.chunks_exact(cols)) {
        let errors: Vec<f64> =
            row.iter().zip(of_rounded).map(|(w, q)| f64::from(*w) - f64::from(*q)).collect();
        for input in inputs.chunks_exact(cols) {
            sum += input.iter().zip(&errors).map(|(x, e)| x * e).sum::<f64>().powi(2);
        }
    }
    sum
}

fn decoded(codes: &[i8], scales: &[f16], cols: usize, group: usize) -> Vec<f32> {
    let groups = cols.div_ceil(group);
    let value = |(at, code): (usize, &i8)| decode(scales[at / cols * groups + at % cols / group], *code);
    codes.iter().enumerate().map(value).collect()
}

fn plain(weights: &[f32], cols: usize, levels: Levels, group: usize) -> (Vec<i8>, Vec<f16>) {
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for numbers in weights.chunks_exact(cols).flat_map(|row| row.chunks(group)) {
        let scale = search_scale(levels, numbers, None).expect("finite weights");
        codes.extend(numbers.iter().map(|weight| levels.code(scale, *weight)));
        scales.push(scale);
    }
    (codes, scales)
}

/// The upper Cholesky factor of the inverse of the damped moments, as in the paper, in plain loops.
fn inverse_factor(moments: &[f64], cols: usize, damping: f64) -> Vec<f64> {
    let mut work = moments.to_vec();
    let mut inverse = vec![0.0; cols * cols];
    for index in 0..cols {
        work[index * cols + index] += damping;
        inverse[index * cols + index] = 1.0;
    }
    for pivot in 0..cols {
        let by = work[pivot * cols + pivot];
        for col in 0..cols {
            work[pivot * cols + col] /= by;
            inverse[pivot * cols + col] /= by;
        }
        for row in (0..cols).filter(|row| *row != pivot) {
            let by = work[row * cols + pivot];
            for col in 0..cols {
                work[row * cols + col] -= by * work[pivot * cols + col];
                inverse[row * cols + col] -= by * inverse[pivot * cols + col];
            }
        }
    }
    let mut upper = vec![0.0; cols * cols];
    for row in 0..cols {
        for col in row..cols {
            let before: f64 = (0..row).map(|at| upper[at * cols + row] * upper[at * cols + col]).sum();
            let rest = inverse[row * cols + col] - before;
            upper[row * cols + col] = if row == col { rest.sqrt() } else { rest / upper[row * cols + row] };
        }
    }
    upper
}

/// Algorithm 1 of the paper, without lazy blocks.
fn of_the_paper(
    weights: &[f32],
    moments: &[f64],
    cols: usize,
    damping: f64,
    group: usize,
) -> (Vec<i8>, Vec<f16>) {
    let upper = inverse_factor(moments, cols, damping);
    let importance: Vec<f32> = (0..cols).map(|col| upper[col * cols + col].powi(-2) as f32).collect();
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for row in weights.chunks_exact(cols) {
        let mut row: Vec<f64> = row.iter().map(|weight| f64::from(*weight)).collect();
        let mut scale = f16::ONE;
        for col in 0..cols {
            if col % group == 0 {
                let end = (col + group).min(cols);
                let numbers: Vec<f32> = row[col..end].iter().map(|weight| *weight as f32).collect();
                scale = search_scale(Levels::INT4, &numbers, Some(&importance[col..end]))
                    .expect("finite weights");
                scales.push(scale);
            }
            let code = Levels::INT4.code(scale, row[col] as f32);
            let error = (row[col] - f64::from(decode(scale, code))) / upper[col * cols + col];
            for later in col..cols {
                row[later] -= error * upper[col * cols + later];
            }
            codes.push(code);
        }
    }
    (codes, scales)
}

#[test]
fn codes_are_those_of_the_paper() {
    let mut random = Random(1);
    // Blocks of whole groups, groups longer than a block, a last group and a last block cut short, one group a row.
    for (cols, group) in [(64, 16), (300, 32), (300, 48), (320, 150), (200, 1000), (7, 3), (1, 1)] {
        let (_, moments) = correlated(&mut random, 2 * cols, cols);
        let weights = random.matrix(5, cols);
        let feedback = Feedback::new(&moments, cols).unwrap();
        let found = gptq_integers(&weights, &feedback, Levels::INT4, group).unwrap();
        let (codes, scales) = of_the_paper(&weights, &moments, cols, feedback.damping(), group);
        assert_eq!(found.scales, scales, "{cols} columns in groups of {group}");
        assert_eq!(found.codes, codes, "{cols} columns in groups of {group}");
    }
}

#[test]
fn the_output_error_is_what_the_pivots_say() {
    let mut random = Random(2);
    let (rows, cols, group) = (96, 192, 32);
    let (inputs, moments) = correlated(&mut random, 1000, cols);
    let weights = random.matrix(rows, cols);
    let feedback = Feedback::new(&moments, cols).unwrap();
    let trace: f64 = (0..cols).map(|index| moments[index * cols + index] + feedback.damping()).sum();
    let gain = feedback.pivots().iter().map(|pivot| f64::from(*pivot)).sum::<f64>() / trace;
    for levels in [Levels::INT4, Levels::INT8] {
        let (codes, scales) = plain(&weights, cols, levels, group);
        let before = output_error(&inputs, &weights, &decoded(&codes, &scales, cols, group), cols);
        let found = gptq_integers(&weights, &feedback, levels, group).unwrap();
        let after = output_error(&inputs, &weights, &decoded(&found.codes, &found.scales, cols, group), cols);
        let square = |scales: &[f16]| scales.iter().map(|scale| scale.to_f64().powi(2)).sum::<f64>();
        let stretch = square(&found.scales) / square(&scales);
        // Errors as large as without feedback would cost trace(D) for trace(H). Feedback stretches numbers and so
        // steps. That the errors within a step are spread evenly is only likely, so half as much again may be.
        let expected = stretch * gain * before;
        assert!(
            after < 1.5 * expected && after < 0.5 * before,
            "{levels:?}: {after:e} for {expected:e} of {before:e}"
        );
    }
}

#[test]
fn no_error_of_a_palette_exceeds_its_bound() {
    let mut random = Random(3);
    let (rows, cols) = (70, 150);
    let (inputs, moments) = correlated(&mut random, 400, cols);
    let feedback = Feedback::new(&moments, cols).unwrap();
    let weights: Vec<f32> = random.matrix(rows, cols).iter().map(|weight| weight * 0.25).collect();
    // Wide enough that no number lies outside: every |w' - q| is at most half a step.
    let lut: Vec<f16> = (0..256).map(|index| f16::from_f32((index as f32 - 127.5) * 0.125)).collect();
    let codes = gptq_palette(&weights, &feedback, &lut, 256, rows).unwrap();
    assert!(codes.iter().all(|code| (1..255).contains(code)));
    let rounded: Vec<f32> = codes.iter().map(|code| lut[usize::from(*code)].to_f32()).collect();
    let pivots: f64 = feedback.pivots().iter().map(|pivot| f64::from(*pivot)).sum();
    let error = output_error(&inputs, &weights, &rounded, cols) / 400.0;
    assert!(error <= rows as f64 * pivots * 0.0625f64.powi(2), "{error:e}");
    let nearest: Vec<f32> = weights.iter().map(|weight| lut[nearest(&lut, *weight)].to_f32()).collect();
    let plain = output_error(&inputs, &weights, &nearest, cols) / 400.0;
    assert!(error < 0.5 * plain, "{error:e} of {plain:e}");
}

#[test]
fn without_correlation_it_is_plain_rounding() {
    let mut random = Random(4);
    let (rows, cols) = (67, 300);
    let weights = random.matrix(rows, cols);
    let identity: Vec<f32> = (0..cols * cols).map(|at| f32::from(u8::from(at % (cols + 1) == 0))).collect();
    for moments in [identity, vec![0.0; cols * cols]] {
        let feedback = Feedback::new(&moments, cols).unwrap();
        for (levels, group) in [(Levels::INT4, 32), (Levels::INT8, cols), (Levels::INT8, 256)] {
            let found = gptq_integers(&weights, &feedback, levels, group).unwrap();
            assert_eq!((found.codes, found.scales), plain(&weights, cols, levels, group));
        }
        let luts: Vec<f16> = (0..7 * 16)
            .map(|at| f16::from_f32((at % 16) as f32 * 0.3 - 2.0 + (at / 16) as f32 * 0.1))
            .collect();
        let codes = gptq_palette(&weights, &feedback, &luts, 16, 10).unwrap();
        for (at, (code, weight)) in codes.iter().zip(&weights).enumerate() {
            assert_eq!(usize::from(*code), nearest(&luts[at / cols / 10 * 16..][..16], *weight));
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    let mut random = Random(5);
    let (rows, cols) = (150, 260);
    let (_, moments) = correlated(&mut random, 500, cols);
    let feedback = Feedback::new(&moments, cols).unwrap();
    let weights = random.matrix(rows, cols);
    let whole = gptq_integers(&weights, &feedback, Levels::INT4, 32).unwrap();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(one.install(|| gptq_integers(&weights, &feedback, Levels::INT4, 32).unwrap()), whole);
}

#[test]
fn columns_without_input_are_rounded_plainly() {
    let mut random = Random(6);
    let cols = 64;
    let (_, mut moments) = correlated(&mut random, 200, cols);
    for index in 0..cols {
        for dead in [3, 40] {
            moments[index * cols + dead] = 0.0;
            moments[dead * cols + index] = 0.0;
        }
    }
    let feedback = Feedback::new(&moments, cols).unwrap();
    let weights = random.matrix(4, cols);
    let found = gptq_integers(&weights, &feedback, Levels::INT8, cols).unwrap();
    for (row, scale) in found.scales.iter().enumerate() {
        for dead in [3, 40].map(|dead| row * cols + dead) {
            assert_eq!(found.codes[dead], Levels::INT8.code(*scale, weights[dead]));
        }
    }
}

#[test]
fn what_has_no_factor_is_damped_or_an_error() {
    // Singular: 1 % is enough. Indefinite with an eigenvalue of -0.5: the mean of the diagonal, 1, is.
    assert!(Feedback::new(&[1.0, 1.0, 1.0, 1.0], 2).unwrap().damping() <= 0.0101);
    assert_eq!(Feedback::new(&[1.0, 1.5, 1.5, 1.0], 2).unwrap().damping(), 1.0);
    assert!(Feedback::new(&[1.0, 9.0, 9.0, 1.0], 2).is_err());
    assert!(Feedback::new(&[1.0, 0.0, 0.0, -1.0], 2).is_err());
    assert!(Feedback::new(&[1.0, f32::NAN, f32::NAN, 1.0], 2).is_err());
    assert!(Feedback::new(&[1.0; 3], 2).is_err());
    assert!(Feedback::new::<f32>(&[], 0).is_err());
    let feedback = Feedback::new(&[1.0, 0.0, 0.0, 1.0], 2).unwrap();
    assert!(gptq_integers(&[1.0; 3], &feedback, Levels::INT4, 2).is_err());
    assert!(gptq_integers(&[1.0; 4], &feedback, Levels::INT4, 0).is_err());
    assert!(gptq_integers(&[f32::INFINITY; 4], &feedback, Levels::INT4, 2).is_err());
    assert!(gptq_integers(&[], &feedback, Levels::INT4, 2).unwrap().codes.is_empty());
    let lut = [f16::ZERO, f16::ONE];
    assert!(gptq_palette(&[1.0; 4], &feedback, &lut, 2, 1).is_err());
    assert!(gptq_palette(&[1.0; 4], &feedback, &lut, 2, 0).is_err());
    assert!(gptq_palette(&[1.0; 4], &feedback, &lut, 0, 2).is_err());
    assert!(gptq_palette(&[1.0; 4], &feedback, &[f16::ONE, f16::ZERO], 2, 2).is_err());
    assert_eq!(gptq_palette(&[1.0, 0.2, 0.7, -1.0], &feedback, &lut, 2, 2).unwrap(), [1, 0, 1, 0]);
}
