//! What the trainer's image says of GPUs, as it is understood there.

use std::path::Path;

use burn_cubecl::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// A file that cubecl cannot read, it skips with a line in the log alone.
#[test]
fn kernels_are_kept_in_the_volume_of_the_image() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../images/cubecl.toml");
    let config = CubeClRuntimeConfig::from_file_path(file).unwrap();
    assert_eq!(config.environment.path.root(), Path::new("/cache"));
    // There is such a field only where kernels can be kept at all.
    #[cfg(feature = "cuda")]
    assert!(config.compilation.cache);
}
