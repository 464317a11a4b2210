//! Text that a transformer writes, token by token.

use burn::tensor::{Int, Tensor, TensorData};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Transformer;
use crate::model::{ModelError, read};

/// Sequences are filled up to a multiple of so many tokens, so that a device meets few shapes, for each of which it may have to
/// compile and tune its kernels anew.
const LENGTH_MULTIPLE: usize = 64;

/// How a text is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Generation {
    /// The most tokens that are written.
    pub max_tokens: usize,
    /// The token at which the text ends; it begins one that has no prompt.
    pub end_of_text: u32,
    /// What the logits are divided by before a token is drawn; 0 takes the most probable one.
    pub temperature: f64,
    /// Of how many of the most probable tokens one is drawn; `None` for all.
    pub top_k: Option<usize>,
    /// Decides about what is drawn, by a generator of its own.
    pub seed: u64,
}

impl Transformer {
    /// The tokens that follow on those of a prompt, up to the end of the text and without it. A text that is longer than the
    /// context is gone on with from its last tokens. `None` if `goes_on` says before a token that it does not.
    ///
    /// Each token costs a forward pass over the whole text: nothing of the passes before it is kept.
    ///
    /// # Errors
    /// If the device fails.
    pub fn generate(
        &self,
        prompt: &[u32],
        generation: &Generation,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<u32>>, ModelError> {
        let Generation { max_tokens, end_of_text, temperature, top_k, seed } = *generation;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut text = if prompt.is_empty() { vec![end_of_text] } else { prompt.to_vec() };
        let start = text.len();
        for _ in 0..max_tokens {
            if !goes_on() {
                return Ok(None);
            }
            let token = draw(&self.next_logits(&text)?, temperature, top_k, &mut rng);
            if token == end_of_text {
                break;
            }
            text.push(token);
        }
        Ok(Some(text.split_off(start)))
    }

    /// The logits, `[vocabulary]`, of the token after a text of at least one token.
    fn next_logits(&self, text: &[u32]) -> Result<Vec<f32>, ModelError> {
        let context = self.config.context as usize;
        let seen = &text[text.len().saturating_sub(context)..];
        // No token sees one after it, so what fills the sequence up changes nothing.
        let length = seen.len().next_multiple_of(LENGTH_MULTIPLE).min(context);
        let mut tokens: Vec<i32> = seen.iter().map(|token| *token as i32).collect();
        tokens.resize(length, 0);
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, length]), &self.tokens.val().device());
        read(self.logits(self.forward(tokens).narrow(1, seen.len() - 1, 1)))
    }
}

