//! Stoker on a real Kubernetes, end to end.
//!
//! Each test has a namespace of its own, in which Pod Security enforces `restricted`. Stoker and the object storage are
//! installed by the test that comes first. The tests find the cluster as `kubectl` does; `tests/cluster/up` makes one.
#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod bad_data;
mod bad_pod;
mod bad_storage;
mod deletion;
mod examples;
mod fine_tuning;
mod lines;
mod load;
mod operator;
mod rollout;
mod serving;
mod setup;
mod steps;
mod training;
mod upgrade;
mod volumes;
