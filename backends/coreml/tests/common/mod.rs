//! Small graphs for every op that Core ML is given, and what the tests do with them.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

mod cases;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use snapc_backend::{Backend, LegalGraph, Part, legalize};
use snapc_coreml::{CoreMl, MinOs};
use snapc_ir::{
    Builder, DType, Def, Graph, Result, Source, Stage, TensorType, ValueId, Weight, element_count,
};
use snapc_weights::Store;
use tempfile::TempDir;

pub use cases::cases;

/// A graph to be made in f32 or f16.
pub struct Case {
    pub name: &'static str,
    pub build: fn(&mut Maker) -> Result<()>,
}

/// Builds a case: inputs and outputs are f32 (or ids), what lies between is of the case's type.
pub struct Maker {
    pub b: Builder,
    pub dtype: DType,
    inputs: usize,
    outputs: usize,
}

impl Maker {
    pub fn input(&mut self, shape: &[usize]) -> Result<ValueId> {
        self.inputs += 1;
        let x = self.b.input(format!("input_{}", self.inputs), TensorType::new(DType::F32, shape));
        self.b.cast(x, self.dtype)
    }

    pub fn ids(&mut self, shape: &[usize]) -> ValueId {
        self.b.input("ids", TensorType::new(DType::I32, shape))
    }

    /// A tensor of the checkpoint, stored in f32.
    pub fn weight(&mut self, name: &str, shape: &[usize]) -> Result<ValueId> {
        let dims = shape.iter().copied().map(snapc_ir::Dim::fixed).collect();
        let mut weight = Weight::tensor(name, DType::F32, dims);
        weight.dtype = self.dtype;
        self.b.weight(weight)
    }

    pub fn inline(&mut self, name: &str, values: &[f32], shape: &[usize]) -> Result<ValueId> {
        let mut weight = Weight::inline(name, values.to_vec(), shape.to_vec());
        weight.dtype = self.dtype;
        self.b.weight(weight)
    }

    pub fn output(&mut self, value: ValueId) -> Result<()> {
        self.outputs += 1;
        let value = match self.b.ty(value).dtype {
            DType::I32 => value,
            _ => self.b.cast(value, DType::F32)?,
        };
        self.b.output(format!("output_{}", self.outputs), value);
        Ok(())
    }
}

pub fn graph(case: &Case, dtype: DType) -> Graph {
    let mut maker = Maker { b: Builder::new(case.name, Stage::Subnet), dtype, inputs: 0, outputs: 0 };
    maker.b.set_scope(format!("case.{}", case.name));
    (case.build)(&mut maker).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    maker.b.finish().unwrap_or_else(|error| panic!("{}: {error}", case.name))
}

/// A checkpoint with every tensor that the graph's weights come from, and numbers that follow from their names.
pub fn checkpoint(graph: &Graph, folder: &Path) -> Store {
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for weight in graph.weights() {
        if let Source::Tensor { name, shape, .. } = &weight.source {
            let bytes =
                numbers(name, element_count(shape)).iter().flat_map(|value| value.to_le_bytes()).collect();
            tensors.insert(name.clone(), (shape.clone(), bytes));
        }
    }
    if tensors.is_empty() {
        return Store::empty();
    }
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let path = folder.join(format!("{}.safetensors", graph.name()));
    safetensors::serialize_to_file(views, None, &path).unwrap();
    Store::open(&[path]).unwrap()
}

/// Numbers between -1 and 1 from a name: a linear congruential generator.
pub fn numbers(name: &str, count: usize) -> Vec<f32> {
    let mut state =
        name.bytes().fold(0x9E37_79B9u32, |state, byte| (state ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A written case and everything that it was written from.
pub struct Written {
    pub legal: LegalGraph,
    pub store: Store,
    pub package: PathBuf,
    pub folder: TempDir,
}

/// Makes the graph legal and writes it.
pub fn write(graph: &Graph, min_os: MinOs) -> Written {
    let folder = TempDir::new().unwrap();
    let store = checkpoint(graph, folder.path());
    let backend = CoreMl { min_os };
    let legal = legalize(graph, &backend).unwrap_or_else(|error| panic!("{}: {error}", graph.name()));
    let types =
        |graph: &Graph| graph.outputs().iter().map(|port| graph.ty(port.value).clone()).collect::<Vec<_>>();
    assert_eq!(types(graph), types(&legal), "{}", graph.name());
    let package = folder.path().join("case.mlpackage");
    write_to(&legal, &store, min_os, &package);
    Written { legal, store, package, folder }
}

pub fn write_to(legal: &LegalGraph, store: &Store, min_os: MinOs, package: &Path) {
    let facts =
        [("config".to_string(), "{\"width\": 4}".to_string()), ("scale".to_string(), "0.18".to_string())];
    let part = Part::new(legal.clone(), store, &facts);
    let mut told = 0;
    CoreMl { min_os }.write(part, package, &mut |bytes| told += bytes).unwrap();
    assert!(told <= legal.weight_bytes(), "progress tells of more bytes than there are");
}

/// All files of a folder by their path in it.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

/// Asserts that two graphs are the same but for scopes and the names and recipes of weights; those must have the same
/// bytes.
pub fn assert_same(a: &Graph, a_store: &Store, b: &Graph, b_store: &Store) {
    let name = a.name();
    assert_eq!(name, b.name());
    assert_eq!(a.stage(), b.stage(), "{name}");
    let mut map: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    assert_eq!(a.inputs().len(), b.inputs().len(), "{name}");
    for (x, y) in a.inputs().iter().zip(b.inputs()) {
        assert_eq!((&x.name, a.ty(x.value)), (&y.name, b.ty(y.value)), "{name}");
        map.insert(x.value, y.value);
    }
    let same = |map: &mut BTreeMap<ValueId, ValueId>, x: ValueId, y: ValueId| {
        if let Def::Weight(id) = a.value(x).def {
            let (left, right) = (a.weight(id), b.as_weight(y).unwrap_or_else(|| panic!("{name}: no weight")));
            assert_eq!(left.ty(), right.ty(), "{name}: {}", left.name);
            assert!(bytes(a_store, left) == bytes(b_store, right), "{name}: {}", left.name);
            map.insert(x, y);
        }
        assert_eq!(map.get(&x), Some(&y), "{name}");
    };
    let ops = |graph: &Graph| graph.nodes().iter().map(|node| format!("{:?}", node.op)).collect::<Vec<_>>();
    assert_eq!(ops(a), ops(b), "{name}");
    for (x, y) in a.nodes().iter().zip(b.nodes()) {
        assert_eq!(x.operands.len(), y.operands.len(), "{name}");
        x.operands.iter().zip(&y.operands).for_each(|(&x, &y)| same(&mut map, x, y));
        for (&x, &y) in x.results.iter().zip(&y.results) {
            assert_eq!(a.ty(x), b.ty(y), "{name}");
            map.insert(x, y);
        }
    }
    assert_eq!(a.outputs().len(), b.outputs().len(), "{name}");
    for (x, y) in a.outputs().iter().zip(b.outputs()) {
        assert_eq!(x.name, y.name, "{name}");
        same(&mut map, x.value, y.value);
    }
}

pub fn bytes(store: &Store, weight: &Weight) -> Vec<u8> {
    let mut all = Vec::new();
    store
        .stream(weight, &mut |bytes| {
            all.extend_from_slice(bytes);
            Ok(())
        })
        .unwrap();
    all
}
