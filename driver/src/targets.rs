use std::str::FromStr;

use snapc_backend::Backend;
use snapc_coreml::{CoreMl, MinOs};

/// A format that snapc writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Core ML ML Programs, `.mlpackage`.
    CoreMl,
}

impl Target {
    /// All of them.
    pub const ALL: [Target; 1] = [Target::CoreMl];

    /// The word of the option and the name of the output folder.
    pub fn name(self) -> &'static str {
        match self {
            Target::CoreMl => "coreml",
        }
    }

    /// Its backend.
    pub fn backend(self, min_os: MinOs) -> Box<dyn Backend> {
        match self {
            Target::CoreMl => Box::new(CoreMl { min_os }),
        }
    }

    /// Whether f16 means f16 weights under f32 arithmetic: where the target's processors gain nothing from f16 arithmetic.
    pub fn weights_only(self) -> bool {
        match self {
            Target::CoreMl => false,
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
