//! The trainer: reads data, trains a model, publishes it, and serves it.
//!
//! The stages of a run, each a module: [`data`] or [`text`] → [`model`] → [`training`] → [`artifact`], driven by [`run`];
//! [`base`] is what a training may start from, [`server`] serves what was published. [`storage`] is the only way to object
//! storage, [`cli`] the only way in.

mod allocator;
pub mod artifact;
pub mod base;
pub mod cli;
pub mod data;
#[cfg(all(test, feature = "gpu"))]
mod gpu;
mod machine;
pub mod model;
pub mod run;
pub mod server;
pub mod storage;
pub mod text;
pub mod training;
