//! Artifacts in object storage: files named by a manifest that is written last.
