//! Low-rank adaptation (Hu et al., 2021): of a layer's weights W, which stay as they are, W + alpha/rank · A·B is computed.
//!
//! burn's own [`Lora`](burn::module::Lora) adapts a parameter as a whole, and draws A from the device's generator. Queries, keys
//! and values are one parameter here, while of Llama they are three layers in files, which `peft` adapts one by one. So
//! each layer that a parameter holds has one of burn's adapters, and they are attached by burn's reparameterization, which
//! makes W + alpha/rank · A·B of them wherever W is read: the layers above know nothing of it.

use std::slice::Iter;

use burn::{
    module::{LoraAdapter, Module, ModuleMapper, Param, Reparameterization, Reparameterizer},
    nn::Linear,
    tensor::{Device, Tensor, TensorData},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use stoker_crds::training::model::{Lora, TransformerConfig};

use super::{
    Transformer,
    layout::{Family, Piece, Stored, layout_of},
};
use crate::model::{
    Adapted, ModelError,
    weights::{HostTensors, WeightFiles, fetch},
};

/// What the names of `peft` put before those of the model.
const PEFT_PREFIX: &str = "base_model.model.";

/// The adapters of the layers that one parameter holds, one beside the other.
#[derive(Module, Debug)]
struct Adapters {
    /// `None` of a layer that is not adapted.
    layers: Vec<Option<LoraAdapter>>,
    /// Columns of the parameter that each layer has.
    #[module(skip)]
    columns: Vec<usize>,
}

impl Reparameterization for Adapters {
    const NAME: &'static str = "lora";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let adapt = |part: Tensor<D>, adapter: Option<&LoraAdapter>| match adapter {
            Some(adapter) => {
                let delta = adapter.delta().reshape(part.dims());
                part + delta
            }
            None => part,
        };
        if let [adapter] = self.layers.as_slice() {
            return adapt(base, adapter.as_ref());
        }
        let mut start = 0;
        let parts = self.layers.iter().zip(&self.columns).map(|(adapter, columns)| {
            let part = base.clone().narrow(D - 1, start, *columns);
            start += columns;
            adapt(part, adapter.as_ref())
        });
        Tensor::cat(parts.collect(), D - 1)
    }
}

impl Transformer {
    /// The same transformer with adapters at targets that [`Self::check_targets`] has found, which alone are learned from here
    /// on. It computes the same until a first step is taken: A is drawn evenly from ±1/√inputs, decided by the seed, and B
    /// is 0, as `peft` has it.
    pub(in crate::model) fn adapted(self, lora: &Lora, seed: u64) -> Self {
        let stored = self.layout();
        self.apply_reparameterization(Attach { stored: stored.iter(), lora, seed, streams: 0 })
    }

    /// Whether all targets are among the layers of such a transformer.
    ///
    /// # Errors
    /// If one is not, naming those that are.
    pub(in crate::model) fn check_targets(config: &TransformerConfig, lora: &Lora) -> Result<(), ModelError> {
        let stored = layout_of(config, 1);
        let is_there = |target: &&String| pieces(&stored).any(|piece| is_named(piece, target));
        match lora.targets.iter().find(|target| !is_there(target)) {
            None => Ok(()),
            Some(target) => {
                let layers = Self::adaptable_layers(config).join(", ");
                Err(ModelError::LoraTarget { target: target.clone(), layers })
            }
        }
    }

    /// The layers of such a transformer that can be adapted, by the last parts of their names, each once.
    pub(in crate::model) fn adaptable_layers(config: &TransformerConfig) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for piece in pieces(&layout_of(config, 1)) {
            let name = module_name(piece).rsplit('.').next().unwrap_or_default();
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        names
    }

    /// How large the adapters of such a transformer are.
    pub(in crate::model) fn size_of_adapters(config: &TransformerConfig, lora: &Lora) -> Adapted {
        let mut size = Adapted { parameters: 0, weights: 0 };
        for stored in layout_of(config, 1).iter().filter(|stored| stored.is_linear) {
            for piece in stored.pieces.iter().filter(|piece| is_target(piece, lora)) {
                let (inputs, outputs) = (stored.rows as u64, piece.columns as u64);
                size.parameters += u64::from(lora.rank) * (inputs + outputs);
                size.weights += inputs * outputs;
            }
        }
        size
    }

    /// Whether linear layers are `[inputs, outputs]` in files, as GPT-2's, which `peft` wants to be told.
    pub(in crate::model) fn has_layers_by_input(&self) -> bool {
        Family::of(&self.config) == Family::Gpt2
    }

    /// The adapters, on the host, by the names and in the shapes of `peft`: A is `[rank, inputs]` and B is `[outputs, rank]`.
    /// None if it has none.
    pub(in crate::model) fn adapters_to_host(&self) -> Result<HostTensors, ModelError> {
        let stored = self.layout();
        let mut tensors = Vec::new();
        for (piece, adapter) in self.adapters(&stored) {
            let [a, b] = adapter_names(piece);
            tensors.push((a, fetch(adapter.a.val().transpose())?));
            tensors.push((b, fetch(adapter.b.val().transpose())?));
        }
        Ok(tensors)
    }

