//! `ModelTraining`: dereference → validate → build → apply → status.

pub mod job;
