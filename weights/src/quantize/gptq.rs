//! Rounding column by column, each error made good by the columns to come: GPTQ (Frantar et al. 2022).
//!
//! Let `H = E[x x^T]` be the second moments of a layer's input and `e = w - q` the error of a row of weights. The
//! layer's squared output error is `e H e^T`. With the factors `H = (I + U) D (I + U)^T`, `U` strictly upper
//! triangular and `D` diagonal, it is `sum_k D_k (w'_k - q_k)^2` where
//! `w'_k = w_k + sum_{j < k} e_j U_jk`: so column `k` is best rounded from `w'_k`. That is GPTQ without the inverse of
//! `H` (LDLQ; Chee et al. 2023 show them equal).

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use half::f16;
use rayon::prelude::*;
use snapc_ir::{Error, Result};

use super::histogram::{check_lut, nearest};
use super::scales::{Levels, decode, search_scale};

/// What is added to the diagonal of the second moments, of its mean.
const DAMPING: f64 = 0.01;

/// Columns whose errors reach later ones by one matrix product.
const BLOCK: usize = 128;

/// Rows of one matrix product. It is fixed, so that the bits do not depend on the number of threads.
const ROWS: usize = 64;

/// How errors of earlier columns change later ones, made once for all weights with the same input.
#[derive(Clone, Debug)]
pub struct Feedback {
    cols: usize,
    /// `U`, row-major with zeros below.
    upper: Vec<f32>,
    /// `D`.
    pivots: Vec<f32>,
    damping: f64,
}

impl Feedback {
    /// Factors second moments `E[x x^T]` (cols x cols, symmetric: the lower triangle is read). 1 % of the mean of the
    /// diagonal is added to it, ten times more as long as there is no Cholesky factor. Columns without input then have
    /// only that, and neither give nor take errors. Moments that are all zero count as the identity.
    ///
    /// # Errors
    /// If they are not cols x cols, not finite, the diagonal has a negative number, or they are so far from positive
    /// semidefinite that the mean of the diagonal added to it does not help.
    pub fn new<T: Copy + Into<f64>>(moments: &[T], cols: usize) -> Result<Self> {
        if cols == 0 || moments.len() != cols * cols {
            return Err(Error::bug(format!("{} second moments of {cols} columns", moments.len())));
        }
        let diagonal: Vec<f64> = (0..cols).map(|index| moments[index * cols + index].into()).collect();
        let finite = moments.iter().all(|moment| (*moment).into().is_finite());
        if !finite || diagonal.iter().any(|moment| *moment < 0.0) {
            return Err(Error::input(
                "the second moments of a layer's input are not finite or have a negative diagonal",
            ));
        }
        let mean = diagonal.iter().sum::<f64>() / cols as f64;
        let unit = if mean > 0.0 { mean } else { 1.0 };
        let mut part = if mean > 0.0 { DAMPING } else { 1.0 };
        while part < 2.0 {
            let damping = part * unit;
            if let Some(factor) = factor(moments, cols, damping) {
                return Ok(Self::of_factor(&factor, cols, damping));
            }
            part *= 10.0;
        }
        Err(Error::input("the second moments of a layer's input are far from positive semidefinite"))
    }

    /// From the Cholesky factor `L` of the moments in reverse order: `U_jk = V_jk / V_kk` and `D_k = V_kk^2`, `V` being
    /// `L` in reverse order.
    fn of_factor(factor: &[f64], cols: usize, damping: f64) -> Self {
        let last = factor.len() - 1;
        let at = |row: usize, col: usize| factor[last - row - col * cols];
        let roots: Vec<f64> = (0..cols).map(|col| at(col, col)).collect();
        let mut upper = vec![0.0; cols * cols];
        for (row, values) in upper.chunks_exact_mut(cols).enumerate() {
            for col in row + 1..cols {
                values[col] = (at(row, col) / roots[col]) as f32;
            }
        }
        let pivots = roots.iter().map(|root| (root * root) as f32).collect();
        Feedback { cols, upper, pivots, damping }
    }

    /// `D`: what a squared error of each column costs once the columns after it have made good what they can.
    pub fn pivots(&self) -> &[f32] {
        &self.pivots
    }

    /// What was added to the diagonal.
    pub fn damping(&self) -> f64 {
        self.damping
    }
}

/// The column-major Cholesky factor of the damped moments in reverse order, if there is one. The upper triangle is not
/// part of it.
fn factor<T: Copy + Into<f64>>(moments: &[T], cols: usize, damping: f64) -> Option<Vec<f64>> {
    // Reversing a row-major lower triangle gives a row-major upper one: a column-major lower one.
    let mut values: Vec<f64> = moments.iter().rev().map(|moment| (*moment).into()).collect();
    values.iter_mut().step_by(cols + 1).for_each(|value| *value += damping);
    let params = Default::default();
    let mut memory = MemBuffer::try_new(cholesky_in_place_scratch::<f64>(cols, Par::Seq, params)).ok()?;
    let matrix = MatMut::from_column_major_slice_mut(&mut values, cols, cols);
    let stack = MemStack::new(&mut memory);
    cholesky_in_place(matrix, Default::default(), Par::Seq, stack, params).ok()?;
    let finite = values.iter().step_by(cols + 1).all(|root| root.is_finite() && *root > 0.0);
    finite.then_some(values)
}

