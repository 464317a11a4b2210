//! Matrix products on parts of slices, by the crate `gemm`, which burn's flex uses too.
//!
//! The only unsafe code of this crate. `gemm` takes pointers, sizes and strides; [`Matrix`] and [`MatrixMut`] check on
//! construction that every element lies in their slice, and [`MatrixMut`] that no two are the same.

use gemm::Parallelism;

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
        let [out_row, out_column] = self.strides.map(signed);
        let [left_row, left_column] = left.strides.map(signed);
        let [right_row, right_column] = right.strides.map(signed);
        let out = self.values.as_mut_ptr();
        // SAFETY: by the constructors' checks every element that `gemm` reads or writes, at these sizes and strides,
        // lies in one of the three slices, those written are distinct, and they are in a slice that is borrowed
        // mutably, so neither of the others overlaps it.
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
