//! What is said of bundles.

use std::path::Path;

use snapc_driver::{BundleManifest, PackEntry, Standing};

use crate::report::mega;

/// What a bundle holds.
pub fn bundled(folder: &Path, bundle: &BundleManifest) -> String {
    let pack = |pack: &Option<PackEntry>| {
        pack.as_ref().map(|pack| format!("  {} ({})", pack.name, pack.delivery.name())).unwrap_or_default()
    };
    let mut text = format!("{}: {} for {}\n", folder.display(), bundle.name, bundle.platform);
    let shared = &bundle.shared;
    text += &format!("  {:<16} {:>12}{}\n", "shared", mega(shared.bytes), pack(&shared.pack));
    for subnet in &bundle.subnets {
        text += &format!(
            "  {:<16} {:>12}  holds {} at most{}\n",
            subnet.name,
            mega(subnet.bytes),
            mega(subnet.peak_bytes),
            pack(&subnet.pack)
        );
    }
    if let Some(elastic) = &bundle.elastic {
        text += &format!(
            "  elastic store: {}, {:.3} of the widest network\n",
            mega(elastic.bytes),
            elastic.ratio
        );
        for subnet in &elastic.subnets {
            text += &format!("    {:<14} {:>12}  to download\n", subnet.name, mega(subnet.download_bytes));
        }
    }
    text += "  devices\n";
    for device in &bundle.devices {
        let memory = match device.memory {
            0 => "any memory".to_string(),
            bytes => format!("{} or more", mega(bytes)),
        };
        let chips =
            if device.chips.is_empty() { String::new() } else { format!(", {}", device.chips.join(" ")) };
        text += &format!("    {:<14} {memory}{chips}: {}\n", device.name, device.subnet);
    }
    let passed = bundle.stores.iter().filter(|store| store.verdict != Standing::Kept).count();
    text += &match bundle.stores.len() {
        0 => String::new(),
        count => format!("  stores: {} of {count} limits kept\n", count - passed),
    };
    text
}
