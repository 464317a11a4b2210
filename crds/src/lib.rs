//! The contract of Stoker.
//!
//! Three groups of types, and nothing that acts:
//! - what a user writes: [`training`] and [`deployment`], the specs of the two kinds;
//! - what the operator and the trainer say to each other: [`config`], [`progress`], [`report`], [`serving`];
//! - what lies in object storage: [`artifact`].
//!
//! Without the feature `kinds` the crate knows nothing of Kubernetes; with it, the specs become the custom resources
//! `ModelTraining` and `ModelDeployment`, with their status and their generated `CustomResourceDefinition`s (`crd`).

pub mod artifact;
#[cfg(feature = "kinds")]
pub mod condition;
pub mod config;
#[cfg(feature = "kinds")]
pub mod crd;
pub mod deployment;
pub mod duration;
pub mod metric;
pub mod progress;
pub mod quantity;
#[cfg(feature = "kinds")]
pub mod reference;
pub mod report;
mod schema;
pub mod serving;
pub mod training;

pub use config::TrainConfig;
pub use deployment::ModelDeploymentSpec;
pub use duration::Duration;
pub use progress::Progress;
pub use report::{Reason, RunReport};
pub use training::ModelTrainingSpec;

#[cfg(feature = "kinds")]
pub use {
    deployment::{ModelDeployment, status::ModelDeploymentStatus},
    training::{ModelTraining, status::ModelTrainingStatus},
};
