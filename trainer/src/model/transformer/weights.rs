//! The weights of a transformer, to and from files in Hugging Face's layout.

use std::slice::Iter;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Device, Tensor, TensorData},
};
use stoker_crds::training::model::TransformerConfig;

use super::{
    Transformer,
    layout::{Family, HEAD, Stored, layout, layout_of},
};
use crate::model::{
    LanguageModel, ModelError,
    weights::{HostTensors, WeightFiles, fetch},
};

/// Rows that are transposed at a time: as many 32-bit floats as a cache line holds.
const TILE: usize = 16;

impl Transformer {
    /// The weights, on the host, by the names and in the shapes of Hugging Face's transformers; without padding. Adapters are
    /// added to them.
    pub(in crate::model) fn to_host(&self) -> Result<HostTensors, ModelError> {
        let stored = layout_of(&self.config, self.vocabulary);
        let mut export = Export { stored: stored.iter(), tensors: Vec::new(), error: None };
        self.clone().materialize().visit(&mut export);
        export.error.map_or(Ok(export.tensors), Err)
    }

    /// The transformer with the weights of files, of a model that reads `stored_context` tokens.
    ///
    /// # Errors
    /// If a tensor is missing, is one too many, or has another type or shape: all is compared before memory is asked for.
    pub(in crate::model) fn load(
        config: &TransformerConfig,
        stored_context: u32,
        vocabulary: usize,
        files: &WeightFiles<'_>,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let stored = stored_in(files, config, stored_context, vocabulary)?;
        // None of the first weights is drawn: each is replaced before it is used.
        let module = Self::init(config, vocabulary, 0, device);
        let mut import = Import { stored: stored.iter(), files, device, error: None };
        let module = module.map(&mut import);
        import.error.map_or(Ok(module), Err)
    }

    /// Whether files hold the weights that [`Self::load`] takes.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(in crate::model) fn check(
        config: &TransformerConfig,
        stored_context: u32,
        vocabulary: usize,
        files: &WeightFiles<'_>,
    ) -> Result<(), ModelError> {
        stored_in(files, config, stored_context, vocabulary).map(drop)
    }
}

impl LanguageModel {
    /// The name and the shape, in files, of the tensor that has a row for each token.
    pub fn token_matrix(&self) -> (String, [usize; 2]) {
        let family = Family::of(self.transformer());
        let shape = [self.vocabulary() as usize, self.transformer().width as usize];
        (family.tokens(family.prefix()), shape)
    }
}

/// Where in the files the parameters lie, all of which are there as they should be.
fn stored_in(
    files: &WeightFiles<'_>,
    config: &TransformerConfig,
    stored_context: u32,
    vocabulary: usize,
) -> Result<Vec<Stored>, ModelError> {
    let family = Family::of(config);
    let prefix = if files.has(&family.tokens("")) { "" } else { family.prefix() };
    let stored = layout(config, stored_context, vocabulary, prefix);
    check(family, &stored, files)?;
    Ok(stored)
}

/// Whether the files hold these parameters and no others.
fn check(family: Family, stored: &[Stored], files: &WeightFiles<'_>) -> Result<(), ModelError> {
    let mut expected = std::collections::BTreeSet::new();
    for parameter in stored {
        for piece in &parameter.pieces {
            files.check(&piece.name, &parameter.file_shape(piece))?;
            expected.insert(piece.name.as_str());
        }
    }
    let surplus = files.names().filter(|name| !expected.contains(name) && !family.is_constant(name));
    for name in surplus {
        // Of tied embeddings some versions of transformers wrote both ends.
        let tokens = &stored[0].pieces[0].name;
        if name != HEAD || files.bytes(HEAD) != files.bytes(tokens) {
            return Err(files.unexpected(name));
        }
    }
    Ok(())
}

struct Export<'a> {
    stored: Iter<'a, Stored>,
    tensors: HostTensors,
    error: Option<ModelError>,
}

impl ModuleVisitor for Export<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(stored) = self.stored.next() else { return };
        if self.error.is_some() {
            return;
        }
        let mut start = 0;
        for piece in &stored.pieces {
            let part = param.val().narrow(D - 1, start, piece.columns);
            let part = if D == 1 { part } else { part.narrow(0, 0, stored.rows) };
            let part = if stored.transposed { part.transpose() } else { part };
            match fetch(part) {
                Ok(tensor) => self.tensors.push((piece.name.clone(), tensor)),
                Err(error) => self.error = Some(error),
            }
            start += piece.columns;
        }
    }
}

struct Import<'a, 'b> {
    stored: Iter<'a, Stored>,
    files: &'a WeightFiles<'b>,
    device: &'a Device,
    error: Option<ModelError>,
}

impl ModuleMapper for Import<'_, '_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(stored) = self.stored.next() else { return param };
        if self.error.is_some() {
            return param;
        }
        match assemble(stored, self.files) {
            Ok(values) => {
                let data = TensorData::new(values, stored.shape.clone());
                Param::from_tensor(Tensor::from_data(data, self.device))
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

/// A parameter's numbers, row-major, with 0 in the padding.
fn assemble(stored: &Stored, files: &WeightFiles<'_>) -> Result<Vec<f32>, ModelError> {
    let total = stored.shape.iter().product();
    if let ([piece], false) = (stored.pieces.as_slice(), stored.transposed) {
        let mut values = files.floats(&piece.name)?;
        values.resize(total, 0.0);
        return Ok(values);
    }
    let width: usize = stored.pieces.iter().map(|piece| piece.columns).sum();
    let mut values = vec![0.0; total];
    let mut start = 0;
    for piece in &stored.pieces {
        let part = files.floats(&piece.name)?;
        let (rows, columns) = (stored.rows, piece.columns);
        if stored.transposed {
            for first in (0..rows).step_by(TILE) {
                for column in 0..columns {
                    for row in first..rows.min(first + TILE) {
                        values[row * width + start + column] = part[column * rows + row];
                    }
                }
            }
        } else {
            for (row, numbers) in part.chunks_exact(columns).enumerate() {
                values[row * width + start..][..columns].copy_from_slice(numbers);
            }
        }
        start += columns;
    }
    Ok(values)
}
