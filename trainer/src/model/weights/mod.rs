//! Weights as safetensors: of an MLP named and laid out as PyTorch's `nn.Linear`, of a transformer as Hugging Face's.

mod files;
mod mlp;

use std::{borrow::Cow, collections::HashMap};

use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use bytes::Bytes;
use safetensors::{
    Dtype, SafeTensors, View,
    tensor::{Metadata, TensorInfo, TensorView},
};

pub(super) use self::files::WeightFiles;
use super::{ModelError, Network};

/// A tensor on its way to a file: floats on the host, of 32 bits or brain floats of 16.
pub(crate) struct HostTensor(pub(crate) TensorData);

impl View for &HostTensor {
    fn dtype(&self) -> Dtype {
        if self.0.dtype() == DType::BF16 { Dtype::BF16 } else { Dtype::F32 }
    }

    fn shape(&self) -> &[usize] {
        self.0.shape().as_slice()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // Safetensors are little-endian, as every platform that this is built for.
        Cow::Borrowed(self.0.as_bytes())
    }

    fn data_len(&self) -> usize {
        self.0.as_bytes().len()
    }
}

impl HostTensor {
    /// Whether none of its numbers is NaN or infinite: of those all bits of the exponent are set.
    pub(crate) fn is_finite(&self) -> bool {
        let bytes = self.0.as_bytes();
        // No early end within some at a time: it would keep the processor from looking at many numbers at once.
        match View::dtype(&self) {
            Dtype::BF16 => bytes.as_chunks().0.chunks(AT_ONCE).all(|some| {
                some.iter().fold(true, |all, number| all & (u16::from_le_bytes(*number) & 0x7F80 != 0x7F80))
            }),
            _ => bytes.as_chunks().0.chunks(AT_ONCE).all(|some| {
                some.iter().fold(true, |all, number| all & (u32::from_le_bytes(*number) & 0x7F80_0000 != 0x7F80_0000))
            }),
        }
    }

