//! Builds `balancer-ebpf` for the BPF target, so that the binary carries it.

use std::env;
use std::process::Command;

use anyhow::Result;
use aya_build::{Package, Toolchain, build_ebpf};

fn main() -> Result<()> {
    const TOOLCHAIN: &str = "BALANCER_EBPF_TOOLCHAIN";
    println!("cargo:rerun-if-env-changed={TOOLCHAIN}");
    // aya-build watches balancer-ebpf only.
    println!("cargo:rerun-if-changed=../balancer-common");
    let toolchain = env::var(TOOLCHAIN).unwrap_or_else(|_| default_toolchain().to_owned());
    // Debian's compiler is a stable one, and aya-build asks for `-Z build-std`.
    // SAFETY: nothing else runs in this process yet.
    unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };
    let features: &[&str] = if env::var_os("CARGO_FEATURE_PACKET_LOG").is_some() {
        &["packet-log"]
    } else {
        &[]
    };
    let ebpf = Package {
        name: "balancer-ebpf",
        root_dir: "../balancer-ebpf",
        features,
        ..Package::default()
    };
    build_ebpf([ebpf], Toolchain::Custom(&toolchain))
}

/// `bpf` is what scripts/setup links where no nightly toolchain with the sources of `core` is to be had.
fn default_toolchain() -> &'static str {
    let bpf = Command::new("rustup")
        .args(["run", "bpf", "rustc", "--version"])
        .output();
    if bpf.is_ok_and(|output| output.status.success()) {
        "bpf"
    } else {
        "nightly"
    }
}
