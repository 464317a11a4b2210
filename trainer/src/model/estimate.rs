//! How large a model is, and what its training takes, before there is one.

use burn::tensor::{Device, FloatDType};
use stoker_crds::{
    progress::Estimate,
    training::{
        Train,
        model::{Mlp, TransformerConfig},
        optimize::{Loss, Precision},
    },
};

use super::{
    Architecture, RowLayers, RowModel, ops,
    precision::{computed, stored},
    transformer::{attention_flops, parameter_count, training_activations},
};

/// Bytes of a 32-bit float.
pub(super) const FLOAT: u64 = 4;

/// What a training makes a device hold, besides the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Rows or sequences of a step.
    pub batch: u32,
    /// How many numbers the optimizer keeps for each weight.
    pub optimizer_states: u32,
    /// Whether the operations of a transformer are fused on the device: then dropout keeps no masks, and few logits and no scores
    /// stand in memory at a time.
    pub is_fused: bool,
    /// Which numbers are kept and computed with.
    pub precision: Precision,
    /// Whether a transformer keeps the activations of one block at a time, and of the others what goes in.
    pub activation_checkpointing: bool,
    /// The adapters that alone are learned, if not all weights are.
    pub adapted: Option<Adapted>,
    /// Whether the weights of the best evaluation are kept beside those of now.
    pub keeps_best: bool,
}

/// The adapters of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adapted {
    /// The numbers that they have.
    pub parameters: u64,
    /// The numbers that the weights have which they are added to.
    pub weights: u64,
}

impl Workload {
    /// That of a training of all weights on a device, whose optimizer keeps so many numbers for each weight.
    pub fn new(train: &Train<Loss>, optimizer_states: u32, device: &Device) -> Self {
        Self {
            batch: train.micro_batch_size(),
            optimizer_states,
            // The fused operations are of 32-bit floats.
            is_fused: train.precision == Precision::F32 && ops::are_fused(device),
            precision: train.precision,
            activation_checkpointing: train.activation_checkpointing,
            adapted: None,
            keeps_best: train.early_stopping.as_ref().is_some_and(|rule| rule.restore_best),
        }
    }

    /// Bytes of a number that is computed with.
    pub(super) fn number(self) -> u64 {
        bytes(computed(self.precision))
    }
}

/// Bytes of a number.
fn bytes(dtype: FloatDType) -> u64 {
    match dtype {
        FloatDType::BF16 | FloatDType::F16 => FLOAT / 2,
        _ => FLOAT,
    }
}

/// What a forward pass keeps for the backward pass, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Activations {
    /// About all of it.
    pub(super) estimated: u64,
    /// What no implementation can do without: the inputs of the matrices, of which their gradients are made.
    pub(super) least: u64,
}

impl Architecture {
    /// How large the model is, and about what it takes to train it.
    ///
    /// With p parameters, weights and gradients are 4p bytes each, or 2p where they are kept in 16 bits, and each number that the
    /// optimizer keeps for a weight is 4p more. A copy of the weights that is computed with is 2p more; with activation
    /// checkpointing there is only one of a block at a time. Where adapters alone are learned, gradients and the optimizer are of
    /// these, and the sums of them and the matrices that they are added to are kept for the backward pass. An mlp keeps the
    /// inputs of its layers, and twice their outputs for activation and dropout; `transformer/size.rs`
    /// says what is counted of a transformer. While a checkpoint is written, the steps go on with a copy of what is learned and
    /// of the optimizer's numbers. What an allocator holds in reserve, and what the program itself needs, come on top.
    pub fn estimate(&self, workload: Workload) -> Estimate {
        let parameters = self.parameter_count();
        let (kept, number) = (bytes(stored(workload.precision)), workload.number());
        let copy = if kept == number || workload.activation_checkpointing { 0 } else { number };
        let states = FLOAT.saturating_mul(workload.optimizer_states.into());
        let (added, learned, sums) = match workload.adapted {
            Some(Adapted { parameters: adapters, weights }) => (adapters, adapters, weights),
            None => (0, parameters, 0),
        };
        let sums = if workload.activation_checkpointing { 0 } else { sums.saturating_mul(number) };
        let best = if workload.keeps_best { kept } else { 0 };
        Estimate {
            parameters,
            weights_bytes: parameters.saturating_add(added).saturating_mul(kept + copy),
            gradients_bytes: learned.saturating_mul(kept),
            optimizer_bytes: learned.saturating_mul(states),
            copies_bytes: learned.saturating_mul(kept + states + best),
            activations_bytes: self.activations(workload).estimated.saturating_add(sums),
        }
    }

    /// The bytes that such a training surely needs before its first checkpoint: weights, gradients, the optimizer's state, and the
    /// inputs of the matrices.
    pub fn least_memory(&self, workload: Workload) -> u64 {
        let least = self.activations(workload).least;
        Estimate { activations_bytes: least, copies_bytes: 0, ..self.estimate(workload) }.memory_bytes()
    }

