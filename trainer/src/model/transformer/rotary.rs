//! Rotary positions (Su et al., 2021), with the pairs of Hugging Face's Llama: number i of a head's first half turns with
//! number i of its second.

use std::{
    f64::consts::TAU,
    sync::{Arc, Mutex, PoisonError},
};

use burn::tensor::{Device, Tensor, TensorData};
use stoker_crds::training::model::{RopeScaling, Rotary as Spec};

/// The angles of all positions, computed when they are first needed: a context may be much longer than what is read.
#[derive(Clone, Debug)]
pub(super) struct Rotary {
    frequencies: Vec<f64>,
    context: usize,
    /// Those of the first positions, as far as they were needed; for all copies of a model, without autodiff.
    computed: Arc<Mutex<Option<Angles>>>,
}

impl Rotary {
    pub(super) fn new(spec: &Spec, head_size: usize, context: usize) -> Self {
        Self { frequencies: frequencies(spec, head_size), context, computed: Arc::default() }
    }

    /// The angles of the first positions.
    pub(super) fn first(&self, length: usize, device: &Device) -> Angles {
        let mut computed = self.computed.lock().unwrap_or_else(PoisonError::into_inner);
        let found = computed.take().filter(|angles| angles.length() >= length && angles.cos.device() == *device);
        let angles = found.unwrap_or_else(|| {
            let positions = length.next_power_of_two().min(self.context).max(length);
            self.compute(positions, &device.clone().without_autodiff())
        });
        let first = angles.first(length);
        *computed = Some(angles);
        first
    }

    fn compute(&self, positions: usize, device: &Device) -> Angles {
        let frequencies = &self.frequencies;
        // In 64 bits: an angle of many turns has few digits left in 32.
        let table = |f: fn(f64) -> f64| {
            let angles = (0..positions).flat_map(|position| frequencies.iter().map(move |w| position as f64 * w));
            let values: Vec<f32> = angles.map(|angle| f(angle) as f32).collect();
            Tensor::from_data(TensorData::new(values, [positions, frequencies.len()]), device)
        };
        Angles { cos: table(f64::cos), sin: table(f64::sin) }
    }
}

/// The angles of some positions in sequence.
#[derive(Clone, Debug)]
pub(super) struct Angles {
    /// `[positions, size of a head / 2]`.
    cos: Tensor<2>,
    /// `[positions, size of a head / 2]`.
    sin: Tensor<2>,
}

impl Angles {
    fn length(&self) -> usize {
        self.cos.dims()[0]
    }

    fn first(&self, length: usize) -> Self {
        Self { cos: self.cos.clone().narrow(0, 0, length), sin: self.sin.clone().narrow(0, 0, length) }
    }

    /// Cosines and sines, each `[positions, size of a head / 2]`.
    pub(super) fn tables(&self) -> [Tensor<2>; 2] {
        [&self.cos, &self.sin].map(Tensor::clone)
    }
}

/// By how much each pair of a head turns from one position to the next: theta^(-2i/size).
fn frequencies(spec: &Spec, head_size: usize) -> Vec<f64> {
    let plain = (0..head_size / 2).map(|pair| spec.theta.powf(-2.0 * pair as f64 / head_size as f64));
    match &spec.scaling {
        Some(scaling) => plain.map(|frequency| scaled(scaling, frequency)).collect(),
        None => plain.collect(),
    }
}

