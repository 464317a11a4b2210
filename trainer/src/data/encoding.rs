//! How one column becomes numbers.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use stoker_crds::training::data::ColumnType;

/// What the values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Numbers; points in time too, in seconds since 1970.
    Number,
    /// Text.
    Text,
    /// True or false.
    Boolean,
}

impl From<ColumnType> for Kind {
    fn from(kind: ColumnType) -> Self {
        match kind {
            ColumnType::Number | ColumnType::Timestamp => Self::Number,
            ColumnType::Text => Self::Text,
            ColumnType::Boolean => Self::Boolean,
        }
    }
}

/// What a missing value is taken for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fill {
    /// In a column of numbers.
    Number(f64),
    /// In a column of text.
    Text(String),
    /// In a column of booleans.
    Boolean(bool),
}

/// How a column becomes numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Encoding {
    /// One number, scaled.
    Scaled(Scaling),
    /// One number per category, 1 for the row's own; all 0 for an unknown one.
    OneHot(Categories),
    /// The category's position; -1 for an unknown one.
    Ordinal(Categories),
}

impl Encoding {
    /// How many numbers the column becomes.
    pub fn width(&self) -> usize {
        match self {
            Self::Scaled(_) | Self::Ordinal(_) => 1,
            Self::OneHot(categories) => categories.len(),
        }
    }
}

/// A linear map of numbers and its way back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Scaling {
    /// As it is.
    None,
    /// `(x - mean) / standard_deviation`; the standard deviation is that of a population, and counts as 1 where it is 0.
    Standardize {
        /// Of the training split.
        mean: f64,
        /// Of the training split.
        standard_deviation: f64,
    },
    /// `(x - minimum) / (maximum - minimum)`; the range counts as 1 where it is 0.
    MinMax {
        /// Of the training split.
        minimum: f64,
        /// Of the training split.
        maximum: f64,
    },
}

impl Scaling {
    /// What the model sees of a value.
    pub fn apply(&self, value: f64) -> f64 {
        let (shift, scale) = self.shift_and_scale();
        (value - shift) / scale
    }

    /// The value that the model's number stands for.
    pub fn restore(&self, number: f64) -> f64 {
        let (shift, scale) = self.shift_and_scale();
        number * scale + shift
    }

    fn shift_and_scale(&self) -> (f64, f64) {
        let or_one = |scale: f64| if scale == 0.0 { 1.0 } else { scale };
        match *self {
            Self::None => (0.0, 1.0),
            Self::Standardize { mean, standard_deviation } => (mean, or_one(standard_deviation)),
            Self::MinMax { minimum, maximum } => (minimum, or_one(maximum - minimum)),
        }
    }
}

/// The categories of a column, sorted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Categories {
    /// Of a column of numbers.
    Numbers(Vec<f64>),
    /// Of a column of text, or of booleans as `false` and `true`.
    Texts(Vec<String>),
}

impl Categories {
    /// Categories that are written as text, sorted by what they are.
    pub(super) fn new(kind: Kind, texts: impl IntoIterator<Item = String>) -> Self {
        let mut texts: Vec<String> = texts.into_iter().collect();
        sort(kind, &mut texts);
        match kind {
            Kind::Number => Self::Numbers(texts.iter().filter_map(|text| text.parse().ok()).collect()),
            Kind::Text | Kind::Boolean => Self::Texts(texts),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Texts(texts) => texts.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The position of a number.
    pub fn of_number(&self, number: f64) -> Option<usize> {
        match self {
            Self::Numbers(numbers) => numbers.binary_search_by(|known| known.total_cmp(&number)).ok(),
            Self::Texts(_) => None,
        }
    }

    /// The position of a text.
    pub fn of_text(&self, text: &str) -> Option<usize> {
        match self {
            Self::Numbers(_) => None,
            Self::Texts(texts) => texts.binary_search_by(|known| known.as_str().cmp(text)).ok(),
        }
    }
}

/// Sorts values that are written as text: numbers by size, others by their bytes.
pub(super) fn sort(kind: Kind, texts: &mut [String]) {
    let number = |text: &String| text.parse::<f64>().unwrap_or(f64::NAN);
    texts.sort_by(|a, b| {
        match kind {
            Kind::Number => number(a).total_cmp(&number(b)),
            Kind::Text | Kind::Boolean => Ordering::Equal,
        }
        .then_with(|| a.cmp(b))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scaling_comes_back_from_json_bit_by_bit() {
        for index in 1..1000 {
            let mean = f64::from(index).sqrt() * 1e-7;
            let scaling = Scaling::Standardize { mean, standard_deviation: 1.0 / mean };
            let json = serde_json::to_string(&scaling).unwrap();
            assert_eq!(serde_json::from_str::<Scaling>(&json).unwrap(), scaling, "{json}");
        }
        assert!(serde_json::from_str::<Scaling>(r#"{"minMax":{"minimum":-1e999,"maximum":1}}"#).is_err());
    }

    #[test]
    fn a_scaling_is_undone_by_its_way_back() {
        for scaling in [
            Scaling::None,
            Scaling::Standardize { mean: 3.0, standard_deviation: 2.0 },
            Scaling::Standardize { mean: 3.0, standard_deviation: 0.0 },
            Scaling::MinMax { minimum: -1.0, maximum: 3.0 },
            Scaling::MinMax { minimum: 2.0, maximum: 2.0 },
        ] {
            assert_eq!(scaling.restore(scaling.apply(5.0)), 5.0, "{scaling:?}");
            assert!(scaling.apply(5.0).is_finite());
        }
    }

    #[test]
    fn numbers_are_categories_in_the_order_of_their_size() {
        let categories = Categories::new(Kind::Number, ["10", "9", "-1", "0.5"].map(String::from));
        assert_eq!(categories, Categories::Numbers(vec![-1.0, 0.5, 9.0, 10.0]));
        assert_eq!((categories.of_number(9.0), categories.of_number(1.0)), (Some(2), None));
        let categories = Categories::new(Kind::Text, ["b", "a", "10", "9"].map(String::from));
        assert_eq!(
            (categories.of_text("10"), categories.of_text("b"), categories.of_text("")),
            (Some(0), Some(3), None)
        );
    }
}
