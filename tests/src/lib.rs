//! What the end-to-end tests, the demo and the benchmarks have in common: a cluster, Stoker and an object storage on it,
//! namespaces that tests have for themselves, and waiting for what Kubernetes does.

pub mod checkout;
pub mod cluster;
pub mod command;
pub mod diagnose;
pub mod endpoint;
pub mod error;
pub mod evaluate;
pub mod inference;
pub mod manifest;
pub mod namespace;
pub mod release;
pub mod storage;
pub mod wait;

pub use self::{
    error::{Error, Result},
    namespace::Namespace,
};
