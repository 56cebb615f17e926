//! `bundle.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use snapc_ir::{Error, Place, Result};

use super::devices::DeviceEntry;
use super::stores::StoreEntry;
use crate::elastic::ElasticSubnet;
use crate::files::FileEntry;

/// The version of the form that is written and read.
pub const BUNDLE_SCHEMA: u32 = 1;

/// Its name in a bundle.
pub const BUNDLE: &str = "bundle.json";

/// `bundle.json`: what a bundle holds; `docs/bundle.md` has every field. It holds no time and no path of the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BundleManifest {
    /// Version of this form.
    pub schema: u32,
    /// The version of snapc that wrote it.
    pub snapc: String,
    /// `ios`, `android` or `desktop`.
    pub platform: String,
    /// The name of the generated class.
    pub name: String,
    /// What all networks share.
    pub shared: SharedEntry,
    /// The networks, the smallest first.
    pub subnets: Vec<SubnetEntry>,
    /// Where the networks' bytes are, if they are not in their folders: a device assembles them there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elastic: Option<ElasticEntry>,
    /// The classes of devices; the first that a device is of names its network.
    pub devices: Vec<DeviceEntry>,
    /// The generated sources.
    pub sources: Vec<FileEntry>,
    /// How the bundle and the limits of the platform's stores stand.
    pub stores: Vec<StoreEntry>,
}

/// The text encoder, the VAE decoder and the tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SharedEntry {
    /// Their folder.
    pub folder: String,
    /// The asset pack that the folder is in, for Android.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack: Option<PackEntry>,
    /// Bytes of the files.
    pub bytes: u64,
    /// The files.
    pub files: Vec<FileEntry>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubnetEntry {
    /// The subnet's name, or `width-N`.
    pub name: String,
    /// The transformer's width.
    pub width: usize,
    /// Its folder, with the `manifest.json` that its compile wrote.
    pub folder: String,
    /// The asset pack that the folder is in, for Android.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack: Option<PackEntry>,
    /// Bytes of the files.
    pub bytes: u64,
    /// What a picture is predicted to hold at most: the largest part's peak, as one part is in memory at a time.
    pub peak_bytes: u64,
    /// The files.
    pub files: Vec<FileEntry>,
}

/// An elastic store (`docs/elastic.md`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ElasticEntry {
    /// Its folder.
    pub folder: String,
    /// Bytes of the whole store.
    pub bytes: u64,
    /// Those over the bytes of the widest network's folder.
    pub ratio: f64,
    /// What each network costs.
    pub subnets: Vec<ElasticSubnet>,
    /// Its files.
    pub files: Vec<FileEntry>,
}

/// An asset pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackEntry {
    /// Its name.
    pub name: String,
    /// How it comes to a device: `install-time`, `fast-follow` or `on-demand`.
    pub delivery: super::Delivery,
}

impl BundleManifest {
    /// Reads the `bundle.json` of a bundle.
    ///
    /// # Errors
    /// If it is missing or none of this version.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(BUNDLE);
        let text = std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, &error))?;
        let wrong = |message: String| {
            Error::input(message)
                .at(Place::File(path.clone()))
                .help("was it written by another version? bundle again")
        };
        let bundle: BundleManifest = serde_json::from_str(&text)
            .map_err(|error| wrong(format!("this is no bundle.json of snapc: {error}")))?;
        match bundle.schema {
            BUNDLE_SCHEMA => Ok(bundle),
            other => Err(wrong(format!("the bundle has the schema {other}, expected {BUNDLE_SCHEMA}"))),
        }
    }

    /// Its text.
    ///
    /// # Errors
    /// None that a bundle can have.
    pub fn text(&self) -> Result<String> {
        let mut text = serde_json::to_string_pretty(self).map_err(Error::bug)?;
        text.push('\n');
        Ok(text)
    }

    /// A network by name; without one the only one.
    ///
    /// # Errors
    /// If there is no such network, or there are several and none is named.
    pub fn subnet(&self, name: Option<&str>) -> Result<&SubnetEntry> {
        let names = || self.subnets.iter().map(|subnet| subnet.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = match (name, &self.subnets[..]) {
            (None, [only]) => Some(only),
            (name, all) => all.iter().find(|subnet| Some(subnet.name.as_str()) == name),
        };
        found.ok_or_else(|| {
            Error::usage(match name {
                Some(name) => format!("the bundle has no subnet {name:?}"),
                None => "which subnet? the bundle has several".to_string(),
            })
            .help(format!("name one with --subnet: {}", names()))
        })
    }

    /// Every file that stands in the bundle but `bundle.json`.
    pub fn files(&self) -> Vec<FileEntry> {
        let networks: Vec<&FileEntry> = match &self.elastic {
            Some(elastic) => elastic.files.iter().collect(),
            None => self.subnets.iter().flat_map(|subnet| &subnet.files).collect(),
        };
        self.shared.files.iter().chain(networks).chain(&self.sources).cloned().collect()
    }
}
