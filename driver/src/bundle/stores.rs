//! What the stores take, each limit once and with its source.

use serde::{Deserialize, Serialize};
use snapc_ir::{Error, Result};

use super::Platform;
use super::config::Delivery;

/// What a limit counts, in bytes but for [`Count`](Measure::Count). They are bytes of files: Play counts compressed ones, of which weights
/// have hardly fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// All that comes with the app.
    App,
    /// What of it lies in the app itself, not in a pack of its own.
    Base,
    /// Each pack.
    Pack,
    /// Each pack that does not come with the app.
    Later,
    /// All packs that do not come with the app.
    LaterTotal,
    /// Packs.
    Count,
    /// Each file that is mapped.
    File,
}

/// A limit of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimit {
    /// The platform.
    pub platform: Platform,
    /// What has the limit.
    pub holder: &'static str,
    /// What is counted.
    pub measure: Measure,
    /// The most.
    pub most: u64,
    /// Whether a store refuses what passes it, or only asks the user.
    pub hard: bool,
    /// Where that is said.
    pub source: &'static str,
    /// What to do.
    pub help: &'static str,
}

const BUILD_SIZES: &str = "developer.apple.com/help/app-store-connect/reference/maximum-build-file-sizes";
const ON_DEMAND: &str =
    "developer.apple.com/help/app-store-connect/reference/on-demand-resources-size-limits";
const PLAY_SIZES: &str = "support.google.com/googleplay/android-developer/answer/9859372";
const SMALLER: &str = "take fewer or smaller subnets, or quantize them (--quantize int4)";
const ONE_PACK: &str =
    "quantize the network (--quantize int4) or take a smaller one: a pack holds one network";

/// All of them.
pub const LIMITS: [StoreLimit; 13] = [
    StoreLimit {
        platform: Platform::Ios,
        holder: "an app, uncompressed",
        measure: Measure::App,
        // "Less than 4GB".
        most: 4_000_000_000 - 1,
        hard: true,
        source: BUILD_SIZES,
        help: "take fewer or smaller subnets, quantize them, or host subnets apart and name their folder in `models`",
    },
    StoreLimit {
        platform: Platform::Ios,
        holder: "a download on mobile data that nobody is asked about",
        measure: Measure::App,
        most: 200_000_000,
        hard: false,
        source: "Settings, App Store, Mobile Data, App Downloads: \"Ask If Over 200 MB\" (from iOS 13 on)",
        help: SMALLER,
    },
    StoreLimit {
        platform: Platform::Ios,
        holder: "the bundle of an app with on-demand resources before iOS 18",
        measure: Measure::App,
        most: 2_000_000_000,
        hard: false,
        source: ON_DEMAND,
        help: "take fewer subnets into the app, or let it need iOS 18",
    },
    StoreLimit {
        platform: Platform::Ios,
        holder: "a network's folder as an on-demand resource before iOS 18",
        measure: Measure::Pack,
        most: 512_000_000,
        hard: false,
        source: ON_DEMAND,
        help: "ship it with the app, as it is here, or let the app need iOS 18",
    },
    StoreLimit {
        platform: Platform::Ios,
        holder: "a network's folder as an on-demand resource",
        measure: Measure::Pack,
        most: 8_000_000_000,
        hard: false,
        source: ON_DEMAND,
        help: ONE_PACK,
    },
    StoreLimit {
        platform: Platform::Ios,
        holder: "asset packs that Apple hosts for Background Assets",
        measure: Measure::Count,
        most: 100,
        hard: false,
        source: "developer.apple.com/help/app-store-connect/reference/apple-hosted-asset-pack-size-limits (and 200 GB of all of them)",
        help: SMALLER,
    },
    StoreLimit {
        platform: Platform::Android,
        holder: "the base module",
        measure: Measure::Base,
        most: 200_000_000,
        hard: true,
        source: PLAY_SIZES,
        help: SMALLER,
    },
    StoreLimit {
        platform: Platform::Android,
        holder: "an asset pack",
        measure: Measure::Pack,
        most: 1_500_000_000,
        hard: true,
        source: PLAY_SIZES,
        help: ONE_PACK,
    },
    StoreLimit {
        platform: Platform::Android,
        holder: "all modules and install-time asset packs",
        measure: Measure::App,
        most: 4_000_000_000,
        hard: true,
        source: PLAY_SIZES,
        help: "write `delivery = \"on-demand\"` under [bundle], or take fewer or smaller subnets",
    },
    StoreLimit {
        platform: Platform::Android,
        holder: "all on-demand and fast-follow asset packs",
        measure: Measure::LaterTotal,
        most: 4_000_000_000,
        hard: true,
        source: "support.google.com/googleplay/android-developer/answer/9859372 (30 GB in the Partner Program for Games)",
        help: SMALLER,
    },
    StoreLimit {
        platform: Platform::Android,
        holder: "an app's asset packs",
        measure: Measure::Count,
        most: 100,
        hard: true,
        source: PLAY_SIZES,
        help: "take fewer subnets",
    },
    StoreLimit {
        platform: Platform::Android,
        holder: "a pack that is fetched on mobile data without asking",
        measure: Measure::Later,
        most: 200_000_000,
        hard: false,
        source: "developer.android.com/guide/playcore/asset-delivery/integrate-java: larger ones wait for Wi-Fi or consent",
        help: "show Play's dialog (AssetPackManager.showConfirmationDialog), or quantize the network",
    },
    StoreLimit {
        platform: Platform::Android,
        holder: "a file that Java maps",
        measure: Measure::File,
        most: i32::MAX as u64,
        hard: true,
        source: "Java, FileChannel.map: no size above Integer.MAX_VALUE",
        help: ONE_PACK,
    },
];

