//! Whether a training fits the memory of what it computes on.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use burn::tensor::Device;
use stoker_crds::{
    Reason, TrainConfig,
    progress::Estimate,
    training::{
        Model, Train,
        optimize::{Loss, Precision},
    },
};

use super::{Event, TrainError, Watch, optimizer};
use crate::{
    machine::Memory,
    model::{Adapted, Architecture, Workload, device_info, is_gpu, precision, says_out_of_memory, total_memory},
};

/// The memory that a training is estimated to take, beside the memory that there is.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryNeed {
    /// What it is estimated to take.
    pub estimate: Estimate,
    /// The bytes that it surely takes.
    pub least: u64,
    /// The bytes that there are, if that is known.
    pub total: Option<u64>,
    /// The bytes that it surely takes of the memory of the host of a GPU.
    least_of_host: u64,
    /// The most samples, up to those of the configuration, that are estimated to fit when they are computed at once.
    pub fitting_batch: Option<u32>,
    batch: u32,
    /// What makes it take less, besides a smaller batch.
    savings: Vec<&'static str>,
    /// Whether all steps are done.
    is_trained: bool,
    is_gpu: bool,
    device: String,
}

impl MemoryNeed {
    /// That of a configuration on a device, of which adapters alone may be learned.
    pub(crate) fn new(
        config: &TrainConfig,
        architecture: &Architecture,
        adapted: Option<Adapted>,
        device: &Device,
    ) -> Self {
        Self::within(config, architecture, adapted, device, total_memory(device))
    }

    pub(super) fn within(
        config: &TrainConfig,
        architecture: &Architecture,
        adapted: Option<Adapted>,
        device: &Device,
        total: Option<u64>,
    ) -> Self {
        let states = states_per_weight(&config.train);
        let workload = Workload { adapted, ..Workload::new(&config.train, states, device) };
        Self {
            estimate: architecture.estimate(workload),
            least: architecture.least_memory(workload),
            least_of_host: architecture.least_host_memory(workload),
            total,
            fitting_batch: total.and_then(|total| architecture.fitting_batch(workload, total)),
            batch: workload.batch,
            savings: savings(config, device),
            is_trained: false,
            is_gpu: is_gpu(device),
            device: device_info(device).name,
        }
    }

    /// Tells the estimate, and refuses what surely does not fit. What the estimate alone says too much for is tried: it is not
    /// exact.
    ///
    /// # Errors
    /// If there is less memory than the training surely takes.
    pub(crate) fn check(&self, watch: &dyn Watch) -> Result<(), TrainError> {
        watch.on(Event::Estimated(&self.estimate));
        match (self.total, Memory::read().total().filter(|_| self.is_gpu)) {
            (Some(total), _) if self.least > total => Err(TrainError::TooLarge(Box::new(self.clone()))),
            (_, Some(host)) if self.least_of_host > host => Err(TrainError::HostTooSmall {
                parameters: self.estimate.parameters,
                needed: self.least_of_host,
                total: host,
            }),
            _ => Ok(()),
        }
    }

    /// The same once all steps are done, where neither a smaller batch helps nor another way to train.
    pub(super) fn after_the_last_step(self) -> Self {
        Self { is_trained: true, ..self }
    }

    /// What a person should know although the training is tried.
    pub(super) fn warning(&self) -> Option<String> {
        self.total
            .is_some_and(|total| self.estimate.memory_bytes() > total)
            .then(|| format!("the training may need more memory than there is: {self}"))
    }

    /// Runs what may fill the device's memory; where it does, the error tells this need. Some of burn's backends say so by a
    /// panic.
    ///
    /// # Errors
    /// Those of the work.
    pub(crate) fn explain<T>(&self, work: impl FnOnce() -> Result<T, TrainError>) -> Result<T, TrainError> {
        // Nothing of the work is looked at after a panic.
        let said = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Err(error)) if error.reason() == Reason::OutOfDeviceMemory => error.to_string(),
            Ok(result) => return result,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                match text.or_else(|| panic.downcast_ref::<&str>().copied()).filter(|text| says_out_of_memory(text)) {
                    Some(text) => text.to_owned(),
                    None => resume_unwind(panic),
                }
            }
        };
        tracing::error!("the device's memory is full: {said}");
        // The estimate was too low: half of the batch is the next thing to try.
        let fitting_batch = self.fitting_batch.unwrap_or(self.batch).min(self.batch / 2);
        let need = Self { fitting_batch: (fitting_batch > 0).then_some(fitting_batch), ..self.clone() };
        Err(TrainError::OutOfDeviceMemory(Box::new(need)))
    }

    /// The reason that is reported where the memory does not suffice.
    pub fn reason(&self) -> Reason {
        if self.is_gpu { Reason::OutOfDeviceMemory } else { Reason::OutOfMemory }
    }
}