    /// The bytes of the host that a training on a GPU surely needs, besides those of the program: a checkpoint's optimizer is
    /// fetched from the GPU at once, and so are the weights that are published, which are written to a file in memory.
    pub fn least_host_memory(&self, workload: Workload) -> u64 {
        let Estimate { parameters, optimizer_bytes, .. } = self.estimate(workload);
        optimizer_bytes.max(parameters.saturating_mul(2 * bytes(stored(workload.precision))))
    }

    /// The largest batch, up to that of the workload, whose estimate is not above so many bytes; `None` if not even one sample
    /// is.
    pub fn fitting_batch(&self, workload: Workload, bytes: u64) -> Option<u32> {
        let fits = |batch: &u32| self.estimate(Workload { batch: *batch, ..workload }).memory_bytes() <= bytes;
        let (mut fitting, mut above) = (0, workload.batch.saturating_add(1));
        while above - fitting > 1 {
            let middle = fitting + (above - fitting) / 2;
            if fits(&middle) { fitting = middle } else { above = middle }
        }
        (fitting > 0).then_some(fitting)
    }

    /// The numbers that the model has.
    pub fn parameter_count(&self) -> u64 {
        match self {
            Self::Rows(rows) => layer_widths(rows).map(|[input, output]| (input + 1).saturating_mul(output)).sum(),
            Self::Language(language) => parameter_count(language.transformer(), language.vocabulary()),
        }
    }

    /// The floating-point operations that a step needs for each sample, forward and backward: 6 per parameter and row or
    /// token, 2 of which are for its gradient and not needed where adapters alone are learned; and for attention
    /// 12 · layers · width · context per token (PaLM, Chowdhery et al., 2022, appendix B).
    pub fn step_flops(&self, adapted: Option<Adapted>) -> f64 {
        let parameters = self.parameter_count() as f64;
        let dense = adapted.map_or(6.0 * parameters, |adapted| 4.0 * parameters + 6.0 * adapted.parameters as f64);
        match self {
            Self::Rows(_) => dense,
            Self::Language(language) => {
                let config: &TransformerConfig = language.transformer();
                f64::from(config.context) * (dense + attention_flops(config))
            }
        }
    }

    fn activations(&self, workload: Workload) -> Activations {
        match self {
            Self::Rows(rows) => {
                let row = u64::from(workload.batch).saturating_mul(workload.number());
                let (inputs, outputs) =
                    layer_widths(rows).fold((0, 0), |(inputs, outputs), [i, o]| (inputs + i, outputs + o));
                Activations { estimated: row.saturating_mul(inputs + 2 * outputs), least: row.saturating_mul(inputs) }
            }
            Self::Language(language) => training_activations(language.transformer(), language.vocabulary(), workload),
        }
    }
}

