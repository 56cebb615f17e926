//! A sliced graph is the graph that would have been built at that width.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use snapc_frontends::{Checkpoint, transformer::snapgen};
use snapc_interp::Interpreter;
use snapc_ir::{Def, Dim, Graph, Source, Weight};
use snapc_passes::{Pass, Slice};
use snapc_tests::{fixture, relative_error, tensor_file};
use snapc_weights::{Store, Tensor};

/// Reads the config of a folder with its width replaced.
fn config(folder: &str, width: Option<usize>) -> snapgen::Config {
    let text = std::fs::read_to_string(fixture(folder).join("config.json")).unwrap();
    let mut object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    if let Some(width) = width {
        object["width"] = width.into();
        object["subnets"] = serde_json::json!({"only": {"width": width}});
    }
    let config: snapgen::Config = serde_json::from_value(object.into()).unwrap();
    config.check().unwrap();
    config
}

fn import(config: &snapgen::Config, store: &Store) -> Graph {
    let mut checkpoint = Checkpoint::new(store, "");
    let graph = snapgen::import(config, &mut checkpoint, 1, config.latent_size()).unwrap();
    checkpoint.finish("config.json").unwrap();
    graph
}

/// The first `size` of an axis, or of each of its chunks, written out by index and not by the recipe's code.
fn cut(tensor: &Tensor, axis: usize, chunks: usize, size: usize) -> Tensor {
    let shape = &tensor.ty.shape;
    let inner: usize = shape[axis + 1..].iter().product();
    let chunk = shape[axis] / chunks;
    let values = tensor.values().iter().enumerate();
    let kept =
        values.filter(|(index, _)| index / inner % shape[axis] % chunk < size).map(|(_, value)| *value);
    let mut sizes = shape.clone();
    sizes[axis] = chunks * size;
    Tensor::f32(sizes, kept.collect())
}

/// A checkpoint of that width: every tensor of the supernet cut by the rules of the format.
fn narrow_checkpoint(graph: &Graph, store: &Store, from: usize, to: usize, path: &std::path::Path) {
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    for weight in graph.weights() {
        let Source::Tensor { name, dtype, shape } = &weight.source else { continue };
        let whole = Weight::tensor(name, *dtype, shape.iter().copied().map(Dim::fixed).collect());
        let mut tensor = store.read(&whole).unwrap();
        // A mod_table is read as one row of six chunks: its stored axes are [6, width].
        let dims = if name.ends_with("mod_table") {
            vec![Dim::fixed(6), Dim::elastic(from)]
        } else {
            weight.dims.clone()
        };
        for (axis, dim) in dims.iter().enumerate().filter(|(_, dim)| dim.elastic) {
            tensor = cut(&tensor, axis, dim.chunks, dim.size * to / from);
        }
        tensors.insert(name.clone(), tensor);
    }
    tensor_file(path, &tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect::<Vec<_>>());
}

fn check(folder: &str, widths: &[usize]) {
    let wide = config(folder, None);
    let store = Store::open_checkpoint(&fixture(folder), "diffusion_pytorch_model.safetensors").unwrap();
    let supernet = import(&wide, &store);
    for &width in widths {
        let place = format!("{folder} at {width}");
        let sliced = Slice { from: wide.width, to: width }.run(&supernet).unwrap();
        let own = tempfile::tempdir().unwrap();
        let path = own.path().join("narrow.safetensors");
        narrow_checkpoint(&supernet, &store, wide.width, width, &path);
        let narrow_config = config(folder, Some(width));
        let narrow_store = Store::open(&[path]).unwrap();
        let narrow = Slice { from: width, to: width }.run(&import(&narrow_config, &narrow_store)).unwrap();

        assert_eq!(sliced.nodes(), narrow.nodes(), "{place}");
        assert_eq!(sliced.values(), narrow.values(), "{place}");
        for (a, b) in sliced.weights().iter().zip(narrow.weights()) {
            assert_eq!((&a.name, a.ty()), (&b.name, b.ty()), "{place}");
            assert_eq!(store.read(a).unwrap(), narrow_store.read(b).unwrap(), "{place}: {}", a.name);
        }
        let inputs: Vec<(String, Tensor)> = sliced
            .inputs()
            .iter()
            .map(|port| {
                let ty = sliced.ty(port.value);
                assert!(matches!(sliced.value(port.value).def, Def::Input(_)));
                let values = (0..ty.count()).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect();
                let ones = vec![1.0; ty.count()];
                (
                    port.name.clone(),
                    Tensor::float(ty.clone(), if port.name == "text_mask" { ones } else { values }),
                )
            })
            .collect();
        let inputs: Vec<(&str, &Tensor)> =
            inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let a = Interpreter::new(&sliced, &store).run(&inputs).unwrap();
        let b = Interpreter::new(&narrow, &narrow_store).run(&inputs).unwrap();
        assert!(relative_error(a[0].values(), b[0].values()) <= 1e-6, "{place}");
        assert!(a[0].values().iter().any(|value| *value != 0.0), "{place}");
    }
}

#[test]
fn shapes_at_its_subnets_and_another_width() {
    check("shapes/transformer", &[32, 64, 96, 128]);
}

#[test]
fn every_grouping_of_the_key_value_convolution() {
    check("reference/snapgen/depthwise", &[16]);
    check("reference/snapgen/full_conv", &[16]);
    check("reference/snapgen/q_per_kv_4", &[16]);
}
