//! Writes every test case as packages into a folder, for `tests/python/coreml_check.py`: each case in f32 and f16, for
//! each system.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::path::PathBuf;

use common::{cases, checkpoint, graph, write_to};
use snapc_backend::legalize;
use snapc_coreml::{CoreMl, MinOs};
use snapc_ir::DType;

fn main() {
    let folder = PathBuf::from(std::env::args().nth(1).expect("write_cases FOLDER"));
    std::fs::create_dir_all(&folder).unwrap();
    for case in cases() {
        for dtype in [DType::F32, DType::F16] {
            let graph = graph(&case, dtype);
            let store = checkpoint(&graph, &folder);
            for min_os in MinOs::ALL {
                let legal = legalize(&graph, &CoreMl { min_os }).unwrap();
                let package = folder.join(format!("{}-{dtype}-{min_os}.mlpackage", case.name));
                write_to(&legal, &store, min_os, &package);
                println!("{}", package.display());
            }
        }
    }
}
