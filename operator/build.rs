//! How the program is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The addresses to adjust at the start are a bitmap then (DT_RELR, of glibc 2.36 and newer). The table that it is otherwise is
    // read as a whole, and would be a thirtieth of the operator's memory.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
