//! Entry points that take any bytes for what a user may give: `fuzz/` and `tests/fuzz.rs` call them. They say whether it
//! was read: what is wrong with the bytes is an error, and only a panic or a hang is a fault.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use snapc_backend::{Part, legalize};
use snapc_driver::{MinOs, Target};
use snapc_frontends::{Part as Network, Pipeline};
use snapc_ir::text;
use snapc_weights::Store;
use tempfile::TempDir;

use crate::{copy_folder, fixture};

/// An entry point: its name, which is that of its folder under `fuzz/corpus`, the function, and bytes that are not damaged.
pub struct Entry {
    pub name: &'static str,
    pub run: fn(&[u8]) -> bool,
    pub seed: fn() -> Vec<u8>,
}

pub const ENTRIES: [Entry; 6] = [
    Entry { name: "checkpoint", run: checkpoint, seed: || whole("vae/diffusion_pytorch_model.safetensors") },
    Entry { name: "config", run: config, seed: || whole("transformer/config.json") },
    Entry { name: "sir", run: sir, seed: || GRAPH.as_bytes().to_vec() },
    Entry { name: "coreml", run: coreml, seed: || written(Target::CoreMl) },
    Entry { name: "onnx", run: onnx, seed: || written(Target::Onnx) },
    Entry { name: "tflite", run: tflite, seed: || written(Target::TfLite) },
];

/// A graph of a few ops whose weights every format stores.
const GRAPH: &str = "graph part subnet
  input  %x: f32[1, 4, 2, 8]
  weight @q_norm: f32[4] = inline [4] [1.0, 0.5, -2.0, 0.25]
  scope block
  %0 = softmax %x : f32[1, 4, 2, 8]
  %1 = transpose %0 {\"perm\":[0, 1, 3, 2]} : f32[1, 4, 8, 2]
  %2 = reshape %1 {\"shape\":[1, 16, 4]} : f32[1, 16, 4]
  %3 = mul %2, @q_norm : f32[1, 16, 4]
  output y %3
";

/// A file of the fixture.
fn whole(file: &str) -> Vec<u8> {
    std::fs::read(fixture("shapes").join(file)).unwrap()
}

/// A safetensors file as the weights of a decoder.
pub fn checkpoint(bytes: &[u8]) -> bool {
    let import = |pipeline: &Pipeline| {
        let imported = pipeline.import(Network::VaeDecoder, 1, [16, 16])?;
        imported.graph.weights().iter().try_for_each(|weight| imported.store.read(weight).map(|_| ()))
    };
    in_pipeline("vae/diffusion_pytorch_model.safetensors", bytes, import)
}

/// The config of a transformer.
pub fn config(bytes: &[u8]) -> bool {
    let import = |pipeline: &Pipeline| {
        let latent = pipeline.latent_size(None)?;
        pipeline.schedule(None, latent)?;
        pipeline.import(Network::Transformer, 1, latent).map(|_| ())
    };
    in_pipeline("transformer/config.json", bytes, import)
}

fn in_pipeline(file: &str, bytes: &[u8], run: impl Fn(&Pipeline) -> snapc_ir::Result<()>) -> bool {
    static PLACE: OnceLock<Mutex<TempDir>> = OnceLock::new();
    let place = PLACE.get_or_init(|| {
        let place = tempfile::tempdir().unwrap();
        copy_folder(&fixture("shapes"), place.path());
        Mutex::new(place)
    });
    let place = place.lock().unwrap();
    std::fs::write(place.path().join(file), bytes).unwrap();
    let read = Pipeline::open(place.path()).and_then(|pipeline| run(&pipeline)).is_ok();
    std::fs::write(place.path().join(file), whole(file)).unwrap();
    read
}

/// A graph as text.
pub fn sir(bytes: &[u8]) -> bool {
    let Some(graph) = std::str::from_utf8(bytes).ok().and_then(|text| text::parse(text).ok()) else {
        return false;
    };
    assert!(text::parse(&text::print(&graph)).is_ok(), "what is printed cannot be parsed");
    true
}

/// The model of a Core ML package.
pub fn coreml(bytes: &[u8]) -> bool {
    package(Target::CoreMl, bytes)
}

/// An ONNX model.
pub fn onnx(bytes: &[u8]) -> bool {
    package(Target::Onnx, bytes)
}

/// A TFLite file.
pub fn tflite(bytes: &[u8]) -> bool {
    package(Target::TfLite, bytes)
}

fn package(target: Target, bytes: &[u8]) -> bool {
    let (_place, artifact) = artifact(target);
    std::fs::write(model(target, &artifact), bytes).unwrap();
    let Ok((graph, store)) = target.read(&artifact, None) else { return false };
    // A size may be one that no machine has room for: it is read by who knows what to expect.
    let mut small = graph.weights().iter().filter(|weight| weight.ty().count() < 1 << 20);
    small.all(|weight| store.read(weight).is_ok())
}

fn artifact(target: Target) -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let backend = target.backend(MinOs::default());
    let legal = legalize(&text::parse(GRAPH).unwrap(), &*backend).unwrap();
    let artifact =
        place.path().join(format!("part{}", if target == Target::CoreMl { ".mlpackage" } else { "" }));
    backend.write(Part::new(legal, &Store::empty(), &[]), &artifact, &mut |_| {}).unwrap();
    (place, artifact)
}

/// The file of an artifact that holds its graph.
fn model(target: Target, artifact: &Path) -> PathBuf {
    match target {
        Target::CoreMl => artifact.join("Data/com.apple.CoreML/model.mlmodel"),
        Target::Onnx => artifact.join("model.onnx"),
        Target::TfLite => artifact.to_path_buf(),
    }
}

fn written(target: Target) -> Vec<u8> {
    let (_place, artifact) = artifact(target);
    std::fs::read(model(target, &artifact)).unwrap()
}
