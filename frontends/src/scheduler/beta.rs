//! The quantiles of the beta distribution that "Beta Sampling is All You Need" spaces its steps by: alpha = beta = 0.6.

/// Both parameters of the distribution, as diffusers fixes them.
const A: f64 = 0.6;
/// The beta function at (A, A): gamma(0.6)^2 / gamma(1.2).
const WHOLE: f64 = 2.415_344_208_002_472;

/// The share of the distribution below `x`, for `x` up to 1/2, by its power series. The terms shrink by half or faster.
fn share(x: f64) -> f64 {
    let mut term = 1.0;
    let mut sum = 1.0 / A;
    for n in 1..60 {
        let n = f64::from(n);
        term *= (n - A) / n * x;
        sum += term / (A + n);
    }
    x.powf(A) * sum / WHOLE
}

/// The `x` that has the share `p` of the distribution below it: scipy's `beta.ppf(p, 0.6, 0.6)`.
pub(super) fn quantile(p: f64) -> f64 {
    if p > 0.5 {
        // The distribution is symmetric, and 1 - p is exact here.
        return 1.0 - quantile(1.0 - p);
    }
    if p <= 0.0 {
        return 0.0;
    }
    // Newton's method from the series' first term alone, which lies above the answer. The share is concave up to 1/2, so that from the second
    // point on it climbs and cannot leave the interval; a handful of steps is enough, the rest cost nothing.
    let mut x = (p * A * WHOLE).powf(1.0 / A).min(0.5);
    for _ in 0..20 {
        let density = (x * (1.0 - x)).powf(A - 1.0) / WHOLE;
        x -= (share(x) - p) / density;
    }
    x
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_are_those_of_the_definition() {
        // By mpmath, 30 digits.
        for (p, x) in [
            (1e-9, 1.855_882_462_491_410_7e-15),
            (0.001, 1.855_873_851_745_2e-5),
            (0.1, 0.039_584_405_588_780_85),
            (0.3, 0.234_017_003_875_235_88),
            (0.49, 0.486_128_914_278_160_3),
            (0.5, 0.5),
        ] {
            let found: f64 = quantile(p);
            assert!((found / x - 1.0).abs() < 1e-14, "{p}: {found} is not {x}");
            assert!((quantile(1.0 - p) - (1.0 - x)).abs() < 1e-14, "{p} from above");
        }
        assert_eq!((quantile(0.0), quantile(1.0)), (0.0, 1.0));
    }
}
