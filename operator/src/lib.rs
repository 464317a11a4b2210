//! The operator of Stoker.
//!
//! One module per kind, [`training`] and [`deployment`], each the same pipeline: dereference → validate → build →
//! apply → status. What both share lies beside them; [`operator`] starts it all, and [`cli`] is its command line.

pub mod apply;
pub mod bell;
pub mod cache;
pub mod check;
pub mod cli;
pub mod conditions;
pub mod context;
pub mod controller;
pub mod dependents;
pub mod deployment;
pub mod digest;
pub mod error;
pub mod events;
pub mod figures;
pub mod generate;
pub mod labels;
pub mod leader;
pub mod lean;
pub mod logs;
pub mod metrics;
pub mod operator;
pub mod pod_template;
pub mod pods;
pub mod poll;
pub mod probes;
pub mod rbac;
pub mod readiness;
pub mod requests;
pub mod settings;
pub mod status;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod training;
pub mod unreadable;
mod versions;
pub mod watches;
pub mod workloads;

pub use context::Context;
pub use error::{Error, Result};