/// Llama 3.1's rule: waves that are long for the original context are stretched by the factor, short ones stay, and between
/// them the share of the stretched one falls in a straight line with the number of waves that the context holds.
fn scaled(scaling: &RopeScaling, frequency: f64) -> f64 {
    let RopeScaling { factor, low_frequency_factor: low, high_frequency_factor: high, original_context } = *scaling;
    let waves = f64::from(original_context) * frequency / TAU;
    let kept = ((waves - low) / (high - low)).clamp(0.0, 1.0);
    frequency * (kept + (1.0 - kept) / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA: RopeScaling =
        RopeScaling { factor: 32.0, low_frequency_factor: 1.0, high_frequency_factor: 4.0, original_context: 8192 };

    /// A wave of 4096 positions fits twice into the original context: a third of the way from 1 to 4.
    #[test]
    fn long_waves_are_stretched_short_ones_stay_and_the_rest_lies_between() {
        let wave = |positions: f64| TAU / positions;
        for (positions, expected) in [(100.0, 1.0), (20_000.0, 1.0 / 32.0), (4096.0, 1.0 / 3.0 + 2.0 / 3.0 / 32.0)] {
            let actual = scaled(&LLAMA, wave(positions)) / wave(positions);
            assert!((actual - expected).abs() < 1e-12, "{positions}: {actual} is not {expected}");
        }
    }

    #[test]
    fn a_factor_of_one_changes_nothing() {
        let scaling = RopeScaling { factor: 1.0, ..LLAMA };
        for frequency in [1.0, 1e-3, 1e-4, 1e-6] {
            assert!((scaled(&scaling, frequency) / frequency - 1.0).abs() < 1e-15);
        }
    }

    #[test]
    fn frequencies_fall_from_one_towards_one_over_theta() {
        let frequencies = frequencies(&Spec { theta: 10_000.0, scaling: None }, 8);
        for (actual, expected) in frequencies.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((actual / expected - 1.0).abs() < 1e-12, "{frequencies:?}");
        }
        assert_eq!(frequencies.len(), 4);
    }

    fn rotate(angles: &Angles, x: Tensor<4>) -> Tensor<4> {
        let [cos, sin] = angles.tables();
        burn_fused_ops::rotate(x, cos, sin)
    }

    /// (cos m, sin m) · (cos n, sin n) rotated is a function of n - m alone. The products of numbers up to 2 are exact to
    /// 1e-6 in 32 bits.
    #[test]
    fn the_product_of_a_query_and_a_key_depends_on_their_distance_alone() {
        let device = Device::flex();
        let rotary = Rotary::new(&Spec { theta: 100.0, scaling: None }, 4, 32);
        let at_all = |vector: [f32; 4]| -> Tensor<2> {
            let rows = Tensor::<2>::from_floats([vector], &device).repeat_dim(0, 32);
            rotate(&rotary.first(32, &device), rows.reshape([1, 1, 32, 4])).reshape([32, 4])
        };
        let (queries, keys) = (at_all([0.3, -1.2, 0.7, 0.5]), at_all([1.1, 0.4, -0.2, 0.9]));
        let products: Vec<f32> = queries.matmul(Tensor::<2>::transpose(keys)).try_into_vec_as().unwrap();
        let at = |query: usize, key: usize| products[query * 32 + key];
        for distance in 0..16 {
            for start in 1..16 {
                let (first, other) = (at(distance, 0), at(start + distance, start));
                assert!((first - other).abs() < 1e-5, "distance {distance} at {start}: {first} is not {other}");
            }
        }
        assert!((at(0, 0) - at(8, 0)).abs() > 0.1, "the distance must matter");
    }

    #[test]
    fn number_i_of_the_first_half_turns_with_number_i_of_the_second() {
        let device = Device::flex();
        let rotary = Rotary::new(&Spec { theta: 10_000.0, scaling: None }, 4, 2);
        let x = Tensor::<2>::from_floats([[9.0; 4], [1.0, 0.0, 0.0, 0.0]], &device).reshape([1, 1, 2, 4]);
        let turned: Vec<f32> = rotate(&rotary.first(2, &device), x).try_into_vec_as().unwrap();
        assert_eq!(turned, [9.0, 9.0, 9.0, 9.0, 1f64.cos() as f32, 0.0, 1f64.sin() as f32, 0.0]);
    }

    #[test]
    fn angles_are_the_same_however_many_were_computed_before_and_no_more_than_the_context() {
        let device = Device::flex();
        let rotary = Rotary::new(&Spec { theta: 100.0, scaling: None }, 4, 20);
        let cosines = |length: usize| rotary.first(length, &device).cos.try_into_vec_as::<f32>().unwrap();
        let short = cosines(3);
        let long = cosines(20);
        assert_eq!((long.len(), &long[..6]), (40, &short[..]));
        assert_eq!(cosines(3), short);
        assert_eq!(rotary.computed.lock().unwrap().as_ref().unwrap().length(), 20);
    }
}
