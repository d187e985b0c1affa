//! Generates the messages and the service from `agent.proto`.

use std::path::PathBuf;

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=agent.proto");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or(std::io::ErrorKind::NotFound)?);
    Codegen::new()
        .out_dir(&out)
        .input("agent.proto")
        .include(".")
        .rust_protobuf()
        .customize(Customize { async_all: true, ..Default::default() })
        .rust_protobuf_customize(ProtobufCustomize::default().gen_mod_rs(false).lite_runtime(true))
        .run()?;
    std::fs::write(out.join("generated.rs"), "pub mod agent;\npub mod agent_ttrpc;\n")
}
