//! Amounts as Kubernetes writes them: `1.5Gi`.

/// The bytes of an amount of memory or disk space, rounded up; `None` if it is no amount, or too large a one.
///
/// The units are those of the [Kubernetes API](https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/).
pub fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|character: char| !(character.is_ascii_digit() || character == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let thousandths = whole.parse::<u128>().ok()?.checked_mul(1000)? + thousandths(fraction)?;
    let factor: u128 = match unit {
        "m" => return u64::try_from(thousandths.div_ceil(1_000_000)).ok(),
        "" => 1,
        "k" => 1000,
        "Ki" => 1 << 10,
        "M" => 1_000_000,
        "Mi" => 1 << 20,
        "G" => 1_000_000_000,
        "Gi" => 1 << 30,
        "T" => 1_000_000_000_000,
        "Ti" => 1 << 40,
        _ => return None,
    };
    u64::try_from(thousandths.checked_mul(factor)?.div_ceil(1000)).ok()
}

/// The digits behind the point, of which there may be three.
fn thousandths(fraction: &str) -> Option<u128> {
    match fraction.len() {
        0 => Some(0),
        1..=3 => format!("{fraction:0<3}").parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_does() {
        let cases = [
            ("0", Some(0)),
            ("1024", Some(1024)),
            ("1.5k", Some(1500)),
            ("128Mi", Some(128 << 20)),
            ("1.25Gi", Some(5 << 28)),
            ("1500m", Some(2)),
            ("0.001", Some(1)),
            ("999999999999Ti", None),
            ("1.2345Gi", None),
            ("Gi", None),
            ("1e3", None),
            ("-1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
