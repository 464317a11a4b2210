//! The `data` of an input tensor, read in one pass.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, SeqAccess, Visitor},
};

/// The values of one tensor as they were sent, in row order.
///
/// `datatype` may come after `data`, so a value that does not fit is noted here and judged when all is read.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Values<'a> {
    pub(super) column: Column<'a>,
    /// Rows whose value is null; `column` holds a placeholder for each.
    pub(super) nulls: Vec<usize>,
    /// The first row whose value is of another JSON type than those before it. Nothing is kept from there on.
    pub(super) misfit: Option<(usize, JsonType)>,
    /// The first row whose number is not whole.
    pub(super) fraction: Option<usize>,
    /// How many rows were written as an array of their own: `[[1], [2]]`.
    pub(super) nested: usize,
    /// The first row that was written as an array of none or several values.
    pub(super) ragged: Option<usize>,
}

/// Values of one JSON type.
#[derive(Debug, PartialEq)]
pub(super) enum Column<'a> {
    /// So many nulls, and nothing else so far.
    Nulls(usize),
    Numbers(Vec<f64>),
    Text(Vec<Cow<'a, str>>),
    Booleans(Vec<bool>),
}

/// A JSON type that a tensor's values can be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum JsonType {
    Number,
    Text,
    Boolean,
}

impl fmt::Display for JsonType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Boolean => "true or false",
        })
    }
}

impl Default for Column<'_> {
    fn default() -> Self {
        Self::Nulls(0)
    }
}

impl<'a> Column<'a> {
    fn len(&self) -> usize {
        match self {
            Self::Nulls(count) => *count,
            Self::Numbers(values) => values.len(),
            Self::Text(values) => values.len(),
            Self::Booleans(values) => values.len(),
        }
    }

    fn json_type(&self) -> Option<JsonType> {
        match self {
            Self::Nulls(_) => None,
            Self::Numbers(_) => Some(JsonType::Number),
            Self::Text(_) => Some(JsonType::Text),
            Self::Booleans(_) => Some(JsonType::Boolean),
        }
    }

    /// A column of that many placeholders.
    fn of_type(json_type: JsonType, length: usize) -> Self {
        match json_type {
            JsonType::Number => Self::Numbers(vec![0.0; length]),
            JsonType::Text => Self::Text(vec![Cow::Borrowed(""); length]),
            JsonType::Boolean => Self::Booleans(vec![false; length]),
        }
    }
}

impl<'a> Values<'a> {
    pub(super) fn len(&self) -> usize {
        self.column.len()
    }

    /// The first row whose value is of another type than `wanted`.
    pub(super) fn first_other_than(&self, wanted: JsonType) -> Option<(usize, JsonType)> {
        match self.column.json_type() {
            Some(found) if found != wanted => {
                // Placeholders of nulls come first; the first row that is none gave the column its type.
                let row = (0..self.len()).find(|row| self.nulls.binary_search(row).is_err()).unwrap_or_default();
                Some((row, found))
            }
            _ => self.misfit,
        }
    }

    fn push_null(&mut self) {
        self.nulls.push(self.len());
        match &mut self.column {
            Column::Nulls(count) => *count += 1,
            Column::Numbers(values) => values.push(0.0),
            Column::Text(values) => values.push(Cow::Borrowed("")),
            Column::Booleans(values) => values.push(false),
        }
    }

    fn push_number(&mut self, value: f64) {
        if self.fits(JsonType::Number)
            && let Column::Numbers(values) = &mut self.column
        {
            if value.fract() != 0.0 && self.fraction.is_none() {
                self.fraction = Some(values.len());
            }
            values.push(value);
        }
    }

    fn push_text(&mut self, value: Cow<'a, str>) {
        if self.fits(JsonType::Text)
            && let Column::Text(values) = &mut self.column
        {
            values.push(value);
        }
    }

    fn push_boolean(&mut self, value: bool) {
        if self.fits(JsonType::Boolean)
            && let Column::Booleans(values) = &mut self.column
        {
            values.push(value);
        }
    }

