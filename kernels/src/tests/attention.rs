use super::{DType, Outcome, Tensor, assert_close, backward, constant, gradient, leaf, list, numbers};
use crate::{causal_attention, causal_self_attention, reference};

#[derive(Clone, Copy)]
struct Case {
    batch: usize,
    heads: usize,
    key_heads: usize,
    queries: usize,
    keys: usize,
    width: usize,
    value_width: usize,
    /// Size of the numbers of query and key.
    scale: f32,
}

const fn case(
    [batch, heads, key_heads]: [usize; 3],
    [queries, keys]: [usize; 2],
    [width, value_width]: [usize; 2],
) -> Case {
    Case { batch, heads, key_heads, queries, keys, width, value_width, scale: 1.0 }
}

/// One position, odd sizes, more than a tile, grouped heads, one head for all, a cache, values of another width.
const CASES: [Case; 8] = [
    case([1, 1, 1], [1, 1], [4, 4]),
    case([2, 3, 3], [5, 5], [7, 7]),
    case([1, 2, 2], [64, 64], [16, 16]),
    case([2, 4, 2], [70, 70], [8, 8]),
    case([1, 6, 1], [131, 131], [16, 16]),
    case([1, 2, 1], [3, 9], [8, 5]),
    case([2, 2, 2], [1, 67], [8, 8]),
    case([1, 1, 1], [66, 67], [1, 1]),
];

type Attention = fn(Tensor<4>, Tensor<4>, Tensor<4>) -> Tensor<4>;

/// With the inputs as a model has them, `[batch, length, heads, width]` in memory, or as they are asked for.
fn outcome(function: Attention, case: Case, is_interleaved: bool, dtype: DType) -> Outcome {
    let input = |seed, heads, length, width, scale| {
        let values = numbers(seed, case.batch * heads * length * width, scale);
        if is_interleaved {
            leaf(&values, [case.batch, length, heads, width], dtype)
        } else {
            leaf(&values, [case.batch, heads, length, width], dtype)
        }
    };
    let query = input(1, case.heads, case.queries, case.width, case.scale);
    let key = input(2, case.key_heads, case.keys, case.width, case.scale);
    let value = input(3, case.key_heads, case.keys, case.value_width, 1.0);
    let inputs = [&query, &key, &value];
    let [q, k, v] = inputs.map(|input| if is_interleaved { input.clone().swap_dims(1, 2) } else { input.clone() });
    let output = function(q, k, v);
    let gradients = backward(&output);
    let mut outcome = vec![list(output)];
    outcome.extend(inputs.map(|input| gradient(input, &gradients)));
    outcome
}

fn compare(case: Case, is_interleaved: bool, tolerance: f64) {
    let fused = outcome(causal_attention, case, is_interleaved, DType::F32);
    let exact = outcome(reference::causal_attention, case, is_interleaved, DType::F64);
    assert_close(&fused, &exact, tolerance);
}

#[test]
fn causal_attention_is_the_composed_one() {
    for case in CASES {
        for is_interleaved in [true, false] {
            // Scores of up to 4 with an error of 10⁻⁶ at most, which is that of a probability, relative to it; the sums
            // of up to 131 products of it, relative to a sum of that size, have no more.
            compare(case, is_interleaved, 3e-6);
        }
    }
}

#[test]
fn large_scores_leave_one_key_and_no_overflow() {
    for case in CASES {
        // Scores of up to 30² · √width = 3600 have an error of several roundings, together up to 10⁻³: that of a
        // probability, relative to it, and of a gradient, which the numbers of query and key, 30, enlarge.
        compare(Case { scale: 30.0, ..case }, true, 5e-3);
    }
}