/// Integer codes and the scales of their groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Integers {
    /// rows x cols.
    pub codes: Vec<i8>,
    /// rows x ceil(cols / group).
    pub scales: Vec<f16>,
}

/// Rounds weights (rows x cols, row-major; out x in) to integers. Each `group` columns of a row have a scale, found by
/// [`search_scale`] from the group as the errors before it have changed it, with the feedback's pivots as importances.
/// `group` may exceed the columns: one scale a row.
///
/// The bits do not depend on the number of threads.
///
/// # Errors
/// If the weights are no whole rows, not finite, or `group` is 0.
pub fn gptq_integers(weights: &[f32], feedback: &Feedback, levels: Levels, group: usize) -> Result<Integers> {
    let cols = feedback.cols;
    check(weights, cols)?;
    if group == 0 {
        return Err(Error::bug("groups of no columns"));
    }
    let group = group.min(cols);
    let groups = cols.div_ceil(group);
    let mut codes = vec![0; weights.len()];
    let mut scales = vec![f16::ZERO; weights.len() / cols * groups];
    weights
        .par_chunks(ROWS * cols)
        .zip(codes.par_chunks_mut(ROWS * cols))
        .zip(scales.par_chunks_mut(ROWS * groups))
        .try_for_each(|((weights, codes), scales)| {
            let coders =
                scales.chunks_exact_mut(groups).map(|scales| GroupCoder { levels, scales, scale: f16::ONE });
            encode(weights, feedback, Some(group), coders.collect(), codes)
        })?;
    Ok(Integers { codes, scales })
}

/// Rounds weights (rows x cols, row-major; out x in) to entries of palettes: the codes. `luts` holds ascending palettes
/// of `entries` numbers, each for `rows_per_lut` rows; the last may have fewer.
///
/// The bits do not depend on the number of threads.
///
/// # Errors
/// If the weights are no whole rows or not finite, there are not as many palettes as the rows need, or one is not what
/// [`nearest_table`](super::nearest_table) takes.
pub fn gptq_palette(
    weights: &[f32],
    feedback: &Feedback,
    luts: &[f16],
    entries: usize,
    rows_per_lut: usize,
) -> Result<Vec<u8>> {
    let cols = feedback.cols;
    check(weights, cols)?;
    let rows = weights.len() / cols;
    if entries == 0 || rows_per_lut == 0 || luts.len() != rows.div_ceil(rows_per_lut) * entries {
        let count = luts.len();
        return Err(Error::bug(format!(
            "{count} numbers as palettes of {entries}, each for {rows_per_lut} of {rows} rows"
        )));
    }
    luts.chunks_exact(entries).try_for_each(check_lut)?;
    let mut codes = vec![0; weights.len()];
    weights.par_chunks(ROWS * cols).zip(codes.par_chunks_mut(ROWS * cols)).enumerate().try_for_each(
        |(chunk, (weights, codes))| {
            let first = chunk * ROWS;
            let coders = (first..first + weights.len() / cols)
                .map(|row| PaletteCoder { lut: &luts[row / rows_per_lut * entries..][..entries] });
            encode(weights, feedback, None, coders.collect(), codes)
        },
    )?;
    Ok(codes)
}

fn check(weights: &[f32], cols: usize) -> Result<()> {
    if !weights.len().is_multiple_of(cols) {
        return Err(Error::bug(format!("{} weights are no rows of {cols}", weights.len())));
    }
    if let Some(wrong) = weights.iter().find(|weight| !weight.is_finite()) {
        return Err(Error::input(format!("a weight is {wrong}, which no code can stand for")));
    }
    Ok(())
}

/// What makes codes of the numbers of one row.
trait Coder {
    type Code: Copy;

    /// Begins a group, given its numbers and their importances.
    fn begin(&mut self, group: usize, weights: &[f32], importance: &[f32]) -> Result<()>;

    /// The code of a number, and the number it stands for.
    fn code(&self, weight: f32) -> (Self::Code, f32);
}

struct GroupCoder<'a> {
    levels: Levels,
    scales: &'a mut [f16],
    scale: f16,
}

impl Coder for GroupCoder<'_> {
    type Code = i8;

    fn begin(&mut self, group: usize, weights: &[f32], importance: &[f32]) -> Result<()> {
        self.scale = search_scale(self.levels, weights, Some(importance))?;
        self.scales[group] = self.scale;
        Ok(())
    }

    fn code(&self, weight: f32) -> (i8, f32) {
        let code = self.levels.code(self.scale, weight);
        (code, decode(self.scale, code))
    }
}

