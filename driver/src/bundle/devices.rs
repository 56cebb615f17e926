//! Classes of devices: which network a device runs.

use serde::{Deserialize, Serialize};
use snapc_ir::Result;

use super::config::{BundleConfig, config_error};
use crate::quantization::budget::parse_bytes;

/// The share of a device's memory that a run may be predicted to take, where the configuration says none. A system gives an app about half of
/// it (iOS ends what takes more: `EXC_RESOURCE`, Apple, "Reducing your app's memory use", which gives no number; half is an assumption),
/// and a runtime may hold the weights twice, as they are stored and as its kernels read them.
pub const MEMORY_SHARE: f64 = 0.25;

/// A class of devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEntry {
    /// What it is called.
    pub name: String,
    /// The least memory, in bytes, as devices are sold; 0 is any.
    pub memory: u64,
    /// The chips; empty is any.
    pub chips: Vec<String>,
    /// The network.
    pub subnet: String,
}

impl DeviceEntry {
    /// The least memory that a system of such a device reports: it keeps some for itself.
    pub fn reported(&self) -> u64 {
        self.memory / 8 * 7
    }

    fn takes_all(&self) -> bool {
        self.memory == 0 && self.chips.is_empty()
    }
}

/// The first class that a device which reports so much memory and that chip is of; as the generated sources choose.
pub fn pick<'a>(devices: &'a [DeviceEntry], memory: u64, chip: &str) -> Option<&'a DeviceEntry> {
    let fits = |device: &&DeviceEntry| {
        memory >= device.reported() && (device.chips.is_empty() || device.chips.iter().any(|own| own == chip))
    };
    devices.iter().find(fits)
}

/// The classes that a configuration names.
///
/// # Errors
/// If one names no memory or no network of the bundle, or one before the last takes every device, or the last does not.
pub fn configured(config: &BundleConfig, subnets: &[String]) -> Result<Vec<DeviceEntry>> {
    let mut devices = Vec::new();
    for device in &config.device {
        let of = |message: String| config_error(format!("the device {:?}: {message}", device.name));
        let memory = match &device.memory {
            Some(text) => parse_bytes(text).map_err(of)?,
            None => 0,
        };
        if !subnets.contains(&device.subnet) {
            return Err(of(format!(
                "the bundle has no subnet {:?}; it has {}",
                device.subnet,
                subnets.join(", ")
            ))
            .help("name one of them, or add it to `subnets` under [bundle]"));
        }
        let (name, chips, subnet) = (device.name.clone(), device.chips.clone(), device.subnet.clone());
        devices.push(DeviceEntry { name, memory, chips, subnet });
    }
    let Some((last, before)) = devices.split_last() else { return Ok(devices) };
    if !last.takes_all() {
        return Err(config_error(format!(
            "the last device, {:?}, does not take every device that is left",
            last.name
        ))
        .help(
            "leave memory and chips out of the last [[bundle.device]]: other devices would have no network",
        ));
    }
    if let Some(early) = before.iter().find(|device| device.takes_all()) {
        return Err(config_error(format!(
            "the device {:?} takes every device, so those behind it are never looked at",
            early.name
        ))
        .help("write it last, or give it memory or chips"));
    }
    Ok(devices)
}

/// A class for each network: the widest one whose predicted memory is at most a share of the device's. `networks` are names and peaks
/// in bytes, the smallest first.
pub fn by_memory(networks: &[(String, u64)], share: f64) -> Vec<DeviceEntry> {
    let rows = networks.iter().enumerate().rev();
    rows.map(|(place, (name, peak))| {
        const MEGA: f64 = 1e6;
        // The smallest runs where no other does.
        let memory = if place == 0 { 0 } else { ((*peak as f64 / share / MEGA).ceil() * MEGA) as u64 };
        DeviceEntry { name: name.clone(), memory, chips: Vec::new(), subnet: name.clone() }
    })
    .collect()
}

/// The share of memory that a configuration says.
///
/// # Errors
/// If it is no share.
pub fn share(config: &BundleConfig) -> Result<f64> {
    match config.memory_share {
        None => Ok(MEMORY_SHARE),
        Some(share) if share > 0.0 && share <= 1.0 => Ok(share),
        Some(share) => {
            Err(config_error(format!("`memory-share` is {share}, expected more than 0 and at most 1"))
                .help("0.25 is a quarter"))
        }
    }
}