#[test]
fn a_query_sees_no_later_key() {
    let [length, width] = [70, 8];
    let input = |seed| leaf(&numbers(seed, length * width, 1.0), [1, 1, length, width], DType::F32);
    let (key, value) = (input(2), input(3));
    let output = causal_attention(input(1), key.clone(), value.clone()).narrow(2, 0, 40);
    let gradients = backward(&output);
    for input in [&key, &value] {
        let gradient = gradient(input, &gradients);
        assert!(gradient[40 * width..].iter().all(|number| *number == 0.0));
        assert!(gradient[..40 * width].iter().any(|number| *number != 0.0));
    }
}

#[test]
fn swapping_back_and_reshaping_the_output_copies_nothing() {
    let input = |seed| leaf(&numbers(seed, 2 * 5 * 12, 1.0), [2, 5, 3, 4], DType::F32).swap_dims(1, 2).inner();
    let output = causal_attention(input(1), input(2), input(3));
    let storage = |tensor: Tensor<4>| {
        let tensor = tensor.try_into_primitive::<burn::backend::Flex>().expect("it is on flex");
        tensor.storage::<f32>().as_ptr()
    };
    let reshaped = output.clone().swap_dims(1, 2).reshape([2, 1, 5, 12]);
    assert_eq!(storage(output), storage(reshaped));
}

type SelfAttention = fn(Tensor<3>, [usize; 2], Option<[Tensor<2>; 2]>) -> Tensor<3>;

fn of_projected(function: SelfAttention, case: Case, is_rotated: bool, dtype: DType) -> Outcome {
    let Case { batch, heads, key_heads, queries: length, width, .. } = case;
    let row = (heads + 2 * key_heads) * width;
    let projected = leaf(&numbers(1, batch * length * row, 1.0), [batch, length, row], dtype);
    let table = |function: fn(f32) -> f32| {
        let values: Vec<f32> = numbers(2, length * width / 2, 3.0).into_iter().map(function).collect();
        constant(&values, [length, width / 2], dtype)
    };
    let angles = is_rotated.then(|| [table(f32::cos), table(f32::sin)]);
    let output = function(projected.clone(), [heads, key_heads], angles);
    let gradients = backward(&output);
    vec![list(output), gradient(&projected, &gradients)]
}

#[test]
fn attention_of_one_projection_is_the_composed_one_rotated_or_not() {
    for case in CASES.into_iter().filter(|case| case.queries == case.keys) {
        for is_rotated in [false, true] {
            if is_rotated && !case.width.is_multiple_of(2) {
                continue;
            }
            let fused = of_projected(causal_self_attention, case, is_rotated, DType::F32);
            let exact = of_projected(reference::causal_self_attention, case, is_rotated, DType::F64);
            // As above; a rotation adds a few roundings of numbers up to √2.
            assert_close(&fused, &exact, 3e-6);
        }
    }
}

#[test]
fn a_projection_that_others_hold_is_not_rotated_in_place() {
    let projected = leaf(&numbers(1, 24, 1.0), [1, 2, 12], DType::F32).inner();
    let before = list(projected.clone());
    let table = || constant(&[0.5; 4], [2, 2], DType::F32).inner();
    causal_self_attention(projected.clone(), [1, 1], Some([table(), table()]));
    assert_eq!(list(projected), before);
}

#[test]
#[should_panic(expected = "3 heads do not divide 10 numbers evenly")]
fn a_projection_that_is_not_of_so_many_heads_is_refused() {
    causal_self_attention(leaf(&[0.0; 10], [1, 1, 10], DType::F32), [1, 1], None);
}

#[test]
#[should_panic(expected = "3 heads cannot share 2 key heads evenly")]
fn heads_that_cannot_be_grouped_are_refused() {
    let input = |heads| leaf(&vec![0.0; heads * 4], [1, heads, 2, 2], DType::F32);
    causal_attention(input(3), input(2), input(2));
}

#[test]
#[should_panic(expected = "2 queries, but only 1 keys")]
fn more_queries_than_keys_are_refused() {
    let input = |length: usize| leaf(&vec![0.0; length * 2], [1, 1, length, 2], DType::F32);
    causal_attention(input(2), input(1), input(1));
}
