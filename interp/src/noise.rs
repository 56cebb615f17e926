//! Starting noise: the numbers that `torch.randn` draws on a CPU.
//!
//! A picture is a function of its prompt and its noise, so a run can be compared with PyTorch's only if both start from the same bits.

use std::f32::consts::{FRAC_1_SQRT_2, TAU};

/// Words of the Mersenne twister's state.
const WORDS: usize = 624;
/// How far ahead the twist takes its second word.
const AHEAD: usize = 397;

/// `torch.Generator` on a CPU: what [`randn`](TorchGenerator::randn) gives is bit for bit what
/// `torch.randn(count, generator=torch.Generator().manual_seed(seed))` gives in float32, call after call.
///
/// PyTorch has two ways to float32 normals on x86-64. Where the processor has AVX2 and FMA it takes polynomials for the
/// logarithm, sine and cosine; without them it calls the C library. This is the first. Over 2^22 numbers no
/// bit differed from PyTorch 2.7.1 with AVX2 or AVX-512; PyTorch's second way differs from its own first by up to 2e-6.
#[derive(Clone, Debug)]
pub struct TorchGenerator {
    words: [u32; WORDS],
    next: usize,
    /// The second half of the last pair of a small draw.
    spare: Option<f64>,
}

impl TorchGenerator {
    /// A generator after `manual_seed(seed)`. As in PyTorch only the low 32 bits of the seed count.
    pub fn new(seed: u64) -> Self {
        let mut words = [0; WORDS];
        let mut last = seed as u32;
        words[0] = last;
        for (i, word) in (1u32..).zip(&mut words[1..]) {
            last = 1_812_433_253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i);
            *word = last;
        }
        TorchGenerator { words, next: WORDS, spare: None }
    }

    /// The next `count` numbers of the normal distribution, as one call of `torch.randn` draws them.
    ///
    /// The split into calls shows: a draw of 16 or more goes by groups of 16, a smaller one by pairs in float64.
    pub fn randn(&mut self, count: usize) -> Vec<f32> {
        if count < 16 {
            return (0..count).map(|_| self.normal() as f32).collect();
        }
        let mut out: Vec<f32> = (0..count).map(|_| self.uniform()).collect();
        for group in out.chunks_exact_mut(16) {
            normals(group);
        }
        if !count.is_multiple_of(16) {
            // PyTorch draws the last 16 anew, which overwrites the end of the last whole group.
            let tail = &mut out[count - 16..];
            tail.fill_with(|| self.uniform());
            normals(tail);
        }
        out
    }

    /// 32 bits of the Mersenne twister MT19937.
    fn bits(&mut self) -> u32 {
        if self.next == WORDS {
            for i in 0..WORDS {
                let pair = (self.words[i] & 0x8000_0000) | (self.words[(i + 1) % WORDS] & 0x7fff_ffff);
                let odd = if pair & 1 == 1 { 0x9908_b0df } else { 0 };
                self.words[i] = self.words[(i + AHEAD) % WORDS] ^ (pair >> 1) ^ odd;
            }
            self.next = 0;
        }
        let mut x = self.words[self.next];
        self.next += 1;
        x ^= x >> 11;
        x ^= (x << 7) & 0x9d2c_5680;
        x ^= (x << 15) & 0xefc6_0000;
        x ^ (x >> 18)
    }

    /// In [0, 1), by 24 bits.
    fn uniform(&mut self) -> f32 {
        (self.bits() & 0x00ff_ffff) as f32 / (1u32 << 24) as f32
    }

    /// In [0, 1), by 53 bits; the first word is the high one.
    fn uniform_wide(&mut self) -> f64 {
        let high = u64::from(self.bits());
        let low = u64::from(self.bits());
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    /// One normal by Box and Muller's transform in float64; of each pair the second waits for the next call.
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let angle = std::f64::consts::TAU * self.uniform_wide();
        let radius = (-2.0 * (-self.uniform_wide()).ln_1p()).sqrt();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// Box and Muller's transform of 16 uniforms in place: the first eight give the radii, the last eight the angles.
fn normals(group: &mut [f32]) {
    let (first, second) = group.split_at_mut(8);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * ln(1.0 - *a)).sqrt();
        let (sin, cos) = sin_cos(TAU * *b);
        // PyTorch's "times the deviation plus the mean" of 1 and 0: it makes a zero positive.
        *a = radius * cos + 0.0;
        *b = radius * sin + 0.0;
    }
}

// The next two are the Cephes library's logf, sinf and cosf (S. Moshier), with the operations in the order of avx_mathfun
// (G. Garberoglio, after J. Pommier's sse_mathfun), which PyTorch builds with fused multiply-adds. `mul_add` rounds once on
// every processor, so the bits do not depend on where this runs. The constants are theirs, longer than an f32 or not.

