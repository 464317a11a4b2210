//! A training's look at itself: at the end of each epoch, and each so many steps.

use std::collections::BTreeMap;

use burn::module::Module;
use stoker_crds::{
    metric::{LOSS, Metrics, Split},
    progress::{HistoryPoint, MAX_SAMPLE_CHARACTERS, MAX_SAMPLES, Sample},
};
use tokio_util::sync::CancellationToken;

use super::{Session, seed};
use crate::{
    model::{Generation, Predictor},
    text::{prompt_tokens, stop_token},
    training::{
        TrainError,
        checkpoint::RunningLoss,
        early_stopping::{Verdict, watched},
        evaluate::evaluate_while,
        order::{Stream, derive_seed},
        watch::Event,
    },
};

impl Session<'_> {
    /// Whether the step that was just taken is one after which the model is evaluated, besides those that end an epoch.
    pub(super) fn is_time_to_evaluate(&self) -> bool {
        let every = self.config.train.evaluation.as_ref().map(|evaluation| evaluation.every_steps);
        every.is_some_and(|every| self.now.state.step.is_multiple_of(every))
    }

    /// Evaluates the model on the validation split, lets it write, and adds a point to the history, with this training loss.
    /// Answers whether it did: if it is told to stop before, nothing has changed.
    pub(super) fn evaluate(&mut self, train_loss: RunningLoss, stop: &CancellationToken) -> Result<bool, TrainError> {
        let predictor = self.predictor(self.now.learned().clone());
        let mut metrics = BTreeMap::new();
        if !self.problem.validation.is_empty() {
            let Some(validation) = self.validate(&predictor, stop)? else { return Ok(false) };
            metrics.insert(Split::Validation, validation);
        }
        let Some(samples) = self.samples(&predictor, stop)? else { return Ok(false) };

        self.now.state.due = None;
        if let Some(validation) = metrics.get(&Split::Validation) {
            self.observe(&predictor, validation)?;
        }
        metrics.extend(train_loss.mean().map(|loss| (Split::Train, Metrics::from([(LOSS.into(), loss)]))));
        let state = &mut self.now.state;
        state.samples.extend(samples);
        state.samples.drain(..state.samples.len().saturating_sub(MAX_SAMPLES));
        let point = HistoryPoint { epoch: state.epoch, step: state.step, metrics };
        state.history.push(point.clone());
        let (history, samples) = (state.history.points(), state.samples.as_slice());
        self.watch.on(Event::Evaluated { point: &point, history, samples });
        Ok(true)
    }

    fn validate(&self, predictor: &Predictor, stop: &CancellationToken) -> Result<Option<Metrics>, TrainError> {
        let (validation, restore) = (self.problem.validation, self.problem.restore_targets);
        let evaluation = evaluate_while(predictor, validation, restore, &|| !stop.is_cancelled());
        evaluation.map(|evaluation| Some(evaluation?.metrics)).map_err(|error| match error {
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

    /// What a language model writes after each prompt; `None` if it is told to stop before it is done. What it draws follows from
    /// seed, step and prompt alone, so that a run that was interrupted writes the same.
    fn samples(&self, predictor: &Predictor, stop: &CancellationToken) -> Result<Option<Vec<Sample>>, TrainError> {
        let (Some(spec), Some(tokenizer)) = (&self.config.train.samples, self.problem.tokenizer) else {
            return Ok(Some(Vec::new()));
        };
        // Added once, and not for each token.
        let model = predictor.model().clone().materialize();
        let transformer = model.transformer()?;
        let texts = self.config.data.text.as_ref();
        let step = self.now.state.step;
        let step_seed = derive_seed(seed(self.config), Stream::Samples, step);
        let mut samples = Vec::new();
        for (index, prompt) in (0..).zip(&spec.prompts) {
            let generation = Generation {
                max_tokens: spec.max_tokens as usize,
                end_of_text: stop_token(tokenizer, texts),
                temperature: spec.temperature,
                top_k: spec.top_k.map(|count| count as usize),
                seed: derive_seed(step_seed, Stream::Samples, index),
            };
            let prompted = prompt_tokens(tokenizer, texts, prompt)?;
            let Some(tokens) = transformer.generate(&prompted, &generation, &|| !stop.is_cancelled())? else {
                return Ok(None);
            };
            let text = shortened(tokenizer.decode(&tokens)?);
            samples.push(Sample { step, prompt: prompt.clone(), text });
        }
        Ok(Some(samples))
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
