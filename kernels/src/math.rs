//! Elementary functions as polynomials, and sums, written so that the compiler vectorizes the loops that call them.
//!
//! They use no fused multiply-add, which processors without it would have to emulate.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use pulp::Arch;

/// Partial results of a sum or a maximum: enough for several of the widest vectors. Loops over a multiple of it leave no rest
/// to be done one by one.
pub(crate) const LANES: usize = 32;

/// Below it, e^x is not a normal number.
const LOWEST_EXPONENT: f32 = -87.0;
/// Above it, e^x comes close to overflow.
const HIGHEST_EXPONENT: f32 = 88.0;

/// 1 / √(2π).
const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;

/// Runs loops compiled for the widest vectors that this processor has.
///
/// A closure must be marked `#[inline(always)]`, as all that it calls: what is not inlined is not vectorized so.
#[inline(always)]
pub(crate) fn vectorized<R>(loops: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(loops)
}

/// e^x with a relative error below 2·10⁻⁷; 0 for x < −87, and e^88 for x > 88. NaN stays NaN.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, ln 2 in two parts (Cody and Waite, *Software Manual for the Elementary
/// Functions*); e^r by the polynomial of S. Moshier's Cephes library (`expf`); 2^n through the bits of the exponent.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // 1.5 · 2²³: a sum with it has no bits left for a fraction, so it is rounded, and its lowest bits are the integer.
    const ROUND: f32 = 12_582_912.0;
    // Few enough bits that the product with n is exact.
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const COEFFICIENTS: [f32; 5] = [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

    let clamped = x.clamp(LOWEST_EXPONENT, HIGHEST_EXPONENT);
    let shifted = clamped * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN_2_HIGH - n * LN_2_LOW;
    let polynomial = COEFFICIENTS.iter().fold(1.987_569_1e-4, |sum, coefficient| sum * r + coefficient);
    let power = polynomial * (r * r) + r + 1.0;
    let two_to_n = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < LOWEST_EXPONENT { 0.0 } else { power * two_to_n }
}

/// σ(x) = 1 / (1 + e^−x) and 1 − σ(x), neither by a difference, so that both are exact where they are small.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> (f32, f32) {
    let e = exp(-x.abs());
    let large = 1.0 / (1.0 + e);
    let small = e * large;
    if x < 0.0 { (small, large) } else { (large, small) }
}

/// Φ(x) and φ(x), distribution and density of the standard normal distribution; Φ with an absolute error below 2·10⁻⁷.
///
/// Within ±1 Φ is 1/2 and the integral of φ's Taylor series, beyond it one minus a tail: by the approximation of erfc in
/// Abramowitz and Stegun, *Handbook of Mathematical Functions*, 7.1.26, whose factor e^(−x²/2) the density needs too.
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    /// (−1)ⁿ / (2ⁿ · n! · (2n + 1)), from n = 6 on down; the terms left out are below 10⁻⁸.
    const SERIES: [f32; 7] =
        [1.0 / 599_040.0, -1.0 / 42_240.0, 1.0 / 3456.0, -1.0 / 336.0, 1.0 / 40.0, -1.0 / 6.0, 1.0];
    const P: f32 = 0.327_591_1 * FRAC_1_SQRT_2;
    const COEFFICIENTS: [f32; 4] = [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];

    let square = x * x;
    let e = exp(-0.5 * square);
    let series = SERIES.iter().fold(-1.0 / 9_676_800.0, |sum, term| sum * square + term);
    let near = 0.5 + FRAC_1_SQRT_2PI * x * series;
    let t = 1.0 / (1.0 + P * x.abs());
    let polynomial = COEFFICIENTS.iter().fold(1.061_405_4, |sum, coefficient| sum * t + coefficient);
    let tail = 0.5 * polynomial * t * e;
    let far = if x < 0.0 { tail } else { 1.0 - tail };
    (if x.abs() < 1.0 { near } else { far }, e * FRAC_1_SQRT_2PI)
}

/// Turns logits into e^(logit − maximum), and gives the maximum and the sum: softmax is each divided by the sum.
#[inline(always)]
pub(crate) fn exponentials(logits: &mut [f32]) -> (f32, f32) {
    let maximum = maximum(logits);
    update(logits, |logit| exp(logit - maximum));
    (maximum, sum(logits, |value| value))
}

/// Replaces each number by a function of it.
#[inline(always)]
pub(crate) fn update(values: &mut [f32], function: impl Fn(f32) -> f32) {
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for value in chunk {
            *value = function(*value);
        }
    }
    for value in rest {
        *value = function(*value);
    }
}

