//! A training's look at itself: at the end of each epoch, and each so many steps.

use std::collections::BTreeMap;

use burn::module::Module;
use stoker_crds::{
    metric::{LOSS, Metrics, Split},
    progress::{HistoryPoint, MAX_SAMPLE_CHARACTERS, MAX_SAMPLES, Sample},
};

use super::{Session, seed};
use crate::{
    model::{Generation, Predictor},
    text::{prompt_tokens, stop_token},
    training::{
        TrainError,
        early_stopping::{Verdict, watched},
        evaluate::evaluate,
        order::{Stream, derive_seed},
        watch::Event,
    },
};

impl Session<'_> {
    /// Whether the step that was just taken is one after which the model is evaluated, besides those that end an epoch.
    pub(super) fn evaluation_is_due(&self) -> bool {
        let every = self.config.train.evaluation.as_ref().map(|evaluation| evaluation.every_steps);
        every.is_some_and(|every| self.now.state.step.is_multiple_of(every))
    }

    /// Evaluates the model on the validation split, lets it write, and adds a point to the history, with this training loss.
    pub(super) fn evaluate(&mut self, train_loss: Option<f64>) -> Result<(), TrainError> {
        let train = train_loss.map(|loss| (Split::Train, Metrics::from([(LOSS.into(), loss)])));
        let mut metrics = BTreeMap::from_iter(train);
        let predictor = self.predictor(self.now.learned().clone());
        if !self.problem.validation.is_empty() {
            let validation = self.validate(&predictor)?;
            self.observe(&predictor, &validation)?;
            metrics.insert(Split::Validation, validation);
        }
        self.write_samples(&predictor)?;
        let state = &mut self.now.state;
        let point = HistoryPoint { epoch: state.epoch, step: state.step, metrics };
        state.history.push(point.clone());
        let (history, samples) = (state.history.points(), state.samples.as_slice());
        self.watch.on(Event::Evaluated { point: &point, history, samples });
        Ok(())
    }

    fn validate(&self, predictor: &Predictor) -> Result<Metrics, TrainError> {
        let evaluation = evaluate(predictor, self.problem.validation, self.problem.restore_targets);
        evaluation.map(|evaluation| evaluation.metrics).map_err(|error| match error {
            TrainError::NotFinite(name) => TrainError::Diverged {
                what: format!("the validation metric '{name}' became infinite or NaN"),
                step: self.now.state.step,
                checkpoint: None,
            },
            error => error,
        })
    }

    /// Stops the training if the rule of early stopping says so.
    fn observe(&mut self, predictor: &Predictor, validation: &Metrics) -> Result<(), TrainError> {
        let Some(rule) = &self.config.train.early_stopping else { return Ok(()) };
        let value = watched(rule, validation).ok_or_else(|| {
            TrainError::InvalidConfig(format!(
                "train.earlyStopping: the metric {} is not defined for the validation split (a roc_auc needs rows \
                 of several classes, an r2 two rows, and regression and classification have metrics of their own); \
                 the split has: {}",
                rule.metric,
                validation.keys().cloned().collect::<Vec<_>>().join(", ")
            ))
        })?;
        let state = &mut self.now.state;
        match state.best.observe(rule, state.step, value) {
            Verdict::Better if rule.restore_best => self.now.best = Some(predictor.model().clone()),
            Verdict::Stop => state.stopped = true,
            Verdict::Better | Verdict::Wait => {}
        }
        Ok(())
    }

    /// Lets a language model go on with each prompt. What it draws follows from seed, step and prompt alone, so that a run that
    /// was interrupted writes the same.
    fn write_samples(&mut self, predictor: &Predictor) -> Result<(), TrainError> {
        let (Some(spec), Some(tokenizer)) = (&self.config.train.samples, self.problem.tokenizer) else { return Ok(()) };
        // Added once, and not for each token.
        let model = predictor.model().clone().materialize();
        let transformer = model.transformer()?;
        let texts = self.config.data.text.as_ref();
        let step = self.now.state.step;
        let step_seed = derive_seed(seed(self.config), Stream::Samples, step);
        for (index, prompt) in (0..).zip(&spec.prompts) {
            let generation = Generation {
                max_tokens: spec.max_tokens as usize,
                end_of_text: stop_token(tokenizer, texts),
                temperature: spec.temperature,
                top_k: spec.top_k.map(|count| count as usize),
                seed: derive_seed(step_seed, Stream::Samples, index),
            };
            let tokens = transformer.generate(&prompt_tokens(tokenizer, texts, prompt)?, &generation)?;
            let text = shortened(tokenizer.decode(&tokens)?);
            self.now.state.samples.push(Sample { step, prompt: prompt.clone(), text });
        }
        let samples = &mut self.now.state.samples;
        samples.drain(..samples.len().saturating_sub(MAX_SAMPLES));
        Ok(())
    }
}

/// At most [`MAX_SAMPLE_CHARACTERS`] of a text, the last of which says that there is more.
fn shortened(text: String) -> String {
    if text.chars().count() <= MAX_SAMPLE_CHARACTERS {
        return text;
    }
    text.chars().take(MAX_SAMPLE_CHARACTERS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_so() {
        let longest = "ä".repeat(MAX_SAMPLE_CHARACTERS);
        assert_eq!(shortened(longest.clone()), longest);
        let cut = shortened(format!("{longest}!"));
        assert!(cut.chars().count() == MAX_SAMPLE_CHARACTERS && cut.ends_with("ä…"), "{cut}");
    }
}
