use std::path::{Path, PathBuf};

use serde::Deserialize;
use snapc_ir::{Error, Place, Result};

use crate::bundle::BundleConfig;

/// `snapc.toml` of the working folder: what options are when the command line does not say. Paths in it are relative to it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Project {
    /// The pipeline folder.
    pub pipeline: Option<PathBuf>,
    /// Subnets to compile; the first is the one that `run` and `print` take.
    pub subnets: Option<Vec<String>>,
    /// Targets to compile for.
    pub targets: Option<Vec<String>>,
    /// `f16` or `f32`.
    pub precision: Option<String>,
    /// `iOS16`, `iOS17` or `iOS18`.
    pub min_os: Option<String>,
    /// `none`, `step` or `unrolled`.
    pub bake: Option<String>,
    /// The output folder.
    pub output: Option<PathBuf>,
    /// What `bundle` makes of them.
    #[serde(default)]
    pub bundle: BundleConfig,
}

impl Project {
    /// Reads the `snapc.toml` of a folder; an empty project where there is none.
    ///
    /// # Errors
    /// If it cannot be read, or has a key that is not known.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("snapc.toml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Project::default()),
            Err(error) => return Err(Error::io("read", &path, &error)),
        };
        let mut project: Project = toml::from_str(&text).map_err(|error| {
            Error::input(format!("this is no snapc.toml: {}", error.message()))
                .at(Place::File(path))
                .help("its keys are pipeline, subnets, targets, precision, min-os, bake, output and the table bundle (docs/bundle.md)")
        })?;
        for path in [&mut project.pipeline, &mut project.output].into_iter().flatten() {
            *path = folder.join(&path);
        }
        Ok(project)
    }
}
