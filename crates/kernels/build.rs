//! Compiles the CUDA kernels to PTX where the feature `cuda` is on.

#[cfg(feature = "cuda")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=cuda");
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let built = cudaforge::KernelBuilder::new()
        .source_glob("cuda/**/*.cu")
        .exclude(&["self_test.cu"])
        .watch(["cuda/real.cuh", "cuda/mma.cuh"])
        .include_path("cuda")
        .args(["-std=c++17", "-O3"])
        .build_ptx()?;
    built.write(out.join("ptx.rs"))?;
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
