use std::path::Path;
use std::str::FromStr;

use snapc_backend::Backend;
use snapc_coreml::{CoreMl, MinOs};
use snapc_ir::{Error, Graph, Place};
use snapc_onnx::{Layout, Onnx};
use snapc_tflite::{TfLite, read_signature};
use snapc_weights::Store;

/// A format that snapc writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Core ML ML Programs, `.mlpackage`.
    CoreMl,
    /// ONNX, opset 21: a folder a part with `model.onnx` and its external data.
    Onnx,
    /// TFLite (LiteRT): a file a part.
    TfLite,
}

impl Target {
    /// All of them.
    pub const ALL: [Target; 3] = [Target::CoreMl, Target::Onnx, Target::TfLite];

    /// The word of the option and the name of the output folder.
    pub fn name(self) -> &'static str {
        match self {
            Target::CoreMl => "coreml",
            Target::Onnx => "onnx",
            Target::TfLite => "tflite",
        }
    }

    /// The target that an artifact at this path was written for, by the path alone.
    pub fn of_artifact(path: &Path) -> Option<Target> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("mlpackage") => Some(Target::CoreMl),
            Some("tflite") => Some(Target::TfLite),
            _ if path.join("model.onnx").is_file() => Some(Target::Onnx),
            _ => None,
        }
    }

    /// Its backend, with the default layout.
    pub fn backend(self, min_os: MinOs) -> Box<dyn Backend> {
        self.backend_in(Layout::Default, min_os)
    }

    /// Its backend, in a layout where the target has several.
    pub fn backend_in(self, layout: Layout, min_os: MinOs) -> Box<dyn Backend> {
        match self {
            Target::CoreMl => Box::new(CoreMl { min_os }),
            Target::Onnx => Box::new(Onnx { layout }),
            Target::TfLite => Box::new(TfLite),
        }
    }

    /// Reads an artifact back; where it is a file of several parts, the one of that signature.
    ///
    /// # Errors
    /// If it is damaged, or the target has no signatures.
    pub fn read(self, path: &Path, signature: Option<&str>) -> snapc_ir::Result<(Graph, Store)> {
        match (self, signature) {
            (_, None) => self.backend(MinOs::default()).read(path),
            (Target::TfLite, Some(key)) => read_signature(path, key),
            (Target::CoreMl | Target::Onnx, Some(key)) => {
                Err(Error::input(format!("{} has no signatures, such as {key}", self.name()))
                    .at(Place::File(path.to_path_buf()))
                    .help("was the manifest changed? compile again"))
            }
        }
    }

    /// Whether it has look-up tables for weights.
    pub fn has_palettes(self) -> bool {
        match self {
            Target::CoreMl => true,
            Target::Onnx | Target::TfLite => false,
        }
    }

    /// Whether a product of codes is itself rounded to codes.
    pub fn rounds_results(self) -> bool {
        match self {
            Target::TfLite => true,
            Target::CoreMl | Target::Onnx => false,
        }
    }

    /// Whether f16 means f16 weights under f32 arithmetic: where the target's processors gain nothing from f16 arithmetic.
    pub fn weights_only(self) -> bool {
        match self {
            Target::CoreMl => false,
            Target::Onnx | Target::TfLite => true,
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Target::ALL.map(Target::name).join(", ");
        Target::ALL
            .into_iter()
            .find(|target| target.name() == text)
            .ok_or_else(|| format!("`{text}` is no target; the targets are {}", names()))
    }
}
