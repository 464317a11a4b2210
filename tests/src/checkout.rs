//! Files of the checkout.

use std::path::PathBuf;

/// The path of a file or folder of the checkout that this program was started in, given from the checkout's root.
///
/// It is looked up when the program runs: checkouts share what is compiled, so none can be compiled in.
pub fn path(of: &str) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    let root = here.ancestors().find(|folder| folder.join("charts/stoker").is_dir());
    root.unwrap_or(&here).join(of)
}
