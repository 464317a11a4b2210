//! Matrix products on parts of slices, by the crate `gemm`, which burn's flex uses too; and vectors that several threads write.
//!
//! The only unsafe code of this crate. `gemm` takes pointers, sizes and strides; [`Matrix`] and [`MatrixMut`] check on
//! construction that every element lies in their slice, and [`MatrixMut`] that no two are the same.

use std::{marker::PhantomData, mem::MaybeUninit, ops::Range};

use gemm::Parallelism;
use rayon::prelude::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator, ParallelSliceMut};

/// The fewest multiplications that are worth a second thread.
const WORTH_A_THREAD: usize = 1 << 19;
/// A product is in parts along its longer side. `gemm` takes other ways for small matrices, whose sums round otherwise, so the
/// numbers would depend on how many parts there are; not so if one side is longer than this, and the other one than two.
const SMALL: usize = 64;
/// The shortest side of a part: as many numbers as `gemm` computes at a time.
const SHORTEST: usize = 32;

/// A matrix that is read: the element at (row, column) is `values[row · strides[0] + column · strides[1]]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    shape: [usize; 2],
    strides: [usize; 2],
}

/// A matrix that is written, which can be divided among threads.
pub(crate) struct MatrixMut<'a> {
    place: Place,
    slice: PhantomData<&'a mut [f32]>,
}

/// What becomes of the numbers that a product is written over.
#[derive(Clone, Copy)]
pub(crate) enum Before<'a> {
    Overwritten,
    Added,
    /// The product is added to these, one for each column, in each row. The columns must lie together.
    Offset(&'a [f32]),
}

/// Who computes a product. The numbers are the same.
#[derive(Clone, Copy)]
pub(crate) enum Threads {
    /// The calling thread.
    One,
    /// The threads of the current rayon pool.
    All,
}

/// A side of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Rows,
    Columns,
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

    /// Some of its rows, or of its columns.
    ///
    /// # Panics
    /// If it has fewer.
    fn part(self, side: Side, range: &Range<usize>) -> Self {
        let start = range.start * self.strides[side as usize];
        Self::new(self.values.get(start..).unwrap_or_default(), side.shortened(self.shape, range), self.strides)
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
        Self { place: Place { start: values.as_mut_ptr(), shape, strides }, slice: PhantomData }
    }

    /// The whole slice, row after row.
    ///
    /// # Panics
    /// If the slice is too short.
    pub(crate) fn rows(values: &'a mut [f32], shape: [usize; 2]) -> Self {
        Self::new(values, shape, [shape[1], 1])
    }

    /// Matrices of so many columns each, side by side; the last may have fewer.
    pub(crate) fn into_columns(self, width: usize) -> impl Iterator<Item = Self> {
        let [_, columns] = self.place.shape;
        let starts = (0..columns).step_by(width.max(1));
        starts.map(move |start| {
            let place = self.place.part(Side::Columns, &(start..columns.min(start + width.max(1))));
            Self { place, slice: PhantomData }
        })
    }

    /// Some of its rows.
    ///
    /// # Panics
    /// If it has fewer.
    pub(crate) fn some_rows(&mut self, range: &Range<usize>) -> MatrixMut<'_> {
        MatrixMut { place: self.place.part(Side::Rows, range), slice: PhantomData }
    }

    /// Writes `scale · left · right`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    #[expect(unsafe_code, reason = "`gemm` takes pointers")]
    pub(crate) fn product(self, before: Before<'_>, scale: f32, left: Matrix<'_>, right: Matrix<'_>, threads: Threads) {
        // SAFETY: by the constructor's checks every element lies in the slice, and no two are the same; the slice is borrowed
        // mutably, so nothing else reads or writes them, and they were written before.
        unsafe { self.place.product(before, scale, left, right, threads) };
    }
}

/// `left · right`, plus `offsets` in each row, if given, row after row: on all threads of the current rayon pool. The numbers
/// are the same however many there are.
///
/// # Panics
/// If the shapes do not fit.
#[expect(unsafe_code, reason = "what `gemm` writes need not be written before")]
pub(crate) fn product(left: Matrix<'_>, right: Matrix<'_>, offsets: Option<&[f32]>) -> Vec<f32> {
    let ([rows, _], [_, columns]) = (left.shape, right.shape);
    let count = rows.saturating_mul(columns);
    let mut values: Vec<f32> = Vec::with_capacity(count);
    let start = values.spare_capacity_mut()[..count].as_mut_ptr().cast();
    let place = Place { start, shape: [rows, columns], strides: [columns, 1] };
    let before = offsets.map_or(Before::Overwritten, Before::Offset);
    // SAFETY: the elements lie in the capacity one after another, and nothing is added to what they were. `gemm` writes all of
    // them; without depth, it writes 0, or they keep their offsets.
    unsafe {
        place.product(before, 1.0, left, right, Threads::All);
        values.set_len(count);
    }
    values
}

/// A vector of so many numbers, written by blocks on all threads of the current rayon pool; nothing is written before. For each
/// block, `write` gets the next of the items and the block's place, which it gives back with numbers in it.
///
/// # Panics
/// If there are fewer items than blocks, or another slice is given back.
#[expect(unsafe_code, reason = "nothing is written before")]
pub(crate) fn written<I: IndexedParallelIterator>(
    count: usize,
    block: usize,
    items: I,
    write: impl Fn(I::Item, &mut [MaybeUninit<f32>]) -> &mut [f32] + Sync,
) -> Vec<f32> {
    let mut values: Vec<f32> = Vec::with_capacity(count);
    let places = values.spare_capacity_mut()[..count].par_chunks_mut(block.max(1));
    assert!(items.len() >= places.len(), "{} items for {} blocks", items.len(), places.len());
    places.zip(items).for_each(|(place, item)| {
        let asked = (place.as_ptr().cast::<f32>(), place.len());
        let written = write(item, place);
        assert_eq!((written.as_ptr(), written.len()), asked, "another slice was written");
    });
    // SAFETY: each block was given back as a slice of numbers, so they are there.
    unsafe { values.set_len(count) };
    values
}

