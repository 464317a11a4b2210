//! What a training begins with.

use burn::{module::Module, tensor::Device};
use stoker_crds::{TrainConfig, training::Model};

use super::{Problem, TrainError};
use crate::{
    base::Base,
    model::{Adapted, Architecture, ModelError, Network, with_adapters},
};

/// What a training begins with: random weights, or a model that was trained before.
#[derive(Debug)]
pub(super) struct Origin {
    architecture: Architecture,
    base: Option<Base>,
}

impl Origin {
    /// What a configuration begins with; `base` is the model that it names to start from.
    ///
    /// # Errors
    /// If the configuration does not fit the data, or the model that it names was not opened.
    pub(super) fn new(config: &TrainConfig, problem: &Problem<'_>, base: Option<Base>) -> Result<Self, TrainError> {
        let architecture = match (&config.model, &base) {
            (Model::From(_), Some(base)) => base.architecture(),
            (model, _) => {
                Architecture::new(model.clone(), config.task, config.train.loss, problem.inputs, problem.targets)?
            }
        };
        Ok(Self { architecture, base })
    }

    /// The model that is started from, if there is one.
    pub(super) fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    /// What is trained.
    pub(super) fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// How large the adapters are, if they alone are learned.
    pub(super) fn adapted(&self) -> Option<Adapted> {
        self.base.as_ref().and_then(Base::adapted)
    }

    /// What is trained.
    pub(super) fn into_architecture(self) -> Architecture {
        self.architecture
    }

    /// The model before the first step; the seed decides what is random of it.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn first(&self, seed: u64, device: &Device) -> Result<Network, ModelError> {
        match &self.base {
            Some(base) => base.load(seed, device),
            None => Ok(self.architecture.init(seed, device)),
        }
    }

    /// The model with what it had learned, as a file: of one with adapters, these alone.
    ///
    /// # Errors
    /// If the file does not fit, or the device fails.
    pub(super) fn restore(&self, learned: &[u8], device: &Device) -> Result<Network, ModelError> {
        match self.base.as_ref().filter(|base| base.lora().is_some()) {
            // What is drawn is replaced.
            Some(base) => with_adapters(base.load(0, device)?, learned),
            None => self.architecture.load(learned, device),
        }
    }

    /// Another state of a restored model, without gradients. What is not learned of both is the same memory.
    ///
    /// # Errors
    /// As [`Self::restore`].
    pub(super) fn restore_beside(
        &self,
        model: &Network,
        learned: &[u8],
        plain: &Device,
    ) -> Result<Network, ModelError> {
        match self.base.as_ref().filter(|base| base.lora().is_some()) {
            Some(_) => with_adapters(model.valid(), learned),
            None => self.architecture.load(learned, plain),
        }
    }
}
