use rayon::prelude::{IntoParallelRefIterator, ParallelSlice};

use super::*;
use crate::tests::numbers;

/// Small integers, so that products are exact and comparisons need no tolerance.
fn integers(count: usize) -> Vec<f32> {
    (0..count).map(|index| ((index * 7) % 11) as f32 - 5.0).collect()
}

#[test]
fn a_product_is_scaled_and_added_at_the_strides_of_its_place() {
    let (left, right) = (integers(3 * 5), integers(4 * 5));
    let mut out = [1.0; 3 * 10];
    let place = MatrixMut::new(&mut out[2..], [3, 4], [10, 1]);
    let (left, right) = (Matrix::rows(&left, [3, 5]), Matrix::rows(&right, [4, 5]).transposed());
    place.product(Before::Added, 2.0, left, right, Threads::One);
    for (row, numbers) in out.chunks(10).enumerate() {
        for (column, number) in numbers.iter().enumerate() {
            let term = |depth: usize| left.values[row * 5 + depth] * right.values[(column - 2) * 5 + depth];
            let inside = (2..6).contains(&column);
            let expected = 1.0 + if inside { 2.0 * (0..5).map(term).sum::<f32>() } else { 0.0 };
            assert_eq!(*number, expected, "row {row}, column {column}");
        }
    }
}

#[test]
fn a_product_in_parts_is_that_of_all_rows_with_and_without_offsets() {
    for [rows, depth, columns] in [[3, 5, 4], [1, 7, 1], [0, 2, 3], [4, 0, 3], [301, 60, 40], [1000, 300, 2]] {
        let (left, right, offsets) = (integers(rows * depth), integers(depth * columns), integers(columns));
        let expected = |row: usize, column: usize| {
            let terms = (0..depth).map(|inner| left[row * depth + inner] * right[inner * columns + column]);
            terms.sum::<f32>()
        };
        for offset in [None, Some(&offsets[..])] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads can be started");
            let [a, b] = [Matrix::rows(&left, [rows, depth]), Matrix::rows(&right, [depth, columns])];
            let found = pool.install(|| product(a, b, offset));
            assert_eq!(found.len(), rows * columns);
            for (index, number) in found.into_iter().enumerate() {
                let (row, column) = (index / columns, index % columns);
                assert_eq!(number, expected(row, column) + offset.map_or(0.0, |offsets| offsets[column]));
            }
        }
    }
}

/// Longer than any of `gemm`'s ways for small matrices, in one dimension or both.
const DIVIDED: [[usize; 3]; 6] =
    [[128, 700, 512], [512, 700, 128], [100, 520, 100], [301, 600, 3], [40, 600, 301], [97, 1100, 65]];

#[test]
fn a_product_has_the_same_bits_in_any_number_of_parts() {
    for [rows, depth, columns] in DIVIDED {
        let (left, right) = (numbers(1, rows * depth, 1.0), numbers(2, depth * columns, 1.0));
        // As for the gradient of a weight.
        let left = Matrix::rows(&left, [depth, rows]).transposed();
        let (right, offsets) = (Matrix::rows(&right, [depth, columns]), numbers(3, columns, 1.0));
        let products = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
            let mut added = numbers(4, rows * columns, 1.0);
            pool.install(|| {
                let place = MatrixMut::rows(&mut added, [rows, columns]);
                place.product(Before::Added, 0.5, left, right, Threads::All);
                [product(left, right, Some(&offsets)), added]
            })
        };
        let expected = products(1);
        for threads in [2, 3, 7] {
            assert_eq!(products(threads), expected, "{rows}×{depth}×{columns} with {threads} threads");
        }
    }
}

#[test]
fn the_longer_side_is_divided_unless_the_parts_or_the_work_would_be_small() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().expect("threads can be started");
    let parts = |shape, depth| pool.install(|| parts(shape, depth));
    assert_eq!(parts([1000, 100], 100), (Side::Rows, 4));
    assert_eq!(parts([100, 1000], 100), (Side::Columns, 4));
    assert_eq!(parts([70, 70], 1000), (Side::Rows, 2));
    assert_eq!(parts([200, 50], 1000), (Side::Rows, 2));
    assert_eq!(parts([180, 50], 1000), (Side::Rows, 1));
    assert_eq!([parts([1 << 20, 2], 1 << 10), parts([1 << 10, 3], 1)], [(Side::Rows, 1); 2]);
}

#[test]
fn columns_are_written_side_by_side_and_rows_one_below_the_other() {
    let mut out = vec![0.0; 4 * 5];
    let (left, right) = ([1.0; 2], [1.0; 2]);
    for (index, mut columns) in MatrixMut::rows(&mut out, [4, 5]).into_columns(2).enumerate() {
        let width = if index < 2 { 2 } else { 1 };
        let (left, right) = (Matrix::rows(&left, [2, 1]), Matrix::rows(&right[..width], [1, width]));
        columns.some_rows(&(1..3)).product(Before::Added, (index + 1) as f32, left, right, Threads::One);
    }
    let row = [1.0, 1.0, 2.0, 2.0, 3.0];
    assert_eq!(out, [[0.0; 5], row, row, [0.0; 5]].concat());
}

#[test]
#[should_panic(expected = "3..5 of 4 Rows")]
fn more_rows_than_there_are_are_refused() {
    MatrixMut::rows(&mut [0.0; 8], [4, 2]).some_rows(&(3..5));
}

#[test]
fn what_was_there_before_is_forgotten_unless_added_even_with_nothing_to_sum() {
    let mut out = vec![f32::NAN; 4];
    let nothing = Matrix::rows(&[], [2, 0]);
    let product = MatrixMut::rows(&mut out, [2, 2]);
    product.product(Before::Overwritten, 1.0, nothing, Matrix::rows(&[], [0, 2]), Threads::One);
    assert_eq!(out, [0.0; 4]);
}

#[test]
#[should_panic(expected = "exceeds its slice")]
fn a_matrix_that_exceeds_its_slice_is_refused() {
    Matrix::new(&[0.0; 8], [3, 3], [3, 1]);
}

#[test]
#[should_panic(expected = "exceeds its slice")]
fn a_matrix_whose_size_overflows_is_refused() {
    Matrix::new(&[0.0; 8], [usize::MAX, 2], [2, 1]);
}

#[test]
#[should_panic(expected = "coincide")]
fn a_matrix_that_would_be_written_twice_in_a_place_is_refused() {
    MatrixMut::new(&mut [0.0; 9], [3, 3], [2, 1]);
}

#[test]
#[should_panic(expected = "shapes of a product")]
fn a_product_whose_shapes_do_not_fit_is_refused() {
    let numbers = [0.0; 6];
    let (left, right) = (Matrix::rows(&numbers, [2, 3]), Matrix::rows(&numbers, [2, 3]));
    MatrixMut::rows(&mut [0.0; 6], [2, 3]).product(Before::Added, 1.0, left, right, Threads::One);
}

#[test]
fn a_vector_is_written_block_by_block_whatever_is_left_for_the_last() {
    let numbers = integers(10);
    for block in [1, 3, 10, 100] {
        let copied = written(10, block, numbers.par_chunks(block), |numbers, place| place.write_copy_of_slice(numbers));
        assert_eq!(copied, numbers);
    }
    assert!(written(0, 3, numbers.par_chunks(3), |_, place| place.write_copy_of_slice(&[])).is_empty());
}

#[test]
#[should_panic(expected = "another slice was written")]
fn a_block_that_is_not_written_whole_is_refused() {
    written(4, 2, [(), ()].par_iter(), |_, place| place[1..].write_copy_of_slice(&[1.0]));
}