/// A thing of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sized {
    /// Its name, or its path in the bundle.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
}

/// What of a bundle the stores count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Packs, or folders that could be packs, and how they come to a device.
    pub packs: Vec<(Sized, Delivery)>,
    /// Files of the models.
    pub files: Vec<Sized>,
    /// Bytes in the app itself, not in a pack.
    pub base: u64,
}

/// How a limit and a bundle stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It is kept.
    Kept,
    /// It is passed, and the store asks the user or an option is lost.
    Warned,
    /// It is passed, and the store refuses.
    Refused,
}

/// A limit and the most of it that a bundle has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreEntry {
    /// What has the limit.
    pub holder: String,
    /// The largest that is counted: the app, a pack or a file.
    pub of: String,
    /// What it has: bytes, or packs.
    pub found: u64,
    /// The most.
    pub most: u64,
    /// How they stand.
    pub verdict: Standing,
    /// Where the limit is said.
    pub source: String,
}

/// The largest that a measure counts.
fn largest(measure: Measure, sizes: &Sizes) -> Option<(String, u64)> {
    let installed = |delivery: Delivery| delivery == Delivery::InstallTime;
    let packs = |which: &dyn Fn(Delivery) -> bool| -> Vec<&Sized> {
        sizes.packs.iter().filter(|(_, delivery)| which(*delivery)).map(|(pack, _)| pack).collect()
    };
    let total = |packs: Vec<&Sized>| packs.iter().map(|pack| pack.bytes).sum::<u64>();
    let most =
        |of: Vec<&Sized>| of.into_iter().max_by_key(|one| one.bytes).map(|one| (one.name.clone(), one.bytes));
    match measure {
        Measure::App => Some(("the app".to_string(), sizes.base + total(packs(&installed)))),
        Measure::Base => Some(("the app without its packs".to_string(), sizes.base)),
        Measure::Pack => most(packs(&|_| true)),
        Measure::Later => most(packs(&|delivery| !installed(delivery))),
        Measure::LaterTotal => {
            Some(("all of them".to_string(), total(packs(&|delivery| !installed(delivery)))))
        }
        Measure::Count => Some(("all of them".to_string(), sizes.packs.len() as u64)),
        Measure::File => most(sizes.files.iter().collect()),
    }
}

/// How a bundle of these sizes stands with a platform's stores.
pub fn verdicts(platform: Platform, sizes: &Sizes) -> Vec<StoreEntry> {
    let limits = LIMITS.iter().filter(|limit| limit.platform == platform);
    limits
        .filter_map(|limit| {
            let (of, found) = largest(limit.measure, sizes)?;
            let verdict = match (found > limit.most, limit.hard) {
                (false, _) => Standing::Kept,
                (true, false) => Standing::Warned,
                (true, true) => Standing::Refused,
            };
            let (holder, source) = (limit.holder.to_string(), limit.source.to_string());
            Some(StoreEntry { holder, of, found, most: limit.most, verdict, source })
        })
        .collect()
}

/// Fails where a store refuses; gives a warning for each limit that is passed otherwise.
///
/// # Errors
/// The first limit that is passed and what to do.
pub fn check(entries: &[StoreEntry]) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for StoreEntry { holder, of, found, most, verdict, source } in entries {
        let limit = LIMITS.iter().find(|limit| limit.holder == holder);
        let help = limit.map_or(SMALLER, |limit| limit.help);
        let unit = if limit.is_some_and(|limit| limit.measure == Measure::Count) { "packs" } else { "bytes" };
        let message = format!("{of} has {found} {unit}; {holder} has at most {most} ({source})");
        match verdict {
            Standing::Kept => {}
            Standing::Warned => warnings.push(format!("{message}: {help}")),
            Standing::Refused => return Err(Error::limit(message).help(help)),
        }
    }
    Ok(warnings)
}
