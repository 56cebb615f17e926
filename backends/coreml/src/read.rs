//! A package back as a graph and the store of its weights, to check what was written.
//!
//! Written from the formats' documented numbers: the protobuf through the `coreml-proto` crate, the weight file by its
//! own code. It shares nothing with the writer. It takes what snapc writes and refuses the rest of Core ML by name.

mod blobs;
mod constants;
mod constexpr;
mod manifest;
mod ops;
mod program;

use std::collections::BTreeSet;
use std::path::Path;

use coreml_proto::proto::array_feature_type::ArrayDataType;
use coreml_proto::proto::mil_spec::Function;
use coreml_proto::proto::{FeatureDescription, Model, ModelDescription, feature_type, model};
use prost::Message;
use snapc_ir::{DType, Error, Graph, Place, Port, Result, TensorType};
use snapc_weights::Store;

use blobs::Blobs;
use manifest::Package;

/// Specification versions and their opsets: iOS 16, 17 and 18.
const OPSETS: [(i32, &str); 3] = [(7, "CoreML6"), (8, "CoreML7"), (9, "CoreML8")];

/// The key of the user's metadata under which the graph's name stands.
const GRAPH_NAME: &str = "snapc.graph";

/// Why something is refused, in words; the layers above add the operation and the file.
type Reading<T> = std::result::Result<T, String>;

/// Reads a package.
///
/// # Errors
/// If a file is missing or damaged, or the package uses more of Core ML than snapc writes; with the file and the
/// operation.
pub fn read(path: &Path) -> Result<(Graph, Store)> {
    read_package(path)
        .map_err(|error| error.help("the package is damaged, or another program wrote it: compile it again"))
}

fn read_package(path: &Path) -> Result<(Graph, Store)> {
    let package = Package::open(path)?;
    let place = || Place::File(package.model().to_path_buf());
    let fail = |reason: String| Error::input(reason).at(place());
    let bytes = package.model_bytes()?;
    let model =
        Model::decode(&bytes[..]).map_err(|error| fail(format!("it is no Core ML model: {error}")))?;
    let (description, function) = parts(&model).map_err(fail)?;

    let weights = package.beside_model("weights/weight.bin").map_err(fail)?;
    let blobs = Blobs::read(&weights)?;
    let name = graph_name(description).map_err(fail)?;
    let made = program::read(name, model.specification_version, function, &blobs)
        .map_err(|error| error.at(place()))?;
    check_description(description, &made.graph).map_err(fail)?;
    blobs.check_used(&made.blobs_used)?;
    let store = Store::from_regions(&weights, made.regions)?;
    Ok((made.graph, store))
}

/// The description and the one function of a model.
fn parts(model: &Model) -> Reading<(&ModelDescription, &Function)> {
    let version = model.specification_version;
    let (_, opset) = OPSETS
        .iter()
        .find(|(known, _)| *known == version)
        .ok_or_else(|| format!("its specification version is {version}, expected 7, 8 or 9"))?;
    let description = model.description.as_ref().ok_or("it has no description")?;
    let Some(model::Type::MlProgram(program)) = &model.r#type else {
        return Err("it is no ML Program".to_string());
    };
    if model.is_updatable || program.version != 1 || !program.attributes.is_empty() {
        return Err("its program is updatable, has attributes, or is not of version 1".to_string());
    }
    let mut names: Vec<&str> = program.functions.keys().map(String::as_str).collect();
    names.sort_unstable();
    if names != ["main"] {
        return Err(format!("its functions are [{}], expected `main` alone", names.join(", ")));
    }
    let function = program.functions.get("main").ok_or("it has no function `main`")?;
    if function.opset != *opset {
        return Err(format!(
            "its opset is `{}`, specification version {version} has {opset}",
            function.opset
        ));
    }
    Ok((description, function))
}

fn graph_name(description: &ModelDescription) -> Reading<&str> {
    let user_defined = description.metadata.as_ref().map(|metadata| &metadata.user_defined);
    user_defined
        .and_then(|facts| facts.get(GRAPH_NAME))
        .map(String::as_str)
        .ok_or_else(|| format!("its metadata has no `{GRAPH_NAME}`"))
}

/// The description repeats the function's inputs and outputs; nothing else may stand in it.
fn check_description(description: &ModelDescription, graph: &Graph) -> Reading<()> {
    if !description.functions.is_empty()
        || !description.default_function_name.is_empty()
        || !description.state.is_empty()
        || !description.training_input.is_empty()
        || !description.predicted_feature_name.is_empty()
        || !description.predicted_probabilities_name.is_empty()
    {
        return Err("its description has functions, states, training inputs or predicted names".to_string());
    }
    check_features("inputs", &description.input, graph, graph.inputs())?;
    check_features("outputs", &description.output, graph, graph.outputs())
}

fn check_features(what: &str, features: &[FeatureDescription], graph: &Graph, ports: &[Port]) -> Reading<()> {
    let described: Vec<String> = features
        .iter()
        .map(|feature| Ok(format!("{}: {}", feature.name, feature_type(feature)?)))
        .collect::<Reading<_>>()?;
    let made: Vec<String> =
        ports.iter().map(|port| format!("{}: {}", port.name, graph.ty(port.value))).collect();
    if described != made {
        let (described, made) = (described.join(", "), made.join(", "));
        return Err(format!("its description has the {what} [{described}], its function [{made}]"));
    }
    Ok(())
}

fn feature_type(feature: &FeatureDescription) -> Reading<TensorType> {
    let refuse = |what: &str| Err(format!("the feature {} {what}", feature.name));
    let Some(ty) = &feature.r#type else { return refuse("has no type") };
    let Some(feature_type::Type::MultiArrayType(array)) = &ty.r#type else { return refuse("is no array") };
    if ty.is_optional || array.shape_flexibility.is_some() || array.default_optional_value.is_some() {
        return refuse("is optional or has no fixed shape");
    }
    let dtype = match ArrayDataType::try_from(array.data_type) {
        Ok(ArrayDataType::Float32) => DType::F32,
        Ok(ArrayDataType::Float16) => DType::F16,
        Ok(ArrayDataType::Int32) => DType::I32,
        _ => return refuse("is of a type that snapc does not write"),
    };
    let shape: Option<Vec<usize>> = array.shape.iter().map(|&size| usize::try_from(size).ok()).collect();
    match shape {
        Some(shape) => Ok(TensorType::new(dtype, shape)),
        None => refuse("has a negative size"),
    }
}

/// What reading a function gives.
struct Made {
    graph: Graph,
    regions: Vec<snapc_weights::Region>,
    /// The metadata offsets that constants name.
    blobs_used: BTreeSet<u64>,
}