    /// Whether a value of that type can be pushed. The first one decides on the type of the column.
    fn fits(&mut self, json_type: JsonType) -> bool {
        if let Column::Nulls(count) = self.column {
            self.column = Column::of_type(json_type, count);
        }
        let fits = self.column.json_type() == Some(json_type) && self.misfit.is_none();
        if !fits && self.misfit.is_none() {
            self.misfit = Some((self.len(), json_type));
        }
        fits
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Values<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rows;
        impl<'de> Visitor<'de> for Rows {
            type Value = Values<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array with one value per row")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Values<'de>, A::Error> {
                let mut values = Values::default();
                for row in 0.. {
                    let next = rows.next_element_seed(Row { values: &mut values, row, is_nested: false });
                    if next.map_err(|error| A::Error::custom(format_args!("data[{row}]: {error}")))?.is_none() {
                        break;
                    }
                }
                Ok(values)
            }
        }
        deserializer.deserialize_seq(Rows)
    }
}

/// One row: a value, or an array of one.
struct Row<'s, 'a> {
    values: &'s mut Values<'a>,
    row: usize,
    is_nested: bool,
}

impl<'de> DeserializeSeed<'de> for Row<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Row<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a text, true, false or null")
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.values.push_number(value);
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.values.push_number(value as f64);
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.values.push_number(value as f64);
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.values.push_boolean(value);
        Ok(())
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<(), E> {
        self.values.push_text(Cow::Borrowed(value));
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.values.push_text(Cow::Owned(value.to_owned()));
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.values.push_null();
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut inner: A) -> Result<(), A::Error> {
        let Self { values, row, is_nested } = self;
        if is_nested {
            return Err(A::Error::custom("arrays are nested deeper than [rows, 1]"));
        }
        let mut length = 0;
        while inner.next_element_seed(Row { values, row, is_nested: true })?.is_some() {
            length += 1;
        }
        values.nested += 1;
        if length != 1 && values.ragged.is_none() {
            values.ragged = Some(row);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Values<'_> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn numbers_are_read_whether_flat_or_nested() {
        let flat = read("[1, -2, 3.5]");
        assert_eq!((flat.column, flat.fraction, flat.nested), (Column::Numbers(vec![1.0, -2.0, 3.5]), Some(2), 0));
        let nested = read("[[1], [-2], [3.5]]");
        assert_eq!((nested.column, nested.nested, nested.ragged), (Column::Numbers(vec![1.0, -2.0, 3.5]), 3, None));
        assert_eq!(read("[[1], [], [2, 3]]").ragged, Some(1));
    }

    #[test]
    fn text_without_escapes_is_borrowed() {
        let Column::Text(values) = read(r#"["plain", "a\nb"]"#).column else { panic!("not text") };
        assert!(matches!(&values[..], [Cow::Borrowed("plain"), Cow::Owned(escaped)] if escaped == "a\nb"));
    }

    #[test]
    fn nulls_take_the_type_of_the_other_values() {
        let values = read("[null, 7, null]");
        assert_eq!((values.column, values.nulls), (Column::Numbers(vec![0.0, 7.0, 0.0]), vec![0, 2]));
        assert_eq!(read("[null, null]").column, Column::Nulls(2));
    }

    #[test]
    fn the_first_value_of_another_type_is_named() {
        assert_eq!(read("[1, true, \"x\"]").first_other_than(JsonType::Number), Some((1, JsonType::Boolean)));
        assert_eq!(read("[null, \"x\", 1]").first_other_than(JsonType::Number), Some((1, JsonType::Text)));
        assert_eq!(read("[null, 1]").first_other_than(JsonType::Number), None);
    }

    #[test]
    fn what_is_no_column_is_refused_with_its_place() {
        for json in ["[1, {}]", "[1, [[2]]]", "[1, NaN]", "[1, 1e999]"] {
            let error = serde_json::from_str::<Values<'_>>(json).unwrap_err().to_string();
            assert!(error.starts_with("data[1]: ") && error.contains(" at line 1 column "), "{error}");
        }
    }
}
