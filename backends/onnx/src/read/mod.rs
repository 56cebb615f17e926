//! A folder back into a graph, by ONNX's specification (`docs/IR.md`, `docs/Operators.md`, `docs/ExternalData.md` of
//! onnx/onnx) and not by the writer. What could be read in two ways, or is not of snapc's making, is an error.

mod attributes;
mod encoded;
mod groups;
mod nodes;
mod tensors;

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message;
use snapc_ir::{Builder, Context, Error, Graph, Place, Result, Stage, TensorType, ValueId};
use snapc_weights::Store;

use crate::contract::Layout;
use crate::legal::LONGEST_MESSAGE;
use crate::schema::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, data_type};
use crate::{DATA_FILE, IR_VERSION, LAYOUT_FACT, MODEL_FILE, OPSET};

use encoded::Encoded;
use nodes::Reader;
use tensors::{Constant, External};

/// Reads a folder.
///
/// # Errors
/// If a file is missing or damaged, breaks the format, or uses more of it than snapc writes.
pub fn read(folder: &Path) -> Result<(Graph, Store)> {
    let path = folder.join(MODEL_FILE);
    let place = || Place::File(path.clone());
    let model = decode(&path)?;
    let proto = checked_graph(&model).at(place)?;
    let (graph, external, encoded) = read_graph(proto, layout(&model).at(place)?).at(place)?;
    Ok((graph, open_data(folder, external, &encoded).at(place)?))
}

fn decode(path: &Path) -> Result<ModelProto> {
    let length = std::fs::metadata(path).map_err(|error| Error::io("open", path, &error))?.len();
    if length > LONGEST_MESSAGE {
        return Err(Error::input(format!("the file has {length} bytes; a model file ends at 2 GiB"))
            .at(Place::File(path.to_path_buf())));
    }
    let bytes = std::fs::read(path).map_err(|error| Error::io("read", path, &error))?;
    let model = ModelProto::decode(bytes.as_slice()).map_err(|error| {
        Error::input(format!("the file is no ONNX model: {error}")).at(Place::File(path.to_path_buf()))
    })?;
    // Decoding passes over fields that it does not know; what is lost shows when it is written again.
    if model.encode_to_vec() != bytes {
        return Err(Error::input("the model has fields that snapc does not write, or in another order")
            .at(Place::File(path.to_path_buf())));
    }
    Ok(model)
}

fn checked_graph(model: &ModelProto) -> Result<&GraphProto> {
    if model.ir_version != IR_VERSION {
        return Err(Error::input(format!("the IR version is {}, expected {IR_VERSION}", model.ir_version)));
    }
    match model.opset_import.as_slice() {
        [opset] if opset.domain.as_deref().unwrap_or_default().is_empty() && opset.version == OPSET => {}
        _ => return Err(Error::input(format!("the model does not import opset {OPSET} alone"))),
    }
    for (number, entry) in model.metadata_props.iter().enumerate() {
        if model.metadata_props[..number].iter().any(|other| other.key == entry.key) {
            return Err(Error::input(format!("the metadata has {} twice", entry.key)));
        }
    }
    model.graph.as_ref().ok_or_else(|| Error::input("the model has no graph"))
}

/// Whose names the ports have.
fn layout(model: &ModelProto) -> Result<Layout> {
    let fact = model.metadata_props.iter().find(|entry| entry.key == LAYOUT_FACT);
    fact.map_or(Ok(Layout::Default), |fact| {
        fact.value.parse().map_err(|message: String| Error::input(message))
    })
}

fn read_graph(proto: &GraphProto, layout: Layout) -> Result<(Graph, Vec<External>, Vec<Encoded>)> {
    let mut reader = Reader::new(Builder::new(&proto.name, Stage::Legal("onnx".to_string())), uses(proto));
    for info in &proto.input {
        read_input(&mut reader, info, &proto.name, layout).at(|| Place::Node(info.name.clone()))?;
    }
    let mut external = Vec::new();
    for tensor in &proto.initializer {
        external.extend(read_initializer(&mut reader, tensor).at(|| Place::Tensor(tensor.name.clone()))?);
    }
    reader.nodes(&proto.node)?;
    for info in &proto.output {
        let declared = port_type(info).at(|| Place::Node(info.name.clone()))?;
        let value = reader.value(&info.name)?;
        let made = reader.builder.ty(value);
        if *made != declared {
            return Err(Error::input(format!("the output {} is {made}, declared as {declared}", info.name)));
        }
        let own = layout.by_name(&proto.name, &info.name).map_or(info.name.as_str(), |port| port.own);
        reader.builder.output(own, value);
    }
    Ok((reader.builder.finish()?, external, reader.encoded))
}