/// How many numbers are kept for each weight besides itself and its gradient: by the optimizer, for the average of weights, and
/// for the sum of several micro batches' gradients.
fn states_per_weight(train: &Train<Loss>) -> u32 {
    let sums_gradients = train.micro_batch_size() < train.batch_size;
    optimizer::states_per_weight(&train.optimizer) + u32::from(train.ema.is_some()) + u32::from(sums_gradients)
}

/// What a configuration leaves open that makes a training take less memory.
fn savings(config: &TrainConfig, device: &Device) -> Vec<&'static str> {
    let (is_mlp, train) = (matches!(config.model, Model::Mlp(_)), &config.train);
    let has_bf16 = precision::on_device(Precision::BF16, device).is_ok();
    let has_all_learned = config.model.base().is_some_and(|base| base.lora.is_none());
    [
        (!is_mlp && !train.activation_checkpointing, "set train.activationCheckpointing to true"),
        (train.precision != Precision::BF16 && has_bf16, "set train.precision to BF16"),
        (has_all_learned, "learn adapters alone (spec.model.from.lora)"),
    ]
    .into_iter()
    .filter_map(|(helps, saving)| helps.then_some(saving))
    .collect()
}

/// The numbers, and what to do.
impl fmt::Display for MemoryNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} parameters at train.microBatchSize {} are estimated to take {} ({})",
            self.estimate.parameters,
            self.batch,
            Size(self.estimate.memory_bytes()),
            Parts(&self.estimate),
        )?;
        if let Some(total) = self.total {
            let whose = if self.is_gpu { self.device.as_str() } else { "this machine or its container" };
            write!(f, ", and {whose} has {}", Size(total))?;
        }
        let more = if self.is_gpu { "a GPU with more memory" } else { "more resources.memory" };
        match self.fitting_batch {
            _ if self.is_trained => {
                write!(f, ": all steps are done, and what follows on them needs {more}, or a smaller model")
            }
            Some(batch) => write!(f, ": set train.microBatchSize to {batch} or less, or take {more}"),
            None => {
                let savings: String = self.savings.iter().map(|saving| format!("{saving}, ")).collect();
                write!(f, ": no batch fits, so {savings}take a smaller model or context, or {more}")
            }
        }
    }
}

/// What an estimated memory is for.
pub(crate) struct Parts<'a>(pub(crate) &'a Estimate);

impl fmt::Display for Parts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Estimate {
            parameters: _,
            weights_bytes,
            gradients_bytes,
            optimizer_bytes,
            activations_bytes,
            copies_bytes,
        } = *self.0;
        let parts = [
            ("weights", weights_bytes),
            ("gradients", gradients_bytes),
            ("optimizer", optimizer_bytes),
            ("activations", activations_bytes),
        ];
        parts.into_iter().try_for_each(|(part, bytes)| write!(f, "{part} {}, ", Size(bytes)))?;
        write!(f, "copies for checkpoints {}", Size(copies_bytes))
    }
}