struct PaletteCoder<'a> {
    lut: &'a [f16],
}

impl Coder for PaletteCoder<'_> {
    type Code = u8;

    fn begin(&mut self, _: usize, _: &[f32], _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn code(&self, weight: f32) -> (u8, f32) {
        let index = nearest(self.lut, weight);
        (index as u8, self.lut[index].to_f32())
    }
}

/// A block of columns, `begin..end`, and the groups in it.
struct Block {
    begin: usize,
    end: usize,
    group: Option<usize>,
}

/// Codes of some rows, one coder each.
fn encode<C: Coder>(
    weights: &[f32],
    feedback: &Feedback,
    group: Option<usize>,
    mut coders: Vec<C>,
    codes: &mut [C::Code],
) -> Result<()> {
    let cols = feedback.cols;
    // A group begins and ends in a block, unless it is the row: that one begins with what no error has changed.
    let (width, group) = match group {
        Some(group) if group >= cols => {
            for (coder, row) in coders.iter_mut().zip(weights.chunks_exact(cols)) {
                coder.begin(0, row, &feedback.pivots)?;
            }
            (BLOCK, None)
        }
        Some(group) => ((BLOCK / group).max(1) * group, Some(group)),
        None => (BLOCK, None),
    };
    let mut errors = vec![0.0; weights.len()];
    let mut changed = Vec::new();
    for begin in (0..cols).step_by(width) {
        let block = Block { begin, end: (begin + width).min(cols), group };
        let size = block.end - begin;
        changed.clear();
        weights.chunks_exact(cols).for_each(|row| changed.extend_from_slice(&row[begin..block.end]));
        add_feedback(&mut changed, &errors, feedback, &block);
        let rows =
            weights.chunks_exact(cols).zip(errors.chunks_exact_mut(cols)).zip(codes.chunks_exact_mut(cols));
        for (((row, errors), codes), (coder, changed)) in
            rows.zip(coders.iter_mut().zip(changed.chunks_exact_mut(size)))
        {
            encode_block(&block, feedback, coder, row, changed, errors, codes)?;
        }
    }
    Ok(())
}

/// Adds to the numbers of a block (rows x its columns) what the errors (rows x cols) before it change.
fn add_feedback(changed: &mut [f32], errors: &[f32], feedback: &Feedback, block: &Block) {
    let (cols, size) = (feedback.cols, block.end - block.begin);
    let rows = errors.len() / cols;
    if block.begin == 0 || rows == 0 {
        return;
    }
    // Row-major matrices as the column-major views of their transposes: changed^T += U^T errors^T.
    let upper = MatRef::from_column_major_slice(&feedback.upper, cols, cols);
    let errors = MatRef::from_column_major_slice(errors, cols, rows);
    let changed = MatMut::from_column_major_slice_mut(changed, size, rows);
    let upper = upper.submatrix(block.begin, 0, size, block.begin);
    matmul(changed, Accum::Add, upper, errors.subrows(0, block.begin), 1.0, Par::Seq);
}

/// Codes of one row's columns of a block. `changed`: as the errors before the block have changed them. `errors` and
/// `codes` are of the whole row.
fn encode_block<C: Coder>(
    block: &Block,
    feedback: &Feedback,
    coder: &mut C,
    weights: &[f32],
    changed: &mut [f32],
    errors: &mut [f32],
    codes: &mut [C::Code],
) -> Result<()> {
    for col in block.begin..block.end {
        if let Some(group) = block.group.filter(|group| col.is_multiple_of(*group)) {
            let end = (col + group).min(block.end);
            let numbers = without_errors(
                feedback,
                col,
                &weights[col..end],
                &changed[col - block.begin..end - block.begin],
            );
            coder.begin(col / group, &numbers, &feedback.pivots[col..end])?;
        }
        let at = col - block.begin;
        let (code, value) = coder.code(changed[at]);
        codes[col] = code;
        errors[col] = weights[col] - value;
        spread(
            errors[col],
            &feedback.upper[col * feedback.cols..],
            col + 1..block.end,
            &mut changed[at + 1..],
        );
    }
    Ok(())
}

/// What the numbers of a group that begins at column `begin` are if it makes no error of its own.
fn without_errors(feedback: &Feedback, begin: usize, weights: &[f32], changed: &[f32]) -> Vec<f32> {
    let mut numbers = changed.to_vec();
    let end = begin + numbers.len();
    for (at, col) in (begin..end).enumerate() {
        let error = weights[at] - numbers[at];
        spread(error, &feedback.upper[col * feedback.cols..], col + 1..end, &mut numbers[at + 1..]);
    }
    numbers
}

/// Adds an error, by the feedback of its row, to numbers of the columns `range`.
#[inline(always)]
fn spread(error: f32, upper: &[f32], range: std::ops::Range<usize>, numbers: &mut [f32]) {
    for (number, factor) in numbers.iter_mut().zip(&upper[range]) {
        *number += error * factor;
    }
}