/// Inputs and outputs of each layer.
fn layer_widths(rows: &RowModel) -> impl Iterator<Item = [u64; 2]> + use<> {
    let RowModel { model: RowLayers::Mlp(Mlp { hidden, .. }), input_width, output_width, .. } = rows;
    let hidden = hidden.iter().map(|width| u64::from(*width));
    let widths: Vec<u64> = [*input_width as u64].into_iter().chain(hidden).chain([*output_width as u64]).collect();
    (1..widths.len()).map(move |layer| [widths[layer - 1], widths[layer]])
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use serde_json::json;
    use stoker_crds::training::{
        Model, Task,
        model::{Preset, Transformer as Spec},
        optimize::Loss,
    };

    use super::*;

    fn mlp() -> Architecture {
        let spec = serde_json::from_value(json!({"hidden": [64, 32]})).unwrap();
        Architecture::new(Model::Mlp(spec), Task::Classification, Loss::CrossEntropy, 20, 10).unwrap()
    }

    fn gpt2() -> Architecture {
        let config = Spec { preset: Some(Preset::Gpt2), ..Spec::default() }.resolve().unwrap();
        Architecture::language(config, 50_257).unwrap()
    }

    const WORKLOAD: Workload = Workload {
        batch: 8,
        optimizer_states: 2,
        is_fused: true,
        precision: Precision::F32,
        activation_checkpointing: false,
        adapted: None,
        keeps_best: false,
    };

    #[test]
    fn sixteen_bits_and_activation_checkpointing_take_less_memory() {
        let estimate = |precision, activation_checkpointing| {
            let workload = Workload { is_fused: false, precision, activation_checkpointing, ..WORKLOAD };
            let Estimate {
                parameters,
                weights_bytes,
                gradients_bytes,
                optimizer_bytes,
                copies_bytes,
                activations_bytes,
            } = gpt2().estimate(workload);
            let all = [weights_bytes, gradients_bytes, optimizer_bytes, copies_bytes];
            (all.map(|bytes| bytes / parameters), activations_bytes)
        };
        let (full, mixed, half) =
            (estimate(Precision::F32, false), estimate(Precision::Mixed, false), estimate(Precision::BF16, false));
        assert_eq!([full.0, mixed.0, half.0], [[4, 4, 8, 12], [6, 4, 8, 12], [2, 2, 8, 10]]);
        assert!(half.1 == mixed.1 && mixed.1 < full.1 * 3 / 4, "{mixed:?} {full:?}");
        // Of 12 blocks one is kept, and 768 numbers of each.
        let recomputed = estimate(Precision::F32, true);
        let block = 4 * 8192 * (6 * 768 + 2 * 768 + 12 + 2 * 3072);
        assert_eq!((recomputed.0, full.1 - recomputed.1), (full.0, 11 * block - 12 * 4 * 8192 * 768));
    }

    #[test]
    fn the_parameters_of_an_mlp_are_those_of_the_real_module() {
        let module = mlp().init(1, &Device::flex());
        assert_eq!(mlp().parameter_count(), module.num_params() as u64);
        // 20·64 + 64 + 64·32 + 32 + 32·10 + 10.
        assert_eq!(mlp().parameter_count(), 3754);
    }

    #[test]
    fn the_memory_is_that_of_weights_gradients_states_and_activations() {
        let estimate = mlp().estimate(WORKLOAD);
        assert_eq!(
            (estimate.weights_bytes, estimate.gradients_bytes, estimate.optimizer_bytes),
            (15_016, 15_016, 30_032)
        );
        // 8 rows of the inputs 20 + 64 + 32, and twice of the outputs 64 + 32 + 10.
        assert_eq!(estimate.activations_bytes, 4 * 8 * (116 + 212));
        assert_eq!(estimate.copies_bytes, 15_016 + 30_032);
        assert_eq!(estimate.memory_bytes(), 60_064 + 10_496 + 45_048);
        assert_eq!(mlp().least_memory(WORKLOAD), 60_064 + 4 * 8 * 116);
        let best = mlp().estimate(Workload { keeps_best: true, ..WORKLOAD });
        assert_eq!(best.copies_bytes, 2 * 15_016 + 30_032);
        // Both moments at once, or the weights and the file of them.
        assert_eq!(mlp().least_host_memory(WORKLOAD), 30_032);
        let sgd = Workload { optimizer_states: 0, ..WORKLOAD };
        assert_eq!(mlp().estimate(sgd).optimizer_bytes, 0);
    }

    #[test]
    fn where_adapters_alone_are_learned_the_rest_has_no_gradients_and_no_states() {
        let (all, adapted) = (gpt2().estimate(WORKLOAD), Adapted { parameters: 1000, weights: 50_000 });
        let estimate = gpt2().estimate(Workload { adapted: Some(adapted), ..WORKLOAD });
        assert_eq!((estimate.parameters, estimate.weights_bytes), (124_439_808, 4 * (124_439_808 + 1000)));
        assert_eq!((estimate.gradients_bytes, estimate.optimizer_bytes, estimate.copies_bytes), (4000, 8000, 12_000));
        assert_eq!(estimate.activations_bytes, all.activations_bytes + 4 * 50_000);
    }

    #[test]
    fn the_largest_batch_that_fits_is_found_to_the_byte() {
        for architecture in [mlp(), gpt2()] {
            for batch in [1, 2, 5, 1000] {
                let bytes = architecture.estimate(Workload { batch, ..WORKLOAD }).memory_bytes();
                let fitting = |bytes| architecture.fitting_batch(Workload { batch: 1000, ..WORKLOAD }, bytes);
                assert_eq!(fitting(bytes), Some(batch));
                assert_eq!(fitting(bytes - 1), (batch > 1).then(|| batch - 1));
            }
        }
        let most = Workload { batch: u32::MAX, ..WORKLOAD };
        assert_eq!(
            mlp().fitting_batch(most, u64::MAX),
            Some(u32::MAX - 1),
            "the last one cannot be told from one more"
        );
    }

    /// 124,439,808 parameters, 12 layers of width 768, a context of 1024: 6·N + 12·L·w·T for each of 1024 tokens.
    #[test]
    fn the_operations_of_a_step_are_those_of_palms_appendix() {
        let attention = 12.0 * 12.0 * 768.0 * 1024.0;
        assert_eq!(gpt2().step_flops(None), 1024.0 * (6.0 * 124_439_808.0 + attention));
        assert_eq!(mlp().step_flops(None), 6.0 * 3754.0);
        // Weights that stay as they are have no gradients.
        let adapted = Adapted { parameters: 1000, weights: 50_000 };
        assert_eq!(gpt2().step_flops(Some(adapted)), 1024.0 * (4.0 * 124_439_808.0 + 6.0 * 1000.0 + attention));
    }
}
