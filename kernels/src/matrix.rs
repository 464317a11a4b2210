//! Matrix products on parts of slices, by the crate `gemm`, which burn's flex uses too.
//!
//! The only unsafe code of this crate. `gemm` takes pointers, sizes and strides; [`Matrix`] and [`MatrixMut`] check on
//! construction that every element lies in their slice, and [`MatrixMut`] that no two are the same.

use std::mem::MaybeUninit;

use gemm::Parallelism;
use rayon::prelude::{IntoParallelIterator, ParallelIterator};

/// The fewest multiplications that are worth a second thread.
const WORTH_A_THREAD: usize = 1 << 19;
/// The fewest rows of a part of a product, and the fewest columns of a product in parts. `gemm` takes other ways for smaller
/// matrices, whose sums round otherwise; so the numbers would depend on how many parts there are.
const PART: [usize; 2] = [96, 3];

/// A matrix that is read: the element at (row, column) is `values[row · strides[0] + column · strides[1]]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    shape: [usize; 2],
    strides: [usize; 2],
}

/// A matrix that is written.
pub(crate) struct MatrixMut<'a> {
    values: &'a mut [f32],
    shape: [usize; 2],
    strides: [usize; 2],
}

/// What becomes of the numbers that a product is written over.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Before {
    Overwritten,
    Added,
}

/// Who computes a product. The numbers are the same: `gemm` gives each thread whole elements.
#[derive(Clone, Copy)]
pub(crate) enum Threads {
    /// The calling thread.
    One,
    /// The threads of the current rayon pool.
    All,
}

impl<'a> Matrix<'a> {
    /// A view of the slice.
    ///
    /// # Panics
    /// If an element lies beyond the slice.
    pub(crate) fn new(values: &'a [f32], shape: [usize; 2], strides: [usize; 2]) -> Self {
        assert!(span(shape, strides) <= values.len(), "a matrix {shape:?} by {strides:?} exceeds its slice");
        Self { values, shape, strides }
    }

    /// The whole slice, row after row.
    ///
    /// # Panics
    /// If the slice is too short.
    pub(crate) fn rows(values: &'a [f32], shape: [usize; 2]) -> Self {
        Self::new(values, shape, [shape[1], 1])
    }

    /// Some of its rows: so many, from `first` on.
    ///
    /// # Panics
    /// If it has fewer.
    fn some_rows(self, first: usize, rows: usize) -> Self {
        let Self { values, shape: [_, columns], strides } = self;
        Self::new(values.get(first * strides[0]..).unwrap_or_default(), [rows, columns], strides)
    }

    pub(crate) fn transposed(self) -> Self {
        let Self { values, shape: [rows, columns], strides: [row, column] } = self;
        Self { values, shape: [columns, rows], strides: [column, row] }
    }
}

impl<'a> MatrixMut<'a> {
    /// A view of the slice.
    ///
    /// # Panics
    /// If an element lies beyond the slice, or two may be the same.
    pub(crate) fn new(values: &'a mut [f32], shape: [usize; 2], strides: [usize; 2]) -> Self {
        assert!(span(shape, strides) <= values.len(), "a matrix {shape:?} by {strides:?} exceeds its slice");
        assert!(is_distinct(shape, strides), "elements of a matrix {shape:?} by {strides:?} coincide");
        Self { values, shape, strides }
    }

    /// The whole slice, row after row.
    ///
    /// # Panics
    /// If the slice is too short.
    pub(crate) fn rows(values: &'a mut [f32], shape: [usize; 2]) -> Self {
        Self::new(values, shape, [shape[1], 1])
    }

    /// Writes `scale · left · right`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    #[expect(unsafe_code, reason = "`gemm` takes pointers")]
    pub(crate) fn product(self, before: Before, scale: f32, left: Matrix<'_>, right: Matrix<'_>, threads: Threads) {
        let [rows, columns] = self.shape;
        let [_, depth] = left.shape;
        assert_eq!([left.shape, right.shape], [[rows, depth], [depth, columns]], "shapes of a product");
        let parallelism = match threads {
            Threads::One => Parallelism::None,
            Threads::All => Parallelism::Rayon(0),
        };
        // SAFETY: by the constructor's checks every place lies in the slice, and no two are the same; the slice is borrowed
        // mutably, so neither of the others overlaps it.
        unsafe { write_product(self.values.as_mut_ptr(), self.strides, before, scale, left, right, parallelism) };
    }
}

