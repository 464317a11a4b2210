use rayon::ThreadPoolBuilder;

use super::{EXACT, FUSED, GENERATOR, constant, device, gradient, leaf, list, numbers};
use crate::dropout;

const COUNT: usize = 100_000;

/// Whether each of many ones is kept, after a seed of the device.
fn kept(probability: f64, seed: u64) -> Vec<bool> {
    device().seed(seed);
    let output = list(dropout(constant(&[1.0; COUNT], [COUNT], FUSED), probability));
    let scale = f64::from((1.0 / (1.0 - probability)) as f32);
    output.iter().for_each(|number| assert!(*number == 0.0 || *number == scale, "{number}"));
    output.iter().map(|number| *number != 0.0).collect()
}

#[test]
fn elements_are_dropped_at_random_by_the_seed_on_any_number_of_threads() {
    let _alone = GENERATOR.lock();
    for probability in [0.0, 0.1, 0.5, 0.9] {
        let first = kept(probability, 1);
        let share = first.iter().filter(|kept| **kept).count() as f64 / COUNT as f64;
        // Six standard deviations.
        let tolerance = 6.0 * (probability * (1.0 - probability) / COUNT as f64).sqrt();
        assert!((share - (1.0 - probability)).abs() <= tolerance, "{share} are kept at {probability}");
        // Neighbours, elements of neighbouring blocks, and those of another seed are dropped independently of each other.
        let other = kept(probability, 2);
        let both = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|(a, b)| **a && **b).count() as f64 / b.len() as f64;
        for both in [both(&first, &first[1..]), both(&first, &first[16 * 1024..]), both(&first, &other)] {
            assert!((both - share * share).abs() <= 3.0 * tolerance, "{both}, not {share}²");
        }
        for threads in [1, 3] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
            assert_eq!(pool.install(|| kept(probability, 1)), first);
        }
    }
}

#[test]
fn each_call_draws_anew_and_the_gradient_is_dropped_where_the_output_is() {
    let _alone = GENERATOR.lock();
    let x = leaf(&numbers(1, COUNT, 1.0), [COUNT], FUSED);
    let (first, second) = (dropout(x.clone(), 0.5), dropout(x.clone(), 0.5));
    assert_ne!(list(first.clone()), list(second));
    let gradient = gradient(&x, &first.clone().sum().backward());
    for (output, gradient) in list(first).into_iter().zip(gradient) {
        assert_eq!(gradient, if output == 0.0 { 0.0 } else { 2.0 });
    }
}

#[test]
fn other_precisions_are_dropped_too() {
    let _alone = GENERATOR.lock();
    let output = list(dropout(constant(&[1.0; 1000], [1000], EXACT), 0.5));
    assert!(output.iter().all(|number| [0.0, 2.0].contains(number)) && output.contains(&0.0) && output.contains(&2.0));
}

#[test]
#[should_panic(expected = "the probability 1 is not in [0, 1)")]
fn a_probability_of_one_is_refused() {
    dropout(constant(&[1.0], [1], FUSED), 1.0);
}
