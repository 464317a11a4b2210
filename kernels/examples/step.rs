//! Prints the milliseconds of forward and backward of each operation, ours and as burn composes it: on the CPU at sizes of
//! small GPTs, and with the argument `gpu`, where it is built for one, on a GPU at those of GPT-2, in bfloat16 if that has it.

use std::{sync::LazyLock, time::Instant};

use burn::{
    optim::{AdamWConfig, Optimizer},
    tensor::{DType, Device, Distribution, Int, Tensor},
};
use burn_fused_ops::{
    AdamW, causal_attention, causal_self_attention, composed, dropout, gelu, gelu_tanh, layer_norm, linear,
    linear_cross_entropy, reference, rms_norm, rotate, swiglu,
};

const EPSILON: f64 = 1e-5;
/// Repetitions, of which the fastest is printed.
const REPETITIONS: usize = 15;

struct Size {
    batch: usize,
    length: usize,
    width: usize,
    heads: usize,
    vocabulary: usize,
}

const ON_CPU: [Size; 3] = [
    Size { batch: 16, length: 128, width: 128, heads: 4, vocabulary: 256 },
    Size { batch: 8, length: 256, width: 384, heads: 6, vocabulary: 256 },
    Size { batch: 2, length: 256, width: 384, heads: 6, vocabulary: 16_384 },
];
const ON_GPU: [Size; 1] = [Size { batch: 8, length: 1024, width: 768, heads: 12, vocabulary: 50_304 }];

/// The device, and what its numbers are.
static PLACE: LazyLock<(Device, DType)> = LazyLock::new(|| match gpu() {
    Some(gpu) if gpu.supports_dtype(DType::BF16) => (gpu, DType::BF16),
    Some(gpu) => (gpu, DType::F32),
    None => (Device::flex(), DType::F32),
});

/// The first GPU, if one is asked for.
#[cfg(feature = "gpu")]
fn gpu() -> Option<Device> {
    use burn::tensor::DeviceType;

    #[cfg(feature = "cuda")]
    let api = DeviceType::Cuda;
    #[cfg(not(feature = "cuda"))]
    let api = DeviceType::Wgpu;
    let is_asked_for = std::env::args().nth(1).is_some_and(|argument| argument == "gpu");
    is_asked_for.then(|| Device::enumerate(api).into_vec().into_iter().next())?
}

#[cfg(not(feature = "gpu"))]
fn gpu() -> Option<Device> {
    None
}

fn main() {
    let sizes: &[Size] = if gpu().is_some() { &ON_GPU } else { &ON_CPU };
    println!("{:?}", *PLACE);
    for size in sizes {
        let Size { batch, length, width, heads, vocabulary } = *size;
        println!("batch {batch}, length {length}, width {width}, {heads} heads, vocabulary {vocabulary}");
        println!("{:24} {:>9} {:>9}", "", "ours", "burn's");
        size.elementwise();
        size.norms();
        size.linear();
        size.attention();
        size.cross_entropy();
        size.adamw();
    }
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let (device, dtype) = &*PLACE;
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), (&device.clone().autodiff(), *dtype)).require_grad()
}

/// Prints the times of two alternatives, which are called in turn.
fn compare(name: &str, mut fused: impl FnMut(), mut composed: impl FnMut()) {
    fused();
    composed();
    let time = |run: &mut dyn FnMut()| {
        let begun = Instant::now();
        run();
        // A GPU is asked first and computes later.
        if let Err(error) = PLACE.0.sync() {
            eprintln!("the device ends the benchmark: {error}");
            std::process::exit(1);
        }
        begun.elapsed().as_secs_f64() * 1e3
    };
    let turns = (0..REPETITIONS).map(|_| [time(&mut fused), time(&mut composed)]);
    let [fused, composed] = turns.fold([f64::INFINITY; 2], |[a, b], [c, d]| [a.min(c), b.min(d)]);
    println!("{name:24} {fused:9.3} {composed:9.3} {:6.1}×", composed / fused);
}

/// Forward and backward from the sum of an operation's output.
fn step<const D: usize>(output: Tensor<D>) {
    drop(output.sum().backward());
}

