use std::path::{Path, PathBuf};

use snapc_backend::{Part, legalize};
use snapc_driver::{MinOs, Precision, QuantizeChoice, Target};
use snapc_frontends::{Part as PartName, Pipeline};
use snapc_ir::{Error, Graph, Result};
use snapc_passes::quantize::layers;
use snapc_passes::{Pass, Quantize, Slice, Standard, run, standard};
use snapc_weights::Store;

/// The transformer of the one-tenth-depth `small` of the paper, in f32.
pub struct Tenth {
    /// As it is imported and sliced: what `snapc run` interprets.
    pub plain: Graph,
    /// Behind the standard passes, without a schedule: what a backend takes.
    pub velocity: Graph,
    /// Its weights.
    pub store: Store,
    width: usize,
}

impl Tenth {
    /// From the folder `tenth`; it is made where there is none.
    ///
    /// # Errors
    /// If the pipeline cannot be written or read.
    pub fn open(folder: &Path) -> Result<Self> {
        let folder = &pipeline("tenth", folder)?;
        let pipeline = Pipeline::open(folder)?;
        let latent = pipeline.latent_size(None)?;
        let imported = pipeline.import(PartName::Transformer, 1, latent)?;
        let (whole, width) = (pipeline.width(), pipeline.subnet("small")?);
        let plain = Slice { from: whole, to: width }.run(&imported.graph)?;
        let velocity = behind_standard(&imported.graph, (whole, width), None)?;
        Ok(Tenth { plain, velocity, store: imported.store, width })
    }

    /// The velocity with its layers stored as codes, for a target. Activations that are rounded have scales that nobody measured: times
    /// do not depend on them.
    ///
    /// # Errors
    /// If a pass fails.
    pub fn coded(&self, choice: QuantizeChoice, target: Target) -> Result<Graph> {
        const LARGEST: [f32; 2] = [8.0, 8.0];
        let all = layers(&self.plain).into_iter().chain(layers(&self.velocity));
        let quantize = Quantize {
            default: Some(choice),
            largest: all.map(|layer| (layer.tensor, LARGEST)).collect(),
            round_results: target.rounds_results(),
            ..Quantize::default()
        };
        behind_standard(&self.plain, (self.width, self.width), Some(quantize))
    }
}

/// A pipeline of random weights by its config's name, in a folder of that name; it is made where there is none.
///
/// # Errors
/// If it cannot be written.
pub fn pipeline(name: &str, folder: &Path) -> Result<PathBuf> {
    let folder = folder.join(name);
    if !folder.join("model_index.json").is_file() {
        let config = xtask::model::CONFIGS.into_iter().find(|config| config.name == name);
        let config = config.ok_or_else(|| Error::bug(format!("there is no config `{name}`")))?;
        let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/shapes");
        xtask::supernet(&config, &template, &folder, false)
            .map_err(|error| Error::io("make", &folder, &error))?;
    }
    Ok(folder)
}

fn behind_standard(graph: &Graph, widths: (usize, usize), quantize: Option<Quantize>) -> Result<Graph> {
    let passes = Standard { widths, baking: None, precision: Precision::F32, weights_only: true, quantize };
    let nothing = |_: &Graph, _: &[Vec<f32>]| Err(Error::bug("nothing is baked"));
    run(graph, &standard(&passes, graph.stage(), &nothing), None)
}

/// Writes the artifact of a graph; what was there is replaced.
///
/// # Errors
/// If the target cannot say the graph, or the artifact cannot be written.
pub fn write(graph: &Graph, target: Target, store: &Store, path: &Path) -> Result<()> {
    let backend = target.backend(MinOs::default());
    let legal = legalize(graph, backend.as_ref())?;
    if path.is_dir() {
        std::fs::remove_dir_all(path).map_err(|error| Error::io("replace", path, &error))?;
    }
    backend.write(Part::new(legal, store, &[]), path, &mut |_| {}).map(drop)
}
