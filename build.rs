//! Generates the protobuf types of `node::members` and `exchange::have`, and those that the tests of `exchange::wire` compare it with. No
//! `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/bitswap.proto", "proto/members.proto", "proto/have.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
