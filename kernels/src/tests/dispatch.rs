//! What holds for every operation: threads, devices, and what is not differentiated.

use burn::tensor::{Int, TensorData};
use rayon::ThreadPoolBuilder;

use super::{
    DType, Device, EXACT, FUSED, Gradients, On, Outcome, Tensor, backward, constant, device, gradient, leaf, list,
    numbers,
};
use crate::{
    causal_attention, causal_self_attention, gelu, gelu_tanh, is_fused, layer_norm, linear, linear_cross_entropy,
    rms_norm, rotate, swiglu,
};

const BATCH: usize = 3;
const LENGTH: usize = 130;
const HEADS: usize = 4;
const WIDTH: usize = 64;
const VOCABULARY: usize = 300;

/// The parameters of [`model`].
struct Parameters {
    embeddings: Tensor<3>,
    gain: Tensor<1>,
    bias: Tensor<1>,
    head: Tensor<2>,
    projection: Tensor<2>,
    offsets: Tensor<1>,
}

impl Parameters {
    fn new(place: &Place) -> Self {
        Self {
            embeddings: place.random(1, [BATCH, LENGTH, WIDTH]),
            gain: place.random(2, [WIDTH]),
            bias: place.random(3, [WIDTH]),
            head: place.random(4, [VOCABULARY, WIDTH]),
            projection: place.random(7, [WIDTH, 3 * WIDTH]),
            offsets: place.random(8, [3 * WIDTH]),
        }
    }

    fn with_gradients(self) -> Self {
        let Self { embeddings, gain, bias, head, projection, offsets } = self;
        Self {
            embeddings: embeddings.require_grad(),
            gain: gain.require_grad(),
            bias: bias.require_grad(),
            head: head.require_grad(),
            projection: projection.require_grad(),
            offsets: offsets.require_grad(),
        }
    }

    fn gradients(&self, gradients: &Gradients) -> Outcome {
        let Self { embeddings, gain, bias, head, projection, offsets } = self;
        let vectors = [gain, bias, offsets].map(|vector| gradient(vector, gradients));
        let mut all = vec![gradient(embeddings, gradients), gradient(head, gradients)];
        all.extend(vectors);
        all.push(gradient(projection, gradients));
        all
    }
}

/// A device, with autodiff or without, and what the numbers are there.
#[derive(Clone)]
struct Place {
    device: Device,
    dtype: DType,
}

impl Place {
    fn random<const D: usize>(&self, seed: u64, shape: [usize; D]) -> Tensor<D> {
        self.tensor(numbers(seed, shape.iter().product(), 1.0), shape)
    }

    fn tensor<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), (&self.device, self.dtype))
    }
}

/// Where the fused operations run, and where the composed ones do.
fn places() -> [Place; 2] {
    [DType::F32, DType::F64].map(|dtype| Place { device: device(), dtype })
}

/// A loss that goes through every operation.
fn model(parameters: &Parameters, place: &Place) -> Tensor<1> {
    let Parameters { embeddings, gain, bias, head, projection, offsets } = parameters;
    let x = layer_norm(embeddings.clone(), gain.clone(), Some(bias.clone()), 1e-5);
    let split = x.clone().reshape([BATCH, LENGTH, HEADS, WIDTH / HEADS]).swap_dims(1, 2);
    let table = |seed| place.random(seed, [LENGTH, WIDTH / HEADS / 2]);
    let turned = rotate(split.clone(), table(5), table(6));
    let mixed = causal_attention(turned.clone(), turned, split).swap_dims(1, 2).reshape([BATCH, LENGTH, WIDTH]);
    let projected = linear(x.clone(), projection.clone(), Some(offsets.clone()));
    let own = causal_self_attention(projected, [HEADS, HEADS], Some([table(5), table(6)]));
    let x = x + rms_norm(mixed, gain.clone(), 1e-5) + own;
    let x = swiglu(gelu(x.clone()), gelu_tanh(x));
    let targets = (0..BATCH * LENGTH).map(|row| (row % VOCABULARY) as i32).collect::<Vec<_>>();
    let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [BATCH * LENGTH]), &place.device);
    let counts = place.tensor(vec![1.0; BATCH * LENGTH], [BATCH * LENGTH]);
    linear_cross_entropy(x.reshape([BATCH * LENGTH, WIDTH]), head.clone(), targets, counts, VOCABULARY)
}

fn outcome(place: &Place) -> Outcome {
    let parameters = Parameters::new(place).with_gradients();
    let loss = model(&parameters, place);
    let gradients = loss.backward();
    let mut outcome = vec![list(loss)];
    outcome.extend(parameters.gradients(&gradients));
    outcome
}

#[test]
fn loss_and_gradients_have_the_same_bits_each_time_and_on_any_number_of_threads() {
    let [fused, _] = places();
    let expected = outcome(&fused);
    assert!(expected.iter().flatten().all(|number| number.is_finite()));
    for threads in [1, 1, 2, 3, 8] {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
        assert_eq!(pool.install(|| outcome(&fused)), expected, "with {threads} threads");
    }
}

#[test]
fn checkpointing_gives_the_same_gradients() {
    for place in places() {
        let checkpointing = Place { device: device().gradient_checkpointing(), ..place.clone() };
        assert_eq!(outcome(&checkpointing), outcome(&place));
    }
}

#[test]
fn without_autodiff_the_loss_is_the_same() {
    for place in places() {
        let plain = Place { device: Device::flex(), ..place.clone() };
        let loss = list(model(&Parameters::new(&plain), &plain));
        assert_eq!(loss, outcome(&place)[0]);
    }
}

#[test]
fn a_parameter_that_needs_no_gradient_gets_none_and_the_others_theirs() {
    for place in places() {
        let expected = outcome(&place);
        let learned = Parameters::new(&place).with_gradients();
        let frozen = learned.gain.clone().detach().set_require_grad(false);
        // One without autodiff is a constant too.
        let parameters = Parameters { head: learned.head.clone().inner(), gain: frozen, ..learned };
        let gradients = model(&parameters, &place).backward();
        assert_eq!(gradient(&parameters.embeddings, &gradients), expected[1]);
        assert_eq!(gradient(&parameters.bias, &gradients), expected[4]);
        assert!(parameters.gain.grad(&gradients).is_none() && learned.head.grad(&gradients).is_none());
    }
}

#[test]
fn a_gradient_that_two_operations_share_is_not_overwritten() {
    for on in [FUSED, EXACT] {
        let x = || leaf(&numbers(1, 100, 1.0), [100], on);
        let alone = x();
        let expected = gradient(&alone, &backward(&gelu(alone.clone())));
        let (a, b) = (x(), x());
        // The sum passes the same gradient on to both.
        let gradients = backward(&(gelu(a.clone()) + gelu(b.clone())));
        assert_eq!([gradient(&a, &gradients), gradient(&b, &gradients)], [expected.clone(), expected]);
    }
}

#[test]
fn only_single_precision_on_flex_is_fused() {
    let tensor = |dtype| constant(&[1.0], [1], On::Flex(dtype));
    assert!(is_fused(&tensor(DType::F32)) && is_fused(&tensor(DType::F32).inner()));
    assert!(!is_fused(&tensor(DType::F64)) && !is_fused(&tensor(DType::BF16)));
    // The others run all the same.
    // Φ(1) is 0.8413; half precision has steps of 0.004 there, and rounds a few times.
    assert!((list(gelu(tensor(DType::BF16)))[0] - 0.8413).abs() < 0.01);
}