/// An input under our own name. An int64 one is what the Cast behind it makes of it.
fn read_input<'a>(
    reader: &mut Reader<'a>,
    info: &'a ValueInfoProto,
    part: &str,
    layout: Layout,
) -> Result<()> {
    let Some(port) = layout.by_name(part, &info.name) else {
        let value = reader.builder.input(&info.name, port_type(info)?);
        return reader.define(&info.name, value);
    };
    let Some(dtype) = port.wide else {
        let value = reader.builder.input(port.own, port_type(info)?);
        return reader.define(&info.name, value);
    };
    let (elem_type, sizes) = type_and_sizes(info)?;
    if elem_type != data_type::INT64 {
        return Err(Error::input(format!("it has ONNX's element type {elem_type}, expected int64")));
    }
    let value = reader.builder.input(port.own, tensors::sized(dtype, &sizes)?);
    reader.define_wide(&info.name, value)
}

fn read_initializer<'a>(reader: &mut Reader<'a>, tensor: &'a TensorProto) -> Result<Option<External>> {
    if !reader.is_used(&tensor.name) {
        return Err(Error::input("nothing uses it"));
    }
    match tensors::constant(tensor)? {
        Constant::Integers(values) => {
            reader.define_integers(&tensor.name, values)?;
            Ok(None)
        }
        Constant::Weight(weight, external) => {
            let value: ValueId = reader.builder.weight(*weight)?;
            reader.define(&tensor.name, value)?;
            Ok(external)
        }
        Constant::ZeroPoint => {
            reader.define_zero_point(&tensor.name)?;
            Ok(None)
        }
        Constant::Codes(external) => {
            reader.define_codes(&tensor.name, external.region.shape.clone())?;
            Ok(Some(external))
        }
    }
}

/// How often each value is read, by nodes and as an output.
fn uses(proto: &GraphProto) -> BTreeMap<&str, usize> {
    let mut uses = BTreeMap::new();
    let inputs = proto.node.iter().flat_map(|node: &NodeProto| &node.input).map(String::as_str);
    for name in inputs.chain(proto.output.iter().map(|info| info.name.as_str())) {
        *uses.entry(name).or_default() += 1;
    }
    uses
}

fn port_type(info: &ValueInfoProto) -> Result<TensorType> {
    let (elem_type, sizes) = type_and_sizes(info)?;
    tensors::tensor_type(elem_type, &sizes)
}

fn type_and_sizes(info: &ValueInfoProto) -> Result<(i32, Vec<i64>)> {
    let tensor = info.ty.as_ref().and_then(|ty| ty.tensor_type.as_ref());
    let tensor = tensor.ok_or_else(|| Error::input("it has no tensor type"))?;
    let shape = tensor.shape.as_ref().ok_or_else(|| Error::input("it has no shape"))?;
    let sizes: Option<Vec<i64>> = shape.dim.iter().map(|dim| dim.dim_value).collect();
    let sizes = sizes.ok_or_else(|| Error::input("a size is not fixed"))?;
    Ok((tensor.elem_type, sizes))
}

fn open_data(folder: &Path, external: Vec<External>, encoded: &[Encoded]) -> Result<Store> {
    if external.is_empty() {
        return Ok(Store::empty());
    }
    if let Some(other) = external.iter().find(|tensor| tensor.location != DATA_FILE) {
        return Err(Error::input(format!("weights lie in `{}`, expected {DATA_FILE}", other.location)));
    }
    tensors::check_overlaps(&external)?;
    let path = folder.join(DATA_FILE);
    let metadata = std::fs::symlink_metadata(&path).map_err(|error| Error::io("open", &path, &error))?;
    if !metadata.is_file() {
        return Err(Error::input(format!("{} is no regular file", path.display())));
    }
    let regions = external.into_iter().map(|tensor| tensor.region).collect();
    Store::from_regions(&path, encoded::with_scales(&path, regions, encoded)?)
}
