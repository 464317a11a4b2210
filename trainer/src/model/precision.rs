//! The number formats of weights and of the computation with them.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Device, FloatDType, Tensor},
};
use stoker_crds::training::optimize::Precision;

use super::ModelError;

/// What the weights are kept, saved and published in.
pub(crate) fn stored(precision: Precision) -> FloatDType {
    match precision {
        Precision::F32 | Precision::Mixed | Precision::F16 => FloatDType::F32,
        Precision::BF16 => FloatDType::BF16,
    }
}

/// What is computed in.
pub(crate) fn computed(precision: Precision) -> FloatDType {
    match precision {
        Precision::F32 => FloatDType::F32,
        Precision::BF16 | Precision::Mixed => FloatDType::BF16,
        Precision::F16 => FloatDType::F16,
    }
}

/// Whether a device computes in a precision.
///
/// # Errors
/// If it does not.
pub(crate) fn check_device(precision: Precision, device: &Device) -> Result<(), ModelError> {
    if device.supports_dtype(computed(precision)) { Ok(()) } else { Err(ModelError::Precision(precision)) }
}

/// The same module with its parameters as floats of a type, to compute with.
///
/// Under autodiff this is a part of the graph: the gradients arrive at the parameters of the module that was given, in
/// their own type.
pub(crate) fn cast<M: Module>(module: M, dtype: FloatDType) -> M {
    module.map(&mut Cast(dtype))
}

struct Cast(FloatDType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|value| value.cast(self.0))
    }
}

/// The same module with its parameters as floats of a type, to keep: its gradients are of that type too.
pub(crate) fn convert<M: Module>(module: M, dtype: FloatDType) -> M {
    module.map(&mut Convert(dtype))
}

struct Convert(FloatDType);

impl ModuleMapper for Convert {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|value| {
            if value.dtype() == self.0.into() {
                return value;
            }
            let (has_autodiff, is_learned) = (value.is_autodiff(), value.is_require_grad());
            let value = value.inner().cast(self.0);
            if has_autodiff { Tensor::from_inner(value).set_require_grad(is_learned) } else { value }
        })
    }
}

/// A loss that is multiplied before the backward pass, if it is, so that small gradients do not vanish in 16 bits.
pub(crate) fn scaled(loss: Tensor<1>, scale: Option<f32>) -> Tensor<1> {
    match scale {
        Some(scale) => loss * scale,
        None => loss,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;

    use super::*;

    fn param(value: [f32; 2]) -> Param<Tensor<1>> {
        Param::from_tensor(Tensor::from_floats(value, &Device::flex().autodiff()))
    }

    /// 1 + 1/1024 has too many digits for bf16, and 1 has not.
    #[test]
    fn what_is_cast_is_rounded_and_its_gradients_arrive_at_the_parameters_in_their_own_type() {
        let exact = param([1.0 + 1.0 / 1024.0, 3.0]);
        let rounded = cast(exact.clone(), FloatDType::BF16);
        assert_eq!(rounded.val().dtype(), DType::BF16);
        let gradients = (rounded.val() * rounded.val()).sum().backward();
        let gradient = exact.val().grad(&gradients).unwrap();
        assert_eq!(gradient.dtype(), DType::F32);
        assert_eq!(gradient.try_into_vec_as::<f32>().unwrap(), [2.0, 6.0]);
    }

    #[test]
    fn what_is_converted_has_gradients_of_its_own() {
        let half = convert(param([1.5, 3.0]), FloatDType::BF16);
        let gradient = half.val().grad(&half.val().square().sum().backward()).unwrap();
        assert_eq!((half.val().dtype(), gradient.dtype()), (DType::BF16, DType::BF16));
        assert_eq!(gradient.try_into_vec_as::<f32>().unwrap(), [3.0, 6.0]);
        let plain = convert(half.valid(), FloatDType::F32);
        assert_eq!((plain.val().dtype(), plain.val().is_autodiff()), (DType::F32, false));
    }

    #[test]
    fn a_cpu_computes_in_every_precision() {
        for precision in [Precision::F32, Precision::BF16, Precision::Mixed, Precision::F16] {
            assert!(check_device(precision, &Device::flex()).is_ok(), "{precision:?}");
        }
    }
}