/// Writes `scale · left · right` to places that need not have been written before, unless it is added to what is there.
///
/// # Safety
/// At these strides, from `out` on, there must be a place of its own for each element, which nothing else reads or writes; and
/// the columns of `left` must be as many as the rows of `right`.
#[expect(unsafe_code, reason = "`gemm` takes pointers")]
unsafe fn write_product(
    out: *mut f32,
    strides: [usize; 2],
    before: Before,
    scale: f32,
    left: Matrix<'_>,
    right: Matrix<'_>,
    parallelism: Parallelism,
) {
    let ([rows, depth], [_, columns]) = (left.shape, right.shape);
    let [out_row, out_column] = strides.map(signed);
    let [left_row, left_column] = left.strides.map(signed);
    let [right_row, right_column] = right.strides.map(signed);
    // SAFETY: what is written is the caller's promise; what is read lies in the slices by the constructors' checks.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            out,
            out_column,
            out_row,
            before == Before::Added,
            left.values.as_ptr(),
            left_column,
            left_row,
            right.values.as_ptr(),
            right_column,
            right_row,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `left · right`, plus `offsets` in each row, if given, row after row: on all threads of the current rayon pool. The numbers
/// are the same however many there are.
///
/// # Panics
/// If the shapes do not fit.
#[expect(unsafe_code, reason = "`gemm` takes pointers, and what it writes need not be written before")]
pub(crate) fn product(left: Matrix<'_>, right: Matrix<'_>, offsets: Option<&[f32]>) -> Vec<f32> {
    let ([rows, depth], [right_depth, columns]) = (left.shape, right.shape);
    assert_eq!(depth, right_depth, "shapes of a product");
    assert!(offsets.is_none_or(|offsets| offsets.len() == columns), "offsets of a product");
    let count = rows.saturating_mul(columns);
    let mut values = Vec::with_capacity(count);
    let write = |(first, place): (usize, &mut [MaybeUninit<f32>])| {
        let rows = place.len() / columns;
        if let Some(offsets) = offsets {
            place.chunks_exact_mut(columns).for_each(|row| {
                row.write_copy_of_slice(offsets);
            });
        }
        let before = if offsets.is_some() { Before::Added } else { Before::Overwritten };
        let (out, left) = (place.as_mut_ptr().cast::<f32>(), left.some_rows(first, rows));
        // SAFETY: the place is as many rows of `columns` numbers as `left` has here. What is added to was written above.
        unsafe { write_product(out, [columns, 1], before, 1.0, left, right, Parallelism::None) };
    };
    let place = &mut values.spare_capacity_mut()[..count];
    match parts([rows, columns], depth) {
        _ if count == 0 => {}
        1 => write((0, place)),
        parts => split(place, [rows, columns], parts).into_par_iter().for_each(write),
    }
    // SAFETY: `gemm` has written every element of each part, and the parts are the whole; without depth, it writes 0.
    unsafe { values.set_len(count) };
    values
}

/// In how many parts a product is computed.
fn parts([rows, columns]: [usize; 2], depth: usize) -> usize {
    let [fewest_rows, fewest_columns] = PART;
    let work = rows.saturating_mul(columns).saturating_mul(depth);
    if work < WORTH_A_THREAD || columns < fewest_columns {
        return 1;
    }
    rayon::current_num_threads().min(rows / fewest_rows).max(1)
}

/// The rows in so many parts of about the same size: the first row of each, and its place.
fn split<T>(mut rest: &mut [T], [rows, columns]: [usize; 2], parts: usize) -> Vec<(usize, &mut [T])> {
    let starts = (0..parts).map(|part| [part, part + 1].map(|part| part * rows / parts));
    let parts = starts.map(|[start, end]| {
        let (part, others) = std::mem::take(&mut rest).split_at_mut((end - start) * columns);
        rest = others;
        (start, part)
    });
    parts.collect()
}

/// How long a slice must be to hold all elements.
fn span([rows, columns]: [usize; 2], strides: [usize; 2]) -> usize {
    if rows == 0 || columns == 0 {
        return 0;
    }
    let last = (rows - 1).checked_mul(strides[0]).zip((columns - 1).checked_mul(strides[1]));
    last.and_then(|(row, column)| row.checked_add(column)?.checked_add(1)).unwrap_or(usize::MAX)
}

/// Whether no two elements coincide, for the strides in use: one of the dimensions is laid out within a step of the
/// other.
fn is_distinct([rows, columns]: [usize; 2], [row, column]: [usize; 2]) -> bool {
    let within = |inner: usize, step: usize, outer: usize| step > 0 && inner.saturating_mul(step) <= outer;
    let alone = |step: usize, count: usize| count <= 1 || step > 0;
    match [rows, columns] {
        [0, _] | [_, 0] => true,
        [1, _] => alone(column, columns),
        [_, 1] => alone(row, rows),
        _ => within(columns, column, row) || within(rows, row, column),
    }
}

/// A stride as `gemm` takes it. A stride that matters fits: a slice is never longer than `isize::MAX`.
fn signed(stride: usize) -> isize {
    isize::try_from(stride).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn parts_are_of_about_the_same_size_and_no_smaller_than_their_fewest_rows() {
        for rows in [96, 97, 191, 192, 1000, 2048] {
            let count = parts([rows, 1 << 10], 1 << 10);
            let mut places = vec![0; rows];
            let parts = split(&mut places, [rows, 1], count);
            assert!(parts.iter().all(|(_, part)| part.len() >= PART[0]), "{rows} rows in {count} parts");
            assert_eq!(parts.iter().map(|(_, part)| part.len()).sum::<usize>(), rows);
        }
        assert_eq!([parts([1 << 20, 2], 1 << 10), parts([1 << 10, 3], 1)], [1; 2]);
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
}
