//! Where figures go: tables for people, JSON lines for programs.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::Serialize;
use stoker_e2e::{Error, Result};

/// A file of JSON lines.
#[derive(Debug)]
pub(crate) struct Output {
    file: File,
    path: PathBuf,
}

#[derive(Serialize)]
struct Line<'a, T> {
    what: &'a str,
    #[serde(flatten)]
    figures: &'a T,
}

impl Output {
    /// A file that is made where it is missing, and added to where it is not.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn append_to(path: &Path) -> Result<Self> {
        let error = |source| Error::File { path: path.to_owned(), source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(error)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(error)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Adds a line with some figures, and what they are of.
    ///
    /// # Errors
    /// If the disk is full.
    pub(crate) fn record(&mut self, what: &str, figures: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(&Line { what, figures })
            .map_err(|error| Error::Unexpected(format!("the figures of {what} cannot be written as JSON: {error}")))?;
        writeln!(self.file, "{line}").map_err(|source| Error::File { path: self.path.clone(), source })
    }
}

/// A table: the first column to the left, all others to the right.
#[derive(Debug)]
pub(crate) struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// A table that has only its head.
    pub(crate) fn new(head: [&str; COLUMNS]) -> Self {
        Self { rows: vec![head.map(str::to_owned)] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells);
    }

    /// The table as it stands in a file of Markdown, a line for each row.
    pub(crate) fn markdown(&self) -> String {
        let widths = self.widths();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!(" {cell:<width$} |"));
            text += &format!("|{}\n", cells.collect::<String>());
            if number == 0 {
                let rules = widths.map(|width| format!("{}|", "-".repeat(width + 2)));
                text += &format!("|{}\n", rules.concat());
            }
        }
        text
    }

    fn widths(&self) -> [usize; COLUMNS] {
        std::array::from_fn(|column| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
    }
}

impl<const COLUMNS: usize> fmt::Display for Table<COLUMNS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        for (number, row) in self.rows.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                match column {
                    0 => write!(f, "{cell:<width$}")?,
                    _ => write!(f, "  {cell:>width$}")?,
                }
            }
            writeln!(f)?;
            if number == 0 {
                writeln!(f, "{}", "─".repeat(widths.iter().sum::<usize>() + 2 * (COLUMNS - 1)))?;
            }
        }
        Ok(())
    }
}

/// A figure as people read it: with three digits or more, and a comma at each thousand.
pub(crate) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    with_commas(&format!("{value:.decimals$}"))
}

/// A count, with a comma at each thousand.
pub(crate) fn count(value: u32) -> String {
    with_commas(&value.to_string())
}

fn with_commas(number: &str) -> String {
    let (whole, fraction) = number.split_at(number.find('.').unwrap_or(number.len()));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_commas() {
        let shown = [0.0, 0.256, 12.34, 123.4, 999.6, 1234567.8].map(number);
        assert_eq!(shown, ["0.00", "0.26", "12.3", "123", "1,000", "1,234,568"]);
        assert_eq!([10, 1000].map(count), ["10", "1,000"]);
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["", "rows/s"]);
        table.row(["a run".into(), "7".into()]);
        assert_eq!(table.to_string(), "       rows/s\n─────────────\na run       7\n");
        assert_eq!(table.markdown(), "|       | rows/s |\n|-------|--------|\n| a run | 7      |\n");
    }
}
