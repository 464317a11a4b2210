//! A run from its configuration to its report.
//!
//! [`pipeline`] is the run itself: prepare → fit → evaluate → publish. Around it: [`train`] runs it inside a pod as the
//! operator asks for it, [`local`] on a manifest without a cluster, and [`evaluate`] looks at what came out.

pub mod evaluate;
pub mod local;
pub mod manifest;
pub mod train;

mod endpoint;
mod error;
mod keeping;
mod pipeline;
mod prepared;
mod report;
mod tracker;

pub use self::{error::RunError, tracker::Tracker};
