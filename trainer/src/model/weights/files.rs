//! The safetensors files that a model's weights lie in: one, or several with an index.

use std::collections::BTreeMap;

use burn::tensor::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::Deserialize;

use super::{described, mismatch, values};
use crate::model::ModelError;

/// The tensors of one or several files, none of which is copied.
pub(in crate::model) struct WeightFiles<'a> {
    files: Vec<SafeTensors<'a>>,
    /// Which file holds a tensor.
    places: BTreeMap<String, usize>,
}

/// The content of a `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// Which file holds a tensor.
    weight_map: BTreeMap<String, String>,
}

impl<'a> WeightFiles<'a> {
    /// The tensors of one file.
    ///
    /// # Errors
    /// If it is no valid safetensors file.
    pub(in crate::model) fn single(bytes: &'a [u8]) -> Result<Self, ModelError> {
        let file = SafeTensors::deserialize(bytes).map_err(ModelError::Weights)?;
        let places = file.names().into_iter().map(|name| (name.to_owned(), 0)).collect();
        Ok(Self { files: vec![file], places })
    }

    /// The tensors of several files, `shards`, by their names and the `index` that lists which of them holds what.
    ///
    /// # Errors
    /// If a file is not valid or missing, or does not hold exactly what the index says.
    pub(in crate::model) fn sharded(index: &[u8], shards: &[(&str, &'a [u8])]) -> Result<Self, ModelError> {
        let index: Index = serde_json::from_slice(index).map_err(ModelError::Index)?;
        let wrong = |file: &str, problem: String| ModelError::Shard { file: file.to_owned(), problem };
        let mut files = Vec::new();
        let mut numbers = BTreeMap::new();
        for (name, bytes) in shards {
            if numbers.insert(*name, files.len()).is_some() {
                return Err(wrong(name, "is given twice".into()));
            }
            let file = SafeTensors::deserialize(bytes);
            files.push(file.map_err(|error| wrong(name, format!("is no valid safetensors: {error}")))?);
        }
        let mut places = BTreeMap::new();
        for (tensor, file) in index.weight_map {
            let number = *numbers.get(file.as_str()).ok_or_else(|| wrong(&file, "is missing".into()))?;
            if files[number].tensor(&tensor).is_err() {
                return Err(wrong(&file, format!("does not hold the tensor '{tensor}' that the index says it holds")));
            }
            places.insert(tensor, number);
        }
        for (name, number) in numbers {
            let surplus = files[number].names().into_iter().find(|tensor| places.get(*tensor) != Some(&number));
            if let Some(tensor) = surplus {
                return Err(wrong(name, format!("holds the tensor '{tensor}', which the index does not say")));
            }
        }
        Ok(Self { files, places })
    }

    /// The names of all tensors, sorted.
    pub(in crate::model) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Whether there is a tensor of that name.
    pub(in crate::model) fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Whether there is a tensor of that name and shape, of floats.
    ///
    /// # Errors
    /// If there is none, naming its type and shape and those that it should have.
    pub(in crate::model) fn check(&self, name: &str, shape: &[usize]) -> Result<(), ModelError> {
        let expected = || format!("F32, F16 or BF16 {shape:?}");
        let view = self.view(name).ok_or_else(|| mismatch(name, expected(), "missing".into()))?;
        let is_float = matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16);
        if is_float && view.shape() == shape { Ok(()) } else { Err(mismatch(name, expected(), described(&view))) }
    }

    /// There is a tensor that the model does not have.
    pub(in crate::model) fn unexpected(&self, name: &str) -> ModelError {
        let found = self.view(name).map_or_else(|| "there".into(), |view| described(&view));
        mismatch(name, "absent".into(), found)
    }

    /// A tensor's bytes as they are in the file.
    pub(in crate::model) fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        Some(self.view(name)?.data())
    }

    /// A tensor's numbers, row-major, as 32-bit floats.
    ///
    /// # Errors
    /// If there is none, or none of floats.
    pub(in crate::model) fn floats(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let expected = || "F32, F16 or BF16".to_owned();
        let view = self.view(name).ok_or_else(|| mismatch(name, expected(), "missing".into()))?;
        let halves = || view.data().as_chunks::<2>().0.iter();
        match view.dtype() {
            Dtype::F32 => Ok(values(&view)),
            Dtype::F16 => Ok(halves().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()),
            Dtype::BF16 => Ok(halves().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()),
            _ => Err(mismatch(name, expected(), described(&view))),
        }
    }