/// Replaces each pair of numbers of two slices of the same length by a function of it.
#[inline(always)]
pub(crate) fn update_pairs(a: &mut [f32], b: &mut [f32], function: impl Fn(f32, f32) -> (f32, f32)) {
    let (chunks_a, rest_a) = a.as_chunks_mut::<LANES>();
    let (chunks_b, rest_b) = b.as_chunks_mut::<LANES>();
    for (a, b) in chunks_a.iter_mut().zip(chunks_b) {
        for lane in 0..LANES {
            (a[lane], b[lane]) = function(a[lane], b[lane]);
        }
    }
    for (a, b) in rest_a.iter_mut().zip(rest_b) {
        (*a, *b) = function(*a, *b);
    }
}

/// The sum of a term per element, in an order that the length alone decides.
#[inline(always)]
pub(crate) fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    fold(values, 0.0, |sum, value| sum + term(value), |a, b| a + b)
}

/// The sum of a term per pair of elements, in an order that the length alone decides.
#[inline(always)]
pub(crate) fn sum_pairs(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let (chunks_a, rest_a) = a.as_chunks::<LANES>();
    let (chunks_b, rest_b) = b.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for (a, b) in chunks_a.iter().zip(chunks_b) {
        for lane in 0..LANES {
            lanes[lane] += term(a[lane], b[lane]);
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(rest_a).zip(rest_b) {
        *lane += term(*a, *b);
    }
    join(lanes, |a, b| a + b)
}

/// The largest element, NaN aside.
#[inline(always)]
fn maximum(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    fold(values, f32::NEG_INFINITY, larger, larger)
}

#[inline(always)]
fn fold(values: &[f32], start: f32, step: impl Fn(f32, f32) -> f32, merge: impl Fn(f32, f32) -> f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [start; LANES];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = step(*lane, *value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = step(*lane, *value);
    }
    join(lanes, merge)
}

/// Halves until one is left.
#[inline(always)]
fn join(mut lanes: [f32; LANES], merge: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = merge(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers from `from` to `to`, unevenly apart.
    fn sweep(from: f32, to: f32) -> impl Iterator<Item = f32> {
        const STEPS: u32 = 200_003;
        (0..=STEPS).map(move |step| from + (to - from) * step as f32 / STEPS as f32)
    }

    #[test]
    fn exp_has_its_accuracy_over_its_whole_range() {
        for x in sweep(LOWEST_EXPONENT, HIGHEST_EXPONENT) {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2e-7, "e^{x} is off by {error:e} of itself");
        }
    }

    #[test]
    fn exp_is_zero_below_its_range_finite_above_and_keeps_nan() {
        assert_eq!([exp(-87.1), exp(-1e30), exp(f32::NEG_INFINITY)], [0.0; 3]);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!([exp(1e30), exp(f32::INFINITY)], [exp(88.0); 2]);
        assert!(exp(88.0).is_finite() && exp(f32::NAN).is_nan());
    }

    #[test]
    fn sigmoid_is_accurate_on_both_sides_and_so_is_its_complement() {
        for x in sweep(-80.0, 80.0) {
            let (left, right) = sigmoid(x);
            let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
            let complement = 1.0 / (1.0 + f64::from(x).exp());
            // The error of e^x, and a rounding each of the sum, the quotient and the product: half an ulp, 6e-8.
            assert!((f64::from(left) / exact - 1.0).abs() < 4e-7, "σ({x}) = {left}, not {exact}");
            assert!((f64::from(right) / complement - 1.0).abs() < 4e-7, "1 − σ({x}) = {right}, not {complement}");
        }
    }

    #[test]
    fn the_normal_distribution_is_the_integral_of_its_density() {
        // Simpson's rule in double precision; its error, about h⁴/180, is 1e-15 and that of the sum below 1e-12.
        const STEP: f64 = 1.0 / 4096.0;
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let (mut x, mut integral) = (0.0, 0.5);
        while x < 6.0 {
            for (at, exact) in [(x, integral), (-x, 1.0 - integral)] {
                let (distribution, at_density) = normal(at as f32);
                assert!((f64::from(distribution) - exact).abs() < 2e-7, "Φ({at}) = {distribution}, not {exact}");
                // e^(−x²/2) has the error of e^x and that of its argument, up to 18 · 6e-8 of itself; it is then small.
                assert!((f64::from(at_density) - density(at)).abs() < 1e-7, "φ({at}) = {at_density}");
            }
            integral += STEP / 6.0 * (density(x) + 4.0 * density(x + STEP / 2.0) + density(x + STEP));
            x += STEP;
        }
    }

    #[test]
    fn sums_and_maxima_take_every_element_whatever_the_length() {
        for length in [0, 1, 31, 32, 33, 95, 96, 200] {
            // Small integers: their sums are exact in any order.
            let values: Vec<f32> = (0..length).map(|index| ((index * 37) % 101) as f32 - 50.0).collect();
            assert_eq!(sum(&values, |value| value), values.iter().sum::<f32>());
            assert_eq!(
                sum_pairs(&values, &values, |a, b| a * b),
                values.iter().map(|value| value * value).sum::<f32>()
            );
            assert_eq!(maximum(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
