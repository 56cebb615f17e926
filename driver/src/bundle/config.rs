//! The `[bundle]` table of `snapc.toml`, and what is derived from it: names, and which networks a bundle holds.

use serde::{Deserialize, Serialize};
use snapc_ir::{Error, Place, Result};

/// `[bundle]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BundleConfig {
    /// The name of the generated class and of the Swift package; none means the pipeline folder's.
    pub name: Option<String>,
    /// The package of the Kotlin sources; none means `snapc.<name>`.
    pub package: Option<String>,
    /// The subnets; none means those of the project.
    pub subnets: Option<Vec<String>>,
    /// How the asset packs of all networks but the smallest come to a device.
    #[serde(default)]
    pub delivery: Delivery,
    /// The share of a device's memory that a run may be predicted to take, where no device is named.
    pub memory_share: Option<f64>,
    /// The classes of devices; empty means one for each network, by memory.
    #[serde(default)]
    pub device: Vec<DeviceConfig>,
}

/// `[[bundle.device]]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DeviceConfig {
    /// What the class is called.
    pub name: String,
    /// The least memory, as `6GB`; none means any.
    pub memory: Option<String>,
    /// The chips; empty means any.
    #[serde(default)]
    pub chips: Vec<String>,
    /// The network.
    pub subnet: String,
}

/// How an asset pack comes to a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// With the app.
    InstallTime,
    /// Right after the app.
    FastFollow,
    /// When the app asks for it.
    #[default]
    OnDemand,
}

impl Delivery {
    /// The word of the configuration and of Play.
    pub fn name(self) -> &'static str {
        match self {
            Delivery::InstallTime => "install-time",
            Delivery::FastFollow => "fast-follow",
            Delivery::OnDemand => "on-demand",
        }
    }
}

/// What generated sources call things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The class, and the Swift package: `Shapes`.
    pub class: String,
    /// The Kotlin package: `com.example.shapes`.
    pub package: String,
    /// The folder among assets, and the first part of asset packs' names: `shapes`.
    pub assets: String,
}

/// Types of the generated sources and those that they use, which the class cannot be called.
const TAKEN: [&str; 40] = [
    "AssetPack",
    "Bitmap",
    "Build",
    "Bundle",
    "Character",
    "Constants",
    "Context",
    "Data",
    "DeviceClass",
    "Double",
    "Encoded",
    "Error",
    "Exception",
    "File",
    "Float",
    "FolderModels",
    "Int",
    "Interpreter",
    "Json",
    "List",
    "Locale",
    "Long",
    "Map",
    "Models",
    "Network",
    "Noise",
    "Normalizer",
    "Numbers",
    "PackModels",
    "Pair",
    "Part",
    "Port",
    "PortType",
    "Set",
    "String",
    "Subnet",
    "Tokenizer",
    "TokenizerSettings",
    "URL",
    "Unicode",
];

impl Names {
    /// The names that the configuration says, or those of a pipeline's folder.
    ///
    /// # Errors
    /// If one of them is no name in Swift or Kotlin.
    pub fn new(config: &BundleConfig, folder: &str) -> Result<Self> {
        let class = config.name.clone().unwrap_or_else(|| camel(folder));
        let upper = class.starts_with(|c: char| c.is_ascii_uppercase());
        if !upper || !class.chars().all(|c| c.is_ascii_alphanumeric()) || TAKEN.contains(&class.as_str()) {
            return Err(config_error(format!("the bundle cannot be called {class:?}"))
                .help("write `name = \"MyPictures\"` under [bundle]: a capital, letters and digits, no type of the bundle's own"));
        }
        let assets = class.to_ascii_lowercase();
        let package = config.package.clone().unwrap_or_else(|| format!("snapc.{assets}"));
        let word = |word: &str| {
            word.starts_with(|c: char| c.is_ascii_lowercase())
                && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
                && !KOTLIN_WORDS.contains(&word)
        };
        if !package.split('.').all(word) {
            return Err(config_error(format!("{package:?} is no Kotlin package"))
                .help("write it as `package = \"com.example.pictures\"` under [bundle]"));
        }
        Ok(Names { class, package, assets })
    }

    /// The asset pack of a network, or of what they share.
    pub fn pack(&self, label: &str) -> String {
        format!("{}_{}", self.assets, identifier(label))
    }
}

const KOTLIN_WORDS: [&str; 28] = [
    "as",
    "break",
    "class",
    "continue",
    "do",
    "else",
    "false",
    "for",
    "fun",
    "if",
    "in",
    "interface",
    "is",
    "null",
    "object",
    "package",
    "return",
    "super",
    "this",
    "throw",
    "true",
    "try",
    "typealias",
    "typeof",
    "val",
    "var",
    "when",
    "while",
];

/// A folder's name as a type's: `my-shapes` is `MyShapes`.
fn camel(folder: &str) -> String {
    let words = folder.split(|c: char| !c.is_ascii_alphanumeric());
    words
        .map(|word| {
            let (first, rest) = word.split_at(word.len().min(1));
            first.to_ascii_uppercase() + rest
        })
        .collect()
}

/// A network's name as an identifier.
pub fn identifier(label: &str) -> String {
    label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// Fails unless the networks' names are folders, asset packs and identifiers that differ.
///
/// # Errors
/// Names the network.
pub fn check_labels<'a>(labels: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen: Vec<String> = vec!["base".to_string()];
    for label in labels {
        let own = identifier(label).to_ascii_lowercase();
        let plain = label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if !plain || !label.starts_with(|c: char| c.is_ascii_alphabetic()) || seen.contains(&own) {
            return Err(Error::input(format!("the subnet {label:?} cannot be a folder, an asset pack and a name in a program"))
                .help("a bundle takes names of letters, digits, - and _ that begin with a letter, differ in more than - and _, and are not `base`"));
        }
        seen.push(own);
    }
    Ok(())
}

/// An error in `snapc.toml`.
pub fn config_error(message: String) -> Error {
    Error::input(message).at(Place::File("snapc.toml".into()))
}
