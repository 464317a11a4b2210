//! Durations as Kubernetes writes them.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A span of time as Kubernetes writes it: `30s`, `2ms`, `1h30m` (Gateway API's GEP-2257: up to four parts of up to
/// five digits, units `h`, `m`, `s`, `ms`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub std::time::Duration);

/// The pattern of GEP-2257.
const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// Why a text is no [`Duration`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no duration: write it like 30s, 2ms or 1h30m")]
pub struct ParseDurationError(String);

impl Duration {
    /// A duration of whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    /// A duration of whole milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(std::time::Duration::from_millis(milliseconds))
    }
}

impl FromStr for Duration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseDurationError(text.to_owned());
        let mut rest = text;
        let mut total = std::time::Duration::ZERO;
        for part in 0.. {
            if rest.is_empty() && part > 0 {
                return Ok(Self(total));
            }
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if part == 4 || !(1..=5).contains(&digits) {
                return Err(error());
            }
            let (number, unit_on) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| error())?;
            let unit = unit_on.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, next) = unit_on.split_at(unit);
            total += match unit {
                "h" => std::time::Duration::from_secs(number * 3600),
                "m" => std::time::Duration::from_secs(number * 60),
                "s" => std::time::Duration::from_secs(number),
                "ms" => std::time::Duration::from_millis(number),
                _ => return Err(error()),
            };
            rest = next;
        }
        Err(error())
    }
}

impl fmt::Display for Duration {
    /// Every unit that is not zero, the largest first: `1h30m`, `2m5s`, `12s`, `250ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0.as_secs(), self.0.subsec_millis());
        let units = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s"), (u64::from(millis), "ms")];
        if units.iter().all(|(count, _)| *count == 0) {
            return f.write_str("0s");
        }
        units.iter().filter(|(count, _)| *count > 0).try_for_each(|(count, unit)| write!(f, "{count}{unit}"))
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'_, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": PATTERN, "maxLength": 32 })
    }
}

#[cfg(test)]
mod tests {
    use super::Duration;

    #[test]
    fn durations_read_and_write_as_kubernetes_writes_them() {
        for text in ["30s", "2ms", "1h30m", "1h2m3s4ms", "0s"] {
            assert_eq!(text.parse::<Duration>().unwrap().to_string(), text);
        }
        assert_eq!("90m".parse::<Duration>().unwrap(), "1h30m".parse().unwrap());
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "5", "s", "-5s", "1d", "1.5s", "123456s", "1s1s1s1s1s", "5 s"] {
            assert!(text.parse::<Duration>().is_err(), "{text:?} was taken for a duration");
        }
    }
}
