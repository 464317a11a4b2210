use super::{
    DType, EXACT, FUSED, HALVES, On, Outcome, ROUNDING, Tensor, assert_close, backward, constant, gradient, leaf, list,
    numbers,
};
use crate::{causal_attention, causal_self_attention, composed, reference};

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

/// One position, odd sizes, more than a tile, grouped heads, one head for all, a cache, values of another width, more than a
/// composed tile has queries.
const CASES: [Case; 9] = [
    case([1, 1, 1], [1, 1], [4, 4]),
    case([2, 3, 3], [5, 5], [7, 7]),
    case([1, 2, 2], [64, 64], [16, 16]),
    case([2, 4, 2], [70, 70], [8, 8]),
    case([1, 6, 1], [131, 131], [16, 16]),
    case([1, 2, 1], [3, 9], [8, 5]),
    case([2, 2, 2], [1, 67], [8, 8]),
    case([1, 1, 1], [66, 67], [1, 1]),
    case([1, 2, 1], [520, 520], [4, 4]),
];

pub(super) type Attention = fn(Tensor<4>, Tensor<4>, Tensor<4>) -> Tensor<4>;

/// With the inputs as a model has them, `[batch, length, heads, width]` in memory, or as they are asked for.
fn outcome(function: Attention, case: Case, is_interleaved: bool, on: On) -> Outcome {
    let input = |seed, heads, length, width, scale| {
        let values = numbers(seed, case.batch * heads * length * width, scale);
        if is_interleaved {
            leaf(&values, [case.batch, length, heads, width], on)
        } else {
            leaf(&values, [case.batch, heads, length, width], on)
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

/// On all cases, however the inputs lie, with numbers of query and key of up to `scale`.
pub(super) fn compare(function: Attention, on: On, scale: f32, tolerance: f64) {
    for case in CASES.map(|case| Case { scale, ..case }) {
        for is_interleaved in [true, false] {
            let exact = outcome(reference::causal_attention, case, is_interleaved, on.exact());
            assert_close(&outcome(function, case, is_interleaved, on), &exact, tolerance);
        }
    }
}

#[test]
fn causal_attention_is_burns() {
    // Scores of up to 4 with an error of 10⁻⁶ at most, which is that of a probability, relative to it; the sums
    // of up to 131 products of it, relative to a sum of that size, have no more.
    compare(causal_attention, FUSED, 1.0, 3e-6);
    compare(causal_attention, EXACT, 1.0, ROUNDING);
    HALVES.into_iter().for_each(|(on, tolerance)| compare(causal_attention, on, 1.0, tolerance));
}

#[test]
fn composed_attention_is_the_same_by_tiles_of_any_size() {
    // A query at a time, some that do not divide their number, a multiple of 64, and one sequence of two.
    compare(|query, key, value| composed::causal_attention_by(1, query, key, value), EXACT, 1.0, ROUNDING);
    compare(|query, key, value| composed::causal_attention_by(4000, query, key, value), EXACT, 1.0, ROUNDING);
    compare(|query, key, value| composed::causal_attention_by(80_000, query, key, value), EXACT, 1.0, ROUNDING);
    compare(|query, key, value| composed::causal_attention_by(160_000, query, key, value), EXACT, 1.0, ROUNDING);
}

#[test]
fn large_scores_leave_one_key_and_no_overflow() {
    // Scores of up to 30² · √width = 3600 have an error of several roundings, together up to 10⁻³: that of a
    // probability, relative to it, and of a gradient, which the numbers of query and key, 30, enlarge.
    compare(causal_attention, FUSED, 30.0, 5e-3);
    compare(causal_attention, EXACT, 30.0, 1e-9);
}

/// Its score leads nowhere, so that no gradient comes back, not even of what is rounded.
#[test]
fn of_the_only_key_that_a_query_sees_and_of_the_query_the_gradients_are_nothing() {
    for on in [FUSED, EXACT, On::Flex(DType::BF16), On::Flex(DType::F16)] {
        let input = |seed| leaf(&numbers(seed, 8, 1.0), [1, 1, 1, 8], on);
        let (query, key) = (input(1), input(2));
        let gradients = backward(&causal_attention(query.clone(), key.clone(), input(3)));
        for input in [query, key] {
            assert_eq!(gradient(&input, &gradients), [0.0; 8], "{on:?}");
        }
    }
}

#[test]
fn a_query_sees_no_later_key() {
    let [length, width] = [70, 8];
    let input = |seed| leaf(&numbers(seed, length * width, 1.0), [1, 1, length, width], FUSED);
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
    let input = |seed| leaf(&numbers(seed, 2 * 5 * 12, 1.0), [2, 5, 3, 4], FUSED).swap_dims(1, 2).inner();
    let output = causal_attention(input(1), input(2), input(3));
    let storage = |tensor: Tensor<4>| {
        let tensor = tensor.try_into_primitive::<burn::backend::Flex>().expect("it is on flex");
        tensor.storage::<f32>().as_ptr()
    };
    let reshaped = output.clone().swap_dims(1, 2).reshape([2, 1, 5, 12]);
    assert_eq!(storage(output), storage(reshaped));
}

pub(super) type SelfAttention = fn(Tensor<3>, [usize; 2], Option<[Tensor<2>; 2]>) -> Tensor<3>;

fn of_projected(function: SelfAttention, case: Case, is_rotated: bool, on: On) -> Outcome {
    let Case { batch, heads, key_heads, queries: length, width, .. } = case;
    let row = (heads + 2 * key_heads) * width;
    let projected = leaf(&numbers(1, batch * length * row, 1.0), [batch, length, row], on);
    let table = |function: fn(f32) -> f32| {
        let values: Vec<f32> = numbers(2, length * width / 2, 3.0).into_iter().map(function).collect();
        constant(&values, [length, width / 2], on)
    };
    let angles = is_rotated.then(|| [table(f32::cos), table(f32::sin)]);
    let output = function(projected.clone(), [heads, key_heads], angles);
    let gradients = backward(&output);
    vec![list(output), gradient(&projected, &gradients)]
}

pub(super) fn compare_projected(function: SelfAttention, on: On, tolerance: f64) {
    for case in CASES.into_iter().filter(|case| case.queries == case.keys) {
        for is_rotated in [false, true] {
            if is_rotated && !case.width.is_multiple_of(2) {
                continue;
            }
            let exact = of_projected(reference::causal_self_attention, case, is_rotated, on.exact());
            assert_close(&of_projected(function, case, is_rotated, on), &exact, tolerance);
        }
    }
}

#[test]
fn attention_of_one_projection_is_burns_rotated_or_not() {
    // As above; a rotation adds a few roundings of numbers up to √2.
    compare_projected(causal_self_attention, FUSED, 3e-6);
    compare_projected(causal_self_attention, EXACT, ROUNDING);
    HALVES.into_iter().for_each(|(on, tolerance)| compare_projected(causal_self_attention, on, tolerance));
    let tiled: SelfAttention =
        |projected, heads, angles| composed::causal_self_attention_by(4000, projected, heads, angles);
    compare_projected(tiled, EXACT, ROUNDING);
}

#[test]
fn a_projection_that_others_hold_is_not_rotated_in_place() {
    let projected = leaf(&numbers(1, 24, 1.0), [1, 2, 12], FUSED).inner();
    let before = list(projected.clone());
    let table = || constant(&[0.5; 4], [2, 2], FUSED).inner();
    causal_self_attention(projected.clone(), [1, 1], Some([table(), table()]));
    assert_eq!(list(projected), before);
}

#[test]
#[should_panic(expected = "3 heads do not divide 10 numbers evenly")]
fn a_projection_that_is_not_of_so_many_heads_is_refused() {
    causal_self_attention(leaf(&[0.0; 10], [1, 1, 10], FUSED), [1, 1], None);
}

#[test]
#[should_panic(expected = "3 heads cannot share 2 key heads evenly")]
fn heads_that_cannot_be_grouped_are_refused() {
    let input = |heads| leaf(&vec![0.0; heads * 4], [1, heads, 2, 2], FUSED);
    causal_attention(input(3), input(2), input(2));
}

#[test]
#[should_panic(expected = "2 queries, but only 1 keys")]
fn more_queries_than_keys_are_refused() {
    let input = |length: usize| leaf(&vec![0.0; length * 2], [1, 1, length, 2], FUSED);
    causal_attention(input(2), input(1), input(1));
}
