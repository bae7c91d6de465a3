//! Generates the protobuf types that the tests of `exchange::wire` compare it with. No `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/bitswap.proto");
    let descriptors = protox::compile(["proto/bitswap.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
