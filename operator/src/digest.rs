//! Digests of objects, by which a change is seen.

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// SHA-256 over an object's JSON, as 64 lowercase hexadecimal digits.
///
/// # Errors
/// If the object cannot be written as JSON; `name` says which one it is.
pub fn of<T: Serialize>(object: &T, name: &str) -> Result<String> {
    let json = serde_json::to_vec(object).map_err(|source| Error::Serialize { object: name.into(), source })?;
    Ok(Sha256::digest(json).iter().map(|byte| format!("{byte:02x}")).collect())
}
