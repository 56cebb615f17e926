//! One small graph for each thing that the backend does with an op, and numbers for its weights.

mod cases;
#[path = "../../../shared/tests/common/encoded.rs"]
mod encoded;

use std::io::Write;

use half::{bf16, f16};
use snapc_ir::{DType, Graph, Source, TensorType, text};
use snapc_weights::{Region, Store, Tensor};

use cases::{CASES, MIXED};
use encoded::ENCODED;

/// A case: its name, its graph, and a store of its weights.
pub struct Case {
    /// Its name, with the type of its values.
    pub name: String,
    /// The graph, not yet legal.
    pub graph: Graph,
    /// Random numbers for its weights.
    pub store: Store,
    _file: tempfile::NamedTempFile,
}

/// All cases, each in f32 and f16, by name and text.
pub fn texts() -> Vec<(String, String)> {
    let typed = |body: &str, dtype: &str| {
        body.replace(": T[", &format!(": {dtype}[")).replace(" T[", &format!(" {dtype}["))
    };
    let both = ["f32", "f16"].into_iter().flat_map(|dtype| {
        CASES.iter().map(move |(name, body)| (format!("{name}_{dtype}"), typed(body, dtype)))
    });
    both.chain(MIXED.iter().chain(ENCODED).map(|(name, body)| (name.to_string(), body.to_string()))).collect()
}

/// All cases.
pub fn cases() -> Vec<Case> {
    texts().iter().map(|(name, body)| case(name, body)).collect()
}

/// A case from its text.
pub fn case(name: &str, body: &str) -> Case {
    let text = format!("graph {name} subnet\n{body}\n");
    let graph = text::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
    let (store, file) = random_store(&graph);
    Case { name: name.to_string(), graph, store, _file: file }
}

/// Numbers in (-1, 1) for every tensor that a graph names, integers from 0 to 3; the same each time.
pub fn random_store(graph: &Graph) -> (Store, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let (mut regions, mut data): (Vec<Region>, Vec<u8>) = (Vec::new(), Vec::new());
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    for weight in graph.weights() {
        let Source::Tensor { name, dtype, shape } = &weight.source else { continue };
        if regions.iter().any(|region| region.name == *name) {
            continue;
        }
        let offset = data.len() as u64;
        regions.push(Region::plain(name.clone(), offset, *dtype, shape.clone()));
        for _ in 0..shape.iter().product() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
            match dtype {
                DType::F32 => data.extend(number.to_le_bytes()),
                DType::F16 => data.extend(f16::from_f32(number).to_le_bytes()),
                DType::BF16 => data.extend(bf16::from_f32(number).to_le_bytes()),
                DType::I32 => data.extend(((state >> 62) as i32).to_le_bytes()),
            }
        }
    }
    file.write_all(&data).unwrap();
    file.flush().unwrap();
    (Store::from_regions(file.path(), regions).unwrap(), file)
}

/// Numbers in (-1, 1) for every input, integers from 0 to 3; the same each time.
pub fn inputs(graph: &Graph) -> Vec<(String, Tensor)> {
    let mut state = 7u64;
    let mut tensor = |ty: &TensorType| {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 40
        };
        match ty.dtype {
            DType::I32 => {
                Tensor::i32(ty.shape.clone(), (0..ty.count()).map(|_| (next() >> 22) as i32).collect())
            }
            _ => {
                let values = (0..ty.count()).map(|_| next() as f32 / (1 << 23) as f32 - 1.0);
                Tensor::float(ty.clone(), values.collect())
            }
        }
    };
    graph.inputs().iter().map(|port| (port.name.clone(), tensor(graph.ty(port.value)))).collect()
}
