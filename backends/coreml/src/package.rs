//! The folder around a program: `Manifest.json`, the model description and the files
//! (coremltools, `modelpackage/src/ModelPackage.cpp`; `Model.proto`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use prost::Message;
use serde::Serialize;
use snapc_backend::{Part, Written};
use snapc_ir::{DType, Error, Graph, Port, Result};
use snapc_weights::Sha256;

use crate::MinOs;
use crate::blob::Layout;
use crate::program::program;
use crate::schema::{
    ArrayDataType, ArrayFeatureType, FeatureDescription, FeatureType, Metadata, Model, ModelDescription,
};

/// The key of the user's metadata under which the graph's name stands.
const GRAPH_NAME: &str = "snapc.graph";

/// Who wrote an item; it is also the item's folder under `Data`.
const AUTHOR: &str = "com.apple.CoreML";

/// Writes a package into a folder that does not exist yet. Its identifiers follow from its content, and it has no time.
///
/// # Errors
/// If a weight cannot be read or a file not be written.
pub fn write(part: Part, min_os: MinOs, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<Written> {
    let data = path.join("Data").join(AUTHOR);
    let weights = data.join("weights");
    fs::create_dir_all(&weights).map_err(|error| Error::io("create", &weights, &error))?;
    let layout = Layout::new(&part.graph, min_os)?;
    let model = Model {
        specification_version: min_os.specification(),
        description: Some(description(&part)),
        ml_program: Some(program(&part.graph, part.store, &layout, min_os)?),
    }
    .encode_to_vec();
    save(&data.join("model.mlmodel"), &model)?;
    let Part { graph, store, limits, .. } = part;
    let (file, weights) = (weights.join("weight.bin"), graph.into_weights());
    let written = layout.write(&weights, store, limits, &file, progress)?;
    let hash = written.sha256.ok_or_else(|| Error::bug("a weight file has no hash"))?;
    save(&path.join("Manifest.json"), manifest(&model, &hash)?.as_bytes())?;
    Ok(written)
}

fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|error| Error::io("write", path, &error))
}

fn description(part: &Part) -> ModelDescription {
    let features = |ports: &[Port]| ports.iter().map(|port| feature(&part.graph, port)).collect();
    let mut user_defined: BTreeMap<String, String> = part.facts.iter().cloned().collect();
    user_defined.insert(GRAPH_NAME.to_string(), part.graph.name().to_string());
    ModelDescription {
        input: features(part.graph.inputs()),
        output: features(part.graph.outputs()),
        metadata: Some(Metadata { short_description: part.graph.name().to_string(), user_defined }),
    }
}

fn feature(graph: &Graph, port: &Port) -> FeatureDescription {
    let ty = graph.ty(port.value);
    let data_type = match ty.dtype {
        DType::F32 => ArrayDataType::Float32,
        DType::F16 => ArrayDataType::Float16,
        DType::I32 => ArrayDataType::Int32,
        // The verifier has seen that no value is bf16.
        DType::BF16 => ArrayDataType::Invalid,
    };
    let shape = ty.shape.iter().map(|&size| size as i64).collect();
    let array = ArrayFeatureType { shape, data_type: data_type as i32 };
    FeatureDescription { name: port.name.clone(), ty: Some(FeatureType { multi_array_type: Some(array) }) }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    file_format_version: &'static str,
    item_info_entries: BTreeMap<String, Item>,
    root_model_identifier: String,
}

#[derive(Serialize)]
struct Item {
    author: &'static str,
    description: &'static str,
    name: &'static str,
    path: String,
}

fn manifest(model: &[u8], weights_hash: &[u8; 32]) -> Result<String> {
    let item = |name: &'static str, description: &'static str| Item {
        author: AUTHOR,
        description,
        name,
        path: format!("{AUTHOR}/{name}"),
    };
    // The model's identifier depends on the weights too: a new set of weights is a new model.
    let root_model_identifier = identifier(&[b"model", model, weights_hash]);
    let weights_identifier = identifier(&[b"weights", weights_hash]);
    let manifest = Manifest {
        file_format_version: "1.0.0",
        item_info_entries: BTreeMap::from([
            (root_model_identifier.clone(), item("model.mlmodel", "CoreML Model Specification")),
            (weights_identifier, item("weights", "CoreML Model Weights")),
        ]),
        root_model_identifier,
    };
    let mut text = serde_json::to_string_pretty(&manifest).map_err(Error::bug)?;
    text.push('\n');
    Ok(text)
}

/// A UUID of version 8 (RFC 9562: the writer's own) from a hash of what it stands for.
fn identifier(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::default();
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut bytes: [u8; 32] = hash.finish();
    bytes[6] = bytes[6] & 0x0F | 0x80;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    let mut text = String::new();
    for (index, byte) in bytes[..16].iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
