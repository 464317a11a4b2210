//! What a checkpoint holds: everything that the next step depends on.

use std::collections::BTreeMap;

use burn::tensor::{Device, FloatDType};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use stoker_crds::{TrainConfig, artifact::WEIGHTS, progress::Sample};

use super::{
    divergence::Trend, early_stopping::BestSoFar, history::History, loss_scale::LossScale, optimizer::Optimizer,
    origin::Origin,
};
use crate::{
    artifact::{Artifact, ArtifactError, Writer, digest},
    model::{
        HostTensors, ModelError, Network, in_pieces, learned_weights,
        precision::{convert, stored},
    },
};

/// The optimizer's tensors.
const OPTIMIZER: &str = "optimizer.safetensors";
/// What was learned, averaged.
const AVERAGE: &str = "average.safetensors";
/// What was learned by the best evaluation so far.
const BEST: &str = "best.safetensors";
/// The [`State`].
const STATE: &str = "state.json";

/// Digest of all in a configuration that decides about the weights. Where they are written, how often they are saved,
/// and what the pod gets is not in it.
pub fn config_digest(config: &TrainConfig) -> String {
    let TrainConfig { task, data, model, train, .. } = config;
    // Serialising these plain types cannot fail; an empty text would only make all configurations equal.
    digest(&serde_json::to_vec(&(task, data, model, train)).unwrap_or_default())
}

/// Where a training is: what is not a tensor of a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct State {
    /// Digest of configuration and data: a checkpoint of others does not fit.
    pub(super) inputs: String,
    /// Epochs that are done.
    pub(super) epoch: u32,
    /// Optimizer steps that are done.
    pub(super) step: u64,
    /// Rows of the current epoch that are done.
    pub(super) position: u32,
    /// The losses of the current epoch's steps.
    pub(super) loss: RunningLoss,
    /// The evaluation that comes before the next step, if one does: the losses that it tells of the training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) due: Option<RunningLoss>,
    /// How the loss went so far.
    #[serde(default)]
    pub(super) trend: Trend,
    /// What the next loss is multiplied with, if it is computed in 16-bit floats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) loss_scale: Option<LossScale>,
    /// For early stopping.
    pub(super) best: BestSoFar,
    /// Whether early stopping has ended the training.
    pub(super) stopped: bool,
    /// How the metrics went.
    pub(super) history: History,
    /// What the language model wrote last.
    pub(super) samples: Vec<Sample>,
}

impl State {
    /// Checkpoints of fewer steps are good: of the step after each the loss is known, and it was not of the rise that there may
    /// be now.
    pub(super) fn good_before(&self) -> u64 {
        self.trend.risen_since().map_or(self.step, |step| step.saturating_sub(1))
    }
}

/// A mean over rows, or over tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct RunningLoss {
    /// The sum's bits: read back, it is the same number to the last one.
    sum: u64,
    rows: u64,
}

impl RunningLoss {
    /// Adds the mean loss of so many rows or tokens.
    pub(super) fn add(&mut self, mean: f32, rows: usize) {
        self.sum = (f64::from_bits(self.sum) + f64::from(mean) * rows as f64).to_bits();
        self.rows += rows as u64;
    }

    /// The mean over all of them; `None` of none.
    pub(super) fn mean(self) -> Option<f64> {
        (self.rows > 0).then(|| f64::from_bits(self.sum) / self.rows as f64)
    }
}

/// A training between two steps. It owns what it holds, so that another thread can write it.
#[derive(Clone)]
pub(super) struct Snapshot {
    pub(super) state: State,
    pub(super) model: Network,
    pub(super) optimizer: Optimizer,
    /// The model of averaged weights, if they are averaged.
    pub(super) average: Option<Network>,
    /// The model of the best evaluation so far, if it is to be restored at the end.
    pub(super) best: Option<Network>,
}

/// Why a snapshot is not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum EncodeError {
    /// The training has diverged.
    #[error("{0} is not finite")]
    NotFinite(String),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