    fn view(&self, name: &str) -> Option<TensorView<'a>> {
        self.files[*self.places.get(name)?].tensor(name).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> Vec<u8> {
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.to_vec(), data).unwrap()));
        safetensors::serialize(views, None).unwrap()
    }

    fn index(places: &[(&str, &str)]) -> Vec<u8> {
        let map: BTreeMap<_, _> = places.iter().copied().collect();
        serde_json::to_vec(&serde_json::json!({"metadata": {"total_size": 8}, "weight_map": map})).unwrap()
    }

    /// 1.5 and -2 have few enough digits for both halves of a float.
    #[test]
    fn halves_are_read_as_the_floats_that_they_stand_for() {
        let half: Vec<u8> = [1.5, -2.0].iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        let brain: Vec<u8> = [1.5, -2.0].iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
        let file = file(&[("half", Dtype::F16, &[2], &half), ("brain", Dtype::BF16, &[2], &brain)]);
        let files = WeightFiles::single(&file).unwrap();
        for name in ["half", "brain"] {
            assert!(files.check(name, &[2]).is_ok());
            assert_eq!(files.floats(name).unwrap(), [1.5, -2.0], "{name}");
        }
    }

    #[test]
    fn an_error_names_the_tensor_and_both_shapes() {
        let file = file(&[("a", Dtype::F32, &[2, 1], &[0; 8]), ("b", Dtype::I32, &[1], &[0; 4])]);
        let files = WeightFiles::single(&file).unwrap();
        let message = |name: &str, shape: &[usize]| files.check(name, shape).unwrap_err().to_string();
        assert!(message("a", &[1, 2]).ends_with("tensor 'a' should be F32, F16 or BF16 [1, 2] and is F32 [2, 1]"));
        assert!(message("b", &[1]).ends_with("tensor 'b' should be F32, F16 or BF16 [1] and is I32 [1]"));
        assert!(message("c", &[1]).ends_with("tensor 'c' should be F32, F16 or BF16 [1] and is missing"));
        let surplus = files.unexpected("a").to_string();
        assert!(surplus.ends_with("tensor 'a' should be absent and is F32 [2, 1]"), "{surplus}");
    }

    #[test]
    fn several_files_are_read_by_their_index() {
        let (first, second) = (
            file(&[("a", Dtype::F32, &[1], &1f32.to_le_bytes())]),
            file(&[("b", Dtype::F32, &[1], &2f32.to_le_bytes())]),
        );
        let index = index(&[("a", "1.safetensors"), ("b", "2.safetensors")]);
        let shards = [("2.safetensors", second.as_slice()), ("1.safetensors", first.as_slice())];
        let files = WeightFiles::sharded(&index, &shards).unwrap();
        assert_eq!(files.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((files.floats("a").unwrap(), files.floats("b").unwrap()), (vec![1.0], vec![2.0]));
    }

    #[test]
    fn files_that_are_not_what_the_index_says_are_named() {
        let a = file(&[("a", Dtype::F32, &[1], &[0; 4])]);
        let both = file(&[("a", Dtype::F32, &[1], &[0; 4]), ("b", Dtype::F32, &[1], &[0; 4])]);
        // Its header speaks of more bytes than there are.
        let lying = &a[..a.len() - 1];
        let problem = |places: &[(&str, &str)], shards: &[(&str, &[u8])]| {
            WeightFiles::sharded(&index(places), shards).err().unwrap().to_string()
        };
        let problems = [
            (problem(&[("a", "1"), ("b", "2")], &[("1", &a)]), "the file '2' is missing"),
            (problem(&[("a", "1"), ("b", "1")], &[("1", &a)]), "the file '1' does not hold the tensor 'b'"),
            (problem(&[("a", "1")], &[("1", &both)]), "the file '1' holds the tensor 'b'"),
            (problem(&[("a", "1")], &[("1", &a), ("2", &a)]), "the file '2' holds the tensor 'a'"),
            (problem(&[("a", "1")], &[("1", &a), ("1", &a)]), "the file '1' is given twice"),
            (problem(&[("a", "1"), ("b", "2")], &[("1", &a), ("2", lying)]), "the file '2' is no valid safetensors: "),
        ];
        for (actual, expected) in problems {
            assert!(actual.contains(expected), "{actual}");
        }
        assert!(matches!(WeightFiles::sharded(b"{}", &[]), Err(ModelError::Index(_))));
    }
}
