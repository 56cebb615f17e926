//! What other software expects of a part: names and types of its inputs and outputs.

use std::str::FromStr;

use snapc_ir::DType;

/// Whose names the ports of a folder have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// snapc's own.
    #[default]
    Default,
    /// Those that the pipelines of Hugging Face optimum look for: `ORTSanaPipeline`'s.
    Optimum,
}

impl Layout {
    /// All of them.
    pub const ALL: [Layout; 2] = [Layout::Default, Layout::Optimum];

    /// The word of the option.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Default => "default",
            Layout::Optimum => "optimum",
        }
    }

    /// The name in the file of a part's port, and, where it is int64 there, `"i64"`.
    pub fn port(self, part: &str, own: &str) -> Option<(&'static str, Option<&'static str>)> {
        let port = self.find(part, |port| port.own == own)?;
        Some((port.name, port.wide.map(|_| "i64")))
    }

    /// The port of a part that is so named in the file.
    pub(crate) fn by_name(self, part: &str, name: &str) -> Option<&'static Contract> {
        self.find(part, |port| port.name == name)
    }

    /// The port of a part that has this name in the graph.
    pub(crate) fn by_own(self, part: &str, own: &str) -> Option<&'static Contract> {
        self.find(part, |port| port.own == own)
    }

    fn find(self, part: &str, is: impl Fn(&Contract) -> bool) -> Option<&'static Contract> {
        let ports: &[Contract] = match self {
            Layout::Default => &[],
            Layout::Optimum => &OPTIMUM,
        };
        ports.iter().find(|port| port.part == part && is(port))
    }
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Layout::ALL.map(Layout::name).join(", ");
        Layout::ALL
            .into_iter()
            .find(|layout| layout.name() == text)
            .ok_or_else(|| format!("`{text}` is no layout; the layouts are {}", names()))
    }
}

/// A port that has another name in the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contract {
    part: &'static str,
    /// Its name in the graph.
    pub own: &'static str,
    /// Its name in the file.
    pub name: &'static str,
    /// For one that is int64 in the file what it is in the graph: a Cast makes it that.
    pub wide: Option<DType>,
}

const fn port(part: &'static str, own: &'static str, name: &'static str, wide: Option<DType>) -> Contract {
    Contract { part, own, name, wide }
}

/// optimum-onnx, `modeling_diffusion.py`: it fills inputs by these names and reads the first output. CLIP's `attention_mask`
/// is left out, as it is causal: what an input would be that a model has not is not asked for.
const OPTIMUM: [Contract; 9] = [
    port("text_encoder", "input_ids", "input_ids", Some(DType::I32)),
    port("text_encoder", "text", "last_hidden_state", None),
    port("transformer", "latent", "hidden_states", None),
    port("transformer", "timestep", "timestep", None),
    port("transformer", "text", "encoder_hidden_states", None),
    port("transformer", "text_mask", "encoder_attention_mask", Some(DType::F32)),
    port("transformer", "velocity", "out_hidden_states", None),
    port("vae_decoder", "latent", "latent_sample", None),
    port("vae_decoder", "image", "sample", None),
];