impl From<ModelError> for EncodeError {
    fn from(error: ModelError) -> Self {
        Self::Artifact(error.into())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    state: State,
    /// The optimizer's counters.
    optimizer: BTreeMap<String, u64>,
}

impl Snapshot {
    /// What has been learned so far: the model of averaged weights, if they are averaged.
    pub(super) fn learned(&self) -> &Network {
        self.average.as_ref().unwrap_or(&self.model)
    }

    /// Writes the files of the checkpoint: of a model with adapters they hold these alone, and not what they are added to.
    /// While one is copied from the model, the one before is on its way.
    ///
    /// # Errors
    /// If a number is not finite: then no file is there. If the storage fails.
    pub(super) async fn write(self, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
        let Self { state, model, optimizer, average, best } = self;
        write_tensors(writer, WEIGHTS, "a weight of ", learned_weights(&model)?).await?;
        drop(model);
        let (tensors, counters) = optimizer.to_parts();
        drop(optimizer);
        write_tensors(writer, OPTIMIZER, "the optimizer's ", tensors).await?;
        for (name, what, model) in
            [(AVERAGE, "an averaged weight of ", average), (BEST, "a weight of the best model, of ", best)]
        {
            if let Some(model) = model {
                write_tensors(writer, name, what, learned_weights(&model)?).await?;
            }
        }
        let state = serde_json::to_vec(&StateFile { state, optimizer: counters }).map_err(ArtifactError::Json)?;
        writer.write(STATE, [Ok(state.into())]).await
    }

    /// The training that a checkpoint holds, on a device with autodiff; `None` if it is of other inputs.
    ///
    /// # Errors
    /// If a file is missing or does not fit.
    pub(super) fn decode(
        artifact: &Artifact,
        inputs: &str,
        origin: &Origin,
        config: &TrainConfig,
        device: &Device,
    ) -> Result<Option<Self>, ArtifactError> {
        let StateFile { state, optimizer: counters } = serde_json::from_slice(artifact.file(STATE)?)?;
        if state.inputs != inputs {
            return Ok(None);
        }
        // Numbers of 16 bits are exact in 32, and back.
        let model = convert(origin.restore(artifact.file(WEIGHTS)?, device)?, stored(config.train.precision));
        let decay_on = config.train.weight_decay_on(config.task);
        let mut optimizer = Optimizer::new(&config.train.optimizer, decay_on, &model);
        let tensors = SafeTensors::deserialize(artifact.file(OPTIMIZER)?).map_err(ModelError::Weights)?;
        let plain = device.clone().without_autodiff();
        // There is no state before the first step, nor if all were skipped.
        if !(tensors.is_empty() && counters.is_empty()) {
            optimizer.restore(&model, &tensors, &counters, &plain)?;
        }
        let other = |name, dtype| -> Result<Option<Network>, ArtifactError> {
            let Ok(learned) = artifact.file(name) else { return Ok(None) };
            Ok(Some(convert(origin.restore_beside(&model, learned, &plain)?, dtype)))
        };
        // An average is kept in 32 bits, whatever the weights are.
        let (average, best) = (other(AVERAGE, FloatDType::F32)?, other(BEST, stored(config.train.precision))?);
        Ok(Some(Self { state, model, optimizer, average, best }))
    }
}

/// Writes a safetensors file; each tensor is checked when it is its turn.
async fn write_tensors(
    writer: &mut Writer<'_>,
    file: &str,
    what: &str,
    tensors: HostTensors,
) -> Result<(), EncodeError> {
    let (head, tensors) = in_pieces(tensors)?;
    let checked = tensors.into_iter().map(|(name, tensor)| match tensor.is_finite() {
        true => Ok(tensor.into_bytes()),
        false => Err(EncodeError::NotFinite(format!("{what}{name}"))),
    });
    writer.write(file, std::iter::once(Ok(head)).chain(checked)).await
}
