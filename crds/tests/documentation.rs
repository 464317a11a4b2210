//! What the documents say of the contract is what the code says.
#![expect(clippy::panic, reason = "a test fails by panicking")]

use stoker_crds::{Reason, report::PREEMPTED_EXIT_CODE};

const TROUBLESHOOTING: &str = include_str!("../../docs/troubleshooting.md");

fn row(reason: Reason) -> Vec<&'static str> {
    let start = format!("| `{reason}` |");
    let line = TROUBLESHOOTING.lines().find(|line| line.starts_with(&start));
    line.unwrap_or_else(|| panic!("docs/troubleshooting.md has no row for {reason}"))
        .split('|')
        .map(str::trim)
        .collect()
}

#[test]
fn every_reason_is_documented_with_its_exit_code() {
    for reason in Reason::ALL {
        let row = row(reason);
        match reason.exit_code() {
            Some(code) => assert_eq!(row[2], code.to_string(), "{reason}"),
            None => {
                assert!(row[2].parse::<u8>().is_err() || row[2] == "137", "{reason} has no exit code of the trainer")
            }
        }
    }
}

#[test]
fn what_is_tried_again_is_documented() {
    for reason in Reason::ALL {
        let documented = row(reason)[3];
        let heals = documented == "heals";
        assert!(
            heals || documented.starts_with(if reason.is_retryable() { "yes" } else { "no" }),
            "{reason}: {documented}"
        );
    }
    assert_eq!(Reason::Preempted.exit_code(), Some(PREEMPTED_EXIT_CODE));
}