/// An amount of memory, as Kubernetes writes it.
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("Gi", 1_u64 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
        match units.into_iter().find(|(_, size)| self.0 >= *size) {
            Some((unit, size)) => write!(f, "{:.1}{unit}", self.0 as f64 / size as f64),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        artifact::ArtifactError,
        model::ModelError,
        training::{Silent, tests::config},
    };

    /// 100·1000 + 1000 + 1000·10 + 10 = 111,010 parameters: 433.6 Ki of weights, gradients, and two states of Adam each.
    fn need(batch: u32, total: u64) -> MemoryNeed {
        let train = json!({"loss": "MSE", "batchSize": batch, "optimizer": {"adam": {}}});
        let config = config("Regression", json!({"hidden": [1000]}), train, json!({}));
        let architecture = Architecture::new(config.model.clone(), config.task, config.train.loss, 100, 10).unwrap();
        MemoryNeed::within(&config, &architecture, None, &Device::flex(), Some(total))
    }

    #[test]
    fn what_surely_does_not_fit_is_refused_with_the_numbers_and_a_batch_that_fits() {
        // Weights and the like take 1.7 Mi; a row surely takes 1100 numbers, and is estimated to take 3120.
        let error = need(4096, 16 << 20).check(&Silent).unwrap_err();
        assert_eq!(error.reason(), Reason::OutOfMemory);
        for part in ["111010 parameters at train.microBatchSize 4096", "weights 433.6Ki", "optimizer 867.3Ki", "16.0Mi"]
        {
            assert!(error.to_string().contains(part), "{error}");
        }
        let batch = need(4096, 16 << 20).fitting_batch.unwrap();
        assert!(error.to_string().contains(&format!("set train.microBatchSize to {batch} or less")), "{error}");
        assert!(need(batch, 16 << 20).warning().is_none() && need(batch + 1, 16 << 20).warning().is_some());

        let error = need(1, 1 << 20).check(&Silent).unwrap_err().to_string();
        assert!(error.contains("no batch fits, so set train.precision to BF16, take"), "{error}");
    }

    #[test]
    fn what_makes_a_training_take_less_is_named_where_it_is_not_yet_so() {
        let mut config = config("LanguageModeling", json!({}), json!({"loss": "CrossEntropy"}), json!({}));
        let model = json!({"from": {"uri": "s3://models/a", "format": "HuggingFace"}});
        config.model = serde_json::from_value(model).unwrap();
        for part in ["activationCheckpointing", "train.precision", "model.from.lora"] {
            assert!(savings(&config, &Device::flex()).iter().any(|saving| saving.contains(part)), "{part}");
        }
        let model = json!({"from": {"uri": "s3://models/a", "format": "HuggingFace", "lora": {"rank": 4, "alpha": 8}}});
        config.model = serde_json::from_value(model).unwrap();
        (config.train.precision, config.train.activation_checkpointing) = (Precision::BF16, true);
        assert!(savings(&config, &Device::flex()).is_empty());
    }

    #[test]
    fn micro_batches_need_less_and_what_is_kept_for_each_weight_is_counted() {
        let estimate = |train: serde_json::Value| {
            let config = config("Regression", json!({"hidden": [1000]}), train, json!({}));
            let architecture =
                Architecture::new(config.model.clone(), config.task, config.train.loss, 100, 10).unwrap();
            MemoryNeed::within(&config, &architecture, None, &Device::flex(), None).estimate
        };
        let whole = estimate(json!({"loss": "MSE", "batchSize": 64, "ema": {}}));
        let parts = estimate(json!({"loss": "MSE", "batchSize": 64, "microBatchSize": 16, "ema": {}}));
        assert_eq!(parts.activations_bytes * 4, whole.activations_bytes);
        // Two numbers of AdamW and the average; and the sum of gradients.
        assert_eq!([whole, parts].map(|estimate| estimate.optimizer_bytes / estimate.weights_bytes), [3, 4]);
    }

    #[test]
    fn what_may_fit_is_tried_and_what_is_estimated_not_to_is_told() {
        assert!(need(32, 1 << 30).check(&Silent).is_ok() && need(32, 1 << 30).warning().is_none());
        // Between what is sure and what is estimated.
        let need = need(1000, 10 << 20);
        assert!(need.least < 10 << 20 && need.estimate.memory_bytes() > 10 << 20);
        assert!(need.check(&Silent).is_ok() && need.warning().unwrap().contains("estimated to take 14.9Mi"), "{need}");
    }

    #[test]
    fn a_device_that_runs_out_of_memory_by_an_error_or_a_panic_is_explained() {
        let need = need(64, 1 << 30);
        let full = || {
            ModelError::Execution(burn::tensor::ExecutionError::WithContext { reason: "out of device memory".into() })
        };
        let computed = need.explain(|| Err::<(), _>(full().into())).unwrap_err();
        let published = need.explain(|| Err::<(), _>(ArtifactError::from(full()).into())).unwrap_err();
        let panicked = need.explain::<()>(|| panic!("can't allocate buffer of size: 7")).unwrap_err();
        for error in [computed, published, panicked] {
            assert_eq!(error.reason(), Reason::OutOfDeviceMemory);
            assert!(error.to_string().contains("set train.microBatchSize to 32 or less"), "{error}");
        }
        let later = need.clone().after_the_last_step().explain(|| Err::<(), _>(full().into())).unwrap_err().to_string();
        assert!(later.contains("all steps are done") && !later.contains("microBatchSize to"), "{later}");
        let other = need.explain(|| Err::<(), _>(TrainError::Empty("training"))).unwrap_err();
        assert_eq!(other.reason(), Reason::EmptyData);
    }
}
