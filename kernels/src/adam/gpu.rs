//! The update of parameters on a GPU: one kernel that reads and writes each number once.

use burn::{
    backend::{
        Backend, Dispatch, DispatchTensor, backend_extension, cubecl::dtype_to_storage_type, tensor::FloatTensor,
    },
    optim::LearningRate,
};
use burn_cubecl::{
    CubeBackend,
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};

use super::correction;

/// The factors of one step, of Adam and of AdamW:
///
/// ```text
/// g  = gradient + penalty · p
/// m₁ = β₁ · m₁ + (1 − β₁) · g
/// m₂ = β₂ · m₂ + (1 − β₂) · g²
/// p  = kept · p − rate · m₁ / (scale · √m₂ + ε)
/// ```
///
/// The corrections of the moments are in `rate` and `scale`.
#[derive(Clone, Copy, Debug, CubeType, CubeLaunch)]
pub(crate) struct Update {
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    penalty: f32,
    kept: f32,
    rate: f32,
    scale: f32,
}

impl Update {
    /// Of a step without a penalty that keeps the parameter.
    pub(super) fn new([beta_1, beta_2]: [f32; 2], epsilon: f32, rate: LearningRate, time: usize) -> Self {
        let rate = rate as f32 / correction(beta_1, time);
        let scale = correction(beta_2, time).sqrt().recip();
        Self { beta_1, beta_2, epsilon, penalty: 0.0, kept: 1.0, rate, scale }
    }

    pub(super) fn with_penalty(self, penalty: f32) -> Self {
        Self { penalty, ..self }
    }

    pub(super) fn with_kept(self, kept: f32) -> Self {
        Self { kept, ..self }
    }

    fn argument(self) -> UpdateLaunch {
        let Self { beta_1, beta_2, epsilon, penalty, kept, rate, scale } = self;
        UpdateLaunch::new(beta_1, beta_2, epsilon, penalty, kept, rate, scale)
    }
}

/// The new parameter and moments, of the parameter, its gradient and its moments, all of one precision.
pub(super) fn updated(
    update: Update,
    [parameter, gradient, moment_1, moment_2]: [DispatchTensor; 4],
) -> [DispatchTensor; 3] {
    Dispatch::adam_step(parameter, gradient, moment_1, moment_2, update).into()
}

/// The update as burn's fusion queues it, between the operations before and after it.
#[backend_extension(Cube, Fusion)]
pub(crate) trait AdamStep: Backend {
    /// The new parameter and moments.
    #[fusion(meta = |parameter, _gradient, moment_1, moment_2, _update| {
        (parameter.clone(), moment_1.clone(), moment_2.clone())
    })]
    fn adam_step(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moment_1: FloatTensor<Self>,
        moment_2: FloatTensor<Self>,
        update: Update,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl AdamStep for CubeBackend {
    fn adam_step(
        parameter: CubeTensor,
        gradient: CubeTensor,
        moment_1: CubeTensor,
        moment_2: CubeTensor,
        update: Update,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let gradient = into_contiguous(gradient);
        let [parameter, moment_1, moment_2] = [parameter, moment_1, moment_2].map(owned);
        launch(&parameter, gradient, [&moment_1, &moment_2], update);
        (parameter, moment_1, moment_2)
    }
}

/// The same numbers in row-major order, in memory that nobody else holds; without a copy where they are already.
fn owned(tensor: CubeTensor) -> CubeTensor {
    let tensor = into_contiguous(tensor);
    if tensor.can_mut() { tensor } else { into_contiguous(tensor.copy()) }
}

/// Updates parameter and moments where they lie.
fn launch(parameter: &CubeTensor, gradient: CubeTensor, moments: [&CubeTensor; 2], update: Update) {
    let client = parameter.client.clone();
    let count = parameter.meta.num_elements();
    if count == 0 {
        return;
    }
    let mut widths = client.io_optimized_vector_sizes(parameter.dtype.size());
    let width = widths.find(|width| count.is_multiple_of(*width)).unwrap_or(1);
    let cube = CubeDim::new(&client, count / width);
    let [parameter_arg, moment_1, moment_2] =
        [parameter, moments[0], moments[1]].map(|tensor| tensor.clone().into_buffer_arg());
    step::launch(
        &client,
        calculate_cube_count_elemwise(&client, count / width, cube),
        cube,
        parameter.required_address_type(),
        width,
        parameter_arg,
        gradient.into_buffer_arg(),
        moment_1,
        moment_2,
        update.argument(),
        dtype_to_storage_type(parameter.dtype),
    );
}

/// One step of `N` numbers on each unit, in `f32` whatever the precision `T` that they are kept in.
#[cube(launch, address_type = "dynamic")]
fn step<T: Float, N: Size>(
    parameter: &mut [Vector<T, N>],
    gradient: &[Vector<T, N>],
    moment_1: &mut [Vector<T, N>],
    moment_2: &mut [Vector<T, N>],
    update: &Update,
    #[define(T)] _precision: ElemType,
) {
    if ABSOLUTE_POS < parameter.len() {
        let value = Vector::<f32, N>::cast_from(parameter[ABSOLUTE_POS]);
        let penalty = value * Vector::new(update.penalty);
        let gradient = Vector::<f32, N>::cast_from(gradient[ABSOLUTE_POS]) + penalty;
        let mean = Vector::<f32, N>::cast_from(moment_1[ABSOLUTE_POS]) * Vector::new(update.beta_1)
            + gradient * Vector::new(1.0 - update.beta_1);
        let square = Vector::<f32, N>::cast_from(moment_2[ABSOLUTE_POS]) * Vector::new(update.beta_2)
            + gradient * gradient * Vector::new(1.0 - update.beta_2);
        let divisor = square.sqrt() * Vector::new(update.scale) + Vector::new(update.epsilon);
        let change = mean * Vector::new(update.rate) / divisor;
        parameter[ABSOLUTE_POS] = Vector::cast_from(value * Vector::new(update.kept) - change);
        moment_1[ABSOLUTE_POS] = Vector::cast_from(mean);
        moment_2[ABSOLUTE_POS] = Vector::cast_from(square);
    }
}
