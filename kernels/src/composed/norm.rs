//! Normalizations, whose backward needs their input, and two numbers of each row.

use burn::{
    backend::{DispatchTensor, TensorMetadata},
    tensor::{DType, Tensor},
};

use super::{Composed, run, wide};

/// [`layer_norm`](crate::layer_norm).
pub fn layer_norm<const D: usize>(x: Tensor<D>, gain: Tensor<1>, bias: Option<Tensor<1>>, epsilon: f64) -> Tensor<D> {
    let (norm, [x, gain]) = (Norm::<D> { centred: true, epsilon }, [x.into_dispatch(), gain.into_dispatch()]);
    Tensor::from_dispatch(match bias {
        Some(bias) => run(norm, [x, gain, bias.into_dispatch()]),
        None => run(norm, [x, gain]),
    })
}

/// [`rms_norm`](crate::rms_norm).
pub fn rms_norm<const D: usize>(x: Tensor<D>, gain: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let norm = Norm::<D> { centred: false, epsilon };
    Tensor::from_dispatch(run(norm, [x.into_dispatch(), gain.into_dispatch()]))
}

/// LayerNorm, or RMSNorm, which is the same about 0 instead of the mean. On tensors of `D` dimensions.
#[derive(Clone, Copy, Debug)]
struct Norm<const D: usize> {
    centred: bool,
    epsilon: f64,
}

/// What the backward needs of the forward.
#[derive(Clone, Debug)]
struct Saved<const D: usize> {
    x: Tensor<D>,
    gain: Tensor<1>,
    /// What the rows were shifted by, `[…, 1]`.
    mean: Option<Tensor<D>>,
    /// And then multiplied by, `[…, 1]`.
    scale: Tensor<D>,
}

impl<const D: usize> Norm<D> {
    fn apply(
        self,
        x: DispatchTensor,
        gain: DispatchTensor,
        bias: Option<DispatchTensor>,
    ) -> (DispatchTensor, Saved<D>) {
        let (x, gain) = (Tensor::<D>::from_dispatch(x), Tensor::<1>::from_dispatch(gain));
        let rows = wide(x.clone());
        let mean = self.centred.then(|| rows.clone().mean_dim(D - 1));
        let rows = centred(rows, &mean);
        let scale = (rows.clone().square().mean_dim(D - 1) + self.epsilon).sqrt().recip();
        let mut rows = rows * scale.clone();
        if !self.centred {
            // As Llamas are trained: rounded before it is multiplied too.
            rows = wide(rows.cast(x.dtype()));
        }
        let mut output = rows * wide(gain.clone()).unsqueeze();
        if let Some(bias) = bias {
            output = output + wide(Tensor::<1>::from_dispatch(bias)).unsqueeze();
        }
        (output.cast(x.dtype()).into_dispatch(), Saved { x, gain, mean, scale })
    }
}

impl<const D: usize> Saved<D> {
    /// The gradients of x and the gain, and of the bias in wide numbers.
    ///
    /// With r = (x − mean) · scale and h = gradient · gain, that of x is scale · (h − mean of h − r · mean of h·r); about 0
    /// the mean of h is left out.
    fn gradients(
        self,
        gradient: DispatchTensor,
        [of_x, of_gain]: [bool; 2],
    ) -> ([Option<DispatchTensor>; 2], Tensor<D>) {
        let Self { x, gain, mean, scale } = self;
        let gradient = wide(Tensor::<D>::from_dispatch(gradient));
        let (dtype, gain_dtype) = (x.dtype(), gain.dtype());
        let rows = centred(wide(x), &mean) * scale.clone();
        let of_gain = of_gain.then(|| column_sums(gradient.clone() * rows.clone(), gain_dtype));
        let of_x = of_x.then(|| {
            let inner = gradient.clone() * wide(gain).unsqueeze();
            let along = rows.clone() * (inner.clone() * rows).mean_dim(D - 1);
            let shift = mean.map(|_| inner.clone().mean_dim(D - 1));
            ((centred(inner, &shift) - along) * scale).cast(dtype).into_dispatch()
        });
        ([of_x, of_gain], gradient)
    }
}

impl<const D: usize> Composed<2> for Norm<D> {
    type Saved = Saved<D>;

    fn forward(&self, [x, gain]: [DispatchTensor; 2], _: [bool; 2]) -> (DispatchTensor, Saved<D>) {
        self.apply(x, gain, None)
    }

    fn backward(self, saved: Saved<D>, gradient: DispatchTensor, needed: [bool; 2]) -> [Option<DispatchTensor>; 2] {
        saved.gradients(gradient, needed).0
    }
}

impl<const D: usize> Composed<3> for Norm<D> {
    /// With the precision of the bias.
    type Saved = (Saved<D>, DType);

    fn forward(&self, [x, gain, bias]: [DispatchTensor; 3], _: [bool; 3]) -> (DispatchTensor, Self::Saved) {
        let dtype = bias.dtype();
        let (output, saved) = self.apply(x, gain, Some(bias));
        (output, (saved, dtype))
    }

    fn backward(
        self,
        (saved, bias_dtype): Self::Saved,
        gradient: DispatchTensor,
        [of_x, of_gain, of_bias]: [bool; 3],
    ) -> [Option<DispatchTensor>; 3] {
        let ([x, gain], gradient) = saved.gradients(gradient, [of_x, of_gain]);
        [x, gain, of_bias.then(|| column_sums(gradient, bias_dtype))]
    }
}

fn centred<const D: usize>(rows: Tensor<D>, mean: &Option<Tensor<D>>) -> Tensor<D> {
    match mean {
        Some(mean) => rows - mean.clone(),
        None => rows,
    }
}

/// The sums over all dimensions but the last.
fn column_sums<const D: usize>(x: Tensor<D>, dtype: DType) -> DispatchTensor {
    let width = x.dims()[D - 1];
    let sums: Tensor<2> = x.reshape([-1, width as i32]).sum_dim(0);
    sums.reshape([width]).cast(dtype).into_dispatch()
}