    /// The same adapted transformer with the adapters of a file that [`Self::adapters_to_host`] gave.
    ///
    /// # Errors
    /// If the file is not valid, or a tensor is missing, is one too many, or has another type or shape: all is compared before
    /// memory is asked for.
    pub(in crate::model) fn with_adapters(self, file: &[u8]) -> Result<Self, ModelError> {
        let files = WeightFiles::single(file)?;
        let mut names = Vec::new();
        let stored = self.layout();
        for (piece, adapter) in self.adapters(&stored) {
            let [a, b] = adapter_names(piece);
            let ([inputs, rank], [_, outputs]) = (adapter.a.dims(), adapter.b.dims());
            files.check(&a, &[rank, inputs])?;
            files.check(&b, &[outputs, rank])?;
            names.extend([a, b]);
        }
        if let Some(name) = files.names().find(|name| !names.iter().any(|known| known == name)) {
            return Err(files.unexpected(name));
        }
        let values = names.iter().map(|name| files.floats(name)).collect::<Result<Vec<_>, _>>()?;
        Ok(self.map(&mut Replace { values: values.into_iter(), is_adapter: false }))
    }

    fn layout(&self) -> Vec<Stored> {
        layout_of(&self.config, self.vocabulary)
    }

    /// All adapters in the order of the layout, and the tensors in the file whose names they take.
    fn adapters<'a>(&'a self, stored: &'a [Stored]) -> impl Iterator<Item = (&'a Piece, &'a LoraAdapter)> {
        let linears = self.blocks.iter().flat_map(|block| block.linears());
        stored
            .iter()
            .filter(|stored| stored.is_linear)
            .zip(linears)
            .flat_map(|(stored, layer)| adapters_of(stored, layer))
    }
}

/// The layers that can be adapted.
fn pieces(stored: &[Stored]) -> impl Iterator<Item = &Piece> {
    stored.iter().filter(|stored| stored.is_linear).flat_map(|stored| &stored.pieces)
}

/// The adapters of a layer, and the tensors in the file whose names they take.
fn adapters_of<'a>(stored: &'a Stored, layer: &'a Linear) -> impl Iterator<Item = (&'a Piece, &'a LoraAdapter)> {
    let adapters = layer.weight.reparameterization::<Adapters>().into_iter().flat_map(|adapters| &adapters.layers);
    stored.pieces.iter().zip(adapters).filter_map(|(piece, adapter)| Some((piece, adapter.as_ref()?)))
}

/// The name of the layer whose weights a tensor holds.
fn module_name(piece: &Piece) -> &str {
    piece.name.strip_suffix(".weight").unwrap_or(&piece.name)
}

/// Whether a layer has that name, or one that ends so: as `peft` understands `target_modules`.
fn is_named(piece: &Piece, target: &str) -> bool {
    let name = module_name(piece);
    name.strip_suffix(target).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Whether a layer is adapted: all are, if none is named.
fn is_target(piece: &Piece, lora: &Lora) -> bool {
    lora.targets.is_empty() || lora.targets.iter().any(|target| is_named(piece, target))
}

fn adapter_names(piece: &Piece) -> [String; 2] {
    ["A", "B"].map(|factor| format!("{PEFT_PREFIX}{}.lora_{factor}.weight", module_name(piece)))
}

/// Freezes all parameters, and attaches adapters to the targets.
struct Attach<'a> {
    stored: Iter<'a, Stored>,
    lora: &'a Lora,
    seed: u64,
    streams: u64,
}

impl Attach<'_> {
    fn adapter(&mut self, piece: &Piece, inputs: usize, device: &Device) -> Option<LoraAdapter> {
        let Lora { rank, alpha, .. } = self.lora;
        if !is_target(piece, self.lora) {
            return None;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.streams);
        self.streams += 1;
        let (columns, bound) = (*rank as usize, 1.0 / (inputs as f32).sqrt());
        let values: Vec<f32> = (0..inputs * columns).map(|_| rng.random_range(-bound..bound)).collect();
        Some(LoraAdapter {
            a: Param::from_data(TensorData::new(values, [inputs, columns]), device),
            b: Param::from_data(TensorData::zeros::<f32, _>([columns, piece.columns]), device),
            scale: alpha / f64::from(*rank),
        })
    }
}

impl Reparameterizer for Attach<'_> {
    type Reparam = Adapters;

    fn reparameterize<const D: usize>(
        &mut self,
        _path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<Adapters>) {
        let device = param.lazy_device();
        let frozen = param.set_require_grad(false);
        let Some(stored) = self.stored.next().filter(|stored| stored.is_linear) else { return (frozen, None) };
        let layers: Vec<_> = stored.pieces.iter().map(|piece| self.adapter(piece, stored.rows, &device)).collect();
        let columns = stored.pieces.iter().map(|piece| piece.columns).collect();
        let is_adapted = layers.iter().any(Option::is_some);
        (frozen, is_adapted.then_some(Adapters { layers, columns }))
    }
}

/// Gives the adapters, one after another, A before B, the numbers of `peft`'s tensors.
struct Replace {
    values: std::vec::IntoIter<Vec<f32>>,
    is_adapter: bool,
}

impl ModuleMapper for Replace {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.is_adapter |= name == Adapters::NAME;
    }

    fn exit_module(&mut self, name: &str, _container_type: &str) {
        self.is_adapter &= name != Adapters::NAME;
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(values) = self.is_adapter.then(|| self.values.next()).flatten() else { return param };
        param.map(|old| {
            let (rows, columns) = (old.dims()[0], old.dims()[D - 1]);
            let transposed = (0..rows).flat_map(|row| (0..columns).map(move |column| column * rows + row));
            let data = TensorData::new(transposed.map(|index| values[index]).collect::<Vec<_>>(), old.dims());
            Tensor::from_data(data, &old.device()).set_require_grad(old.is_require_grad())
        })
    }
}