    /// Its numbers as they are in a file.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for HostTensor {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// What the start of the tensors in a file is a multiple of, in bytes.
const ALIGNMENT: usize = 8;
/// Numbers that are looked at before it is decided whether to look at more.
const AT_ONCE: usize = 4096;

/// Tensors by name, in the order of the module.
pub(crate) type HostTensors = Vec<(String, HostTensor)>;

/// The bytes of a safetensors file: the same tensors give the same bytes.
pub(crate) fn serialize(tensors: &HostTensors) -> Result<Vec<u8>, ModelError> {
    serialize_with(tensors, None)
}

/// A safetensors file in pieces: what comes before the tensors, and these in the order in which they follow. Together they are
/// the bytes that [`serialize`] gives, without a copy.
pub(crate) fn in_pieces(mut tensors: HostTensors) -> Result<(Bytes, HostTensors), ModelError> {
    tensors.sort_by(|(left_name, left), (right_name, right)| {
        right.dtype().cmp(&left.dtype()).then(left_name.cmp(right_name))
    });
    let mut end = 0;
    let info = |(name, tensor): &(String, HostTensor)| {
        let start = end;
        end += tensor.data_len();
        (name.clone(), TensorInfo { dtype: tensor.dtype(), shape: tensor.shape().to_vec(), data_offsets: (start, end) })
    };
    let metadata = Metadata::new(None, tensors.iter().map(info).collect()).map_err(ModelError::Weights)?;
    let mut head = serde_json::to_vec(&metadata).map_err(|error| ModelError::Weights(error.into()))?;
    head.resize(head.len().next_multiple_of(ALIGNMENT), b' ');
    let length = (head.len() as u64).to_le_bytes();
    Ok(([&length[..], &head].concat().into(), tensors))
}

fn serialize_with(tensors: &HostTensors, notes: Option<HashMap<String, String>>) -> Result<Vec<u8>, ModelError> {
    safetensors::serialize(tensors.iter().map(|(name, tensor)| (name, tensor)), notes).map_err(ModelError::Weights)
}

/// The name of a tensor that holds NaN or an infinity, if any does.
pub(crate) fn first_not_finite(tensors: &HostTensors) -> Option<&str> {
    tensors.iter().find(|(_, tensor)| !tensor.is_finite()).map(|(name, _)| name.as_str())
}

/// The weights as a safetensors file, adapters added to them: the same weights give the same bytes.
///
/// # Errors
/// If the device fails.
pub fn to_safetensors(model: &Network) -> Result<Vec<u8>, ModelError> {
    match model {
        Network::Mlp(mlp) => serialize(&mlp.to_host()?),
        Network::Transformer(transformer) => serialize_for_torch(&transformer.to_host()?),
    }
}

/// The bytes of a safetensors file that Hugging Face's libraries load.
pub(super) fn serialize_for_torch(tensors: &HostTensors) -> Result<Vec<u8>, ModelError> {
    // They load no file that does not say this.
    serialize_with(tensors, Some(HashMap::from([("format".to_owned(), "pt".to_owned())])))
}

/// The weights, on the host, adapters added to them.
pub(super) fn to_host(model: &Network) -> Result<HostTensors, ModelError> {
    match model {
        Network::Mlp(mlp) => mlp.to_host(),
        Network::Transformer(transformer) => transformer.to_host(),
    }
}

/// A tensor's numbers, on the host.
pub(super) fn fetch<const D: usize>(tensor: Tensor<D>) -> Result<HostTensor, ModelError> {
    let is_brain = tensor.dtype() == DType::BF16;
    let tensor = if is_brain { tensor } else { tensor.cast(FloatDType::F32) };
    Ok(HostTensor(tensor.try_into_data().map_err(ModelError::Execution)?))
}

/// Whether the file holds a tensor of that name, 32-bit floats of that shape.
pub(crate) fn check(file: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<(), ModelError> {
    let expected = format!("F32 {shape:?}");
    match file.tensor(name) {
        Ok(view) if view.dtype() == Dtype::F32 && view.shape() == shape => Ok(()),
        Ok(view) => Err(mismatch(name, expected, described(&view))),
        Err(_) => Err(mismatch(name, expected, "missing".into())),
    }
}

fn described(view: &TensorView<'_>) -> String {
    format!("{} {:?}", view.dtype(), view.shape())
}

fn mismatch(tensor: &str, expected: String, found: String) -> ModelError {
    ModelError::Mismatch { tensor: tensor.into(), expected, found }
}

/// The numbers of an F32 tensor, row-major.
pub(crate) fn values(view: &TensorView<'_>) -> Vec<f32> {
    view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::bf16;

    use super::*;

    #[test]
    fn the_pieces_of_a_file_are_together_the_file() {
        let tensors = || {
            let tensor = |data: TensorData| HostTensor(data);
            vec![
                ("b".to_owned(), tensor(TensorData::new(vec![1.0_f32, 2.0], [2, 1]))),
                ("half".to_owned(), tensor(TensorData::new(vec![bf16::from_f32(3.0)], [1]))),
                ("a".to_owned(), tensor(TensorData::new(vec![4.0_f32; 3], [3]))),
                ("none".to_owned(), tensor(TensorData::new(Vec::<f32>::new(), [0]))),
            ]
        };
        for tensors in [tensors, Vec::new] {
            let (head, rest) = in_pieces(tensors()).unwrap();
            let rest: Vec<Bytes> = rest.into_iter().map(|(_, tensor)| tensor.into_bytes()).collect();
            assert_eq!([&head[..], &rest.concat()].concat(), serialize(&tensors()).unwrap());
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_found_wherever_it_is() {
        for wrong in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, AT_ONCE - 1, AT_ONCE, 2 * AT_ONCE + 7] {
                let mut numbers = vec![f32::MAX; 2 * AT_ONCE + 8];
                let halves = |numbers: &[f32]| numbers.iter().map(|number| bf16::from_f32(*number)).collect::<Vec<_>>();
                numbers[0] = f32::MIN_POSITIVE / 2.0;
                let wide = |numbers: &[f32]| HostTensor(TensorData::new(numbers.to_vec(), [numbers.len()]));
                let small: Vec<f32> = numbers.iter().map(|number| number / 2.0).collect();
                let narrow = |numbers: &[f32]| HostTensor(TensorData::new(halves(numbers), [numbers.len()]));
                assert!(wide(&numbers).is_finite() && narrow(&small).is_finite());
                numbers[at] = wrong;
                assert!(!wide(&numbers).is_finite() && !narrow(&numbers).is_finite(), "{wrong} at {at}");
            }
        }
    }
}