/// The natural logarithm of a number in (0, 1].
fn ln(x: f32) -> f32 {
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    const TERMS: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_84e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_4e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    // x = mantissa * 2^exponent with the mantissa in [1/2, 1), then in [sqrt(1/2), sqrt(2)), less 1.
    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as f32 - 126.0;
    let mantissa = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    let mut m = mantissa - 1.0;
    if mantissa < FRAC_1_SQRT_2 {
        exponent -= 1.0;
        m += mantissa;
    }
    let square = m * m;
    let sum = TERMS[1..].iter().fold(TERMS[0], |sum, &term| sum.mul_add(m, term));
    let y = (sum * m).mul_add(square, exponent * LOW);
    let y = square.mul_add(-0.5, y);
    exponent.mul_add(HIGH, m + y)
}

/// The sine and the cosine of an angle in [0, 2 pi].
fn sin_cos(angle: f32) -> (f32, f32) {
    const FOUR_OVER_PI: f32 = 1.273_239_5;
    // pi / 4 in three parts, so that a multiple of it can be taken off without loss.
    const QUARTER: [f32; 3] = [0.785_156_25, 2.418_756_5e-4, 3.774_895e-8];
    const SIN: [f32; 3] = [-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1];
    const COS: [f32; 3] = [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2];

    let octant = ((angle * FOUR_OVER_PI) as u32 + 1) & !1;
    let x = QUARTER.iter().fold(angle, |x, &part| (octant as f32).mul_add(-part, x));
    let z = x * x;
    let sin = (SIN[0].mul_add(z, SIN[1]).mul_add(z, SIN[2]) * z).mul_add(x, x);
    let cos = (COS[0].mul_add(z, COS[1]).mul_add(z, COS[2]) * z).mul_add(z, -0.5 * z) + 1.0;
    let (sin, cos) = if octant & 2 == 0 { (sin, cos) } else { (cos, sin) };
    let sin = if octant & 4 == 0 { sin } else { -sin };
    let cos = if (octant + 2) & 4 == 0 { cos } else { -cos };
    (sin, cos)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        let path = format!("{}/../fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Name and numbers of each float32 tensor.
    fn tensors(bytes: &[u8]) -> Vec<(String, Vec<f32>)> {
        let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
        let floats = |data: &[u8]| data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        file.tensors().into_iter().map(|(name, view)| (name, floats(view.data()))).collect()
    }

    #[track_caller]
    fn assert_same(what: &str, ours: &[f32], torch: &[f32]) {
        assert_eq!(ours.len(), torch.len(), "{what}");
        for (i, (a, b)) in ours.iter().zip(torch).enumerate() {
            assert_eq!(a.to_bits(), b.to_bits(), "{what}, number {i}: {a} is not {b}");
        }
    }

    #[test]
    fn every_seed_and_size_is_torchs_bit_for_bit() {
        let bytes = fixture("torch_randn.safetensors");
        let mut seen = 0;
        for (name, torch) in tensors(&bytes) {
            let (seed, shape) = name.strip_prefix("seed_").unwrap().split_once('/').unwrap();
            let mut generator = TorchGenerator::new(seed.parse().unwrap());
            if shape.starts_with("second") {
                generator.randn(torch.len());
            }
            assert_same(&name, &generator.randn(torch.len()), &torch);
            seen += 1;
        }
        assert_eq!(seen, 27);
    }

    #[test]
    fn a_stream_of_draws_keeps_the_second_number_of_a_pair() {
        let bytes = fixture("reference/randn_stream.safetensors");
        let mut draws = tensors(&bytes);
        draws.sort_by(|a, b| a.0.cmp(&b.0));
        let mut generator = TorchGenerator::new(987_654_321);
        for (name, torch) in &draws {
            assert_same(name, &generator.randn(torch.len()), torch);
        }
        assert_eq!(draws.len(), 6);
    }

    #[test]
    fn the_twister_gives_the_published_ten_thousandth_number() {
        let mut generator = TorchGenerator::new(5489);
        let last = (0..10_000).map(|_| generator.bits()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn only_the_low_half_of_a_seed_counts() {
        assert_eq!(TorchGenerator::new(7).randn(20), TorchGenerator::new((9 << 32) | 7).randn(20));
    }

    #[test]
    fn nothing_is_drawn_for_nothing() {
        let mut generator = TorchGenerator::new(1);
        assert!(generator.randn(0).is_empty());
        assert_eq!(generator.randn(3), TorchGenerator::new(1).randn(3));
    }

    #[test]
    fn the_polynomials_stay_near_the_functions_at_the_ends() {
        for bits in [1u32, 2, 3, 1000, 1 << 12, 1 << 23, (1 << 24) - 1, 1 << 24] {
            let x = bits as f32 / (1u32 << 24) as f32;
            assert!((f64::from(ln(x)) - f64::from(x).ln()).abs() < 2e-6, "ln {x}");
            let (sin, cos) = sin_cos(TAU * x);
            let angle = f64::from(TAU * x);
            assert!((f64::from(sin) - angle.sin()).abs() < 2e-7, "sin {angle}");
            assert!((f64::from(cos) - angle.cos()).abs() < 2e-7, "cos {angle}");
        }
    }
}
