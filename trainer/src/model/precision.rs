//! The number formats of weights and of the computation with them.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Device, FloatDType, Tensor},
};
use stoker_crds::training::optimize::Precision;

use super::{
    ModelError,
    device::{device_info, is_made_for_bf16},
};

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

/// The precision that a device trains in where one is asked for: that one, or `F16` for `Mixed` where the device has no bf16. Both
/// keep weights and the optimizer's state in 32 bits.
///
/// # Errors
/// If the device computes in none of them.
pub(crate) fn on_device(asked: Precision, device: &Device) -> Result<Precision, ModelError> {
    chosen(asked, device_info(device).name, |precision| match precision {
        Precision::Mixed => is_made_for_bf16(device),
        Precision::F32 | Precision::BF16 | Precision::F16 => device.supports_dtype(computed(*precision)),
    })
}

fn chosen(asked: Precision, device: String, is_computed: impl Fn(&Precision) -> bool) -> Result<Precision, ModelError> {
    let instead = if asked == Precision::Mixed { Precision::F16 } else { asked };
    [asked, instead].into_iter().find(&is_computed).ok_or_else(|| {
        let others =
            [Precision::Mixed, Precision::BF16, Precision::F16, Precision::F32].into_iter().filter(is_computed);
        let others: Vec<String> = others.map(|precision| format!("{precision:?}")).collect();
        ModelError::Precision { asked, device, others: others.join(" or ") }
    })
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

    const ALL: [Precision; 4] = [Precision::F32, Precision::BF16, Precision::Mixed, Precision::F16];

    #[test]
    fn a_cpu_computes_in_every_precision() {
        for precision in ALL {
            assert_eq!(on_device(precision, &Device::flex()).unwrap(), precision);
        }
    }

    #[test]
    fn where_there_is_no_bf16_mixed_becomes_f16_and_weights_in_bf16_are_refused() {
        let choose = |dtypes: &[FloatDType]| {
            ALL.map(|asked| {
                let chosen = chosen(asked, "Tesla T4".into(), |precision| dtypes.contains(&computed(*precision)));
                chosen.map_err(|error| error.to_string())
            })
        };
        let (f32, f16) = (Ok(Precision::F32), Ok(Precision::F16));
        let refused =
            |asked, others| Err(format!("Tesla T4 does not compute in train.precision {asked}: set it to {others}"));
        let expected = [f32.clone(), refused("BF16", "F16 or F32"), f16.clone(), f16];
        assert_eq!(choose(&[FloatDType::F32, FloatDType::F16]), expected);
        let expected = [f32, refused("BF16", "F32"), refused("Mixed", "F32"), refused("F16", "F32")];
        assert_eq!(choose(&[FloatDType::F32]), expected);
    }
}