impl Size {
    fn elementwise(&self) {
        let hidden = [self.batch, self.length, 4 * self.width];
        let x = random(hidden);
        compare("gelu", || step(gelu(x.clone())), || step(reference::gelu(x.clone())));
        compare("gelu_tanh", || step(gelu_tanh(x.clone())), || step(reference::gelu_tanh(x.clone())));
        let up = random(hidden);
        compare("swiglu", || step(swiglu(x.clone(), up.clone())), || step(reference::swiglu(x.clone(), up.clone())));
    }

    fn norms(&self) {
        let x = random([self.batch, self.length, self.width]);
        let (gain, bias) = (random([self.width]), random([self.width]));
        compare(
            "layer_norm",
            || step(layer_norm(x.clone(), gain.clone(), Some(bias.clone()), EPSILON)),
            || step(reference::layer_norm(x.clone(), gain.clone(), Some(bias.clone()), EPSILON)),
        );
        compare(
            "rms_norm",
            || step(rms_norm(x.clone(), gain.clone(), EPSILON)),
            || step(reference::rms_norm(x.clone(), gain.clone(), EPSILON)),
        );
    }

    /// The first layer of a feed-forward network, and dropout.
    fn linear(&self) {
        let x = random([self.batch, self.length, self.width]);
        let (weight, bias) = (random([self.width, 4 * self.width]), random([4 * self.width]));
        compare(
            "linear",
            || step(linear(x.clone(), weight.clone(), Some(bias.clone()))),
            || step(composed::linear(x.clone(), weight.clone(), Some(bias.clone()))),
        );
        compare("dropout", || step(dropout(x.clone(), 0.1)), || step(composed::dropout(x.clone(), 0.1)));
    }

    /// With inputs and output as a model has them, heads within positions.
    fn attention(&self) {
        let Self { batch, length, width, heads, .. } = *self;
        let inputs = [(); 3].map(|()| random([batch, length, heads, width / heads]));
        let run = |attention: fn(Tensor<4>, Tensor<4>, Tensor<4>) -> Tensor<4>| {
            let [query, key, value] = inputs.each_ref().map(|input| input.clone().swap_dims(1, 2));
            step(attention(query, key, value).swap_dims(1, 2).reshape([batch, length, width]));
        };
        compare("causal_attention", || run(causal_attention), || run(reference::causal_attention));
        let projected = random([batch, length, 3 * width]);
        compare(
            "causal_self_attention",
            || step(causal_self_attention(projected.clone(), [heads; 2], None)),
            || step(reference::causal_self_attention(projected.clone(), [heads; 2], None)),
        );
        let table = || random([length, width / heads / 2]).detach();
        let (cos, sin) = (table(), table());
        let run = |rotate: fn(Tensor<4>, Tensor<2>, Tensor<2>) -> Tensor<4>| {
            step(rotate(inputs[0].clone().swap_dims(1, 2), cos.clone(), sin.clone()));
        };
        compare("rotate", || run(rotate), || run(composed::rotate));
    }

    fn cross_entropy(&self) {
        let rows = self.batch * self.length;
        let (hidden, weight) = (random([rows, self.width]), random([self.vocabulary, self.width]));
        let counts = Tensor::<1>::ones([rows], &hidden.device());
        let targets =
            Tensor::<1, Int>::arange(0..rows as i64, &hidden.device()).remainder_scalar(self.vocabulary as i64);
        let run = |loss: fn(Tensor<2>, Tensor<2>, Tensor<1, Int>, Tensor<1>, usize) -> Tensor<1>| {
            step(loss(hidden.clone(), weight.clone(), targets.clone(), counts.clone(), self.vocabulary));
        };
        compare("linear_cross_entropy", || run(linear_cross_entropy), || run(composed::linear_cross_entropy));
    }

    /// One step for a parameter of the size of a layer's largest.
    fn adamw(&self) {
        let rule = AdamW { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
        let config = AdamWConfig::new().with_beta_1(rule.beta_1).with_beta_2(rule.beta_2);
        let composed = config.with_epsilon(rule.epsilon).with_weight_decay(rule.weight_decay).build();
        let shape = [self.width, 4 * self.width];
        compare("AdamW", updates(rule, shape), updates(composed, shape));
    }
}

/// Updates a parameter of its own with each call.
fn updates<R: Optimizer>(rule: R, shape: [usize; 2]) -> impl FnMut() {
    let gradient = random(shape).inner();
    let mut held = Some((random(shape).inner(), None));
    move || {
        held = held.take().map(|(parameter, state)| rule.step(1e-3, parameter, gradient.clone(), state));
    }
}
