//! Prepared rows: fixed-width numbers in memory, or in a file where they do not fit.

use std::{
    io::{BufWriter, Write},
    mem::size_of,
    os::unix::fs::FileExt,
};

use super::{
    DataError,
    scratch::{Scratch, ScratchFile},
};

/// How many bytes of rows a split may hold in memory.
pub(super) const MAX_IN_MEMORY: usize = 256 << 20;

/// The prepared rows of one split: features and targets as numbers, in memory or in a file of the scratch folder.
#[derive(Debug)]
pub struct Rows {
    width: usize,
    target_width: usize,
    len: usize,
    numbers: Numbers,
}

/// Rows one after another, each its features and then its targets.
#[derive(Debug)]
enum Numbers {
    Memory(Vec<f32>),
    /// In little-endian bytes.
    File(ScratchFile),
}

impl Rows {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many features a row has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many targets a row has.
    pub fn target_width(&self) -> usize {
        self.target_width
    }

    /// Appends the rows of these indices: `[indices, width]` to `features`, `[indices, target_width]` to `targets`.
    ///
    /// # Errors
    /// If an index is out of range, or the file cannot be read.
    pub fn gather(&self, indices: &[u32], features: &mut Vec<f32>, targets: &mut Vec<f32>) -> Result<(), DataError> {
        let stride = self.width + self.target_width;
        let mut append = |row: &[f32]| {
            features.extend_from_slice(&row[..self.width]);
            targets.extend_from_slice(&row[self.width..]);
        };
        let mut bytes = vec![0; stride * size_of::<f32>()];
        let mut row = Vec::with_capacity(stride);
        for index in indices.iter().map(|index| *index as usize) {
            if index >= self.len {
                return Err(DataError::internal(format!("row {index} of {} was asked for", self.len)));
            }
            match &self.numbers {
                Numbers::Memory(numbers) => append(&numbers[index * stride..][..stride]),
                Numbers::File(file) => {
                    file.file()
                        .read_exact_at(&mut bytes, (index * stride * size_of::<f32>()) as u64)
                        .map_err(|error| DataError::scratch(file.scratch(), error))?;
                    row.clear();
                    row.extend(bytes.as_chunks().0.iter().copied().map(f32::from_le_bytes));
                    append(&row);
                }
            }
        }
        Ok(())
    }
}

/// Collects [`Rows`] in memory, and moves them to a file once they are too many.
pub(super) struct RowsWriter {
    width: usize,
    target_width: usize,
    max_in_memory: usize,
    scratch: Scratch,
    len: usize,
    memory: Vec<f32>,
    file: Option<BufWriter<ScratchFile>>,
}

impl RowsWriter {
    pub(super) fn new(scratch: &Scratch, width: usize, target_width: usize, max_in_memory: usize) -> Self {
        let (scratch, memory) = (scratch.clone(), Vec::new());
        Self { width, target_width, max_in_memory, scratch, len: 0, memory, file: None }
    }

    /// Appends rows: `[rows, width]` features and `[rows, target_width]` targets.
    pub(super) fn push(&mut self, features: &[f32], targets: &[f32]) -> Result<(), DataError> {
        for (features, targets) in features.chunks_exact(self.width).zip(targets.chunks_exact(self.target_width)) {
            self.memory.extend_from_slice(features);
            self.memory.extend_from_slice(targets);
            self.len += 1;
        }
        if self.file.is_some() || self.memory.len() * size_of::<f32>() > self.max_in_memory {
            self.spill()?;
        }
        Ok(())
    }

    fn spill(&mut self) -> Result<(), DataError> {
        let failed = |error| DataError::scratch(&self.scratch, error);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(BufWriter::new(self.scratch.file().map_err(failed)?)),
        };
        for number in self.memory.drain(..) {
            file.write_all(&number.to_le_bytes()).map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Rows, DataError> {
        if u32::try_from(self.len).is_err() {
            return Err(DataError::InvalidConfig(format!(
                "{} rows in one split are more than can be numbered",
                self.len
            )));
        }
        let numbers = match self.file.take() {
            None => {
                self.memory.shrink_to_fit();
                Numbers::Memory(self.memory)
            }
            Some(file) => {
                let file = file.into_inner().map_err(|error| DataError::scratch(&self.scratch, error.into_error()))?;
                Numbers::File(file)
            }
        };
        Ok(Rows { width: self.width, target_width: self.target_width, len: self.len, numbers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(max_in_memory: usize) -> Rows {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RowsWriter::new(&Scratch::unlimited(dir.path()), 2, 1, max_in_memory);
        for row in 0..100_u16 {
            let row = f32::from(row);
            writer.push(&[row, -row, row + 0.5, -row - 0.5], &[10.0 * row, 20.0 * row]).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn rows_are_the_same_in_memory_and_in_a_file() {
        let (memory, file) = (rows(usize::MAX), rows(0));
        assert!(matches!((&memory.numbers, &file.numbers), (Numbers::Memory(_), Numbers::File(_))));
        for rows in [memory, file, rows(500)] {
            assert_eq!((rows.len(), rows.width(), rows.target_width()), (200, 2, 1));
            let (mut features, mut targets) = (Vec::new(), Vec::new());
            rows.gather(&[199, 0, 2, 2], &mut features, &mut targets).unwrap();
            assert_eq!(features, [99.5, -99.5, 0.0, 0.0, 1.0, -1.0, 1.0, -1.0]);
            assert_eq!(targets, [1980.0, 0.0, 10.0, 10.0]);
        }
    }

    #[test]
    fn a_row_that_is_not_there_is_an_error() {
        for rows in [rows(0), rows(usize::MAX)] {
            assert!(rows.gather(&[200], &mut Vec::new(), &mut Vec::new()).is_err());
        }
    }
}