/// A token from the distribution that logits stand for: softmax(logits / temperature) over the `top_k` largest.
fn draw(logits: &[f32], temperature: f64, top_k: Option<usize>, rng: &mut impl Rng) -> u32 {
    let mut candidates: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|logit| f64::from(*logit))).collect();
    let count = if temperature > 0.0 { top_k.unwrap_or(logits.len()) } else { 1 };
    if (1..candidates.len()).contains(&count) {
        // Of equal ones the first.
        candidates.select_nth_unstable_by(count - 1, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        candidates.truncate(count);
        candidates.sort_unstable_by_key(|(token, _)| *token);
    }
    let largest = candidates.iter().map(|(_, logit)| *logit).fold(f64::NEG_INFINITY, f64::max);
    for (_, logit) in &mut candidates {
        *logit = ((*logit - largest) / temperature.max(f64::MIN_POSITIVE)).exp();
    }
    let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    let mut left = rng.random::<f64>() * total;
    let drawn = candidates.iter().find(|(_, weight)| {
        left -= weight;
        left < 0.0
    });
    // Rounding may leave a little that belongs to the last one.
    drawn.or(candidates.last()).map_or(0, |(token, _)| *token)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use stoker_crds::training::model::Transformer as Spec;

    use super::*;

    const SPEC: &str = r#"{"layers": 2, "width": 16, "heads": 2, "context": 70, "positions": "Rotary"}"#;
    const GENERATION: Generation =
        Generation { max_tokens: 20, end_of_text: 99, temperature: 1.0, top_k: None, seed: 1 };

    fn transformer() -> Transformer {
        transformer_on(&Device::flex())
    }

    fn transformer_on(device: &Device) -> Transformer {
        let config = serde_json::from_str::<Spec>(SPEC).unwrap().resolve().unwrap();
        Transformer::init(&config, 100, 7, device)
    }

    /// 100,000 draws of a share p have a standard deviation of at most 0.0016.
    #[test]
    fn tokens_are_drawn_as_often_as_the_softmax_says() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let logits = [1.0f32, 2.0, 3.0, 4.0].map(f32::ln);
        for (temperature, top_k, expected) in [
            (1.0, None, [0.1, 0.2, 0.3, 0.4]),
            (0.5, None, [1.0 / 30.0, 4.0 / 30.0, 9.0 / 30.0, 16.0 / 30.0]),
            (1.0, Some(2), [0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0]),
            (1.0, Some(100), [0.1, 0.2, 0.3, 0.4]),
            (0.0, None, [0.0, 0.0, 0.0, 1.0]),
        ] {
            let mut counts = [0.0f64; 4];
            for _ in 0..100_000 {
                counts[draw(&logits, temperature, top_k, &mut rng) as usize] += 1e-5;
            }
            for (count, share) in counts.iter().zip(expected) {
                assert!((count - share).abs() < 0.008, "{temperature} {top_k:?}: {counts:?} is not {expected:?}");
            }
        }
    }

    #[test]
    fn the_same_seed_writes_the_same_text_and_another_one_another() {
        let model = transformer();
        let text = |seed| model.generate(&[1, 2, 3], &Generation { seed, ..GENERATION }, &|| true).unwrap().unwrap();
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
        assert!(text(1).len() <= 20 && text(1).iter().all(|token| *token < 99), "{:?}", text(1));
    }

    /// What fills a sequence up must not be seen: the logits are those of the plain forward pass.
    #[test]
    fn the_logits_are_those_of_the_text_alone_and_of_its_end_where_it_is_long() {
        let (model, device) = (transformer(), Device::flex());
        for (length, seen) in [(1, 1), (5, 5), (64, 64), (65, 65), (70, 70), (75, 70)] {
            let text: Vec<u32> = (0..length).map(|position| position * 7 % 99).collect();
            let end: Vec<i32> = text[text.len() - seen..].iter().map(|token| *token as i32).collect();
            let tokens = Tensor::<2, Int>::from_data(TensorData::new(end, [1, seen]), &device);
            let expected = read(model.logits(model.forward(tokens)).narrow(1, seen - 1, 1)).unwrap();
            let actual = model.next_logits(&text).unwrap();
            // Sums in another order, of numbers around 1.
            let farthest = actual.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(actual.len() == 100 && farthest < 1e-5, "{length}: {farthest}");
        }
    }

    #[test]
    fn a_text_ends_before_its_end_and_one_without_a_prompt_begins_with_it() {
        let model = transformer();
        let text = model.generate(&[], &GENERATION, &|| true).unwrap().unwrap();
        assert_eq!(text, model.generate(&[99], &GENERATION, &|| true).unwrap().unwrap());
        let ending = Generation { end_of_text: text[3], ..GENERATION };
        let first = text.iter().position(|token| *token == text[3]).unwrap();
        assert_eq!(model.generate(&[99], &ending, &|| true).unwrap().unwrap(), text[..first]);
    }

    #[cfg(feature = "gpu")]
    mod gpu {
        use stoker_crds::training::Resources;

        use super::*;
        use crate::model::choose_device;

        #[test]
        fn a_gpu_goes_on_with_a_text_by_the_logits_of_the_cpu() {
            let gpu = choose_device(&Resources { gpus: 1, ..Resources::default() }).unwrap();
            let text: Vec<u32> = (0..40).map(|position| position * 7 % 99).collect();
            let [gpu, cpu] = [gpu, Device::flex()].map(|device| transformer_on(&device).next_logits(&text).unwrap());
            let farthest = gpu.iter().zip(&cpu).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // Sums in another order, of numbers around 1; on an NVIDIA GPU factors may have 11 bits (TF32).
            let tolerance = if cfg!(feature = "cuda") { 1e-2 } else { 1e-5 };
            assert!(gpu.len() == 100 && farthest < tolerance, "{farthest}");
        }
    }
}