/// Where a matrix is written: the element at (row, column) is `row · strides[0] + column · strides[1]` numbers after the start.
#[derive(Clone, Copy)]
struct Place {
    start: *mut f32,
    shape: [usize; 2],
    strides: [usize; 2],
}

// SAFETY: it is only written to by `Place::product`, whose caller has the elements for itself.
#[expect(unsafe_code, reason = "a pointer is none of these by itself")]
unsafe impl Send for Place {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a pointer is none of these by itself")]
unsafe impl Sync for Place {}

impl Place {
    /// Some of its rows, or of its columns.
    ///
    /// # Panics
    /// If it has fewer.
    fn part(self, side: Side, range: &Range<usize>) -> Self {
        let start = self.start.wrapping_add(range.start * self.strides[side as usize]);
        Self { start, shape: side.shortened(self.shape, range), strides: self.strides }
    }

    /// Writes `scale · left · right`.
    ///
    /// # Safety
    /// Every element must have memory of its own, which nothing else reads or writes meanwhile. Unless it is overwritten or
    /// offset, it must have been written before.
    ///
    /// # Panics
    /// If the shapes do not fit.
    #[expect(unsafe_code, reason = "`gemm` takes pointers")]
    unsafe fn product(self, before: Before<'_>, scale: f32, left: Matrix<'_>, right: Matrix<'_>, threads: Threads) {
        let ([rows, columns], [_, depth]) = (self.shape, left.shape);
        assert_eq!([left.shape, right.shape], [[rows, depth], [depth, columns]], "shapes of a product");
        if let Before::Offset(offsets) = before {
            assert!(offsets.len() == columns && self.strides[1] == 1, "offsets of a product");
        }
        let (side, count) = match threads {
            Threads::One => (Side::Rows, 1),
            Threads::All => parts(self.shape, depth),
        };
        if count == 1 {
            // SAFETY: the caller's promise, and the shapes were compared.
            return unsafe { self.whole_product(before, scale, left, right) };
        }
        let length = self.shape[side as usize];
        (0..count).into_par_iter().for_each(|index| {
            let range = index * length / count..(index + 1) * length / count;
            let (place, before) = (self.part(side, &range), before.part(side, &range));
            let (left, right) = match side {
                Side::Rows => (left.part(side, &range), right),
                Side::Columns => (left, right.part(side, &range)),
            };
            // SAFETY: as above; the parts have no element in common.
            unsafe { place.whole_product(before, scale, left, right) };
        });
    }

    /// [`Self::product`] on the calling thread.
    ///
    /// # Safety
    /// As there; and the shapes must fit.
    #[expect(unsafe_code, reason = "`gemm` takes pointers")]
    unsafe fn whole_product(self, before: Before<'_>, scale: f32, left: Matrix<'_>, right: Matrix<'_>) {
        let ([rows, depth], [_, columns]) = (left.shape, right.shape);
        if let Before::Offset(offsets) = before {
            for row in 0..rows {
                // SAFETY: there are as many offsets as columns, which lie together: these are the elements of a row.
                unsafe { self.start.add(row * self.strides[0]).copy_from_nonoverlapping(offsets.as_ptr(), columns) };
            }
        }
        let [out_row, out_column] = self.strides.map(signed);
        let [left_row, left_column] = left.strides.map(signed);
        let [right_row, right_column] = right.strides.map(signed);
        // SAFETY: what is written is the caller's promise; what is read lies in the slices by the constructors' checks.
        unsafe {
            gemm::gemm(
                rows,
                columns,
                depth,
                self.start,
                out_column,
                out_row,
                !matches!(before, Before::Overwritten),
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
                Parallelism::None,
            );
        }
    }
}

impl Before<'_> {
    /// What it is for some of the rows, or of the columns.
    fn part(self, side: Side, range: &Range<usize>) -> Self {
        match (self, side) {
            (Self::Offset(offsets), Side::Columns) => Self::Offset(&offsets[range.clone()]),
            (same, _) => same,
        }
    }
}

impl Side {
    /// The shape of a part.
    ///
    /// # Panics
    /// If the whole has less.
    fn shortened(self, mut shape: [usize; 2], range: &Range<usize>) -> [usize; 2] {
        let length = &mut shape[self as usize];
        assert!(range.start <= range.end && range.end <= *length, "{range:?} of {length} {self:?}");
        *length = range.len();
        shape
    }
}

/// Along which side, and in how many parts, a product is computed.
fn parts([rows, columns]: [usize; 2], depth: usize) -> (Side, usize) {
    let (side, longer, shorter) =
        if rows >= columns { (Side::Rows, rows, columns) } else { (Side::Columns, columns, rows) };
    let work = longer.saturating_mul(shorter).saturating_mul(depth);
    if work < WORTH_A_THREAD || shorter <= 2 {
        return (side, 1);
    }
    let shortest = if shorter > SMALL { SHORTEST } else { SMALL + SHORTEST };
    (side, rayon::current_num_threads().min(longer / shortest).max(1))
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
mod tests;
