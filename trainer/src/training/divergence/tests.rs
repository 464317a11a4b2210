//! Curves of losses: those of healthy trainings go on, and those of lost ones end.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// A step, counted from 1, and numbers drawn evenly from 0 to 1, to a loss.
type Curve = fn(u64, &mut dyn FnMut() -> f64) -> f64;

/// The step at which a training of that curve ends as lost, of so many steps and with that loss of a model that knows nothing.
fn lost_at(curve: Curve, baseline: f64, total: u64) -> Option<(u64, Lost)> {
    let rule = Rule::new(baseline, total);
    let (mut trend, mut rng) = (Trend::default(), ChaCha8Rng::seed_from_u64(7));
    let mut draw = || rng.random_range(0.0..1.0f64);
    (1..=total).find_map(|step| {
        let loss = curve(step, &mut draw) as f32;
        trend.observe(rule, step, loss, 32).err().map(|lost| (step, lost))
    })
}

/// About the standard normal distribution, by twelve numbers (Irwin and Hall).
fn normal(draw: &mut dyn FnMut() -> f64) -> f64 {
    (0..12).map(|_| draw()).sum::<f64>() - 6.0
}

/// A curve with noise of a tenth.
fn noisy(level: f64, draw: &mut dyn FnMut() -> f64) -> f64 {
    level * (0.1 * normal(draw)).exp()
}

/// From 10.8 to 3, as a language model of 50,000 tokens.
fn learning(step: u64) -> f64 {
    3.0 + 7.8 * (-(step as f64) / 500.0).exp()
}

/// The logarithm of 50,000.
const CHANCE: f64 = 10.82;
/// Of targets with a variance of 1.
const VARIANCE: f64 = 1.0;
/// What is known of targets that are often 0.
const NOTHING: f64 = 0.0;

#[test]
fn a_healthy_training_is_never_stopped() {
    let healthy: &[(&str, f64, Curve)] = &[
        ("that learns", CHANCE, |step, draw| noisy(learning(step), draw)),
        ("that does not learn", CHANCE, |_, draw| noisy(10.9, draw)),
        ("that learns from a thousandth on and gets a bit worse", CHANCE, |step, draw| {
            noisy(if step < 50 { 0.001 } else { 0.8 }, draw)
        }),
        ("with a spike that lasts for a while", CHANCE, |step, draw| {
            noisy(if (1500..1580).contains(&step) { 90.0 } else { learning(step) }, draw)
        }),
        ("with spikes all the time", CHANCE, |step, draw| {
            noisy(if step % 100 < 20 { 1000.0 } else { learning(step) }, draw)
        }),
        ("with a rise while it warms up", CHANCE, |step, draw| {
            noisy(if step < 1000 { 10.8 + step as f64 / 250.0 } else { learning(step - 1000) }, draw)
        }),
        ("whose schedule starts anew", VARIANCE, |step, draw| {
            noisy(0.01 + 0.9 * (-((step % 700) as f64) / 100.0).exp(), draw)
        }),
        ("that forgets and learns better (double descent)", VARIANCE, |step, draw| {
            noisy(if (400..1500).contains(&step) { 0.95 } else { 40.0 / (step + 40) as f64 }, draw)
        }),
        ("of a step that jumps far and comes back", VARIANCE, |step, draw| {
            noisy(if step < 5 { 1.0 } else { 1e6 * 0.5f64.powf(step as f64 / 100.0) + 0.5 }, draw)
        }),
        ("of one row a step", VARIANCE, |_, draw| normal(draw).powi(2)),
        ("with losses over many orders of magnitude", VARIANCE, |_, draw| (3.0 * normal(draw)).exp()),
        ("whose first losses are by chance the least ones", NOTHING, |step, draw| {
            if step <= 3 { 1e-3 * (1.0 + draw()) } else { normal(draw).powi(2) * 1e-3 }
        }),
        ("with rows now and then that are a million times worse", NOTHING, |_, draw| {
            if draw() < 0.01 { 1e6 } else { noisy(1.0, draw) }
        }),
        ("of targets in other units", 1e12, |step, draw| noisy(3e12 / (1.0 + step as f64), draw)),
        ("of tiny targets", 1e-12, |step, draw| noisy(0.1 / (1.0 + step as f64).powi(3), draw)),
        ("whose loss is negative", NOTHING, |step, draw| noisy(step as f64 / 1000.0, draw) - 2.0),
        ("whose loss begins with 0", NOTHING, |step, draw| if step == 1 { 0.0 } else { noisy(1.0, draw) }),
    ];
    for (what, baseline, curve) in healthy {
        for total in [150, 2000, 20_000] {
            let lost = lost_at(*curve, *baseline, total);
            assert!(lost.is_none(), "a training {what}, of {total} steps, was stopped: {lost:?}");
        }
    }
}

/// One that is lost from a step on is waited for, for a tenth of its steps; where the noise of a mean has new lows, for some
/// times as long.
#[test]
fn a_lost_training_is_stopped_soon() {
    let lost: &[(&str, f64, u64, Curve)] = &[
        ("that grows exponentially", CHANCE, 600, |step, draw| {
            noisy(if step < 500 { learning(step) } else { 3.0 * 1.02f64.powf((step - 500) as f64).min(1e30) }, draw)
        }),
        ("that grows by the same each step", VARIANCE, 520, |step, draw| {
            noisy(if step < 500 { 0.2 } else { 0.2 + 0.1 * (step - 500) as f64 }, draw)
        }),
        ("that is lost from its second step on", VARIANCE, 2, |step, draw| {
            noisy(if step == 1 { 1.2 } else { 1e5 }, draw)
        }),
        ("that falls back behind the start", VARIANCE, 700, |step, draw| {
            noisy(if step < 700 { 0.05 } else { 1.8 }, draw)
        }),
        ("of a language model that is worse than chance", CHANCE, 700, |step, draw| {
            noisy(if step < 700 { 1.5 } else { 15.0 }, draw)
        }),
        ("that is lost with losses over orders of magnitude", VARIANCE, 300, |step, draw| {
            if step < 300 { noisy(0.2, draw) } else { (8.0 + 2.0 * normal(draw)).exp() }
        }),
        ("of targets that are not scaled", 1e12, 300, |step, draw| noisy(if step < 300 { 1e9 } else { 1e14 }, draw)),
    ];
    for (what, baseline, from, curve) in lost {
        for total in [2000, 20_000] {
            let patience = u64::from(Rule::new(*baseline, total).block * PATIENCE);
            let (step, lost) = lost_at(*curve, *baseline, total).unwrap_or_else(|| panic!("{what}: it goes on"));
            assert!((from + patience..from + 6 * patience).contains(&step), "{what}: {step}, of {total}: {lost}");
        }
    }
}

#[test]
fn what_is_lost_is_told_with_the_last_loss_the_best_one_and_that_of_an_untrained_model() {
    let (_, lost) = lost_at(|step, _| if step <= 200 { 0.25 } else { 80.0 }, 1.0, 1000).unwrap();
    assert_eq!(
        lost.to_string(),
        "the loss grew to 80.0000 and did not come down again (at best, about step 10, it was 0.2500; an untrained model has \
         1.0000)"
    );
    let (_, lost) = lost_at(|step, _| if step == 1 { 2.0 } else { 3e9 }, 1.0, 1000).unwrap();
    assert_eq!(
        lost.to_string(),
        "the loss grew to 3.000e9 and did not come down again (an untrained model has 2.0000)"
    );
}

#[test]
fn a_trend_that_is_written_and_read_between_all_steps_ends_at_the_same_one() {
    let rule = Rule::new(1.0, 1000);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let level = |step: u64| if step < 300 { 0.1 } else { 30.0 };
    let losses: Vec<f32> = (0..1000).map(|step| level(step) * rng.random_range(0.1..3.0f32)).collect();
    let (mut whole, mut resumed) = (Trend::default(), Trend::default());
    for (step, loss) in (1..).zip(losses) {
        let counted = if step % 7 == 0 { 5 } else { 32 };
        let verdict = whole.observe(rule, step, loss, counted);
        resumed = serde_json::from_str(&serde_json::to_string(&resumed).unwrap()).unwrap();
        assert_eq!(resumed.observe(rule, step, loss, counted), verdict);
        assert_eq!(resumed, whole);
        if verdict.is_err() {
            return;
        }
    }
    panic!("it goes on");
}

#[test]
fn a_rise_begins_with_its_first_step_and_ends_with_a_block_near_the_best() {
    let rule = Rule::new(1.0, 1000);
    let mut trend = Trend::default();
    let mut since = |steps: std::ops::RangeInclusive<u64>, loss: f32| {
        steps.for_each(|step| trend.observe(rule, step, loss, 32).unwrap());
        trend.risen_since()
    };
    assert_eq!(since(1..=25, 0.2), None);
    assert_eq!(since(26..=26, 0.5), Some(26), "a single step is enough");
    assert_eq!(since(27..=30, 0.2), None, "and is forgotten with its block");
    assert_eq!(since(31..=33, 0.2), None);
    assert_eq!(since(34..=47, 7.0), Some(34));
    assert_eq!(since(48..=59, 0.2), Some(34));
    assert_eq!(since(60..=60, 0.2), None);
}
